"""A random trial: files on disk, the run's spec, and what the files hold."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from p2ptrain.run import RunSpec
from p2ptrain.tasks import LocalOptions
from tests.unit.fuzz import tables
from tests.unit.fuzz.encodings import COMPRESSIONS, Encoded, compress, damage
from tests.unit.fuzz.tables import Plan
from tests.unit.fuzz.truth import Truth

MODEL = {
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "max_position_embeddings": 512,
}
SUFFIXES = {
    "txt": ((".txt", ".md", ".TXT", ".py", ""),),
    "jsonl": ((".jsonl", ".ndjson", ".JSONL"), (".json", ".JSON")),
    "json": ((".json", ".JSON"), (".jsonl", ".ndjson")),
    "csv": ((".csv", ".CSV"),),
    "tsv": ((".tsv",),),
    "parquet": ((".parquet",),),
}
"""Ends of the files' names. Those that stand together are one kind."""
STEMS = (
    "part",
    "my data",
    "notes [v2]",
    "a*b",
    "50%",
    "what?",
    "#1",
    "größe",
    "-x",
    "x" * 150,
    "v1.2",
    "~me",
    "new\nline",
    "'q'",
)
FOREIGN = (
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(range(256)) * 4,
    b"%PDF-1.7\n" + b"1 0 obj << /Type /Catalog >> endobj\n" * 20,
    b"PK\x03\x04" + bytes(range(256)) * 4,
    b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    b"\x80\x04\x95" + bytes(range(256)) * 4,
)
LABELS = (
    ("no", "yes"),
    ("NA", "null", "nan"),
    ("0", "1"),
    ("true", "false"),
    ("bad", "so so", "good"),
    ("3", "1", "2"),
)


@dataclass(frozen=True)
class Trial:
    """One trial."""

    spec: RunSpec
    options: LocalOptions
    truth: Truth
    columns: tuple[str, ...]
    form: str
    about: str
    """For people who look for the cause of a failure."""


def make_trial(random: Random, folder: Path) -> Trial:
    """Write the files of a trial into the folder."""
    form = random.choice(("txt", "jsonl", "jsonl", "json", "csv", "csv", "tsv", "parquet", "parquet"))
    kinds = ["lm"] if form == "txt" else ["lm", "lm", "classification", "labels", "completion"]
    kind = random.choice(kinds)
    task, roles, special = _task(random, kind)
    is_huge = random.random() < 0.02
    dirt = random.choice((0.0, 0.0, 0.02, 0.1, 0.4))
    plan = Plan(
        roles,
        dirt,
        rows=3 if is_huge else random.choice((4, 40, 60, 60)),
        longest=200_000 if is_huge else 6 if kind in ("completion", "labels") else random.choice((3, 30, 100)),
        special=special if form != "parquet" else {name: _of_one_type(values) for name, values in special.items()},
    )
    is_dataset = random.random() < 0.25
    truth, files, suffixes = Truth(), list[Path](), random.choice(SUFFIXES[form])
    for number in range(random.choice((1, 1, 1, 2, 3, 5))):
        path, file_truth = _write(random, plan, form, folder, _name(random, suffixes, number, is_dataset), is_dataset)
        files.append(path)
        truth.add(file_truth)
    if plan.dirt and not is_dataset and random.random() < 0.02:
        files.append(_of_another_kind(folder, form, truth))
    text_column = {"text_column": next(iter(roles))} if kind == "lm" else {}
    limits = (0.0, 0.05, 0.05, 0.5, 1.0) if dirt < 0.2 else (0.05, 0.5, 1.0, 1.0)
    data: dict[str, Any] = {
        "sequence_length": 512 if is_huge or kind in ("completion", "labels") else random.choice((8, 8, 16, 64)),
        "held_out": random.choice((0.5, 0.5, 0.5, 0.5, 0.3, 0.05)),
        "max_left_out": random.choice(limits),
        **text_column,
    }
    if is_dataset:
        streaming = kind == "lm" and random.random() < 0.6
        data |= {"source": "dataset", "dataset": str(folder), "streaming": streaming}
        if not (streaming or plan.dirt) and form == "parquet" and len(files) == 1 and truth.rows:
            data["split"] = "train[:100%]"  # a part of a split: the library itself reads the files
        options = LocalOptions(device="cpu", batch_size=2)
    else:
        paths = _paths(random, folder, files, truth)
        is_own = random.random() < 0.2
        data |= {"source": "files", "paths": ["nothing/here"] if is_own else list(paths)}
        options = LocalOptions(device="cpu", batch_size=2, data=paths if is_own else ())
    spec = RunSpec.model_validate(
        {
            "run": {"name": "trial"},
            "model": {"architecture": "llama", "config": MODEL},
            "task": task,
            "data": data,
            "method": {"name": "diloco", "schedule": "constant"},
            "eval": {"sequences": 10**6},
        }
    )
    about = f"{kind}, {len(files)} × {form}, {data} {options.data} {task} dirt={dirt}; {truth.refused}"
    return Trial(spec, options, truth, tuple(roles), form, about)


