"""The round protocol under thousands of orders of events."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from p2ptrain.diloco import events
from p2ptrain.diloco.chain import Chain, Contribution
from p2ptrain.diloco.pace import FIRST_GRACE, MIN_ATTEMPT
from p2ptrain.diloco.payloads import RETRY_FETCH
from p2ptrain.diloco.round import (
    AHEAD,
    LONELY_AFTER,
    MAX_BASES,
    QUIET_AFTER_RESUMING,
    RETRY_ASKING,
    STUCK_AFTER,
    Rounds,
    Rules,
    leader,
)
from p2ptrain.run import NO_DIGEST, Digest, PeerId, digest_of
from p2ptrain.run.head import Head
from tests.unit.diloco.samples import PEERS, commit_on, encoded, offer
from tests.unit.diloco.swarm_in_memory import World, initial_state, spec_with

CHAOS = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def live_through(world: World, events: int, loss: float, duplicates: float, upheaval: float) -> None:
    """Random training, messages in any order, partitions, deaths and returns."""
    peers = list(world.replicas)
    for _ in range(events):
        dice = world.random.random()
        replica = world.replicas[world.random.choice(peers)]
        if dice < 0.04:
            world.contribute(replica)
        elif dice < 0.06:
            world.heartbeat(replica)
        elif dice < 0.10:
            world.tick(world.random.expovariate(2.0))
        elif dice < 0.10 + upheaval:
            if world.random.random() < 0.5:
                world.island[replica.me] = world.random.randrange(2)
            else:
                replica.alive = not replica.alive
            world.notice_peers()
        else:
            world.step(loss, duplicates)


def heal(world: World) -> None:
    for replica in world.replicas.values():
        replica.alive = True
        world.island[replica.me] = 0
    world.notice_peers()


@CHAOS
@given(seed=st.integers(0, 2**32), peers=st.integers(2, 5), fragments=st.sampled_from([1, 2, 4]))
def test_equal_heads_mean_equal_bytes_and_all_reach_one_head(seed: int, peers: int, fragments: int) -> None:
    world = World(seed, peers, spec_with(fragments))
    live_through(world, events=1500, loss=0.2, duplicates=0.1, upheaval=0.01)
    world.check()
    heal(world)
    world.settle()
    world.check()


@pytest.mark.parametrize("seed", range(5))
def test_a_quiet_swarm_commits_what_everyone_contributed(seed: int) -> None:
    world = World(seed, 3, spec_with(2), delay=1e-4)
    while world.bag:
        world.step()
    for height in range(1, 11):
        for replica in world.replicas.values():
            if replica.contributed < height:
                world.contribute(replica)
        while world.bag:
            world.step()
        world.tick(0.1)
        while world.bag:
            world.step()
        assert {head.height for head in world.live_heads()} == {height}
        commit = next(iter(world.replicas.values())).rounds.chain.commit(world.live_heads()[0].commit)
        assert commit is not None
        assert len(commit.contributions) == 3
    assert world.agreed()
    world.check()


def test_a_commit_that_lists_a_malformed_contribution_is_applied_alike_by_all() -> None:
    """Its leader may lie; whoever applies it leaves that contribution out."""
    spec = spec_with(2)
    world = World(1, 3, spec)
    replicas = list(world.replicas.values())
    size = len(initial_state(spec).fragments[1].theta.values)
    blobs = [encoded(spec, np.linspace(-n, n, size, dtype=np.float32)) for n in (1, 2)] + [b"\xff" * 5]
    pairs = list(zip(replicas, blobs, strict=True))
    parts = [offer(replica.me, 1, data, tokens=100 * n) for n, (replica, data) in enumerate(pairs, 1)]
    for replica, data in pairs:
        replica.blobs[digest_of(data)] = data
    forged = commit_on(replicas[0].rounds.head, parts, leader=replicas[2].me)
    for replica in replicas:
        world.feed(replica.me, events.Committed(forged, replicas[2].me))
    world.settle()
    world.check()
    assert {head.commit for head in world.live_heads()} == {forged.digest}
    assert {head.weight for head in world.live_heads()} == {300}


# One machine, a clock, and a test that says what happens -----------------------------------------------------------

BASE = initial_state(spec_with(1)).head
TRIO = PEERS[:3]


class Desk:
    """One peer's machine; it begins at the base of a run, with `peers` training."""

    def __init__(self, me: PeerId, peers: Sequence[PeerId] = TRIO, patient: bool = False, fragments: int = 1) -> None:
        self.now = 0.0
        self.rounds = Rounds(me, Chain(BASE, fragments), Rules(fragments, patient, 32, last_height=100), self.now)
        self.say(events.PeersChanged(frozenset(peers), frozenset(peers)))

    def say(self, *told: events.Event) -> list[events.Action]:
        return [action for event in told for action in self.rounds.handle(event, self.now)]

    def wait(self, seconds: float) -> list[events.Action]:
        """Let time pass, in ticks of a tenth of a second."""
        until, actions = self.now + seconds, list[events.Action]()
        while self.now < until:
            self.now += 0.1
            actions += self.say(events.Tick())
        return actions

    def receive(self, author: PeerId, usable: bool = True) -> list[events.Action]:
        """A contribution for height 1 arrives with its bytes; this peer's own is at once held by another one, too."""
        part = sample(author)
        payload = Digest(part.payload)
        actions = self.say(events.Offered(part), events.Stored(part, usable))
        if author == self.rounds.me:
            actions += self.say(events.Holding(others(author)[0], (payload,)))
        return actions


