"""What a user's training loop meets, with a swarm that answers at once."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Coroutine
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from p2ptrain.diloco import StreamingDiLoCo, optimizer
from p2ptrain.diloco.state import Fragment, GlobalState
from p2ptrain.diloco.view import View
from p2ptrain.errors import TrainingError
from p2ptrain.method import Exchange
from p2ptrain.run import Digest, RunSpec, digest_of
from p2ptrain.state.run import Run
from p2ptrain.swarm import Vitals
from tests.unit.diloco.samples import PEERS, commit_on, offer

ME = PEERS[0]
SPEC = RunSpec.custom("tests", inner_steps=4, fragments=2)


class FakeExchange(Exchange[View]):
    """Keeps what is contributed; the test says what is committed."""

    payloads: dict[Digest, bytes]

    def __init__(self, run: Any, _layout: Any, vitals: Vitals, _tell: Any, stop: Callable[[], bool]) -> None:
        super().__init__(run, vitals, stop)
        self._shell = cast(Any, SimpleNamespace(beat=None))
        self.payloads = run.folder.ledger.payloads
        self.offers: list[tuple[int, Digest]] = []
        self.hurry = 0

    def start(self, base: GlobalState) -> None:
        self.view = View(base, caught_up=True)

    def _hand_over(self, begin: Callable[[], Coroutine[Any, Any, None]]) -> None: ...

    def contribute(self, height: int, base: Digest, data: bytes, tokens: int, steps: int) -> Digest:
        self.payloads[digest_of(data)] = data
        self.offers.append((height, digest_of(data)))
        return digest_of(data)

    def commit(self, *payloads: Digest) -> None:
        """One height more, with these contributions of mine; θ changes if there is one."""
        height = self.view.head.height + 1
        base = self.view.base_for(height, 2)
        parts = [offer(ME, height, self.payloads[payload], base=base) for payload in payloads]
        commit, index = commit_on(self.view.head, parts), height % 2
        theta = self.view.state.fragments[index].theta.values
        state = self.view.state.after(commit.digest, index, Fragment.initial(theta + np.float32(0.1 * len(parts))), 1)
        self.view = replace(self.view, state=state, commits={**self.view.commits, height: commit})

    def wait(self, until: Callable[[View], bool], _timeout: float) -> bool:
        return until(self.view)

    def peers_ready(self) -> int:
        return 1


class Trained:
    """A peer with a model of two layers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, wrap: Callable[[Any], Any] = lambda model: model) -> None:
        monkeypatch.setattr(optimizer, "Exchange", FakeExchange)
        torch.manual_seed(0)
        self.model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 2))
        self.inner = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        payloads: dict[Digest, bytes] = {}
        ledger = SimpleNamespace(payloads=payloads, payload=payloads.get)
        run = SimpleNamespace(
            spec=SPEC,
            swarm=SimpleNamespace(peer_id=ME, check=lambda: None),
            folder=SimpleNamespace(ledger=ledger),
            establish=lambda base, held_out: None,
        )
        self.diloco = StreamingDiLoCo(wrap(self.model), self.inner, cast(Run, run))
        self.exchange = cast(FakeExchange, self.diloco.exchange)

    def train(self, steps: int = 1, tokens: Any = 10) -> None:
        for _ in range(steps):
            loss = self.model(torch.ones(1, 3)).square().sum()
            loss.backward()
            self.inner.step()
            self.inner.zero_grad()
            self.diloco.step(tokens, loss.item())


# Names -------------------------------------------------------------------------------------------------------------


def test_a_wrapper_changes_no_names(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrapper(torch.nn.Module):  # as DistributedDataParallel, which wants process groups
        def __init__(self, model: torch.nn.Module) -> None:
            super().__init__()
            self.module = model

    bare = Trained(monkeypatch).exchange.view.state.layout
    for wrap in (
        torch.compile,
        Wrapper,
        lambda model: torch.compile(Wrapper(model)),
        lambda m: Wrapper(torch.compile(m)),
    ):
        wrapped = Trained(monkeypatch, wrap)
        assert wrapped.exchange.view.state.layout == bare
        assert set(wrapped.diloco.global_parameters()) == {"0.weight", "0.bias", "1.weight", "1.bias"}


# Numbers of all kinds ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [0, -1, np.int64(0), 0.5])
def test_a_step_without_tokens_is_a_mistake(monkeypatch: pytest.MonkeyPatch, tokens: Any) -> None:
    with pytest.raises(ValueError, match="at least one token"):
        Trained(monkeypatch).diloco.step(tokens)


def test_numbers_of_numpy_and_torch_become_pythons(monkeypatch: pytest.MonkeyPatch) -> None:
    diloco = Trained(monkeypatch).diloco
    diloco.step(np.int64(7), np.float32(2.5))  # type: ignore[arg-type]
    diloco.report_evaluation(np.int64(3), torch.tensor(1.5))  # type: ignore[arg-type]
    told = diloco.vitals
    assert (told.tokens, told.loss, told.eval_height, told.eval_loss) == (7, 2.5, 3, 1.5)
    assert [type(value) for value in (told.tokens, told.loss, told.eval_height, told.eval_loss)] == [int, float] * 2


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), np.float32("nan")])
def test_a_held_out_loss_that_is_not_finite_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, loss: float
) -> None:
    diloco = Trained(monkeypatch).diloco
    with caplog.at_level(logging.WARNING):
        diloco.report_evaluation(8, loss)
    assert diloco.vitals.eval_loss is None
    assert "the held-out loss at height 8 is" in caplog.text