def _task(random: Random, kind: str) -> tuple[dict[str, Any], dict[str, str], dict[str, list[Any]]]:
    """(the task's section, the columns that it reads, values of the label column)."""
    text = random.choice(("text", "text", "content", "my text", "größe"))
    if kind == "lm":
        name = random.choice((text, "a.b", "list"))
        return {"kind": "language-modelling"}, {name: "document"}, {}
    if kind == "completion":
        prompt, completion = random.choice((("{q}?", " {a}"), ("Q: {q}\nA:", " {a}."), ("{a}+{q}=", "{q}")))
        order = ("a", "q") if prompt.startswith("{a}") else ("q", "a")
        return {"kind": kind, "prompt": prompt, "completion": completion}, dict.fromkeys(order, "words"), {}
    labels = random.choice(LABELS)
    template = random.choice(("{%s}.", "{title}: {%s}", "Say {%s} {title}!")) % text
    order = (text,) if "title" not in template else ("title", text) if template.startswith("{t") else (text, "title")
    if template.startswith("{title}"):
        order = ("title", text)
    common = {"label_column": "label", "labels": list(labels)}
    if kind == "classification":
        task = {"kind": kind, "text": template, **common}
    else:
        task = {"kind": "completion", "prompt": template, "completion": " {label}", **common}
    return task, dict.fromkeys((*order, "label"), "words"), {"label": _label_values(random, labels)}


def _label_values(random: Random, labels: tuple[str, ...]) -> list[Any]:
    """How the table names the labels: by words or numbers, sometimes wrongly."""
    numbers = list(range(len(labels)))
    styles: list[list[Any]] = [list(labels), [f" {word} " for word in labels] + list(labels)]
    if not any(word.isdigit() for word in labels):
        styles += [[*numbers], [float(number) for number in numbers], [str(number) for number in numbers]]
        styles.append([*labels, *numbers])
    if "true" in labels:
        styles += [[True, False], ["True", "False", "TRUE"]]
    values = random.choice(styles)
    luck = random.random()
    if luck < 0.05:
        return values[:-1]
    return [*values, random.choice(("maybe", 7, -1, "none"))] if luck < 0.1 else values


def _of_one_type(values: list[Any]) -> list[Any]:
    """Values that one column of a Parquet file can hold."""
    return values if len({type(value) for value in values}) == 1 else [str(value) for value in values]


WRITERS: dict[str, Callable[[Random, Plan, Truth], Encoded]] = {
    "txt": tables.document,
    "jsonl": tables.jsonl,
    "json": tables.json_array,
    "csv": lambda random, plan, truth: tables.separated(random, plan, truth, ","),
    "tsv": lambda random, plan, truth: tables.separated(random, plan, truth, "\t"),
}


def _name(random: Random, suffixes: tuple[str, ...], number: int, is_dataset: bool) -> str:
    if is_dataset:  # the library takes names with "train" or "test" for a split's, and then leaves out all others
        return f"part-{number}{suffixes[0]}"
    return f"{random.choice(STEMS)}-{number}{random.choice(suffixes)}"


def _write(random: Random, plan: Plan, form: str, folder: Path, name: str, is_dataset: bool) -> tuple[Path, Truth]:
    """Write one file; return what it holds."""
    truth = Truth()
    if form == "parquet":
        raw = tables.parquet(random, plan, truth)
    else:
        encoded = WRITERS[form](random, plan, truth)
        raw, truth.characters, truth.replaced = encoded.raw, len(encoded.read), encoded.replaced
        if encoded.is_foreign:
            truth = Truth(refused={"foreign": ""})
    luck = random.random()
    if luck < plan.dirt / 20:
        raw, truth = _spoiled(random, raw, form, name)
    elif luck < 0.25 and not (is_dataset and form == "parquet"):  # the library does not see such files
        how = random.choice(tuple(COMPRESSIONS))
        name = name if not is_dataset and random.random() < 0.2 else f"{name}.{how}"
        if form == "parquet":
            raw, truth = compress(random, raw, how), Truth(refused={"foreign": name})
        elif random.random() < plan.dirt / 2:
            raw, truth = damage(random, raw, how), Truth(refused={**truth.refused, "damaged": name})
        else:
            raw = compress(random, raw, how)
    path = folder / name
    path.write_bytes(raw)
    return path, truth


def _of_another_kind(folder: Path, form: str, truth: Truth) -> Path:
    """A file that is read in another way than those of this form."""
    truth.refused["kinds"] = ""
    path = folder / ("other.txt" if form == "csv" else "other.csv")
    path.write_text("text\nabc\n")
    return path


def _spoiled(random: Random, raw: bytes, form: str, name: str) -> tuple[bytes, Truth]:
    """A file that is not what its name says."""
    if form == "parquet" and random.random() < 0.5:
        return raw[: random.randint(0, len(raw) - 1)], Truth(refused={"foreign": name})
    if random.random() < 0.5:
        return random.choice(FOREIGN), Truth(refused={"foreign": name})
    return random.randbytes(random.randint(300, 5000)), Truth(refused={"foreign": name})


def _paths(random: Random, folder: Path, files: list[Path], truth: Truth) -> tuple[str, ...]:
    """How the volunteer or the spec names the files."""
    if random.random() < 0.5:
        return tuple(map(str, files))
    if truth.documents and len(truth.documents) == len(files):  # those of a folder or pattern are sorted
        truth.documents = [text for _, text in sorted(zip(files, truth.documents, strict=True))]
    suffixes = {file.suffix for file in files}
    if random.random() < 0.4 and len(suffixes) == 1 and (suffix := suffixes.pop()):
        return (f"{glob.escape(str(folder))}/*{suffix}",)
    (folder / ".hidden.bin").write_bytes(b"\x00\x01\x02")
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("[core]")
    if random.random() < 0.5:
        (folder / "README.md").write_text("# data")
        truth.notes.append("only describe the data: README.md")
    if random.random() < 0.1:
        inner = folder / os.fsdecode(b"caf\xe9")  # a name that is no UTF-8
        inner.mkdir()
        for file in files:
            file.rename(inner / file.name)
    return (str(folder),)
