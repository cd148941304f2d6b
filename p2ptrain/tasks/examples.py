"""Examples: the task's templates put the rows of a table into words.

Rows that say the same are one example. A row is left out if a column that the task reads is empty. The hash of the
prompt or text decides whether an example is held out; its answer does not count. An evaluation reads the examples with
the lowest hashes, so that the order of the table does not matter (many are sorted by label).
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from blake3 import blake3

from p2ptrain.errors import DataError
from p2ptrain.run import Digest, RunSpec, digest_of
from p2ptrain.run.spec import DatasetData, FilesData
from p2ptrain.run.task import Completion, TableTask, fill
from p2ptrain.tasks.documents import TABLES, draw_of, expand, is_held_out, open_dataset, open_table, text_data
from p2ptrain.tasks.local import LocalOptions
from p2ptrain.tasks.model import padding_id
from p2ptrain.tasks.sequences import generator
from p2ptrain.tasks.task import Rows, Task
from p2ptrain.tasks.tokenizer import Tokens

ESTIMATED = 64
"""So many held-out examples are measured; their mean length is taken for all."""


@dataclass(frozen=True, slots=True)
class Example:
    """One row in words."""

    text: str
    """What is given: a prompt, or the text to classify."""
    completions: tuple[str, ...]
    """One completion of the prompt for each label; a single one if there are no labels; empty for a classification."""
    label: int
    """Index of the right completion or label."""


class Examples(Rows):
    """The distinct rows of a table with random access: the batches that this peer draws, and the held-out rows."""

    held_out: tuple[Example, ...]
    """In the order of their hashes."""

    def __init__(
        self,
        table: Any,
        task: TableTask,
        fraction: float,
        evaluated: int,
        seed: int,
        check: Callable[[int, Example], None] = lambda row, example: None,
    ) -> None:
        """Read every row once.

        Args:
            check: takes the number of a row and its example; raises DataError to refuse it.

        Raises:
            DataError: a label is unknown, or no row is left for training or evaluation.
        """
        self._table, self._task, self._seed = table, task, seed
        self._training: list[int] = []
        held_out: list[tuple[int, bytes, int]] = []
        seen = set[bytes]()
        for number, row in enumerate(table):
            example = example_of(task, row, number)
            if example is None or (name := _name(example)) in seen:
                continue
            check(number, example)
            seen.add(name)
            if is_held_out(example.text, fraction):
                held_out.append((draw_of(example.text), name, number))
            else:
                self._training.append(number)
        if not self._training:
            raise DataError(
                "there is no example to train on",
                f"of {len(table)} rows {len(held_out)} are held out, and the others are empty or repeated",
                "use more data, or check the templates' columns",
            )
        if not held_out:
            raise DataError(
                "no example is held out for evaluation",
                f"chance has put none of the {len(seen)} examples into the held-out {fraction:.0%}",
                "use more data, or set data.held_out higher",
            )
        self.held_out = tuple(self._example(number) for _, _, number in sorted(held_out)[:evaluated])

    def batch(self, index: int, size: int) -> list[Example]:
        """It depends on the seed and the index only."""
        drawn = generator(self._seed, index).integers(0, len(self._training), size)
        return [self._example(self._training[at]) for at in drawn]

    @cached_property
    def digest(self) -> Digest:
        return digest_of(json.dumps([asdict(example) for example in self.held_out]).encode())

    def _example(self, number: int) -> Example:
        example = example_of(self._task, self._table[number], number)
        assert example is not None
        return example


def example_of(task: TableTask, row: Mapping[str, Any], number: int) -> Example | None:
    """The row in words; None if a column that the task reads is empty.

    Raises:
        DataError: the label is none of the task's.
    """
    if any(row[column] is None or row[column] == "" for column in task.columns):
        return None
    label = 0 if task.label_column is None else _label(task, row[task.label_column], number)
    if not isinstance(task, Completion):
        return Example(fill(task.text, row), (), label)
    if task.label_column is None:
        return Example(fill(task.prompt, row), (fill(task.completion, row),), label)
    completions = tuple(fill(task.completion, {**row, task.label_column: word}) for word in task.labels)
    return Example(fill(task.prompt, row), completions, label)


def _label(task: TableTask, value: Any, number: int) -> int:
    """Index of the label that a column's value names: by its word, or by its index if the words are no numbers."""
    words, said = [word.strip() for word in task.labels], str(value).strip()
    if isinstance(value, bool):  # a table's true and false: Python would write them with a capital letter
        words, said = [word.lower() for word in words], said.lower()
    if said in words:
        return words.index(said)
    is_whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if is_whole and 0 <= value < len(words) and not any(word.isdigit() for word in words):
        return int(value)
    raise DataError(
        f"row {number} has the label {value!r} in {task.label_column!r}",
        f"the labels are {', '.join(map(repr, task.labels[:10]))}; a number is an index from 0",
        "correct task.labels and task.label_column, or the data",
    )


def _name(example: Example) -> bytes:
    said = example.completions[example.label] if example.completions else str(example.label)
    return blake3(json.dumps([example.text, said]).encode()).digest()[:16]


def open_examples(
    spec: RunSpec, options: LocalOptions, task: TableTask, seed: int, check: Callable[[int, Example], None]
) -> Examples:
    """Open the table that the spec or the volunteer names.

    Raises:
        DataError: the table can't be read, is no table, or lacks a column.
    """
    data = text_data(spec)
    if options.data:
        data = FilesData(source="files", paths=options.data)
    if isinstance(data, DatasetData):
        table = open_dataset(data, task.columns)
    else:
        assert isinstance(data, FilesData), "the spec's validator"
        paths = expand(data.paths)
        for path in paths:
            if path.suffix.lower() not in TABLES:
                raise DataError(
                    f"{path} is no table",
                    f"task.kind = {task.kind!r} reads rows with columns",
                    "name .jsonl, .csv or .parquet files",
                )
        table = open_table(data, paths, task.columns)
    return Examples(table, task, text_data(spec).held_out, spec.eval.sequences, seed, check)


class ExampleTask(Task):
    """A task whose rows are examples."""

    def load_data(self, seed: int) -> None:
        self.rows = open_examples(self._spec, self._options, self._section, seed, self._check)

    @property
    def _section(self) -> TableTask:
        assert isinstance(self._spec.task, TableTask)
        return self._spec.task

    def _check(self, row: int, example: Example) -> None:
        """Raise DataError if this example can't be used."""

    @abstractmethod
    def _length(self, example: Example) -> int:
        """Number of tokens that training reads of this example."""

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one batch, if its examples are as long as the held-out ones on average."""
        return round(self.batch_size * sum(self._lengths) / len(self._lengths))

    @cached_property
    def _lengths(self) -> list[int]:
        return [self._length(example) for example in self.rows.held_out[:ESTIMATED]]

    def longest(self, count: int) -> list[Example]:
        """The longest held-out example, `count` times; a training example may be longer."""
        return [self.rows.held_out[self._lengths.index(max(self._lengths))]] * count

    def _padded(self, rows: Sequence[Tokens]) -> tuple[torch.Tensor, torch.Tensor]:
        """Fill up token rows at their ends: ids and mask (1: a real token), both int64 of shape (rows, longest)."""
        lengths = torch.tensor([len(row) for row in rows])
        ids = torch.full((len(rows), int(lengths.max())), padding_id(self.model, self.tokenizer))
        for row, tokens in zip(ids, rows, strict=True):
            row[: len(tokens)] = torch.from_numpy(tokens)
        mask = torch.arange(ids.shape[1]) < lengths[:, None]
        return ids.to(self.device), mask.long().to(self.device)