def test_a_training_loss_that_is_not_finite_is_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TrainingError, match="the loss is nan"):
        Trained(monkeypatch).diloco.step(1, float("nan"))


# Across a restart --------------------------------------------------------------------------------------------------


def saved(diloco: StreamingDiLoCo) -> Any:
    buffer = io.BytesIO()
    torch.save(diloco.state_dict(), buffer)
    return torch.load(io.BytesIO(buffer.getvalue()), weights_only=True, map_location="cpu")


def test_a_saved_peer_goes_on_to_the_bit_and_offers_the_same_bytes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Trained(monkeypatch), Trained(monkeypatch)
    first.train(5)
    assert [height for height, _ in first.exchange.offers] == [1, 2]
    state = saved(first.diloco)
    second.exchange.payloads.update(first.exchange.payloads)
    second.diloco.load_state_dict(state)
    assert second.exchange.offers == first.exchange.offers
    for peer in (first, second):
        peer.exchange.commit(peer.exchange.offers[0][1])
        peer.train(3)
    assert second.exchange.offers == first.exchange.offers
    for mine, theirs in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_bytes_that_are_gone_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Trained(monkeypatch), Trained(monkeypatch)
    first.train(2)
    second.diloco.load_state_dict(saved(first.diloco))
    assert not second.exchange.offers
    second.train(2)
    assert [height for height, _ in second.exchange.offers] == [1]


def test_an_old_state_brings_back_nothing_that_has_moved_on(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Trained(monkeypatch), Trained(monkeypatch)
    first.train(4)
    for peer in (first, second):
        peer.exchange.payloads.update(first.exchange.payloads)
        for _, payload in first.exchange.offers:
            peer.exchange.commit(payload)
    first.train(4)
    state = saved(first.diloco)
    for _, payload in first.exchange.offers[2:]:
        second.exchange.payloads.update(first.exchange.payloads)
        second.exchange.commit(payload)
    for _ in range(2):
        second.exchange.commit(next(iter(second.exchange.payloads)))
    second.diloco.load_state_dict(state)
    expected = second.diloco.global_parameters()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in second.model.named_parameters())
    assert all(lane.residual is None and not lane.tokens for lane in second.diloco._lanes)
    assert not second.exchange.offers


# Pausing -----------------------------------------------------------------------------------------------------------


def test_after_a_pause_in_which_nothing_happened_training_goes_on_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    steady, pausing = Trained(monkeypatch), Trained(monkeypatch)
    for peer in (steady, pausing):
        peer.train(5)
    pausing.diloco.pause()
    assert pausing.diloco.vitals.phase == "paused"
    assert pausing.diloco.vitals.tokens_per_second == 0
    pausing.diloco.rest(0.0)
    pausing.diloco.resume()
    assert pausing.diloco.vitals.phase == "training"
    for peer in (steady, pausing):
        peer.exchange.commit(peer.exchange.offers[0][1])
        peer.train(3)
    assert set(pausing.exchange.offers) == set(steady.exchange.offers)
    for mine, theirs in zip(steady.model.parameters(), pausing.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_what_the_others_have_changed_during_a_pause_is_taken_from_them(monkeypatch: pytest.MonkeyPatch) -> None:
    peer = Trained(monkeypatch)
    peer.train(5)
    local = {name: tensor.clone() for name, tensor in peer.model.named_parameters()}
    peer.diloco.pause()
    peer.exchange.commit(peer.exchange.offers[0][1])  # of the one fragment, not of the other
    peer.diloco.resume()
    expected = peer.diloco.global_parameters()
    kept = [name for name, tensor in peer.model.named_parameters() if torch.equal(tensor, local[name])]
    taken = [name for name, tensor in peer.model.named_parameters() if torch.equal(tensor, expected[name])]
    assert kept
    assert taken
    assert sorted(kept + taken) == sorted(local)
    peer.train(4)
    assert max(height for height, _ in peer.exchange.offers) > 2
