"""The books of a peer's contributions: listed or not, on a branch that was left, and across a restart."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from p2ptrain.diloco.chain import Commit, Contribution
from p2ptrain.diloco.lanes import Lanes, Pending
from p2ptrain.diloco.state import Fragment
from p2ptrain.diloco.view import View
from p2ptrain.run import Digest
from tests.unit.diloco.samples import PEERS, commit_on, offer
from tests.unit.diloco.swarm_in_memory import initial_state, spec_with

ME, OTHER = PEERS[:2]
START = View(initial_state(spec_with(2)))
CPU = torch.device("cpu")
OLD, NEW = torch.tensor([1.0]), torch.tensor([2.0])


def extended(view: View, *parts: Contribution) -> View:
    """The view one commit later; θ changes if anything is listed."""
    commit: Commit = commit_on(view.head, parts)
    index = commit.height % 2
    fragment = view.state.fragments[index]
    if parts:
        fragment = Fragment.initial(fragment.theta.values + np.float32(commit.height))
    state = view.state.after(commit.digest, index, fragment, len(parts))
    return replace(view, state=state, commits={**view.commits, commit.height: commit})


def mine(view: View, height: int, data: bytes = b"mine") -> Contribution:
    return offer(ME, height, data, base=view.base_for(height, 2))


def pending(part: Contribution, at_step: int = 0) -> Pending:
    return Pending(part.height, Digest(part.base), Digest(part.payload), NEW, NEW, 70, 7, at_step)


def lanes_with(view: View, *parts: Contribution) -> Lanes:
    """30 tokens in 3 steps since the contributions, and the error feedback of earlier ones."""
    lanes = Lanes(ME, view.state)
    for part in parts:
        lanes.contributed(pending(part, at_step=40))
    for lane in lanes:
        lane.residual, lane.tokens, lane.steps = OLD, 30, 3
    return lanes


def books(lanes: Lanes, index: int) -> tuple[torch.Tensor | None, int, int]:
    lane = lanes[index]
    return lane.residual, lane.tokens, lane.steps


# While training ----------------------------------------------------------------------------------------------------


def test_what_a_commit_lists_is_done_and_its_residual_counts() -> None:
    part = mine(START, 1)
    lanes = lanes_with(START, part)
    assert lanes.next_height(0) == 2
    assert lanes.settle(1, extended(START, part)) == pending(part, at_step=40)
    assert books(lanes, 1) == (NEW, 30, 3)
    assert not lanes.pending


def test_what_a_commit_leaves_out_is_given_back() -> None:
    lanes = lanes_with(START, mine(START, 1))
    assert lanes.settle(1, extended(START, offer(OTHER, 1, b"others"))) is None
    assert books(lanes, 1) == (OLD, 100, 10)


def test_what_is_still_on_its_way_stays_so() -> None:
    lanes = lanes_with(START, mine(START, 1), mine(START, 2))
    assert lanes.settle(0, extended(START)) is None
    assert set(lanes.pending) == {1, 2}
    assert lanes.next_height(0) == 3


def test_an_earlier_one_of_mine_that_is_listed_instead_is_not_counted_again() -> None:
    lanes = lanes_with(START, mine(START, 1))
    assert lanes.settle(1, extended(START, mine(START, 1, b"before the crash"))) is None
    assert books(lanes, 1) == (None, 30, 3)


def test_a_rollback_gives_back_what_does_not_fit_the_new_branch() -> None:
    part = mine(START, 1)
    left, taken = extended(START, part), extended(START, offer(OTHER, 1, b"others"))
    lanes = lanes_with(left, mine(left, 2), mine(left, 3))
    lanes.roll_back(taken)
    assert set(lanes.pending) == {2}, "its base, the genesis, is below the fork"
    assert books(lanes, 1) == (None, 100, 10)
    assert books(lanes, 0) == (None, 30, 3)


# Across a restart --------------------------------------------------------------------------------------------------


def restarted(lanes: Lanes, view: View) -> tuple[Lanes, set[int]]:
    """Saved at step 50, written, read and taken over at step 2 of the next process."""
    buffer = io.BytesIO()
    torch.save(lanes.state_dict(50), buffer)
    saved: Any = torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)
    fresh = Lanes(ME, view.state)
    return fresh, fresh.load_state_dict(saved, view, 2, CPU)


def test_what_nobody_has_touched_goes_on_as_it_was_left() -> None:
    part = mine(START, 1)
    lanes, unchanged = restarted(lanes_with(START, part), START)
    assert unchanged == {0, 1}
    assert [books(lanes, index) for index in (0, 1)] == [(OLD, 30, 3)] * 2
    assert lanes.pending == {1: pending(part, at_step=-8)}, "10 steps ago, still"


def test_a_contribution_that_was_listed_meanwhile_leaves_its_residual() -> None:
    part = mine(START, 1)
    lanes, unchanged = restarted(lanes_with(START, part), extended(START, part))
    assert unchanged == {0}
    assert books(lanes, 1) == (NEW, 0, 0)
    assert not lanes.pending


def test_where_others_went_on_the_work_is_gone_with_its_tokens_and_residual() -> None:
    lanes, unchanged = restarted(lanes_with(START, mine(START, 1)), extended(START, offer(OTHER, 1, b"others")))
    assert unchanged == {0}
    assert books(lanes, 1) == (None, 0, 0)
    assert not lanes.pending


def test_a_residual_that_may_have_been_sent_since_is_not_sent_again() -> None:
    """The same checkpoint twice: after it this peer contributed again, and was killed."""
    part = mine(START, 1)
    first = extended(START, part)
    third = extended(extended(first, offer(OTHER, 2, b"others")), mine(first, 3, b"sent after the checkpoint"))
    lanes, unchanged = restarted(lanes_with(START, part), third)
    assert not unchanged
    assert [books(lanes, index) for index in (0, 1)] == [(None, 0, 0)] * 2


def test_what_can_not_be_listed_any_more_is_given_back() -> None:
    """The head is now on another branch with the same θ: the base of height 3 is another commit."""
    left, taken = extended(START, mine(START, 1)), extended(START, offer(OTHER, 1, b"others"))
    lanes, unchanged = restarted(lanes_with(left, mine(left, 3)), taken)
    assert unchanged == {0, 1}
    assert not lanes.pending
    assert books(lanes, 1) == (OLD, 100, 10)
