"""What a peer knows about contributions' bytes: which are here, which peers say they hold them, which are fetched.

Contributions of several authors, or for several heights, may have the same bytes: zeros, for example. The bytes are on
disk once, and kept up to the highest height that they were filed for; and whether they decode depends on the fragment.
So what is here is known for each height by itself. Who holds the bytes is known by their digest alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Set

from p2ptrain.diloco.chain import Contribution
from p2ptrain.run import Digest, PeerId

RETRY_FETCH = 2.0
"""Seconds."""
MAX_CLAIMS = 16384
"""Payloads whose holders are remembered."""

_Filed = tuple[Digest, int]
"""A payload and the height that it is for."""


class Payloads:
    """The payloads of contributions. Times are local monotonic seconds. Pure, like all of the protocol."""

    def __init__(self) -> None:
        self._holders: dict[Digest, set[PeerId]] = defaultdict(set)
        self._here: dict[_Filed, bool] = {}
        self._next_try: dict[_Filed, float] = {}
        self._failing: set[_Filed] = set()

    def claimed(self, peer: PeerId, payloads: Iterable[Digest]) -> None:
        """A peer says that it holds these payloads."""
        for payload in payloads:
            if payload in self._holders or len(self._holders) < MAX_CLAIMS:
                self._holders[payload].add(peer)

    def holders(self, payload: Digest) -> Set[PeerId]:
        """The peers that say they hold a payload."""
        return self._holders.get(payload, set())

    def arrived(self, part: Contribution, usable: bool) -> None:
        """A contribution's bytes are filed for its height."""
        filed = _filed(part)
        self._here[filed] = usable
        self._next_try.pop(filed, None)
        self._failing.discard(filed)

    def failed(self, part: Contribution, now: float) -> None:
        """No peer handed its bytes out; they are due again after `RETRY_FETCH`."""
        self._next_try[_filed(part)] = now + RETRY_FETCH
        self._failing.add(_filed(part))

    def is_here(self, part: Contribution) -> bool:
        return _filed(part) in self._here

    def is_usable(self, part: Contribution) -> bool:
        """Whether its bytes are here and decode."""
        return self._here.get(_filed(part), False)

    def is_failing(self, part: Contribution) -> bool:
        """Whether the last fetch failed and the bytes have not arrived since."""
        return _filed(part) in self._failing

    def to_fetch(self, contributions: Iterable[Contribution], now: float) -> list[Contribution]:
        """The contributions whose bytes should be fetched now. They count as being fetched from then on."""
        due = []
        for contribution in contributions:
            filed = _filed(contribution)
            if filed not in self._here and now >= self._next_try.get(filed, now):
                self._next_try[filed] = float("inf")
                due.append(contribution)
        return due

    def keep_only(self, contributions: Iterable[Contribution]) -> None:
        """Forget what is known of the bytes of all other contributions."""
        needed = {_filed(part) for part in contributions}
        named = {payload for payload, _ in needed}
        self._here = {filed: usable for filed, usable in self._here.items() if filed in needed}
        self._next_try = {filed: when for filed, when in self._next_try.items() if filed in needed}
        self._holders = defaultdict(set, {p: peers for p, peers in self._holders.items() if p in named})
        self._failing &= needed


def _filed(part: Contribution) -> _Filed:
    return part.payload, part.height