def sample(author: PeerId, height: int = 1, base: Digest = NO_DIGEST) -> Contribution:
    return offer(author, height, author.encode() + bytes([height]), base=base)


def proposals(actions: Sequence[events.Action]) -> list[events.Propose]:
    return [action for action in actions if isinstance(action, events.Propose)]


def authors(proposal: events.Propose) -> list[str]:
    return [part.author for part in proposal.contributions]


def first_leader(peers: Sequence[PeerId] = TRIO, attempt: int = 0) -> PeerId:
    chosen = leader(NO_DIGEST, attempt, peers)
    assert chosen is not None
    return chosen


def others(me: PeerId, peers: Sequence[PeerId] = TRIO) -> list[PeerId]:
    return [peer for peer in peers if peer != me]


def test_the_leader_closes_a_round_as_soon_as_every_trainer_has_contributed() -> None:
    desk = Desk(first_leader())
    actions = [action for peer in TRIO for action in desk.receive(peer)]
    [proposal] = proposals(actions)
    assert authors(proposal) == TRIO
    assert (proposal.height, proposal.parent, proposal.state, proposal.attempt) == (1, NO_DIGEST, BASE.state, 0)
    assert not proposals(desk.wait(60.0)), "once"


def test_a_quorum_is_waited_for_and_then_the_grace_window() -> None:
    desk = Desk(first_leader())
    desk.receive(TRIO[0])
    assert not proposals(desk.wait(100.0))
    desk.receive(TRIO[1])
    assert not proposals(desk.wait(FIRST_GRACE - 0.2))
    assert [authors(proposal) for proposal in proposals(desk.wait(0.4))] == [TRIO[:2]]


def test_patient_rules_wait_for_every_trainer() -> None:
    desk = Desk(first_leader(), patient=True)
    desk.receive(TRIO[0])
    desk.receive(TRIO[1])
    assert not proposals(desk.wait(600.0))
    assert [authors(proposal) for proposal in proposals(desk.receive(TRIO[2]))] == [TRIO]


def test_a_malformed_contribution_is_never_listed() -> None:
    me = first_leader()
    desk = Desk(me)
    honest = [peer for peer in TRIO if peer != others(me)[0]]
    actions = [action for peer in TRIO for action in desk.receive(peer, usable=peer in honest)]
    assert [authors(proposal) for proposal in proposals(actions + desk.wait(60.0))] == [honest]


def test_who_does_not_lead_proposes_nothing_until_the_leader_has_been_silent() -> None:
    attempts = range(1, 50)
    me, mine = next(
        (peer, next(n for n in attempts if first_leader(attempt=n) == peer)) for peer in others(first_leader())
    )
    desk = Desk(me)
    actions = [action for peer in TRIO for action in desk.receive(peer)]
    assert not proposals(actions + desk.wait(mine * MIN_ATTEMPT - 0.2))
    assert [proposal.attempt for proposal in proposals(desk.wait(0.4))] == [mine]


def test_a_commit_that_is_under_way_is_given_time_before_a_rival_is_made() -> None:
    me = first_leader(attempt=3)
    desk = Desk(me)
    commit = commit_on(BASE, [sample(peer) for peer in TRIO], attempt=9, leader=others(me)[0])
    actions = desk.say(events.Committed(commit, others(me)[0]))
    actions += [action for peer in TRIO for action in desk.receive(peer)]
    assert events.Apply(commit) in actions
    assert not proposals(actions + desk.wait(3 * MIN_ATTEMPT - 0.2))
    assert len(proposals(desk.wait(0.4))) == 1


