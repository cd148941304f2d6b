"""What a trial must come to: which examples and texts are read, or why the run must be refused."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from blake3 import blake3

from p2ptrain.run.spec import DatasetData, FilesData
from p2ptrain.run.task import Classification, Completion, TableTask
from tests.unit.fuzz.scenario import Trial

ENOUGH = 1e-9
"""Chances below this never happen."""
SHORTEST_CUT = 900
"""Bytes. Texts that are shorter stay whole."""


@dataclass(frozen=True)
class Said:
    """One example in words."""

    text: str
    completions: tuple[str, ...]
    label: int


@dataclass
class Expected:
    """What must be read. `refused` has the kinds of the faults for which all must be refused, and what each message
    must name; `doubtful` those for which it may be.
    """

    training: set[str] | set[Said]
    held_out: list[str] | list[Said]
    refused: dict[str, str]
    doubtful: set[str]
    repeated: int = 0
    cut: int = 0


def is_held_out(text: str, fraction: float) -> bool:
    """The rule that is the same on all peers: the first 64 bits of the text's BLAKE3."""
    return int.from_bytes(blake3(text.encode()).digest()[:8], "big") < fraction * 2**64


def expect(trial: Trial) -> Expected:
    """Work out what must happen."""
    data, truth, task = trial.spec.data, trial.truth, trial.spec.task
    assert isinstance(data, FilesData | DatasetData)
    refused, doubtful = dict(truth.refused), set[str]()
    if truth.left_out.total() > data.max_left_out * len(truth.rows):
        refused["left"] = ""
    if truth.replaced > 0.0012 * truth.characters:
        refused["replaced"] = ""
    elif truth.replaced > 0.0008 * truth.characters:
        doubtful.add("replaced")
    if truth.replaced and not all(map(str.isascii, trial.columns)):
        doubtful.add("column")  # the broken bytes may be in its name
    if isinstance(task, TableTask):
        found = _examples(task, truth.usable, data)
    elif trial.form == "txt":
        found = _documents(truth.documents, data)
    else:
        found = _texts([row[trial.columns[0]] for row in truth.usable], data.held_out, data.sequence_length)
    return Expected(
        found.training, found.held_out, refused | found.refused, doubtful | found.doubtful, found.repeated, found.cut
    )


def _texts(texts: list[str], fraction: float, length: int) -> Expected:
    """Language modelling on the rows of a table."""
    held_out = [text for text in texts if is_held_out(text, fraction)]
    training = {text for text in texts if text and not is_held_out(text, fraction)}
    refused = {}
    if not texts:
        refused["no rows"] = ""
    if _tokens(held_out) < length:
        refused["held out"] = ""
    if not training:
        refused["training"] = ""
    return Expected(training, held_out, refused, set())


def _documents(files: list[str], data: FilesData | DatasetData) -> Expected:
    """Language modelling on text files. Those that are short are one document each; of others nobody here knows where
    they are cut.
    """
    fraction, length = data.held_out, data.sequence_length
    files = [text for text in files if text]
    if all(len(text.encode()) < SHORTEST_CUT for text in files):
        found = _texts(files, fraction, length)
        is_streamed = isinstance(data, DatasetData) and data.streaming
        if not is_streamed and _tokens(text for text in files if not is_held_out(text, fraction)) <= length:
            found.refused["training"] = ""
        return found
    least = sum(map(len, files)) // 4096
    lucky = (1 - fraction) ** least < ENOUGH and fraction**least < ENOUGH
    return Expected(set(), [], {}, set() if lucky else {"held out", "training"})


def _tokens(texts: Iterable[str]) -> int:
    return sum(len(text.encode()) + 1 for text in texts)


def _examples(task: TableTask, rows: list[dict[str, str]], data: FilesData | DatasetData) -> Expected:
    refused: dict[str, str] = {}
    examples: dict[tuple[str, str], Said] = {}
    labels = set[int]()
    for row in rows:
        label = 0 if task.label_column is None else label_of(task.labels, row[task.label_column])
        if label is None:
            refused["label"] = "" if "label" in refused else repr(row[str(task.label_column)])
            continue
        labels.add(label)
        said = _said(task, row, label)
        answer = said.completions[label] if said.completions else str(label)
        examples.setdefault((said.text, answer), said)
    held_out = [each for each in examples.values() if is_held_out(each.text, data.held_out)]
    training = {each for each in examples.values() if not is_held_out(each.text, data.held_out)}
    if not training:
        refused["training"] = ""
    if not held_out:
        refused["held out"] = ""
    if len(labels) < len(task.labels):
        refused["absent label"] = ""
    cut = 0
    for said in examples.values():
        end = 0 if task.labels else 1
        longest = max((len(text.encode()) + end for text in said.completions), default=0)
        if longest > data.sequence_length - 1:
            refused["too long"] = ""
        cut += len(said.text.encode()) > data.sequence_length - longest
    return Expected(training, held_out, refused, set(), len(rows) - len(examples), cut)


def _said(task: TableTask, row: dict[str, str], label: int) -> Said:
    if isinstance(task, Classification):
        return Said(_filled(task.text, row), (), label)
    assert isinstance(task, Completion)
    words = [{task.label_column: word} for word in task.labels] if task.label_column else [{}]
    completions = tuple(_filled(task.completion, {**row, **word}) for word in words)
    return Said(_filled(task.prompt, row), completions, label)


def _filled(template: str, row: dict[str, str]) -> str:
    return re.sub(r"\{([^}]*)\}", lambda found: row[found[1]], template)


def label_of(labels: tuple[str, ...], cell: str) -> int | None:
    """Index of the label that a cell names; None if it names none."""
    said = cell.strip()
    if said.lower() in ("true", "false") and said not in labels:
        said, labels = said.lower(), tuple(word.lower() for word in labels)
    if said in labels:
        return labels.index(said)
    if not any(re.fullmatch(r"[0-9.]+", word) for word in labels) and re.fullmatch(r"[0-9]+(\.0+)?", said):
        return int(float(said)) if float(said) < len(labels) else None
    return None
