"""Marks: whose turn it is, which ones are followed, and what is made of snapshots that differ."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from p2ptrain.run import Digest, PeerId, digest_of
from p2ptrain.spsa import marks as module
from p2ptrain.spsa.marks import TURN_SECONDS, Due, Marks
from p2ptrain.spsa.messages import Mark
from p2ptrain.spsa.position import Position, packed, total
from p2ptrain.spsa.state import MasterState
from p2ptrain.state import FetchError
from p2ptrain.swarm import Presence
from tests.unit.diloco.samples import KEY_OF, PEERS
from tests.unit.spsa.folders import Written
from tests.unit.swarm.people import presence_of

TRAINERS = frozenset(PEERS[:4])


class Inline:
    """Workers that work at once."""

    async def compute(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)

    write = compute


class Elsewhere:
    """Fetches what is in `blobs` or here; what is held back comes once the gate is open."""

    def __init__(self, written: Written) -> None:
        self._here = written.blobs
        self.blobs: dict[Digest, bytes] = {}
        self.asked: list[Digest] = []
        self.held_back: set[Digest] = set()
        self.gate = asyncio.Event()

    async def fetch(self, digest: Digest, sources: Any, purpose: str, max_bytes: int, patience: float) -> bytes:
        self.asked.append(digest)
        if digest in self.held_back:
            await self.gate.wait()
        found = self._here.read(digest) or self.blobs.get(digest)
        if found is None:
            raise FetchError("nobody has it")
        assert len(found) <= max_bytes
        return found

    def release(self, digest: Digest) -> None:
        """What is here stays."""
        assert digest in self.asked


class Peer:
    """One peer's marks, without a network."""

    def __init__(self, written: Written, me: PeerId = PEERS[0], live: Mapping[PeerId, Presence] | None = None) -> None:
        self.written, self.fetcher = written, Elsewhere(written)
        self.published: list[Mark] = []
        self.told: list[tuple[str, dict[str, Any]]] = []
        folder = written.folder
        swarm = SimpleNamespace(peer_id=me, key=KEY_OF[me])
        run = SimpleNamespace(id=folder.run, spec=folder.spec, swarm=swarm, blobs=written.blobs, folder=folder)
        self.outside: set[PeerId] = set()
        membership = SimpleNamespace(
            live=live or {}, publish=self._publish, knows=lambda author: author not in self.outside
        )
        parts = (run, membership, self.fetcher, written.archive, written.snapshots, Inline(), self._tell)
        self.marks = Marks(*cast(Any, parts))

    async def _publish(self, mark: Mark) -> None:
        self.published.append(mark)

    def _tell(self, name: str, facts: Mapping[str, Any]) -> None:
        self.told.append((name, dict(facts)))

    def tick(self, standing: Position, trainers: frozenset[PeerId] = frozenset()) -> Due | None:
        asyncio.run(self.marks.tick(standing, trainers))
        return self.marks.due

    def hear(self, *marks: Mark, standing: Position | None = None) -> Due | None:
        """What is due after these, with everything here unless it is said otherwise."""

        async def hear_all() -> None:
            for mark in marks:
                await self.marks.hear(mark, self.written.all if standing is None else standing)

        asyncio.run(hear_all())
        return self.tick(self.written.all if standing is None else standing)

    def mark(self, number: int, position: Position, author: PeerId = PEERS[1], /, **changes: Any) -> Mark:
        """A mark of somebody else, who hands out its position."""
        data = packed(position)
        self.fetcher.blobs[digest_of(data)] = data
        fields = {"run": self.written.folder.run, "number": number, "position": digest_of(data), **changes}
        return Mark(author=author, **fields).signed(KEY_OF[author])


