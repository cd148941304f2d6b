"""The messages of one-byte SPSA: batches of records, marks, and what takes records back. Logs and gossip hold them.

A log belongs to one author and one start of its process (`session`). Its records are numbered from 0. A batch of n
records is 114 + n bytes:

    author's key 32 ‖ session 8 ‖ start 5 ‖ clock 5 ‖ one code of 1 byte for each record ‖ signature 64

The signature also covers the run and the digest of the batch before. They are not sent, because whoever has the log
knows them. So a batch can only be checked at its place in the log, and an author can't replace what it has signed: two
signed batches for one place prove that it tried.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated, ClassVar, Self

import msgpack
from blake3 import blake3
from pydantic import Field

from p2ptrain.errors import MalformedError
from p2ptrain.run import Digest, Record, SignedRecord, SigningKey, short_peer
from p2ptrain.run.keys import SIGNATURE_BYTES, is_signed_by
from p2ptrain.run.record import Count, DigestField, PeerIdField
from p2ptrain.spsa.position import LOG_BYTES, SESSION_BYTES, log_from_bytes, log_to_bytes
from p2ptrain.state.logs import Log

MOST_RECORDS = 256
MOST_KEPT = 1000
"""Logs that a revocation can name."""
FIRST = Digest(bytes(32))
"""Stands for the batch before a log's first one."""
_COUNT = 5
_NO_CODE = b"\x80"

Session = Annotated[bytes, Field(min_length=SESSION_BYTES, max_length=SESSION_BYTES)]


@dataclass(frozen=True)
class LogBatch:
    """Records of one log from index `start` on, signed together by their author."""

    kind: ClassVar[str] = "batch/1"

    log: Log
    start: int
    clock: int
    """Records, of all peers, that the author claims to have applied when it measured the first record."""
    codes: bytes
    """One int8 code for each record, see `byte`."""
    signature: bytes = field(default=b"", repr=False)

    @property
    def stop(self) -> int:
        """The index after the last record."""
        return self.start + len(self.codes)

    @cached_property
    def body(self) -> bytes:
        """The batch on the wire, without its signature."""
        return log_to_bytes(self.log) + _packed(self.start) + self.stored[:-SIGNATURE_BYTES]

    @cached_property
    def stored(self) -> bytes:
        """What a ledger keeps of a batch, beside its log and start."""
        return _packed(self.clock) + self.codes + self.signature.ljust(SIGNATURE_BYTES, b"\0")

    @cached_property
    def encoded(self) -> bytes:
        packed: bytes = msgpack.packb([self.kind, self.body + self.signature])
        return packed

    @cached_property
    def digest(self) -> Digest:
        """The digest that the signature of the log's next batch covers."""
        signed = self.body + self.signature
        return Digest(blake3(signed, derive_key_context="p2ptrain 2026 spsa batch").digest())

    def signed(self, run: Digest, before: Digest, key: SigningKey) -> Self:
        """A signed copy. `before` is the digest of the log's batch before, or `FIRST`."""
        return replace(self, signature=key.sign(self._signing_bytes(run, before)))

    def follows(self, run: Digest, before: Digest) -> bool:
        """Whether the author has signed this batch for the place after the batch `before` of this run."""
        return is_signed_by(self.log.author, self.signature, self._signing_bytes(run, before))

    def _signing_bytes(self, run: Digest, before: Digest) -> bytes:
        return b"p2ptrain spsa batch " + run + before + self.body

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read a batch that anyone may have sent. The signature is not checked.

        Raises:
            MalformedError: the data is no batch, or not in its one canonical form.
        """
        try:
            kind, body = msgpack.unpackb(data, max_bin_len=1024, max_str_len=40)
        except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
            raise MalformedError("a batch can't be read", str(error)[:200]) from None
        if kind != cls.kind:
            raise MalformedError(f"expected a {cls.kind}", f"found {str(kind)[:40]!r}")
        at = LOG_BYTES + _COUNT
        if not isinstance(body, bytes) or not 1 <= len(body) - at - _COUNT - SIGNATURE_BYTES <= MOST_RECORDS:
            raise MalformedError("a batch has an impossible length")
        batch = cls.restore(log_from_bytes(body), int.from_bytes(body[LOG_BYTES:at], "big"), body[at:])
        if batch.encoded != data:
            raise MalformedError("a batch is not in its canonical form")
        return batch

    @classmethod
    def restore(cls, log: Log, start: int, stored: bytes) -> Self:
        """The batch of which a ledger has kept `stored`. The signature is not checked. Raises MalformedError if the
        bytes are no batch."""
        codes = stored[_COUNT:-SIGNATURE_BYTES]
        if not 1 <= len(codes) <= MOST_RECORDS or _NO_CODE in codes:
            raise MalformedError("a batch holds no records, too many records, or the code -128, which is not used")
        return cls(log, start, int.from_bytes(stored[:_COUNT], "big"), codes, stored[-SIGNATURE_BYTES:])


class Revocation(SignedRecord):
    """An owner's order to take back an author's records, except the first ones of some logs."""

    kind: ClassVar[str] = "revocation/1"

    run: DigestField
    revoked: PeerIdField
    kept: Annotated[tuple[tuple[Session, Count], ...], Field(max_length=MOST_KEPT)]
    """(session, number of first records that stay). All records of the author's other and later logs are taken back."""

    @property
    def words(self) -> str:
        """What happens, for people."""
        kept = sum(count for _, count in self.kept)
        return f"an owner has revoked {short_peer(self.revoked)}: {kept:,} of its records stay, the rest is taken back"


class Equivocation(Record):
    """The proof that an author has signed two batches for one place. Its log ends there."""

    kind: ClassVar[str] = "equivocation/1"

    run: DigestField
    before: DigestField
    """Digest of the log's batch before that place."""
    one: Annotated[bytes, Field(max_length=1024)]
    other: Annotated[bytes, Field(max_length=1024)]

    def proven(self) -> tuple[Log, int]:
        """The log, and the index at which it ends. Raises MalformedError if this record proves nothing."""
        one, other = LogBatch.decode(self.one), LogBatch.decode(self.other)
        if (one.log, one.start) != (other.log, other.start) or one.body == other.body:
            raise MalformedError("two batches do not contradict each other")
        if not (one.follows(self.run, self.before) and other.follows(self.run, self.before)):
            raise MalformedError("a contradicting batch is not signed by its author")
        return one.log, one.start

    @property
    def words(self) -> str:
        """What happens, for people. Raises MalformedError as `proven` does."""
        log, at = self.proven()
        told = f"its log {log.session.hex()} ends at record {at:,}, the rest is taken back"
        return f"{short_peer(log.author)} contradicted itself: {told}"


class Mark(SignedRecord):
    """An agreed position in all logs. Peers compare their states there, and take snapshots."""

    kind: ClassVar[str] = "mark/1"

    run: DigestField
    number: Count
    """The number of records at the position, divided by `mark_every` and rounded down."""
    position: DigestField
    """Digest of the packed position, see `position.packed`."""


def decode_cut(data: bytes) -> Revocation | Equivocation:
    """Read what takes records back, a revocation or a proof. Signatures are not checked. Raises MalformedError if the
    data is neither."""
    try:
        return Revocation.decode(data)
    except MalformedError:
        return Equivocation.decode(data)


def _packed(count: int) -> bytes:
    return count.to_bytes(_COUNT, "big")
