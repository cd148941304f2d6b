"""Training sequences. Each peer's seed decides which ones it draws; none comes from a held-out document.

There are three ways to draw, for three sizes of corpus: `PooledSequences` keeps all tokens in memory, and begins
anywhere; `DrawnSequences` packs random rows of a table; `StreamedSequences` reads the shards of a stream in an order of
this peer's own, and shuffles in a buffer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np
from blake3 import blake3

from p2ptrain.errors import DataError
from p2ptrain.run import Digest, PeerId
from p2ptrain.tasks.documents import is_held_out
from p2ptrain.tasks.tokenizer import Tokenizer, Tokens

BUFFERED_SEQUENCES = 1024


class Sequences(Protocol):
    """Token sequences of one length."""

    held_out: Tokens
    """(sequences, length), the same on every peer with the same data."""

    def batch(self, index: int, size: int) -> Tokens:
        """This peer's batch number `index`: int32 tokens of shape (size, length)."""

    def state(self) -> Any:
        """What `restore` needs after a restart, besides the index."""

    def restore(self, state: Any) -> None: ...


def shard_seed(run: Digest, peer: PeerId) -> int:
    """A number of 128 bits: the seed of all that a peer draws in a run."""
    return int.from_bytes(blake3(b"p2ptrain shard" + run + peer.encode()).digest()[:16], "little")


def generator(seed: int, counter: int) -> np.random.Generator:
    """A random generator for (seed, counter): so each batch can be drawn without the batches before it."""
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, counter, 0, 0]))


def _cut(tokens: Iterable[Tokens], length: int, most: int | None = None) -> Iterator[Tokens]:
    """Lay documents end to end and cut them into sequences of `length`; tokens that do not fill one are dropped."""
    rest = np.empty(0, dtype=np.int32)
    made = 0
    for document in tokens:
        rest = np.concatenate([rest, document])
        while len(rest) >= length and (most is None or made < most):
            yield rest[:length]
            rest, made = rest[length:], made + 1
        if made == most:
            return


def _held_out(documents: Iterable[str], tokenizer: Tokenizer, length: int, count: int, fraction: float) -> Tokens:
    """The first `count` sequences of the held-out documents."""
    chosen = (_encode(text, tokenizer) for text in documents if is_held_out(text, fraction))
    rows = list(_cut(chosen, length, count))
    if not rows:
        raise DataError(
            "no document is held out for evaluation",
            f"chance has put none of the documents into the held-out {fraction:.0%}, or those are too short",
            "use more data, or set data.held_out higher",
        )
    return np.stack(rows)


def _encode(text: str, tokenizer: Tokenizer) -> Tokens:
    return np.append(tokenizer.encode(text), np.int32(tokenizer.end))


class PooledSequences:
    """Keeps all training documents end to end in memory; a sequence begins anywhere."""

    def __init__(
        self, documents: list[str], tokenizer: Tokenizer, length: int, held_out: float, evaluated: int, seed: int
    ) -> None:
        self._length, self._seed = length, seed
        training = [_encode(text, tokenizer) for text in documents if not is_held_out(text, held_out)]
        self._tokens = np.concatenate(training) if training else np.empty(0, dtype=np.int32)
        if len(self._tokens) <= length:
            raise DataError(
                "there is too little text to train on",
                f"there are {len(self._tokens)} tokens, and one sequence takes {length}",
                "use more data, or a smaller data.sequence_length",
            )
        self.held_out = _held_out(documents, tokenizer, length, evaluated, held_out)

    def batch(self, index: int, size: int) -> Tokens:
        starts = generator(self._seed, index).integers(0, len(self._tokens) - self._length + 1, size)
        return np.stack([self._tokens[start : start + self._length] for start in starts])

    def state(self) -> None:
        return None

    def restore(self, state: None) -> None:
        pass


class DrawnSequences:
    """Packs each sequence from random rows of a table."""

    def __init__(
        self, table: Any, column: str, tokenizer: Tokenizer, length: int, held_out: float, evaluated: int, seed: int
    ) -> None:
        self._table, self._column, self._tokenizer = table, column, tokenizer
        self._length, self._fraction, self._seed = length, held_out, seed
        if len(table) == 0:
            raise DataError("the dataset is empty", "it has no rows", "check its split and files")
        rows = (self._text(row) for row in range(len(table)))
        self.held_out = _held_out(rows, tokenizer, length, evaluated, held_out)

    def _text(self, row: int) -> str:
        return str(self._table[row][self._column] or "")

    def batch(self, index: int, size: int) -> Tokens:
        random = generator(self._seed, index)
        return np.stack([self._sequence(random) for _ in range(size)])

    def _sequence(self, random: np.random.Generator) -> Tokens:
        parts: list[Tokens] = []
        missing, misses = self._length, 0
        while missing > 0:
            text = self._text(int(random.integers(len(self._table))))
            if not text or is_held_out(text, self._fraction):
                misses += 1
                if misses > 1000:
                    raise DataError(
                        "there is too little text to train on",
                        "1000 rows, one after another, were empty or held out",
                        "use more data",
                    )
                continue
            tokens = _encode(text, self._tokenizer)
            start = int(random.integers(max(1, len(tokens) - missing + 1)))
            parts.append(tokens[start : start + missing])
            missing, misses = missing - len(parts[-1]), 0
        return np.concatenate(parts)

    def state(self) -> None:
        return None

    def restore(self, state: None) -> None:
        pass


class StreamedSequences:
    """Reads a stream of rows. After a restart it continues at the row that it had reached; the buffer is lost."""

    def __init__(
        self, stream: Any, column: str, tokenizer: Tokenizer, length: int, held_out: float, evaluated: int, seed: int
    ) -> None:
        self._column, self._tokenizer = column, tokenizer
        self._length, self._fraction, self._seed = length, held_out, seed
        self.held_out = _held_out(
            (str(row[column] or "") for row in stream), tokenizer, length, evaluated, held_out
        )  # in the stream's own order, which is the same on every peer
        # Each peer reads the shards in an order of its own; the buffer below mixes neighbours.
        self._stream = stream.shuffle(seed=seed % 2**32, buffer_size=1)
        self._random = generator(seed, 0)
        self._buffer: list[Tokens] = []
        self._source = self._sequences()

    def _texts(self) -> Iterator[str]:
        empty = False
        while not empty:  # at its end the stream begins again
            empty = True
            for row in self._stream:
                empty = False
                yield str(row[self._column] or "")
        raise DataError("the dataset is empty", "the stream has no rows", "check name, subset and split")

    def _sequences(self) -> Iterator[Tokens]:
        training = (text for text in self._texts() if text and not is_held_out(text, self._fraction))
        return _cut((_encode(text, self._tokenizer) for text in training), self._length)

    def batch(self, index: int, size: int) -> Tokens:
        return np.stack([self._draw() for _ in range(size)])

    def _draw(self) -> Tokens:
        while len(self._buffer) < BUFFERED_SEQUENCES:
            self._buffer.append(next(self._source))
        at = int(self._random.integers(len(self._buffer)))
        drawn, self._buffer[at] = self._buffer[at], self._buffer[-1]
        self._buffer.pop()
        return drawn

    def state(self) -> Any:
        return self._stream.state_dict()

    def restore(self, state: Any) -> None:
        self._stream.load_state_dict(state)
        self._source = self._sequences()
