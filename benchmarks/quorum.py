"""Which quorum starts the grace window, and how long should that be? python -m benchmarks.quorum

A discrete-event simulation around the real state machine: five trainers, one twice and one four times slower, random
latencies with a long tail. Counted for each choice: the share of the steps trained that commits took in, commits per
minute, and contributors per commit. Fixed graces stand beside the adaptive one.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from statistics import mean

from benchmarks.report import report
from p2ptrain.diloco import events, pace, round
from p2ptrain.diloco.chain import Chain, Commit, Contribution
from p2ptrain.diloco.round import Rounds, Rules
from p2ptrain.run import NO_DIGEST, Digest, PeerId, SigningKey, digest_of
from p2ptrain.run.head import Head

STEP_SECONDS = (0.1, 0.1, 0.1, 0.2, 0.4)
STEPS_PER_ROUND = 25
FRAGMENTS = 4
SECONDS = 1200.0
SEEDS = 3
RUN = digest_of(b"benchmark")


@dataclass
class Trainer:
    me: PeerId
    step_seconds: float
    rounds: Rounds
    since: int = 0
    last: int = 0
    hurried: int = 0
    trained: int = 0


class Simulation:
    """Trainers that only count; payloads are names, states are names."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.queue: list[tuple[float, int, Callable[[], None]]] = []
        self.order = itertools.count()
        self.now = 0.0
        self.trainers: dict[PeerId, Trainer] = {}
        for step_seconds in STEP_SECONDS:
            me = SigningKey.generate().peer_id
            chain = Chain(Head(0, NO_DIGEST, digest_of(b"state 0"), 0), FRAGMENTS)
            self.trainers[me] = Trainer(me, step_seconds, Rounds(me, chain, Rules(FRAGMENTS, False, 32), 0.0))
        everyone = frozenset(self.trainers)
        for trainer in self.trainers.values():
            self.feed(trainer, events.PeersChanged(everyone, everyone))
            self.at(self.random.uniform(0, trainer.step_seconds), lambda trainer=trainer: self.step(trainer))
            self.at(0.1, lambda trainer=trainer: self.tick(trainer))

    def at(self, delay: float, what: Callable[[], None]) -> None:
        heapq.heappush(self.queue, (self.now + delay, next(self.order), what))

    def latency(self) -> float:
        return 0.05 + self.random.lognormvariate(-2.0, 1.0)

    def run(self) -> None:
        while self.queue and self.now < SECONDS:
            self.now, _, what = heapq.heappop(self.queue)
            what()

    def tick(self, trainer: Trainer) -> None:
        self.feed(trainer, events.Tick())
        self.at(0.1, lambda: self.tick(trainer))

    def step(self, trainer: Trainer) -> None:
        trainer.since, trainer.trained = trainer.since + 1, trainer.trained + 1
        head = trainer.rounds.head
        height = max(trainer.last, head.height) + 1
        due = trainer.since >= STEPS_PER_ROUND or trainer.hurried >= height
        if due and height <= head.height + FRAGMENTS:
            self.contribute(trainer, height)
        self.at(trainer.step_seconds, lambda: self.step(trainer))

    def contribute(self, trainer: Trainer, height: int) -> None:
        base = trainer.rounds.chain.base_for(height, trainer.rounds.head.commit)
        payload = digest_of(f"{trainer.me}{height}{self.now}".encode())
        offer = Contribution(
            author=trainer.me,
            run=RUN,
            height=height,
            base=base,
            payload=payload,
            size=1,
            tokens=trainer.since,
            steps=trainer.since,
        )
        trainer.since, trainer.last = 0, height
        self.feed(trainer, events.Offered(offer))
        self.feed(trainer, events.Stored(offer, True))
        self.broadcast(trainer, events.Offered(offer))

    def broadcast(self, sender: Trainer, event: events.Event) -> None:
        for other in self.trainers.values():
            if other is not sender:
                self.at(self.latency(), lambda other=other: self.feed(other, event))

    def feed(self, trainer: Trainer, event: events.Event) -> None:
        for action in trainer.rounds.handle(event, self.now):
            match action:
                case events.FetchPayload(contribution):
                    stored = events.Stored(contribution, True)
                    self.at(self.latency(), lambda stored=stored: self.feed(trainer, stored))
                case events.SayHolding(payload):
                    self.broadcast(trainer, events.Holding(trainer.me, (payload,)))
                case events.Propose(height, parent, state, attempt, contributions):
                    commit = Commit(
                        author=trainer.me,
                        run=RUN,
                        height=height,
                        parent=parent,
                        state=state,
                        attempt=attempt,
                        contributions=contributions,
                    )
                    self.broadcast(trainer, events.Committed(commit, trainer.me))
                    self.feed(trainer, events.Committed(commit, trainer.me))
                case events.Apply(commit):
                    parent_weight = trainer.rounds.chain.position(Digest(commit.parent)).weight
                    weight = parent_weight + sum(part.tokens for part in commit.contributions)
                    head = Head(commit.height, commit.digest, digest_of(commit.encoded + b"state"), weight)
                    self.feed(trainer, events.Applied(head))
                case events.Hurry(height):
                    trainer.hurried = height


def measure(share: float, grace: float | None) -> dict[str, object]:
    """Means over a few seeds, with this quorum and, unless None, this grace instead of the adaptive one."""
    real_quorum, real_grace = round.quorum, pace.Pace.grace
    round.quorum = lambda trainers: max(1, math.ceil(trainers * share))
    if grace is not None:
        pace.Pace.grace = lambda self: grace
    results = []
    try:
        for seed in range(SEEDS):
            simulation = Simulation(seed)
            simulation.run()
            chain = next(iter(simulation.trainers.values())).rounds.chain
            recent = [len(commit.contributions) for commit in chain.back_from(chain.head.commit)]
            trained = sum(trainer.trained for trainer in simulation.trainers.values())
            # A contribution's tokens are its steps here, so the head's weight is the steps that commits took in.
            results.append((chain.head.height / SECONDS * 60, mean(recent), chain.head.weight / trained))
    finally:
        round.quorum, pace.Pace.grace = real_quorum, real_grace
    commits, contributors, taken = (mean(column) for column in zip(*results, strict=True))
    return {
        "quorum": f"{share:.2f}",
        "grace": "adaptive" if grace is None else f"{grace} s",
        "commits/min": commits,
        "contributors": contributors,
        "share of steps taken in": taken,
    }


def main() -> None:
    rows = [measure(share, None) for share in (0.2, 0.34, 0.5, 0.67, 1.0)]
    rows += [measure(0.5, grace) for grace in (0.0, 0.5, 1.0, 2.0, 5.0)]
    report("quorum", rows, ["five trainers, steps of 0.1, 0.1, 0.1, 0.2 and 0.4 s, H/P = 25"])


if __name__ == "__main__":
    main()
