"""Examples: what a task makes of the rows of a table.

Rows that say the same are one example. The hash of the prompt or text decides whether an example is held out; its
answer does not count. An evaluation reads the examples with the lowest hashes, so that the order of the table does not
matter (many are sorted by label).
"""

from __future__ import annotations

import json
import re
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import torch
from blake3 import blake3

from p2ptrain.data.cells import Cells, Columns, Fault, Kind, chat_in
from p2ptrain.data.chance import generator
from p2ptrain.data.table import Rows as TableRows
from p2ptrain.data.tally import Tally
from p2ptrain.errors import DataError
from p2ptrain.run import Digest, digest_of
from p2ptrain.run.spec import StdlibData
from p2ptrain.run.task import Chat, Classification, Completion, TableTask, fill
from p2ptrain.tasks.conversation import asked, messages_of, written
from p2ptrain.tasks.documents import chosen_data, draw_of, is_held_out, open_table
from p2ptrain.tasks.model import padding_id
from p2ptrain.tasks.task import Rows, Task
from p2ptrain.tasks.tokenizer import Tokens
from p2ptrain.units import counted

ESTIMATED = 64
"""So many held-out examples are measured; their mean length is taken for all."""
MEASURED = 10_000
"""So many examples are looked at to see which are too long: to tokenize a large table takes minutes."""


@dataclass(frozen=True, slots=True)
class Example:
    """One row in words."""

    text: str
    """What is given: a prompt, the text to classify, or (as JSON) all messages of a conversation but the assistant's.
    A prompt may be messages as JSON, too."""
    completions: tuple[str, ...]
    """One completion of the prompt for each label; a single one if there are no labels, for a conversation all its
    messages (as JSON); empty for a classification."""
    label: int
    """Index of the right completion or label."""


