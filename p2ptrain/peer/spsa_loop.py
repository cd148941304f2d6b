"""The training loop of a peer that measures: the task's loss on both sides of perturbations, evaluation at marks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from p2ptrain.monitor import events
from p2ptrain.peer.loop import Loop, Place
from p2ptrain.run import NO_DIGEST
from p2ptrain.spsa import OneByteSPSA
from p2ptrain.spsa.byte import rate, rate_step
from p2ptrain.swarm import Presence, Vitals, monotonic

SAVE_SECONDS = 60.0
RECORDS_PER_HEIGHT = 32
"""What counts as a height where a spec speaks of heights."""


class SPSALoop(Loop):
    """See `Loop`."""

    spsa: OneByteSPSA
    _state = NO_DIGEST
    _evaluated = -1

    def connect(self) -> None:
        self.spsa = OneByteSPSA(
            self._task.model,
            self._task.loss_on,
            self._run,
            held_out=self._task.held_out_digest,
            bf16=self._task.bf16,
            on_event=self._hear,
            stop=self._look_up,
        )
        self._tell_news()

    def begin(self) -> None:
        self.spsa.wait_until_ready()
        self._restore()
        self._tell_news()

    def train(self) -> None:
        self._began = self._reported = self._saved = monotonic()
        method, each = self._run.spec.spsa, self._run.spec.spsa.batches_per_seed
        self._evaluate_now_and_then()
        while self._may_go_on():
            if not self._fits(self._measure):
                continue
            self._batch += each
            self._tell_news()
            records = self.spsa.records
            self._tell_progress(records, method.lr * float(rate(method, rate_step(method, records))))
            self._evaluate_now_and_then()
            if monotonic() - self._saved >= SAVE_SECONDS and self._may_save():
                self.save()
        self._tell_news()

    def _measure(self) -> None:
        method, each = self._run.spec.spsa, self._run.spec.spsa.batches_per_seed
        batches = [self._task.batch(index) for index in range(self._batch, self._batch + each)]
        self.spsa.step(*batches, tokens=self._task.tokens_per_step * each * 2 * method.seeds_per_step)

    def _evaluate_now_and_then(self) -> None:
        """At the beginning and as often as the spec says, by turns, so that the peers share the work."""
        every = self._run.spec.eval.every * RECORDS_PER_HEIGHT
        turn = self.spsa.records // every
        if turn <= self._evaluated:
            return
        self._evaluated = turn
        awake = (seen.author for seen in self.others if seen.phase != "paused")
        peers = sorted([self._run.swarm.peer_id, *awake])
        if peers[turn % len(peers)] == self._run.swarm.peer_id:
            self.evaluate()

    def evaluate(self) -> None:
        """Measure the weights on the held-out data, and tell."""
        found = self._task.evaluate(self.spsa.global_parameters())
        self.spsa.report_evaluation(self.spsa.records, found.loss)
        self._reporter.emit(events.Evaluated(self.spsa.records, found.loss, found.accuracy))

    def _tell_of(self, name: str, facts: Mapping[str, Any]) -> None:
        if name == "mark":
            position, state = facts["position"].hex(), facts["state"].hex()
            self._reporter.emit(events.Marked(facts["number"], facts["records"], position, state))
        elif name == "replay":
            self._reporter.emit(events.Replaying(facts["here"], facts["in_all"], facts["seconds"]))

    def pause(self) -> None:
        self.spsa.pause()

    def rest(self, seconds: float) -> None:
        self.spsa.rest(seconds)

    def resume(self) -> None:
        self.spsa.resume()

    def finish(self, timeout: float) -> None:
        self.spsa.finish(timeout)
        self._state = self.spsa.save().digest
        self._tell_news()

    def close(self) -> None:
        if hasattr(self, "spsa"):
            self.spsa.close()

    @property
    def is_complete(self) -> bool:
        return self.spsa.is_complete

    @property
    def vitals(self) -> Vitals:
        return self.spsa.vitals

    @property
    def place(self) -> Place:
        state = self._state if self._state != NO_DIGEST else self.own_presence.state
        return Place(self.spsa.records, self.spsa.exchange.view.digest, state)

    @property
    def others(self) -> Iterable[Presence]:
        return self.spsa.exchange.peers.values()

    @property
    def refused(self) -> Mapping[str, int]:
        return self.spsa.exchange.refused

    @property
    def own_presence(self) -> Presence:
        return self.spsa.exchange.own_presence

    def _own_state(self) -> dict[str, Any]:
        return {}  # the logs have it all

    def _load_own_state(self, saved: Mapping[str, Any]) -> None:
        pass
