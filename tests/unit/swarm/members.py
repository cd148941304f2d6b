"""Members of a run that write down what they hear."""

from __future__ import annotations

import queue
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from p2ptrain.run import Digest, PeerId, Record
from p2ptrain.swarm import Membership, Phase, Presence, Swarm, Vitals
from p2ptrain.swarm.announcement import Announcement

Happening = tuple[str, Any]


class Ears:
    """A method that writes down what it hears."""

    def __init__(self) -> None:
        self._happened: queue.Queue[Happening] = queue.Queue()

    def heard(self, presence: Presence, news: bytes) -> None:
        self._happened.put(("heard", (presence.author, news)))

    def message(self, origin: PeerId, kind: str, data: bytes) -> None:
        self._happened.put(("message", (origin, kind, data)))

    def peers_changed(self, live: Mapping[PeerId, Presence]) -> None:
        self._happened.put(("live", {peer: presence.phase for peer, presence in live.items()}))

    def resumed(self) -> None:
        self._happened.put(("resumed", None))

    def wait_for(self, name: str, what: object = None) -> None:
        while self._happened.get(timeout=10) != (name, what):
            pass


@dataclass
class Member:
    """One peer's membership in a run, what it says and what it hears."""

    swarm: Swarm
    run: Digest
    phase: Phase = "training"
    news: bytes = b""
    ears: Ears = field(default_factory=Ears)
    acquaintances: tuple[str, ...] = ()
    announcement: Announcement | None = None

    def __post_init__(self) -> None:
        self.membership = Membership(
            self.swarm,
            self.run,
            lambda: Vitals(self.phase),
            lambda: self.news,
            lambda: self.acquaintances,
            self.announcement,
        )
        self.membership.listener = self.ears
        self.swarm.run(self.membership.start(), 10)

    def leave(self) -> None:
        self.swarm.run(self.membership.close(), 10)

    def fall_silent(self) -> None:
        for task in self.membership._tasks:
            self.swarm.loop.call_soon_threadsafe(task.cancel)

    def publish(self, record: Record) -> None:
        self.swarm.run(self.membership.publish(record), 10)
