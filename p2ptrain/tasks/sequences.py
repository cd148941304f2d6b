"""Training sequences. Each peer's seed decides which ones it draws; none comes from a held-out document.

There are three ways to draw, for three sizes of corpus: `PooledSequences` keeps all tokens in memory, and begins
anywhere; `DrawnSequences` packs random rows of a table; `StreamedSequences` reads the rows of a stream that are dealt
out to this peer, and shuffles in a buffer.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from blake3 import blake3

from p2ptrain.data.chance import generator
from p2ptrain.data.stream import Place, Stream
from p2ptrain.data.table import Rows as TableRows
from p2ptrain.data.tally import Tally
from p2ptrain.errors import DataError
from p2ptrain.run import Digest, PeerId, digest_of
from p2ptrain.tasks.documents import is_held_out
from p2ptrain.tasks.task import Rows
from p2ptrain.tasks.tokenizer import Tokenizer, Tokens
from p2ptrain.units import size

BUFFERED_SEQUENCES, MIXED_SEQUENCES = 1024, 64

log = logging.getLogger(__name__)


def shard_seed(run: Digest, peer: PeerId) -> int:
    """A number of 128 bits: the seed of all that a peer draws in a run."""
    return int.from_bytes(blake3(b"p2ptrain shard" + run + peer.encode()).digest()[:16], "little")


@dataclass(frozen=True, slots=True)
class Cutter:
    """How documents become sequences, and what decides which of them this peer draws."""

    tokenizer: Tokenizer
    length: int
    """Tokens of one sequence."""
    fraction: float
    """Share of the documents that is held out."""
    evaluated: int
    """Most sequences that an evaluation reads."""
    seed: int

    def encode(self, text: str) -> Tokens:
        return np.append(self.tokenizer.encode(text), np.int32(self.tokenizer.end))

    def cut(self, documents: Iterable[str], most: int | None = None) -> Iterator[Tokens]:
        """Lay documents end to end and cut them into sequences; tokens that do not fill one are dropped."""
        rest = np.empty(0, dtype=np.int32)
        made = 0
        for text in documents:
            rest = np.concatenate([rest, self.encode(text)])
            while len(rest) >= self.length and (most is None or made < most):
                yield rest[: self.length]
                rest, made = rest[self.length :], made + 1
            if made == most:
                return

    def held_out(self, documents: Iterable[str]) -> Tokens:
        """The first sequences of the held-out documents: int32, (sequences, length)."""
        rows = list(self.cut((text for text in documents if is_held_out(text, self.fraction)), self.evaluated))
        if not rows:
            raise DataError(
                "no document is held out for evaluation",
                f"chance has put none of the documents into the held-out {self.fraction:.0%}, or those are too short",
                "use more data, or set data.held_out higher",
            )
        return np.stack(rows)


class Sequences(Rows):
    """Token sequences of one length: int32, (sequences, length)."""

    held_out: Tokens

    @property
    def digest(self) -> Digest:
        return digest_of(np.ascontiguousarray(self.held_out).data.cast("B"))


class PooledSequences(Sequences):
    """Keeps all training documents end to end in memory; a sequence begins anywhere."""

    def __init__(self, documents: Iterable[str], cutter: Cutter) -> None:
        self._length, self._seed = cutter.length, cutter.seed
        training, held_out = [np.empty(0, dtype=np.int32)], list[str]()
        for text in documents:
            if is_held_out(text, cutter.fraction):
                held_out.append(text)
            else:
                training.append(cutter.encode(text))
        if not held_out and len(training) == 1:
            raise DataError("the data files are empty", "they have no text", "name files with text in them")
        self._tokens = np.concatenate(training)
        if len(self._tokens) <= cutter.length:
            raise DataError(
                "there is too little text to train on",
                f"there are {len(self._tokens)} tokens, and one sequence takes {cutter.length}",
                "use more data, or a smaller data.sequence_length",
            )
        self.held_out = cutter.held_out(held_out)

    def batch(self, index: int, size: int) -> Tokens:
        starts = generator(self._seed, index).integers(0, len(self._tokens) - self._length + 1, size)
        return np.stack([self._tokens[start : start + self._length] for start in starts])


class DrawnSequences(Sequences):
    """Packs each sequence from random rows of a table."""

    def __init__(self, table: TableRows, column: str, cutter: Cutter) -> None:
        self._table, self._column, self._cutter = table, column, cutter
        if len(table) == 0:
            raise DataError("the dataset is empty", "it has no rows", "check its split and files")
        self.held_out = cutter.held_out(row[column] for row in table)

    def batch(self, index: int, size: int) -> Tokens:
        random = generator(self._cutter.seed, index)
        return np.stack([self._sequence(random) for _ in range(size)])

    def _sequence(self, random: np.random.Generator) -> Tokens:
        parts: list[Tokens] = []
        missing, misses = self._cutter.length, 0
        while missing > 0:
            text = self._table[int(random.integers(len(self._table)))][self._column]
            if not text or is_held_out(text, self._cutter.fraction):
                misses += 1
                if misses > 1000:
                    why = "1000 rows, one after another, were empty or held out"
                    raise DataError("there is too little text to train on", why, "use more data")
                continue
            tokens = self._cutter.encode(text)
            start = int(random.integers(max(1, len(tokens) - missing + 1)))
            parts.append(tokens[start : start + missing])
            missing, misses = missing - len(parts[-1]), 0
        return np.concatenate(parts)


class StreamedSequences(Sequences):
    """Packs sequences from the rows of a stream, and shuffles them in a buffer. After a restart it continues at the row
    that it had reached; the buffer is lost."""

    def __init__(self, stream: Stream, column: str, cutter: Cutter, wanted: int | None = None) -> None:
        """Read the stream's beginning until enough is held out.

        Args:
            wanted: how many tokens this peer will read in the whole run, if that is known.
        """
        self._stream, self._column, self._cutter = stream, column, cutter
        self.tally = Tally(stream.tally.most)
        self.held_out = cutter.held_out(row[column] for row in stream.in_order(self.tally))
        self._note_size(stream, wanted)
        # Rows that are dealt out are no neighbours any more: the more hands, the less there is to mix.
        self._buffered = max(MIXED_SEQUENCES, BUFFERED_SEQUENCES // stream.hands)
        self._random = generator(cutter.seed, 0)
        self._buffer: list[Tokens] = []
        self._rest = np.empty(0, dtype=np.int32)

    def _note_size(self, stream: Stream, wanted: int | None) -> None:
        """Tell the volunteer what a small stream means."""
        here = stream.bytes
        if here is not None and wanted is not None and wanted > here:
            self.tally.notes.append(
                f"the stream is small: it has about {size(here)}, and a peer reads {wanted:,} tokens in this run. So "
                "peers read the same rows"
            )
        if stream.hands > 1 and any(source.is_remote for source in stream.sources):
            self.tally.notes.append(
                f"the stream has few files: this peer fetches {stream.hands} rows for each row that it uses, so that "
                "peers read different rows. data.streaming = false would fetch each row once"
            )

    def prepare(self, size: int) -> None:
        first, stream = self._stream.place.epoch, self._stream
        # To mix more than one pass through the stream would mix copies, and take long if the stream is very short.
        while len(self._buffer) < size or (len(self._buffer) < self._buffered + size and stream.place.epoch == first):
            self._read()
            if not self._buffer and not len(self._rest) and stream.place.epoch > first + 1:
                why = "the whole stream was read, and all of it is empty or held out"
                raise DataError("there is too little text to train on", why, "use more data")

    def batch(self, index: int, size: int) -> Tokens:
        """Raises SourceSilent if the stream's source does not answer now; nothing is lost by that."""
        self.prepare(size)
        return np.stack([self._draw() for _ in range(size)])

    def _read(self) -> None:
        """Read one document into the buffer."""
        text = self._stream.row()[self._column]
        if text and not is_held_out(text, self._cutter.fraction):
            tokens, length = np.concatenate([self._rest, self._cutter.encode(text)]), self._cutter.length
            whole = len(tokens) // length * length
            self._buffer.extend(tokens[:whole].reshape(-1, length))
            self._rest = tokens[whole:]

    def _draw(self) -> Tokens:
        at = int(self._random.integers(len(self._buffer)))
        drawn, self._buffer[at] = self._buffer[at], self._buffer[-1]
        self._buffer.pop()
        return drawn

    def state(self) -> Any:
        return asdict(self._stream.place)

    def restore(self, state: Any) -> None:
        if isinstance(state, dict) and state.keys() == asdict(Place()).keys():
            self._stream.go_to(Place(**state))
        else:  # of other data, e.g. of files that were named with --data
            log.warning("the checkpoint holds no place in this stream: it is read from its beginning")
