"""What the trainer asks of a head."""

from __future__ import annotations

from p2ptrain.diloco.chain import Commit
from p2ptrain.diloco.state import GlobalState
from p2ptrain.diloco.view import View
from p2ptrain.run import NO_DIGEST, digest_of
from tests.unit.diloco.samples import PEERS, commit_on, offer
from tests.unit.diloco.swarm_in_memory import initial_state, spec_with

STATE = initial_state(spec_with(2))
PART = offer(PEERS[1], 1, b"bytes")
COMMIT = commit_on(STATE.head, [PART])
VIEW = View(STATE, commits={1: COMMIT})


def after(commit: Commit) -> GlobalState:
    """Nothing counted."""
    index = commit.height % 2
    return STATE.after(commit.digest, index, STATE.fragments[index], 0)


def test_the_base_of_a_contribution_is_the_commit_one_cycle_below() -> None:
    assert VIEW.base_for(3, fragments=2) == COMMIT.digest
    assert [VIEW.base_for(height, fragments=2) for height in (1, 2)] == [NO_DIGEST] * 2


def test_a_view_knows_what_its_commits_list_of_whom() -> None:
    assert VIEW.payload_of(1, PEERS[1]) == PART.payload
    assert VIEW.payload_of(1, PEERS[0]) is None, "somebody else"
    assert VIEW.payload_of(2, PEERS[1]) is None, "an unknown commit"


def test_a_view_knows_the_last_height_of_each_fragment() -> None:
    assert [VIEW.newest(index) for index in (0, 1)] == [0, -1]
    later = View(after(COMMIT), commits={1: COMMIT})
    assert [later.newest(index) for index in (0, 1)] == [0, 1]


def test_only_the_next_heights_with_the_branchs_own_bases_can_still_be_listed() -> None:
    later = View(after(COMMIT), commits={1: COMMIT})
    assert later.may_list(2, NO_DIGEST)
    assert later.may_list(3, COMMIT.digest)
    assert not later.may_list(3, digest_of(b"a rival")), "another branch's base"
    assert not later.may_list(1, NO_DIGEST), "already decided"
    assert not later.may_list(4, COMMIT.digest), "its base does not exist yet"
