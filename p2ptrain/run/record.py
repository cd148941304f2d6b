"""Records: the small, typed, bounded messages of which conversations and ledgers are made.

A record's bytes are the msgpack of `[kind, {field: value, …}]` in the order of declaration. There is exactly one
encoding of a record: bytes that decode but would not be encoded the same way again are refused, so a record's digest
and signature are those of its meaning. Everything that comes from the network passes through `Record.decode`.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, ClassVar, Self

import msgpack
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from p2ptrain.errors import MalformedError
from p2ptrain.run.digest import DIGEST_BYTES, Digest, digest_of
from p2ptrain.run.keys import SIGNATURE_BYTES, PeerId, SigningKey, check_peer_id, is_signed_by
from p2ptrain.text import MAX_NAME, check_printable

MAX_RECORD_BYTES = 64 * 1024

DigestField = Annotated[Digest, Field(min_length=DIGEST_BYTES, max_length=DIGEST_BYTES)]
PeerIdField = Annotated[PeerId, AfterValidator(check_peer_id)]
Count = Annotated[int, Field(ge=0, lt=2**53)]
"""A whole number that every language and database holds exactly."""
Text = Annotated[str, Field(max_length=200), AfterValidator(check_printable)]
"""It may end up on a terminal."""
Name = Annotated[str, Field(max_length=MAX_NAME), AfterValidator(check_printable)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class Record(BaseModel):
    """Base of all records: frozen, strict, unknown fields refused.

    `kind` names the type and its version ("commit/1") and is part of the encoding, so the bytes of one type are
    never valid as another. `max_bytes` bounds what `decode` looks at.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    kind: ClassVar[str]
    max_bytes: ClassVar[int] = MAX_RECORD_BYTES

    @cached_property
    def encoded(self) -> bytes:
        return _pack(self.kind, self.model_dump())

    @cached_property
    def digest(self) -> Digest:
        return digest_of(self.encoded)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read a record that may come from anyone.

        Raises:
            MalformedError: too long, not msgpack, another kind, a field that breaks its bounds, or not the one
                canonical encoding.
        """
        if len(data) > cls.max_bytes:
            raise MalformedError(f"a {cls.kind} record is too long", f"{len(data)} bytes, at most {cls.max_bytes}")
        try:
            kind, fields = msgpack.unpackb(data, use_list=False, strict_map_key=True)
        except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
            raise MalformedError(f"a {cls.kind} record can't be read", str(error)[:200]) from None
        if kind != cls.kind:
            raise MalformedError(f"expected a {cls.kind} record", f"found {str(kind)[:40]!r}")
        try:
            record = cls.model_validate(fields)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise MalformedError(f"a {cls.kind} record is wrong in {where!r}", first["msg"]) from None
        if record.encoded != data:
            raise MalformedError(f"a {cls.kind} record is not in its canonical form")
        return record


class SignedRecord(Record):
    """A record that its author answers for. The signature covers everything but itself."""

    author: PeerIdField
    signature: Annotated[bytes, Field(max_length=SIGNATURE_BYTES)] = b""

    @cached_property
    def signing_bytes(self) -> bytes:
        return b"p2ptrain signed " + _pack(self.kind, self.model_dump(exclude={"signature"}))

    def signed(self, key: SigningKey) -> Self:
        """A copy with the signature of `key`, which must be the author's."""
        if key.peer_id != self.author:
            raise ValueError(f"{key.peer_id} can't sign for {self.author}")
        # Built anew: a pydantic copy would carry the cached encoding of the unsigned record along.
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self)(**{**fields, "signature": key.sign(self.signing_bytes)})

    def check_signature(self) -> Self:
        """Raises MalformedError unless the author signed exactly this."""
        if not is_signed_by(self.author, self.signature, self.signing_bytes):
            raise MalformedError(f"a {self.kind} record is not signed by its author", self.author)
        return self


def kind_of(data: bytes) -> str:
    """The kind of an encoded record, without decoding the rest; raises MalformedError if it is none."""
    unpacker = msgpack.Unpacker(max_buffer_size=len(data))
    unpacker.feed(data)
    try:
        unpacker.read_array_header()
        kind = unpacker.unpack()
    except (ValueError, msgpack.UnpackException):
        kind = None
    if not isinstance(kind, str) or len(kind) > 40:
        raise MalformedError("a message is no record")
    return kind


def _pack(kind: str, fields: dict[str, Any]) -> bytes:
    packed: bytes = msgpack.packb([kind, fields])
    return packed