@pytest.fixture
def written(tmp_path: Path) -> Iterator[Written]:
    """43 records stand, and there is a mark after every 16."""
    made = Written(tmp_path)
    made.execute("DELETE FROM marks")
    yield made
    made.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the time of marks."""
    now = 1000.0
    monkeypatch.setattr(module, "monotonic", lambda: now)

    def set_to(seconds: float) -> None:
        nonlocal now
        now = 1000.0 + seconds

    return set_to


def marks_in(written: Written) -> list[tuple[int, int]]:
    """(number, records) of those in the ledger."""
    return [(Mark.decode(row.record).number, row.records) for row in written.folder.ledger.logs.marks()]


def test_a_mark_of_nobody_in_the_run_is_not_followed(written: Written) -> None:
    peer = Peer(written)
    peer.outside.add(PEERS[1])
    assert peer.hear(peer.mark(1, written.half)) is None
    assert peer.hear(peer.mark(1, written.half, PEERS[2])) is not None


# Turns ---------------------------------------------------------------------------------------------------------------


def test_everyone_agrees_whose_turn_it_is_and_the_next_one_s_comes(
    written: Written, clock: Callable[[float], None]
) -> None:
    clock(0.0)
    peers = {me: Peer(written, me).marks for me in TRAINERS}
    for marks in peers.values():
        marks._reached_at = 2, 1000.0
    turns = []
    for turn in (0, 1, 2, 3, 9):
        for seconds in (turn * TURN_SECONDS, (turn + 0.99) * TURN_SECONDS):
            clock(seconds)
            [mine] = [me for me, marks in peers.items() if marks._is_my_turn(2, TRAINERS)]
            turns.append(mine)
    assert set(turns[:8]) == TRAINERS
    assert turns[::2] == turns[1::2], "for all of their turn"
    assert turns[8] == turns[7], "the last one keeps it"


def test_turns_are_drawn_anew_for_every_mark(written: Written, clock: Callable[[float], None]) -> None:
    clock(0.0)
    peers = {me: Peer(written, me).marks for me in TRAINERS}
    first = [me for number in range(1, 40) for me, marks in peers.items() if marks._is_my_turn(number, TRAINERS)]
    assert len(first) == 39
    assert set(first) == TRAINERS


def test_who_does_not_train_signs_nothing(written: Written, clock: Callable[[float], None]) -> None:
    clock(1e6)
    for trainers in (frozenset(), frozenset(PEERS[1:3])):
        peer = Peer(written)
        assert peer.tick(written.all, trainers) is None
        assert peer.published == []


def test_the_silent_one_s_turn_passes_and_the_next_one_signs(written: Written, clock: Callable[[float], None]) -> None:
    clock(0.0)
    peers = [Peer(written, me) for me in PEERS[:2]]
    for seconds, signed in ((0.0, 1), (TURN_SECONDS - 1, 1), (TURN_SECONDS, 2)):
        clock(seconds)
        for peer in peers:
            peer.tick(written.all, frozenset(PEERS[:2]))  # neither hears of the other
        assert sum(len(peer.published) for peer in peers) == signed


# Signing -------------------------------------------------------------------------------------------------------------


def test_a_mark_is_signed_where_its_signer_stands_and_once(written: Written) -> None:
    peer = Peer(written)
    due = peer.tick(written.all, frozenset(PEERS[:1]))
    assert due == Due(2, written.all)
    [mark] = peer.published
    assert (mark.author, mark.number, mark.position) == (PEERS[0], 2, digest_of(packed(written.all)))
    mark.check_signature()
    assert Digest(mark.position) in written.blobs, "others fetch it here"
    assert marks_in(written) == [(2, 43)]
    peer.tick(written.all, frozenset(PEERS[:1]))
    assert len(peer.published) == 1


def test_no_mark_is_due_before_there_are_enough_records(written: Written) -> None:
    peer = Peer(written)
    assert peer.tick({written.logs[0]: 15}, frozenset(PEERS[:1])) is None
    assert peer.tick({written.logs[0]: 16}, frozenset(PEERS[:1])) == Due(1, {written.logs[0]: 16})


def test_who_begins_at_a_snapshot_signs_no_mark_before_it(written: Written) -> None:
    peer = Peer(written)
    state = written.state_at(written.all)
    peer.marks.begin(state)
    assert peer.marks.state == state.digest
    assert peer.tick(written.all, frozenset(PEERS[:1])) is None
    assert peer.hear(peer.mark(2, written.all), peer.mark(1, written.half)) is None
    assert peer.published == []


# Hearing -------------------------------------------------------------------------------------------------------------


def test_the_first_mark_of_each_number_is_followed(written: Written) -> None:
    peer = Peer(written)
    assert peer.hear(peer.mark(1, written.half), peer.mark(1, {written.logs[1]: 16}, PEERS[2])) == Due(1, written.half)
    assert peer.hear(peer.mark(2, written.all), peer.mark(1, written.half, PEERS[2])) == Due(2, written.all)
    assert marks_in(written) == [(2, 43), (1, 17)]


def test_a_mark_that_was_heard_is_not_signed_again(written: Written) -> None:
    peer = Peer(written)
    peer.hear(peer.mark(2, written.all))
    peer.tick(written.all, frozenset(PEERS[:1]))
    assert peer.published == []


def test_a_mark_waits_until_its_records_are_here(written: Written) -> None:
    peer = Peer(written)
    assert peer.hear(peer.mark(2, written.all), standing=written.half) is None
    assert peer.tick({**written.all, written.logs[2]: 7}) is None
    assert peer.tick(written.all) == Due(2, written.all)


def test_a_mark_far_ahead_is_ignored_and_not_even_fetched(written: Written) -> None:
    peer = Peer(written)
    ahead = peer.mark(4, {written.logs[0]: 64})
    assert peer.hear(ahead) is None
    assert peer.fetcher.asked == []
    assert peer.hear(peer.mark(3, {written.logs[0]: 48})) is None, "its records are not here"
    assert marks_in(written) == [(3, 48)]


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda peer, at: peer.mark(2, at, number=1), id="a number before its position"),
        pytest.param(lambda peer, at: peer.mark(3, at), id="a number beyond its position"),
        pytest.param(lambda peer, at: peer.mark(2, at, run=Digest(b"x" * 32)), id="another run's"),
        pytest.param(lambda peer, at: peer.mark(2, at, position=digest_of(b"?")), id="a position that nobody has"),
        pytest.param(lambda peer, at: rubbish(peer), id="a position that is none"),
        pytest.param(lambda peer, at: forged(peer.mark(2, at)), id="a forged signature"),
    ],
)
def test_a_bad_mark_is_not_followed_and_the_next_one_is(written: Written, spoil: Callable[..., Mark]) -> None:
    peer = Peer(written)
    assert peer.hear(spoil(peer, written.all)) is None
    assert marks_in(written) == []
    assert peer.hear(peer.mark(2, written.all)) == Due(2, written.all)
    assert marks_in(written) == [(2, 43)]


def rubbish(peer: Peer) -> Mark:
    peer.fetcher.blobs[digest_of(b"rubbish")] = b"rubbish"
    return peer.mark(2, {}, position=digest_of(b"rubbish"))


def forged(mark: Mark) -> Mark:
    fields = {name: getattr(mark, name) for name in Mark.model_fields}
    return Mark(**{**fields, "signature": bytes(64)})


def test_who_never_hands_out_a_position_keeps_nobody_else_s_mark_waiting(written: Written) -> None:
    """Nor is it asked for a second one meanwhile."""
    peer = Peer(written)
    secret = peer.mark(2, written.half, PEERS[2], position=digest_of(b"a secret"))
    peer.fetcher.held_back.add(digest_of(b"a secret"))

    async def hear() -> None:
        waiting = asyncio.create_task(peer.marks.hear(secret, written.all))
        await asyncio.sleep(0)
        await peer.marks.hear(peer.mark(2, written.all, PEERS[2]), written.all)
        assert peer.fetcher.asked == [digest_of(b"a secret")]
        await peer.marks.hear(peer.mark(2, written.all, PEERS[1]), written.all)
        peer.fetcher.gate.set()
        await waiting

    asyncio.run(hear())
    assert peer.tick(written.all) == Due(2, written.all)
    assert marks_in(written) == [(2, 43)]


def test_of_two_marks_on_their_way_the_sooner_one_is_followed(written: Written) -> None:
    peer = Peer(written)
    slow = peer.mark(2, {written.logs[0]: 15, written.logs[1]: 20}, PEERS[2])
    peer.fetcher.held_back.add(Digest(slow.position))

    async def hear() -> None:
        waiting = asyncio.create_task(peer.marks.hear(slow, written.all))
        await asyncio.sleep(0)
        await peer.marks.hear(peer.mark(2, written.all), written.all)
        peer.fetcher.gate.set()
        await waiting

    asyncio.run(hear())
    assert peer.tick(written.all) == Due(2, written.all)


# Reaching and comparing ----------------------------------------------------------------------------------------------


def test_a_mark_is_reached_from_any_state_kept_and_told_of(written: Written) -> None:
    position = {written.logs[0]: 12, written.logs[1]: 20}
    expected = written.state_at(position)
    for begin in ({}, written.half, written.all):
        peer = Peer(written)
        asyncio.run(peer.marks.reach(Due(2, position), written.state_at(begin), written.all))
        assert peer.marks.state == expected.digest
        place = digest_of(packed(position))
        assert peer.told == [("mark", {"number": 2, "records": 32, "position": place, "state": expected.digest})]
    assert (32, expected.digest) in written.snapshots.offered


def test_what_was_cut_meanwhile_is_left_out_of_a_mark(written: Written) -> None:
    peer = Peer(written)
    standing = {written.logs[0]: 4, written.logs[2]: 8}
    asyncio.run(peer.marks.reach(Due(2, written.all), written.state_at(written.all), standing))
    assert peer.marks.state == written.state_at(standing).digest
    assert peer.told[0][1]["records"] == 12


def another_state(state: MasterState, position: Position | None = None) -> MasterState:
    """What a peer has that computes wrongly, or stands elsewhere."""
    master = state.master.copy()
    master[5] += 1
    return MasterState(state.layout, state.position if position is None else position, master)


def test_a_peer_with_another_state_at_an_equal_position_is_told_of_once(
    written: Written, caplog: pytest.LogCaptureFixture
) -> None:
    peer = Peer(written)
    mine = written.state_at(written.half)
    wrong, worse = another_state(mine), another_state(another_state(mine))
    for state in (wrong, worse):
        peer.fetcher.blobs[state.digest] = state.manifest.encoded
    for key, state, warnings in ((1, wrong, 1), (1, wrong, 1), (2, wrong, 2), (1, worse, 3), (1, mine, 3)):
        presence = presence_of(KEY_OF[PEERS[key]], snapshots=((17, state.digest),))
        asyncio.run(peer.marks.compare(presence))
        assert caplog.text.count("one of the two computes wrongly") == warnings
        assert len(peer.told) == warnings
    expected = {"peer": PEERS[1], "records": 17, "mine": mine.digest, "theirs": wrong.digest}
    assert peer.told[0] == ("diverged", expected)


def test_equal_numbers_of_other_records_are_not_compared(written: Written, caplog: pytest.LogCaptureFixture) -> None:
    peer = Peer(written)
    mine = written.state_at(written.half)
    other = another_state(mine, {written.logs[1]: 17})
    assert total(other.position) == total(mine.position)
    peer.fetcher.blobs[other.digest] = other.manifest.encoded
    for snapshots in (((17, other.digest),), ((18, other.digest),), ((17, digest_of(b"gone")),)):
        asyncio.run(peer.marks.compare(presence_of(KEY_OF[PEERS[1]], snapshots=snapshots)))
    assert peer.told == []
    assert "computes wrongly" not in caplog.text
    assert peer.fetcher.asked == [other.digest, digest_of(b"gone")]


def test_a_peer_s_rubbish_is_no_divergence(written: Written, caplog: pytest.LogCaptureFixture) -> None:
    peer = Peer(written)
    peer.fetcher.blobs[digest_of(b"rubbish")] = b"rubbish"
    asyncio.run(peer.marks.compare(presence_of(KEY_OF[PEERS[1]], snapshots=((17, digest_of(b"rubbish")),))))
    assert peer.told == []
    assert "computes wrongly" not in caplog.text


def test_who_reaches_a_mark_compares_it_with_everyone_at_once(written: Written) -> None:
    wrong = another_state(written.state_at({written.logs[0]: 15}))
    live = {PEERS[1]: presence_of(KEY_OF[PEERS[1]], snapshots=((15, wrong.digest),))}
    peer = Peer(written, live=live)
    peer.fetcher.blobs[wrong.digest] = wrong.manifest.encoded
    asyncio.run(peer.marks.reach(Due(1, {written.logs[0]: 15}), written.base, written.all))
    assert [name for name, _ in peer.told] == ["mark", "diverged"]