class Examples(Rows):
    """The distinct rows of a table with random access: the batches that this peer draws, and the held-out rows."""

    held_out: tuple[Example, ...]
    """In the order of their hashes."""

    def __init__(
        self,
        table: TableRows,
        task: TableTask,
        fraction: float,
        evaluated: int,
        seed: int,
        where: Callable[[int], str] = lambda number: f"row {number}",
        check: Callable[[str, Example], Fault | None] = lambda where, example: None,
        tally: Tally | None = None,
    ) -> None:
        """Read every row once.

        Args:
            where: a row's file and number, for messages.
            check: takes a row's place and its example; says why the row must be left out, or raises DataError.
            tally: counts the rows that `check` leaves out.

        Raises:
            DataError: a label is unknown, no row has one of the labels, no row is left for training or evaluation, or
                too many are left out.
        """
        self._table, self._task, self._seed = table, task, seed
        self._training: list[int] = []
        held_out: list[tuple[int, bytes, int]] = []
        seen, labels, unfit = set[bytes](), set[int](), 0
        tally = tally or Tally(1.0)
        for number, row in enumerate(table):
            example = example_of(task, row, lambda at=number: where(at))  # type: ignore[misc]
            labels.add(example.label)
            if (name := _name(example)) in seen:
                continue
            if (fault := check(where(number), example)) is not None:
                tally.take_back(fault, where(number))
                unfit += 1
                continue
            seen.add(name)
            if is_held_out(example.text, fraction):
                held_out.append((draw_of(example.text), name, number))
            else:
                self._training.append(number)
        tally.check()
        self.repeated = len(table) - len(seen) - unfit
        """Rows that say what another row says."""
        if not self._training:
            raise DataError(
                "there is no example to train on",
                f"of {len(table)} rows {len(held_out)} are held out, and the others are repeated or left out",
                "use more data, or check the columns in [task]",
            )
        if not held_out:
            raise DataError(
                "no example is held out for evaluation",
                f"chance has put none of the {len(seen)} examples into the held-out {fraction:.0%}",
                "use more data, or set data.held_out higher",
            )
        if absent := [word for index, word in enumerate(task.labels) if index not in labels]:
            raise DataError(
                f"no row has the label {absent[0]!r}",
                f"{len(absent)} of the {len(task.labels)} labels of the spec are in no row of the data",
                "correct task.labels, or use data with all labels",
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
        return example_of(self._task, self._table[number])


def example_of(task: TableTask, row: Cells, where: Callable[[], str] = lambda: "a row") -> Example:
    """The row in words.

    Args:
        where: the row's file and number, for messages.

    Raises:
        DataError: the label is none of the task's.
    """
    if isinstance(task, Chat):
        messages = messages_of(row[task.messages])
        return Example(written(asked(messages)), (written(messages),), 0)
    label = 0 if task.label_column is None else _label(task, row[task.label_column], where)
    if isinstance(task, Classification):
        return Example(fill(task.text, row), (), label)
    prompt = fill(task.prompt, row)
    if task.chat_column is not None and chat_in(prompt) is not None:
        prompt = written(messages_of(prompt))
    if task.label_column is None:
        return Example(prompt, (fill(task.completion, row),), label)
    completions = tuple(fill(task.completion, {**row, task.label_column: word}) for word in task.labels)
    return Example(prompt, completions, label)


def kinds_of(task: TableTask) -> Columns:
    """The columns that a task reads, and what it makes of them."""
    columns = dict.fromkeys(task.columns, Kind.WORDS)
    if isinstance(task, Chat):
        columns[task.messages] = Kind.CHAT
    elif isinstance(task, Completion) and task.chat_column is not None:
        columns[task.chat_column] = Kind.PROMPT
    return columns


def _label(task: TableTask, cell: str, where: Callable[[], str]) -> int:
    """Index of the label that a cell names: by its word, or by its index if the words are no numbers."""
    words, said = [word.strip() for word in task.labels], cell.strip()
    if said not in words and said.lower() in ("true", "false"):  # tables write them in several ways
        words, said = [word.lower() for word in words], said.lower()
    if said in words:
        return words.index(said)
    number = _whole(said)
    if number is not None and 0 <= number < len(words) and all(_whole(word) is None for word in words):
        return number
    raise DataError(
        f"{where()} has the label {cell!r} in {task.label_column!r}",
        f"the labels are {', '.join(map(repr, task.labels[:10]))}; a number is an index from 0",
        "correct task.labels and task.label_column, or the data",
    )


def _whole(text: str) -> int | None:
    """The whole number that a text is, also as 1.0; None if it is none."""
    return int(text.partition(".")[0]) if re.fullmatch(r"\d{1,9}(\.0+)?", text, re.ASCII) else None


def _name(example: Example) -> bytes:
    said = example.completions[example.label] if example.completions else str(example.label)
    return blake3(json.dumps([example.text, said]).encode()).digest()[:16]


class ExampleTask(Task):
    """A task whose rows are examples."""

    def load_data(self, seed: int) -> None:
        data, task = chosen_data(self._spec, self._options), self._section
        assert not isinstance(data, StdlibData), "the spec's validator"
        table = open_table(data, kinds_of(task))
        self.read, self._measured, self._cut = table.tally, 0, 0
        arguments = (data.held_out, self._spec.eval.sequences, seed, table.where, self._check, table.tally)
        self.rows = Examples(table, task, *arguments)
        if self.rows.repeated:
            rows = counted(len(table), "row")
            self.read.notes.append(f"{self.rows.repeated:,} of {rows} say the same as another row and count once")
        if self._cut:
            self.read.notes.append(
                f"{self._cut:,} of {counted(self._measured, 'text')} are longer than data.sequence_length and are cut"
            )

    @property
    def _section(self) -> TableTask:
        assert isinstance(self._spec.task, TableTask)
        return self._spec.task

    def _check(self, where: str, example: Example) -> Fault | None:
        """Count examples that are too long; say why this one must be left out, or raise DataError."""
        if self._measured < MEASURED:
            self._measured += 1
            self._cut += self._is_cut(example)
        return None

    @abstractmethod
    def _is_cut(self, example: Example) -> bool:
        """Whether a part of the text is lost because it is too long."""

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
