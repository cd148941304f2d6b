"""GB/s of each codec beside memcpy, one thread: python -m benchmarks.codec

GB are of float32 numbers (four bytes each), in for encoding and out for decoding; the best of several turns, all kinds
taking turns so that the machine's mood hits them alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.report import report
from p2ptrain.diloco.codecs import CODECS

ELEMENTS = 16_000_000
TURNS = 7


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    torch.set_num_threads(1)
    vector = torch.randn(ELEMENTS) * 1e-3
    numbers = vector.numpy()
    target = np.empty_like(numbers)
    works: dict[str, Callable[[], object]] = {"memcpy": lambda: np.copyto(target, numbers)}
    local = torch.zeros_like(vector)
    payloads = {name: codec.encode(vector, torch.zeros_like(vector)) for name, codec in CODECS.items()}
    for name, codec in CODECS.items():
        works[f"{name} encode"] = lambda codec=codec: codec.encode(vector, local)
        works[f"{name} decode"] = lambda codec=codec, name=name: codec.decode(payloads[name], ELEMENTS)
    best = {name: min(seconds(work) for _ in range(2)) for name, work in works.items()}
    for _ in range(TURNS):
        for name, work in works.items():
            best[name] = min(best[name], seconds(work))
    gigabytes = 4 * ELEMENTS / 1e9
    rows = [{"what": "memcpy", "bits per element": 32.0, "GB/s": gigabytes / best["memcpy"], "of memcpy": 1.0}]
    for name in works:
        if name != "memcpy":
            bits = 8 * len(payloads[name.split()[0]]) / ELEMENTS
            rate = gigabytes / best[name]
            rows.append({"what": name, "bits per element": bits, "GB/s": rate, "of memcpy": rate / rows[0]["GB/s"]})
    report("codec", rows)


if __name__ == "__main__":
    main()
