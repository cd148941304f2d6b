"""What a peer knows about contributions' bytes: which are here, which peers say they hold them, which are fetched."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Set

from p2ptrain.diloco.chain import Contribution
from p2ptrain.run import Digest, PeerId

RETRY_FETCH = 2.0
"""Seconds."""
MAX_CLAIMS = 16384
"""Payloads whose holders are remembered."""


class Payloads:
    """The payloads of contributions, by digest. Times are local monotonic seconds. Pure, like all of the protocol."""

    def __init__(self) -> None:
        self._holders: dict[Digest, set[PeerId]] = defaultdict(set)
        self._here: dict[Digest, bool] = {}
        self._next_try: dict[Digest, float] = {}
        self._failing: set[Digest] = set()

    def claimed(self, peer: PeerId, payloads: Iterable[Digest]) -> None:
        """A peer says that it holds these payloads."""
        for payload in payloads:
            if payload in self._holders or len(self._holders) < MAX_CLAIMS:
                self._holders[payload].add(peer)

    def holders(self, payload: Digest) -> Set[PeerId]:
        """The peers that say they hold a payload."""
        return self._holders.get(payload, set())

    def arrived(self, payload: Digest, usable: bool) -> None:
        self._here[payload] = usable
        self._next_try.pop(payload, None)
        self._failing.discard(payload)

    def failed(self, payload: Digest, now: float) -> None:
        """No peer handed it out; it is due again after `RETRY_FETCH`."""
        self._next_try[payload] = now + RETRY_FETCH
        self._failing.add(payload)

    def is_here(self, payload: Digest) -> bool:
        return payload in self._here

    def is_usable(self, payload: Digest) -> bool:
        """Whether it is here and decodes."""
        return self._here.get(payload, False)

    def is_failing(self, payload: Digest) -> bool:
        """Whether the last fetch failed and the payload has not arrived since."""
        return payload in self._failing

    def to_fetch(self, contributions: Iterable[Contribution], now: float) -> list[Contribution]:
        """The contributions whose bytes should be fetched now. They count as being fetched from then on."""
        due = []
        for contribution in contributions:
            payload = contribution.payload
            if payload not in self._here and now >= self._next_try.get(payload, now):
                self._next_try[payload] = float("inf")
                due.append(contribution)
        return due

    def keep_only(self, needed: Set[Digest]) -> None:
        self._here = {payload: usable for payload, usable in self._here.items() if payload in needed}
        self._next_try = {payload: when for payload, when in self._next_try.items() if payload in needed}
        self._holders = defaultdict(set, {p: peers for p, peers in self._holders.items() if p in needed})
        self._failing &= needed
