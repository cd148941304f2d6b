"""What peers tell each other besides contributions and commits."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from p2ptrain.diloco.chain import Contribution
from p2ptrain.run import Record
from p2ptrain.run.record import DigestField


class HoldingNews(Record):
    """The sender of this gossip message holds these payloads."""

    kind: ClassVar[str] = "holding/1"

    payloads: Annotated[tuple[DigestField, ...], Field(max_length=256)]


class News(Record):
    """What a heartbeat repeats: the sender's contributions that are still open, and the open payloads that it holds."""

    kind: ClassVar[str] = "diloco-news/1"

    offers: Annotated[tuple[Contribution, ...], Field(max_length=32)]
    payloads: Annotated[tuple[DigestField, ...], Field(max_length=256)]
