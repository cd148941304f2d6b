"""A swarm without a network: real state machines, real outer steps, and a scheduler that decides what arrives when.

Messages wait in one bag. The scheduler delivers them in any order, drops or duplicates them, lets time pass, parts the
swarm and kills or pauses peers. Everything follows from one seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from p2ptrain.diloco import events
from p2ptrain.diloco.chain import Chain, Commit, Contribution
from p2ptrain.diloco.codecs import CODECS
from p2ptrain.diloco.outer import apply_commit
from p2ptrain.diloco.round import Rounds, Rules
from p2ptrain.diloco.schedule import fragment_of
from p2ptrain.diloco.state import GlobalState
from p2ptrain.errors import LedgerError, MalformedError
from p2ptrain.run import NO_DIGEST, Digest, PeerId, RunSpec, SigningKey, digest_of, parse_spec
from p2ptrain.run.head import Head

RUN = digest_of(b"a run")
KEYS = [SigningKey(Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32)) for n in range(6)]


def spec_with(fragments: int = 2, codec: str = "e3m0", overlap: str = '"free"') -> RunSpec:
    return parse_spec(
        f"""
        [run]
        name = "simulated"
        [model]
        architecture = "llama"
        [data]
        source = "stdlib-python"
        [method]
        name = "diloco"
        inner_steps = {4 * fragments}
        fragments = {fragments}
        codec = "{codec}"
        overlap = {overlap}
        schedule = "constant"
        """,
        "simulated",
    )


def initial_state(spec: RunSpec, elements: int = 5) -> GlobalState:
    thetas = [np.linspace(-1, 1, elements + f, dtype=np.float32) for f in range(spec.method.fragments)]
    return GlobalState.initial(digest_of(b"layout"), thetas)


@dataclass
class Replica:
    """One peer: its machine, the states it computed and the bytes it holds."""

    me: PeerId
    rounds: Rounds
    states: dict[Digest, GlobalState]
    blobs: dict[Digest, bytes] = field(default_factory=dict)
    mine: list[Contribution] = field(default_factory=list)
    alive: bool = True
    """False: stopped, deaf and mute, until it comes back."""
    contributed: int = 0
    joins: int = 0
    heads: list[Head] = field(default_factory=list)

    @property
    def state(self) -> GlobalState:
        return self.states[self.rounds.head.commit]


class World:
    """All replicas, the bag of what is under way, and time."""

    def __init__(self, seed: int, peers: int, spec: RunSpec, delay: float = 0.02) -> None:
        self.random = random.Random(seed)
        self.spec, self.now, self.delay = spec, 0.0, delay
        self.rules = Rules(
            spec.method.fragments, spec.method.overlap != "free", spec.limits.rollback_depth, spec.method.last_height
        )
        self.bag: list[tuple[bool, Callable[[], None]]] = []  # (may be lost, what then happens)
        self.island: dict[PeerId, int] = {}
        self.replicas: dict[PeerId, Replica] = {}
        base = initial_state(spec)
        for key in KEYS[:peers]:
            chain = Chain(base.head, spec.method.fragments)
            rounds = Rounds(key.peer_id, chain, self.rules, self.now)
            self.replicas[key.peer_id] = Replica(key.peer_id, rounds, {NO_DIGEST: base})
            self.island[key.peer_id] = 0
        self.notice_peers()

    # What can happen -----------------------------------------------------------------------------------------------

    def reaches(self, left: PeerId, right: PeerId) -> bool:
        return self.island[left] == self.island[right] and self.replicas[right].alive

    def notice_peers(self) -> None:
        """Everyone learns, by and by, who is alive on their island."""
        for replica in self.replicas.values():
            live = frozenset(peer for peer in self.replicas if self.reaches(replica.me, peer))
            self.later(replica.me, events.PeersChanged(live, live))

    def later(self, to: PeerId, event: events.Event) -> None:
        """An event that can't get lost (local, or reported by the peer's own timers)."""
        self.bag.append((False, lambda: self.feed(to, event)))

    def broadcast(self, sender: PeerId, event: events.Event) -> None:
        for peer in self.replicas:
            if peer != sender and self.replicas[sender].alive:
                self.bag.append((True, lambda peer=peer: self.deliver(sender, peer, event)))

    def deliver(self, sender: PeerId, to: PeerId, event: events.Event) -> None:
        if self.reaches(sender, to):
            self.feed(to, event)

    def contribute(self, replica: Replica, scale: float = 1.0) -> None:
        """Offer a random pseudo-gradient for the next height that this replica may contribute to."""
        head, fragments = replica.rounds.head, self.spec.method.fragments
        height = max(replica.contributed, head.height) + 1
        if height > head.height + fragments or not replica.alive:
            return
        base = replica.rounds.chain.base_for(height, head.commit)
        fragment = replica.state.fragments[fragment_of(height, fragments)]
        size = len(fragment.theta.values)
        vector = torch.tensor([self.random.gauss(0, scale) for _ in range(size)], dtype=torch.float32)
        data = CODECS[self.spec.method.codec].encode(vector, torch.zeros_like(vector))
        offer = Contribution(
            author=replica.me,
            run=RUN,
            height=height,
            base=base,
            payload=digest_of(data),
            size=len(data),
            tokens=self.random.randint(1, 1000),
            steps=self.random.randint(1, 8),
        )
        replica.contributed = height
        replica.blobs[digest_of(data)] = data
        replica.mine.append(offer)
        self.feed(replica.me, events.Offered(offer))
        self.feed(replica.me, events.Stored(offer, True))
        self.broadcast(replica.me, events.Offered(offer))

    def heartbeat(self, replica: Replica) -> None:
        if replica.alive:
            self.broadcast(replica.me, events.HeadSeen(replica.me, replica.rounds.head))
            self.broadcast(replica.me, events.Holding(replica.me, tuple(replica.blobs)[-32:]))
            for offer in replica.mine[-self.spec.method.fragments :]:
                self.broadcast(replica.me, events.Offered(offer))

    # The shell -----------------------------------------------------------------------------------------------------

    def feed(self, to: PeerId, event: events.Event) -> None:
        replica = self.replicas[to]
        for action in replica.rounds.handle(event, self.now):
            self.perform(replica, action)

    def perform(self, replica: Replica, action: events.Action) -> None:
        me = replica.me
        match action:
            case events.FetchPayload(contribution):
                self.bag.append((False, lambda: self.fetch(replica, contribution)))
            case events.FetchCommits(tip, source):
                self.bag.append((True, lambda: self.fetch_commits(replica, tip, source)))
            case events.SayHolding(payload):
                self.broadcast(me, events.Holding(me, (payload,)))
            case events.Propose(height, parent, state, attempt, contributions):
                commit = Commit(
                    author=me,
                    run=RUN,
                    height=height,
                    parent=parent,
                    state=state,
                    attempt=attempt,
                    contributions=contributions,
                )
                self.broadcast(me, events.Committed(commit, me))
                self.feed(me, events.Committed(commit, me))
            case events.Apply(commit):
                self.bag.append((False, lambda: self.apply(replica, commit)))
            case events.HeadChanged(head, _):
                replica.heads.append(head)
                if replica.contributed > head.height + self.spec.method.fragments:
                    replica.contributed = head.height
            case events.Hurry(_):
                self.contribute(replica)
            case events.Resync(_):
                self.bag.append((False, lambda: self.join(replica)))

    def join(self, replica: Replica) -> None:
        """Start over from another peer's state, as a newcomer does."""
        others = [
            other for other in self.replicas.values() if other is not replica and self.reaches(replica.me, other.me)
        ]
        if not others:
            return
        # A newcomer starts from the snapshot that most peers hold.
        source = max(
            (other.rounds for other in others),
            key=lambda rounds: (
                sum(o.rounds.chain.is_on_branch(rounds.head) is not False for o in others),
                rounds.head.rank,
            ),
        )
        history = list(source.chain.back_from(source.head.commit))[:16]
        chain = Chain(source.head, self.spec.method.fragments, history[::-1])
        replica.states[source.head.commit] = self.replicas[source.me].state
        replica.rounds = Rounds(replica.me, chain, self.rules, self.now)
        replica.contributed = source.head.height
        replica.joins += 1
        self.notice_peers()

    def fetch(self, replica: Replica, contribution: Contribution) -> None:
        payload = Digest(contribution.payload)
        for other in self.replicas.values():
            if self.reaches(replica.me, other.me) and payload in other.blobs:
                replica.blobs[payload] = other.blobs[payload]
                fragment = replica.state.fragments[fragment_of(contribution.height, self.spec.method.fragments)]
                try:
                    CODECS[self.spec.method.codec].open(replica.blobs[payload], len(fragment.theta.values))
                    usable = True
                except MalformedError:
                    usable = False
                self.feed(replica.me, events.Stored(contribution, usable))
                return
        self.feed(replica.me, events.FetchFailed(contribution))

    def fetch_commits(self, replica: Replica, tip: Digest, source: PeerId) -> None:
        if not self.reaches(replica.me, source):
            return
        chain = self.replicas[source].rounds.chain
        if tip in chain:
            for commit in reversed(list(chain.back_from(tip))):
                if commit.digest not in replica.rounds.chain:
                    self.feed(replica.me, events.Committed(commit, source))

    def apply(self, replica: Replica, commit: Commit) -> None:
        try:
            result = apply_commit(replica.states[Digest(commit.parent)], commit, replica.blobs, self.spec)
        except LedgerError:
            self.feed(replica.me, events.ApplyFailed(commit.digest, differs=True))
            return
        replica.states[commit.digest] = result.state
        self.feed(replica.me, events.Applied(result.state.head))

    # The scheduler -------------------------------------------------------------------------------------------------

    def step(self, loss: float = 0.0, duplicates: float = 0.0) -> None:
        """Deliver one thing from the bag (or lose it, if it crosses the network), and let a little time pass."""
        self.now += self.random.expovariate(1 / self.delay)
        if self.bag:
            at = self.random.randrange(len(self.bag))
            self.bag[at], self.bag[-1] = self.bag[-1], self.bag[at]
            lossy, happen = self.bag.pop()
            if lossy and self.random.random() < duplicates:
                self.bag.append((lossy, happen))
            if not lossy or self.random.random() >= loss:
                happen()

    def tick(self, seconds: float) -> None:
        self.now += seconds
        for peer, replica in self.replicas.items():
            if replica.alive:
                self.feed(peer, events.Tick())

    def settle(self, rounds: int = 400) -> None:
        """Messages flow again: heartbeats, ticks and everything under way, until all heads agree or never."""
        for _ in range(rounds):
            for replica in self.replicas.values():
                self.heartbeat(replica)
            while self.bag:
                self.step()
            if self.agreed():
                return
            self.tick(0.5)
        raise AssertionError(f"no agreement: {self.live_heads()}")

    def live_heads(self) -> list[Head]:
        return [replica.rounds.head for replica in self.replicas.values() if replica.alive]

    def agreed(self) -> bool:
        return len(set(self.live_heads())) == 1

    def check(self) -> None:
        """Equal heads mean equal bytes."""
        seen: dict[Digest, bytes] = {}
        for replica in self.replicas.values():
            for commit, state in replica.states.items():
                raw = b"".join(bytes(part.theta.raw) + bytes(part.momentum.raw) for part in state.fragments)
                assert seen.setdefault(commit, raw) == raw
            assert replica.state.head == replica.rounds.head