def test_after_a_suspension_a_peer_listens_before_it_proposes() -> None:
    desk = Desk(first_leader(attempt=int(QUIET_AFTER_RESUMING / MIN_ATTEMPT)))
    desk.receive(TRIO[0])
    desk.now += 3600.0
    actions = desk.say(events.Resumed()) + desk.receive(TRIO[1]) + desk.receive(TRIO[2])
    assert not proposals(actions + desk.wait(QUIET_AFTER_RESUMING - 0.2))
    assert len(proposals(desk.wait(0.4))) == 1


@pytest.mark.parametrize("with_malformed", [False, True])
def test_a_round_waits_for_a_usable_contribution(with_malformed: bool) -> None:
    desk = Desk(first_leader())
    if with_malformed:
        desk.receive(TRIO[0], usable=False)
    assert not proposals(desk.wait(600.0))


@pytest.mark.parametrize("held_elsewhere", [False, True])
def test_bytes_that_only_the_leader_holds_are_listed_late(held_elsewhere: bool) -> None:
    """Their author is gone: if the leader were lost too, the commit's bytes would be."""
    desk = Desk(first_leader(TRIO[:2]))
    desk.receive(TRIO[2])
    desk.say(events.PeersChanged(frozenset(TRIO[:2]), frozenset(TRIO[:2])))
    if held_elsewhere:
        payload = Digest(sample(TRIO[2]).payload)
        desk.say(*(events.Holding(peer, (payload,)) for peer in TRIO[:2]))
    waits = FIRST_GRACE if held_elsewhere else LONELY_AFTER + FIRST_GRACE
    assert not proposals(desk.wait(waits - 0.2))
    assert [authors(proposal) for proposal in proposals(desk.wait(0.5))] == [[TRIO[2]]]


def test_bytes_are_fetched_once_and_again_when_that_failed() -> None:
    desk, part = Desk(TRIO[0]), sample(TRIO[1])
    fetch, payload = events.FetchPayload(part), Digest(part.payload)
    assert desk.say(events.Offered(part), events.Offered(part)).count(fetch) == 1
    assert fetch not in desk.wait(60.0)
    assert fetch not in desk.say(events.FetchFailed(part)) + desk.wait(RETRY_FETCH - 0.2)
    assert desk.wait(0.4).count(fetch) == 1
    assert events.SayHolding(payload) in desk.say(events.Stored(part, usable=True))


def test_the_same_bytes_are_filed_for_each_height_and_judged_for_each() -> None:
    """What is kept on disk, and whether the bytes decode, depends on the height."""
    desk, zeros = Desk(first_leader(), fragments=2), bytes(4)
    first, second = (offer(TRIO[1], height, zeros) for height in (1, 2))
    assert desk.say(events.Offered(first)).count(events.FetchPayload(first)) == 1
    desk.say(events.Stored(first, usable=True))
    assert desk.say(events.Offered(second)).count(events.FetchPayload(second)) == 1
    desk.say(events.Stored(second, usable=False))
    _, payloads = desk.rounds.open_news()
    assert payloads == (digest_of(zeros),), "once, for height 1"


def test_two_authors_with_the_same_bytes_are_both_listed_and_the_bytes_are_fetched_once() -> None:
    desk, zeros = Desk(first_leader()), bytes(4)
    parts = [offer(author, 1, zeros) for author in TRIO]
    actions = desk.say(*map(events.Offered, parts))
    assert sum(isinstance(action, events.FetchPayload) for action in actions) == 1
    actions += desk.say(events.Stored(parts[0], usable=True), events.Holding(TRIO[1], (digest_of(zeros),)))
    assert [authors(proposal) for proposal in proposals(actions)] == [TRIO]


def test_a_slow_trainer_is_hurried_once_by_a_quorum_of_others() -> None:
    desk = Desk(TRIO[0])
    assert events.Hurry(1) not in desk.receive(TRIO[1])
    assert desk.receive(TRIO[2]).count(events.Hurry(1)) == 1
    assert events.Hurry(1) not in desk.wait(0.5)


def test_the_commits_behind_an_unknown_head_are_asked_for() -> None:
    desk, further = Desk(TRIO[0]), Head(5, digest_of(b"unknown"), digest_of(b"state"), 500)
    ask = events.FetchCommits(further.commit, TRIO[1])
    assert ask in desk.say(events.HeadSeen(TRIO[1], further))
    assert ask not in desk.wait(RETRY_ASKING - 0.2)
    assert ask in desk.wait(0.4)


