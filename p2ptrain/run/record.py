"""Records: the small, typed and bounded messages that peers send each other and keep in ledgers.

The bytes of a record are the msgpack of `[kind, {field: value, …}]`, with the fields in the order of declaration. A
record has exactly one encoding: `decode` refuses bytes that it would not encode in the same way. So equal records have
equal digests and signatures. Everything that comes from the network passes through `Record.decode`.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, ClassVar, Self

import msgpack
from pydantic import AfterValidator, BaseModel, Field, ValidationError

from p2ptrain.errors import MalformedError
from p2ptrain.run.digest import DIGEST_BYTES, Digest, digest_of
from p2ptrain.run.keys import SIGNATURE_BYTES, PeerId, SigningKey, check_peer_id, is_signed_by
from p2ptrain.text import MAX_NAME, check_printable

MAX_RECORD_BYTES = 64 * 1024

DigestField = Annotated[Digest, Field(min_length=DIGEST_BYTES, max_length=DIGEST_BYTES)]
PeerIdField = Annotated[PeerId, AfterValidator(check_peer_id)]
Count = Annotated[int, Field(ge=0, lt=2**53)]
"""A whole number that JSON, SQLite and every language can hold exactly."""
Text = Annotated[str, Field(max_length=200), AfterValidator(check_printable)]
"""Printable text: it can be shown on a terminal."""
Name = Annotated[str, Field(max_length=MAX_NAME), AfterValidator(check_printable)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class Record(BaseModel, frozen=True, strict=True, extra="forbid"):
    """Base of all records: frozen, strict, without unknown fields.

    `kind` names the type and its version, e.g. "commit/1". It is part of the encoding, so the bytes of one type are
    never valid as another type. `decode` refuses more than `max_bytes` before it reads them.
    """

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
        """Decode a record that any peer may have sent.

        Raises:
            MalformedError: the bytes are too long or not msgpack, they are of another kind, a field is out of its
                bounds, or this is not the one encoding of the record.
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
    """A record that its author has signed. The signature covers all other fields."""

    author: PeerIdField
    signature: Annotated[bytes, Field(max_length=SIGNATURE_BYTES)] = b""

    @cached_property
    def signing_bytes(self) -> bytes:
        return b"p2ptrain signed " + _pack(self.kind, self.model_dump(exclude={"signature"}))

    def signed(self, key: SigningKey) -> Self:
        """A copy that is signed with `key`; raises ValueError if that is not the author's key."""
        if key.peer_id != self.author:
            raise ValueError(f"{key.peer_id} can't sign for {self.author}")
        # Built anew: a copy by pydantic would keep the cached encoding of the unsigned record.
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self)(**{**fields, "signature": key.sign(self.signing_bytes)})

    def check_signature(self) -> Self:
        """Return this record; raises MalformedError unless its author has signed exactly this."""
        if not is_signed_by(self.author, self.signature, self.signing_bytes):
            raise MalformedError(f"a {self.kind} record is not signed by its author", self.author)
        return self


def kind_of(data: bytes) -> str:
    """The kind of an encoded record, without decoding the rest; raises MalformedError if it is not a record."""
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
