"""Marks: every few thousand records, peers agree on a position, compute the state there, compare it and keep it.

The mark's number draws one of the peers that train. That peer signs a position: the records that count for it at that
moment. Every peer moves a copy of its weights there and announces the state's digest. If the peer that was drawn stays
silent, the next one's turn comes. Two marks of one number do no harm.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from blake3 import blake3

from p2ptrain.errors import MalformedError
from p2ptrain.method import Tell
from p2ptrain.run import NO_DIGEST, Digest, PeerId, digest_of, short, short_peer
from p2ptrain.spsa.archive import Archive
from p2ptrain.spsa.messages import Mark
from p2ptrain.spsa.position import MAX_PACKED_BYTES, Position, packed, total, unpacked
from p2ptrain.spsa.replica import Replica
from p2ptrain.spsa.snapshots import Snapshots
from p2ptrain.spsa.state import MasterManifest, MasterState
from p2ptrain.state import Fetcher, FetchError
from p2ptrain.state.logs import MarkRow
from p2ptrain.state.run import Run
from p2ptrain.state.workers import Workers
from p2ptrain.swarm import Membership, Presence, monotonic

TURN_SECONDS = 10.0
"""Seconds that one peer's turn to sign a mark lasts."""
MARK = "record"
FETCH_PATIENCE = 10.0
KEPT_POSITIONS = 4
"""The positions of so many last marks are kept for other peers to fetch."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Due:
    """A mark to which a copy of the weights has to be moved."""

    number: int
    position: Position


class Marks:
    """This peer's part in the marks of a run. Used on the network thread."""

    def __init__(
        self,
        run: Run,
        membership: Membership,
        fetcher: Fetcher,
        archive: Archive,
        snapshots: Snapshots,
        workers: Workers,
        tell: Tell,
    ) -> None:
        self._run, self._membership, self._fetcher = run, membership, fetcher
        self._archive, self._snapshots, self._workers, self._tell = archive, snapshots, workers, tell
        self._every = run.spec.spsa.mark_every
        self._heard = 0
        self._reached_at: tuple[int, float] = (0, monotonic())
        self._asked: set[PeerId] = set()
        """Authors of marks whose positions are being fetched. Each is asked for one at a time, so an author that never
        answers delays only its own marks."""
        self._compared: set[tuple[PeerId, Digest]] = set()
        self._waiting: Due | None = None
        self._positions: list[Digest] = []
        self.due: Due | None = None
        """The trainer takes it at its next step."""
        self.state: Digest = NO_DIGEST
        """The state at the last mark, or the one that this peer began with."""

    def begin(self, state: MasterState) -> None:
        """Note the state from which this peer starts."""
        self.state, self._heard = state.digest, state.records // self._every

    async def tick(self, standing: Position, trainers: frozenset[PeerId]) -> None:
        """Sign a mark if it is time and this peer's turn. Hand a mark to the trainer once all its records are here."""
        number = total(standing) // self._every
        if number > self._reached_at[0]:
            self._reached_at = number, monotonic()
        if number > self._heard and self._is_my_turn(number, trainers):
            await self._sign(number, standing)
        if self._waiting is not None and all(standing.get(log, 0) >= n for log, n in self._waiting.position.items()):
            self.due, self._waiting = self._waiting, None

    def _is_my_turn(self, number: int, trainers: frozenset[PeerId]) -> bool:
        order = sorted(trainers, key=lambda peer: blake3(self._run.id + number.to_bytes(8) + peer.encode()).digest())
        turn = int((monotonic() - self._reached_at[1]) / TURN_SECONDS)
        return bool(order) and order[min(turn, len(order) - 1)] == self._run.swarm.peer_id

    async def _sign(self, number: int, standing: Position) -> None:
        data = packed(standing)
        self._run.blobs.hold(data, MARK)
        mark = Mark(author=self._run.swarm.peer_id, run=self._run.id, number=number, position=digest_of(data))
        signed = mark.signed(self._run.swarm.key)
        await self.hear(signed, standing)
        await self._membership.publish(signed)

    async def hear(self, mark: Mark, standing: Position) -> None:
        """Take in a mark that anyone may have sent. Of each number, this peer follows the mark whose position it has
        first."""
        author = mark.author
        if mark.run != self._run.id or mark.number <= self._heard or author in self._asked:
            return
        if not self._membership.knows(author):
            return
        if mark.number > total(standing) // self._every + 1:
            return  # the mark is far ahead of this peer, which will hear later ones
        try:
            mark.check_signature()
            self._asked.add(author)
            data = await self._fetcher.fetch(
                mark.position, lambda: [author, *self._membership.live], MARK, MAX_PACKED_BYTES, FETCH_PATIENCE
            )
            position = unpacked(bytes(data))
            if total(position) // self._every != mark.number:
                raise MalformedError("a mark's number does not fit its position")
        except (MalformedError, FetchError) as error:
            log.info("a mark of %s can't be used: %s", short_peer(mark.author), error)
            return
        finally:
            self._asked.discard(author)
        if mark.number <= self._heard:
            return  # meanwhile another mark of this number has been followed
        self._heard = mark.number
        row = MarkRow(mark.digest, total(position), mark.encoded)
        await self._workers.compute(self._run.folder.ledger.logs.add_mark, row)
        self._waiting = Due(mark.number, position)
        self._positions.append(mark.position)
        if len(self._positions) > KEPT_POSITIONS:
            self._fetcher.release(self._positions.pop(0))

    async def reach(self, due: Due, state: MasterState, standing: Position) -> None:
        """Move `state`, a copy of the trainer's weights, to a mark, keep it as a snapshot and announce its digest. What
        does not count (`standing`), because it was cut, is left out of the mark."""
        position = {log: min(count, standing.get(log, 0)) for log, count in due.position.items()}
        reached = await self._workers.write(self._compute, state, position)
        self.state = reached.digest
        named = digest_of(packed(position))
        self._tell("mark", {"number": due.number, "records": reached.records, "position": named, "state": self.state})
        await asyncio.gather(*(self.compare(seen) for seen in self._membership.live.values()))

    def _compute(self, state: MasterState, position: Position) -> MasterState:
        replica = Replica(self._run.id, self._run.spec.spsa, state)
        replica.move(position, self._archive)
        reached = replica.state()
        self._snapshots.save(reached)
        return reached

    async def compare(self, presence: Presence) -> None:
        """Compare another peer's snapshots with those here. Report an error if two differ at the same position."""
        mine, peer = dict(self._snapshots.offered), presence.author
        for records, theirs in presence.snapshots:
            if records in mine and mine[records] != theirs and (peer, theirs) not in self._compared:
                self._compared.add((peer, theirs))
                await self._compare(peer, records, mine[records], theirs)

    async def _compare(self, peer: PeerId, records: int, mine: Digest, theirs: Digest) -> None:
        try:
            data = await self._fetcher.fetch(theirs, lambda: [peer], MARK, MasterManifest.max_bytes, FETCH_PATIENCE)
            found = MasterManifest.decode(bytes(data))
        except (FetchError, MalformedError) as error:
            log.info("the snapshot of %s can't be compared: %s", short_peer(peer), error)
            return
        finally:
            self._fetcher.release(theirs)
        own = self._run.blobs.read(mine)
        if own is not None and MasterManifest.decode(bytes(own)).position == found.position:
            text = "%s has state %s and this peer has state %s after the same %d records: "
            text += "one of the two computes wrongly"
            log.error(text, short_peer(peer), short(theirs), short(mine), records)
            self._tell("diverged", {"peer": peer, "records": records, "mine": mine, "theirs": theirs})
