"""What peers gossip besides contributions and commits themselves."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from p2ptrain.diloco.chain import Contribution
from p2ptrain.run import Record
from p2ptrain.run.record import DigestField


class HoldingNews(Record):
    """The author of the gossip message holds these payloads."""

    kind: ClassVar[str] = "holding/1"

    payloads: Annotated[tuple[DigestField, ...], Field(max_length=256)]


class News(Record):
    """What a heartbeat repeats: the peer's open contributions and the open payloads that it holds."""

    kind: ClassVar[str] = "diloco-news/1"

    offers: Annotated[tuple[Contribution, ...], Field(max_length=32)]
    payloads: Annotated[tuple[DigestField, ...], Field(max_length=256)]
