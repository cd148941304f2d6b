"""What peers of a private run say to each other before anything else, and how they tell each other who is in it.

introduce   open to anybody: run, certificate  →  welcome (the other's certificate) or a refusal
papers      members only: all certificates, orders and secrets that are known
give-paper  members only: one that is new, with its secret
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from p2ptrain.run import Record
from p2ptrain.run.certificate import Certificate, Key
from p2ptrain.run.record import DigestField, Text
from p2ptrain.run.spec import MAX_SPEC_BYTES

INTRODUCE, PAPERS, GIVE = "introduce", "papers", "give-paper"
SUMMARY_BYTES = 8
MAX_GENESIS, MAX_ORDER = 4096, 48 * 1024

CertificateBytes = Annotated[bytes, Field(max_length=Certificate.max_bytes)]
Summary = Annotated[bytes, Field(max_length=SUMMARY_BYTES)]


class Introduction(Record):
    """I am a member of this run. (The transport has proven who I am.)"""

    kind: ClassVar[str] = "introduction/1"
    max_bytes: ClassVar[int] = 2048

    run: DigestField
    certificate: CertificateBytes
    """Empty: an owner, or the founder."""
    passing: bool
    """Here to look or to give an order: nobody needs to remember me, or to tell others."""
    new: bool
    """I have no genesis yet."""


class Welcome(Record):
    """So am I; or why you are not let in."""

    kind: ClassVar[str] = "welcome/1"
    max_bytes: ClassVar[int] = MAX_SPEC_BYTES + MAX_ORDER + MAX_GENESIS + 4096

    refusal: Text = ""
    order: Annotated[bytes, Field(max_length=MAX_ORDER)] = b""
    """The owner's order that shuts you out, as a proof."""
    certificate: CertificateBytes = b""
    passing: bool = False
    genesis: Annotated[bytes, Field(max_length=MAX_GENESIS)] = b""
    spec: Annotated[bytes, Field(max_length=MAX_SPEC_BYTES)] = b""
    summary: Summary = b""
    yours: CertificateBytes = b""
    """One that lets you in for longer than what you have shown."""


class PapersRequest(Record):
    """All certificates, orders and secrets of the run, please."""

    kind: ClassVar[str] = "papers-request/1"
    max_bytes: ClassVar[int] = 128

    run: DigestField


class Secret(Record):
    """What an order, or the genesis, commits to."""

    kind: ClassVar[str] = "access-secret/1"
    max_bytes: ClassVar[int] = 128

    value: Key


class GivenPaper(Record):
    """An order with its secret, or a certificate."""

    kind: ClassVar[str] = "given-paper/1"
    max_bytes: ClassVar[int] = MAX_ORDER + 256

    run: DigestField
    paper: Annotated[bytes, Field(max_length=MAX_ORDER)]
    secret: Annotated[bytes, Field(max_length=32)]


class PaperTaken(Record):
    kind: ClassVar[str] = "paper-taken/1"
    max_bytes: ClassVar[int] = 512  # of a refusal, too, which has to say why
