"""How fast are rows read, and how often do peers read the same ones? python -m benchmarks.reading

Speed: CPU seconds for 300,000 rows of JSONL, read whole and then drawn one by one, by p2ptrain and by the library
datasets (its cache empty), in one process. Overlap: what six peers share that have each read n of 12,000 rows of a
stream.
"""

from __future__ import annotations

import json
import random
import tempfile
import time
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from statistics import mean
from typing import Any

import datasets

from benchmarks.report import report
from p2ptrain.data.cells import Kind
from p2ptrain.data.source import File
from p2ptrain.data.stream import Stream
from p2ptrain.data.table import Table

ROWS, DRAWN = 300_000, 20_000
STREAMED, PEERS = 12_000, 6
COLUMNS = {"text": Kind.TEXT}


def write(path: Path, numbers: range) -> File:
    words = "seven wizards quietly mix black potions " * 3
    path.write_text("".join(json.dumps({"text": f"row {n} {words}", "n": n}) + "\n" for n in numbers))
    return File(str(path), path.name, "jsonl")


def cpu(work: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.process_time()
    done = work()
    return time.process_time() - begun, done


def speed(folder: Path) -> list[dict[str, Any]]:
    file = write(folder / "rows.jsonl", range(ROWS))
    cache = str(folder / "cache")
    readers: dict[str, Callable[[], Any]] = {
        "p2ptrain": lambda: Table([file], COLUMNS, 0.0),
        "datasets": lambda: datasets.load_dataset("json", data_files=[file.place], split="train", cache_dir=cache),
    }
    numbers = [random.randrange(ROWS) for _ in range(DRAWN)]
    found = []
    for name, read in readers.items():
        seconds, table = cpu(read)
        drawing, _ = cpu(lambda table=table: [table[n] for n in numbers])
        found.append({"reader": name, "rows per CPU s": round(ROWS / seconds), "draw, µs": drawing / DRAWN * 1e6})
    return found


def overlap(folder: Path, files: int) -> dict[str, Any]:
    sources = [write(folder / f"{files}-{at}.jsonl", range(at, STREAMED, files)) for at in range(files)]
    row: dict[str, Any] = {"files": files}
    for share in (0.04, 0.2, 0.5, 1.0):
        read = []
        for peer in range(PEERS):
            stream = Stream(sources, COLUMNS, 7919 * peer + 3, 0.0)
            read.append({stream.row()["text"] for _ in range(round(share * STREAMED))})
        row[f"read {share:g}"] = mean(len(a & b) / len(a) for a, b in combinations(read, 2))
    return row


def main() -> None:
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        report("reading", speed(Path(folder)))
        rows = [overlap(Path(folder), files) for files in (1, 3, 100)]
    report("overlap_of_streams", rows, ["share of what one peer has read that another one has read, too (mean)"])


if __name__ == "__main__":
    main()