@pytest.mark.parametrize("against", [1, 2])
def test_who_differs_from_most_starts_over_and_who_is_with_most_does_not(against: int) -> None:
    desk, other_bits = Desk(TRIO[0]), Head(0, NO_DIGEST, digest_of(b"other bits"), 0)
    desk.say(*(events.HeadSeen(peer, other_bits) for peer in TRIO[1 : 1 + against]))
    assert not any(isinstance(action, events.Resync) for action in desk.wait(STUCK_AFTER - 0.2))
    resyncs = [action for action in desk.wait(1.0) if isinstance(action, events.Resync)]
    assert [action.reason for action in resyncs] == ["this peer's state differs from the others'"] * (against - 1)


@pytest.mark.parametrize("third", [None, BASE])
def test_of_two_sides_the_lighter_starts_over_and_who_is_still_joining_is_on_none(third: Head | None) -> None:
    desk, heavier = Desk(TRIO[0]), Head(5, digest_of(b"unknown"), digest_of(b"state"), 500)
    desk.say(events.HeadSeen(TRIO[2], BASE))
    desk.say(events.HeadSeen(TRIO[1], heavier), events.HeadSeen(TRIO[2], third))
    actions = desk.wait(2 * STUCK_AFTER + 1.0)
    assert any(isinstance(action, events.Resync) for action in actions) is (third is None)


@pytest.mark.parametrize("nobody_has_the_bytes", [False, True])
def test_who_is_on_the_way_to_the_others_does_not_start_over_however_slow_the_bytes(
    nobody_has_the_bytes: bool,
) -> None:
    desk = Desk(TRIO[0])
    part = sample(TRIO[1])
    commit = commit_on(BASE, [part], leader=TRIO[1])
    there = Head(1, commit.digest, digest_of(b"state"), 10)
    desk.say(events.Committed(commit, TRIO[1]), *(events.HeadSeen(peer, there) for peer in TRIO[1:]))
    actions = desk.wait(STUCK_AFTER)
    if nobody_has_the_bytes:
        actions += desk.say(events.FetchFailed(part))
    actions += desk.wait(STUCK_AFTER + 1.0)
    assert any(isinstance(action, events.Resync) for action in actions) is nobody_has_the_bytes


def test_a_flood_of_offers_on_made_up_bases_does_not_shut_out_the_true_one() -> None:
    desk = Desk(first_leader())
    flood = [sample(PEERS[3], 1, digest_of(bytes([n]))) for n in range(3 * MAX_BASES)]
    actions = desk.say(*map(events.Offered, flood))
    actions += [action for peer in TRIO for action in desk.receive(peer)]
    assert [authors(proposal) for proposal in proposals(actions)] == [TRIO]


def test_nothing_is_committed_beyond_the_runs_last_height() -> None:
    done = Head(100, digest_of(b"the last commit"), digest_of(b"the last state"), 0)
    rounds = Rounds(TRIO[0], Chain(done, 1), Rules(1, False, 32, last_height=100), 0.0)
    everyone = frozenset(TRIO[:1])
    part = sample(TRIO[0], 101, done.commit)
    told = (events.PeersChanged(everyone, everyone), events.Offered(part), events.Stored(part, True))
    actions = [action for event in told for action in rounds.handle(event, 0.0)]
    assert not proposals(actions + rounds.handle(events.Tick(), 600.0))
    beyond = commit_on(done, [part])
    assert not rounds.handle(events.Committed(beyond, TRIO[1]), 600.0), "somebody else's neither"
    assert beyond.digest not in rounds.chain


def test_offers_for_unknown_bases_and_far_heights_take_bounded_memory() -> None:
    fragments = 2
    desk = Desk(TRIO[0], fragments=fragments)
    flood = [
        sample(TRIO[1], height, digest_of(bytes([n, height])))
        for height in range(1, 4 * AHEAD * fragments)
        for n in range(3 * MAX_BASES)
    ]
    asked = desk.say(*map(events.Offered, flood))
    known = [part for part in flood if desk.rounds.knows(part)]
    assert 0 < len(known) <= MAX_BASES * AHEAD * fragments
    assert max(part.height for part in known) <= AHEAD * fragments
    assert not any(isinstance(action, events.FetchPayload) for action in asked), "bytes on no known base"
