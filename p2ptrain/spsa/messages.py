"""What authors of one-byte SPSA sign: batches of records, and what takes records back.

A log is one author's at one start of its process (`session`); its records are numbered from 0. A batch is

    author's key 32 ‖ session 8 ‖ start 5 ‖ clock 5 ‖ code, one byte each ‖ signature 64        114 bytes and n

The signature covers the run and the digest of the batch before, which are not sent: whoever has the log knows them. So
a batch can only be checked in its place, an author can't take back what it has said, and two signed batches in one
place prove that it tried to.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated, ClassVar, Self

import msgpack
import numpy as np
from blake3 import blake3
from numpy.typing import NDArray
from pydantic import Field

from p2ptrain.errors import MalformedError
from p2ptrain.run import Digest, Record, SignedRecord, SigningKey
from p2ptrain.run.keys import SIGNATURE_BYTES, is_signed_by, peer_id_from_key, public_bytes_of
from p2ptrain.run.record import Count, DigestField, PeerIdField
from p2ptrain.state.logs import Log

MOST_RECORDS = 256
SESSION_BYTES = 8
MOST_KEPT = 1000
"""Logs that a revocation can name."""
NO_CODE = -128
FIRST = Digest(bytes(32))
"""Stands for the batch before the first."""
_KEY, _COUNT = 32, 5
_HEADER = _KEY + SESSION_BYTES + 2 * _COUNT

Codes = NDArray[np.int8]
Session = Annotated[bytes, Field(min_length=SESSION_BYTES, max_length=SESSION_BYTES)]


@dataclass(frozen=True)
class LogBatch:
    """Records of one log, `start` and those after it, signed."""

    kind: ClassVar[str] = "batch/1"

    log: Log
    start: int
    clock: int
    """Records, of all peers, that the author says it had applied when it measured the first of these."""
    codes: bytes
    """int8, one for each record: see `byte`."""
    signature: bytes = field(default=b"", repr=False)

    @property
    def stop(self) -> int:
        return self.start + len(self.codes)

    @property
    def values(self) -> Codes:
        return np.frombuffer(self.codes, dtype=np.int8)

    @cached_property
    def body(self) -> bytes:
        key = public_bytes_of(self.log.author)
        return key + self.log.session + _packed(self.start) + self.stored[:-SIGNATURE_BYTES]

    @cached_property
    def stored(self) -> bytes:
        """What a ledger keeps where log and start are known."""
        return _packed(self.clock) + self.codes + self.signature.ljust(SIGNATURE_BYTES, b"\0")

    @cached_property
    def encoded(self) -> bytes:
        packed: bytes = msgpack.packb([self.kind, self.body + self.signature])
        return packed

    @cached_property
    def digest(self) -> Digest:
        """What the next batch's signature covers."""
        hasher = blake3(derive_key_context="p2ptrain 2026 spsa batch")
        hasher.update(self.body + self.signature)
        return Digest(hasher.digest())

    def signed(self, run: Digest, before: Digest, key: SigningKey) -> Self:
        """A copy that follows `before`, the digest of the log's batch before (`FIRST` if there is none)."""
        return replace(self, signature=key.sign(self._signing_bytes(run, before)))

    def follows(self, run: Digest, before: Digest) -> bool:
        """Whether its author signed it for this place."""
        return is_signed_by(self.log.author, self.signature, self._signing_bytes(run, before))

    def _signing_bytes(self, run: Digest, before: Digest) -> bytes:
        return b"p2ptrain spsa batch " + run + before + self.body

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read a batch that may come from anyone; its signature is not checked.

        Raises:
            MalformedError: no batch, or a code that there is none of.
        """
        kind, body = _unpacked(data)
        if kind != cls.kind:
            raise MalformedError(f"expected a {cls.kind}", f"found {str(kind)[:40]!r}")
        if not isinstance(body, bytes) or not 1 <= len(body) - _HEADER - SIGNATURE_BYTES <= MOST_RECORDS:
            raise MalformedError("a batch has an impossible length")
        log = Log(peer_id_from_key(body[:_KEY]), body[_KEY : _KEY + SESSION_BYTES])
        at = _KEY + SESSION_BYTES
        batch = cls.restore(log, int.from_bytes(body[at : at + _COUNT], "big"), body[at + _COUNT :])
        if batch.encoded != data:
            raise MalformedError("a batch is not in its canonical form")
        return batch

    @classmethod
    def restore(cls, log: Log, start: int, stored: bytes) -> Self:
        """From what a ledger keeps.

        Raises:
            MalformedError: it is none.
        """
        codes = stored[_COUNT:-SIGNATURE_BYTES]
        if not 1 <= len(codes) <= MOST_RECORDS or NO_CODE.to_bytes(1, "big", signed=True) in codes:
            raise MalformedError("a batch holds no records, too many, or a code that there is none of")
        return cls(log, start, int.from_bytes(stored[:_COUNT], "big"), codes, stored[-SIGNATURE_BYTES:])


class Revocation(SignedRecord):
    """An owner's order to take back what an author has said, except the beginnings that are named."""

    kind: ClassVar[str] = "revocation/1"

    run: DigestField
    revoked: PeerIdField
    kept: Annotated[tuple[tuple[Session, Count], ...], Field(max_length=MOST_KEPT)]
    """(session, records): of each log, how much stays. Of logs that are not here, those to come too, nothing does."""


class Equivocation(Record):
    """The proof that an author signed two batches for one place: its log ends there."""

    kind: ClassVar[str] = "equivocation/1"

    run: DigestField
    before: DigestField
    one: Annotated[bytes, Field(max_length=1024)]
    other: Annotated[bytes, Field(max_length=1024)]

    def proven(self) -> tuple[Log, int]:
        """The log, and the index at which it ends.

        Raises:
            MalformedError: it proves nothing.
        """
        one, other = LogBatch.decode(self.one), LogBatch.decode(self.other)
        if (one.log, one.start) != (other.log, other.start) or one.body == other.body:
            raise MalformedError("two batches do not contradict each other")
        if not (one.follows(self.run, self.before) and other.follows(self.run, self.before)):
            raise MalformedError("a contradicting batch is not signed by its author")
        return one.log, one.start


class Mark(SignedRecord):
    """A position in all logs at which peers compare their states and take snapshots."""

    kind: ClassVar[str] = "mark/1"

    run: DigestField
    number: Count
    """How many times `mark_every` records had been reached."""
    position: DigestField
    """Digest of the packed position: see `position`."""


def _packed(count: int) -> bytes:
    return count.to_bytes(_COUNT, "big")


def _unpacked(data: bytes) -> tuple[object, object]:
    try:
        kind, body = msgpack.unpackb(data, max_bin_len=1024, max_str_len=40)
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        raise MalformedError("a batch can't be read", str(error)[:200]) from None
    return kind, body
