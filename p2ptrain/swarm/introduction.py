"""The calls with which peers of a private run introduce themselves and tell each other who is a member.

introduce   open to anybody: run, certificate  →  welcome (the other's certificate) or a refusal
papers      members only: all certificates, orders and secrets that the other knows
give-paper  members only: brings one new certificate or order, an order with its secret
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from p2ptrain.run import Record
from p2ptrain.run.certificate import Certificate, Key
from p2ptrain.run.record import DigestField, Text
from p2ptrain.run.spec import MAX_SPEC_BYTES
from p2ptrain.swarm.presence import SUMMARY_BYTES

INTRODUCE, PAPERS, GIVE = "introduce", "papers", "give-paper"
MAX_GENESIS, MAX_ORDER = 4096, 48 * 1024

CertificateBytes = Annotated[bytes, Field(max_length=Certificate.max_bytes)]


class Introduction(Record):
    """The caller says: I am a member of this run. The transport has proven its peer id already."""

    kind: ClassVar[str] = "introduction/1"
    max_bytes: ClassVar[int] = 2048

    run: DigestField
    certificate: CertificateBytes
    """Empty if the caller is an owner or the founder."""
    passing: bool
    """The caller only looks, or brings an order, and leaves soon: nobody has to remember it or tell others."""
    new: bool
    """The caller does not have the run's genesis yet."""


class Welcome(Record):
    """The answer to an introduction: the other side is a member, too, or it says why the caller is not let in."""

    kind: ClassVar[str] = "welcome/1"
    max_bytes: ClassVar[int] = MAX_SPEC_BYTES + MAX_ORDER + MAX_GENESIS + 4096

    refusal: Text = ""
    """Why the caller is not let in; empty if it is."""
    order: Annotated[bytes, Field(max_length=MAX_ORDER)] = b""
    """The owner's order that revokes the caller, as a proof."""
    certificate: CertificateBytes = b""
    passing: bool = False
    genesis: Annotated[bytes, Field(max_length=MAX_GENESIS)] = b""
    spec: Annotated[bytes, Field(max_length=MAX_SPEC_BYTES)] = b""
    summary: Annotated[bytes, Field(max_length=SUMMARY_BYTES)] = b""
    yours: CertificateBytes = b""
    """A certificate of the caller that is valid for longer than the one that it has shown."""


class PapersRequest(Record):
    """Asks for all certificates, orders and secrets of the run."""

    kind: ClassVar[str] = "papers-request/1"
    max_bytes: ClassVar[int] = 128

    run: DigestField


class Secret(Record):
    """The secret to which an order, or the genesis, commits. The key of the gossip is made from it."""

    kind: ClassVar[str] = "access-secret/1"
    max_bytes: ClassVar[int] = 128

    value: Key


class GivenPaper(Record):
    """Brings an order with its secret, or a certificate."""

    kind: ClassVar[str] = "given-paper/1"
    max_bytes: ClassVar[int] = MAX_ORDER + 256

    run: DigestField
    paper: Annotated[bytes, Field(max_length=MAX_ORDER)]
    secret: Annotated[bytes, Field(max_length=32)]


class PaperTaken(Record):
    """The paper is accepted and on disk."""

    kind: ClassVar[str] = "paper-taken/1"
    max_bytes: ClassVar[int] = 512  # the text of a refusal must fit in, too
