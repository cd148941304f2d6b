"""What passes the border of a run, and what does not."""

from __future__ import annotations

import pytest

from p2ptrain.diloco.border import Border
from p2ptrain.diloco.chain import Contribution
from p2ptrain.errors import MalformedError
from p2ptrain.run import NO_DIGEST, Digest, PeerId, digest_of
from p2ptrain.run.head import Head
from tests.unit.diloco.peers import BASE, LAYOUT, SPEC
from tests.unit.diloco.samples import KEY_OF, PEERS, commit_on, encoded, offer
from tests.unit.diloco.swarm_in_memory import RUN

BORDER = Border.of(RUN, SPEC, LAYOUT.sizes)
SIZES = [len(encoded(SPEC, fragment.theta.values)) for fragment in BASE.fragments]


def anybody(_peer: PeerId) -> bool:
    return True


def part_of(height: int, size: int, author: PeerId = PEERS[0], run: Digest = RUN) -> Contribution:
    return offer(author, height, bytes(8), run=run).model_copy(update={"size": size}).signed(KEY_OF[author])


def below(height: int) -> Head:
    return Head(height - 1, NO_DIGEST, BASE.digest, 0)


def test_the_border_is_the_same_whether_a_model_or_a_state_tells_the_sizes() -> None:
    assert Border.around(BASE, RUN, SPEC) == BORDER
    assert BORDER.payload_bytes == tuple(SIZES)


@pytest.mark.parametrize("height", [1, 2, 7])
def test_a_contribution_has_the_size_of_its_fragment_s_payloads(height: int) -> None:
    right, other = SIZES[height % 2], SIZES[(height + 1) % 2]
    assert right != other
    assert BORDER.check_contribution(part_of(height, right))
    for size in (other, right - 1, right + 1, 0, 2**40):
        with pytest.raises(MalformedError, match="wrong size"):
            BORDER.check_contribution(part_of(height, size))


@pytest.mark.parametrize("size", [2**40, 0, SIZES[0]])
def test_a_commit_that_lists_a_wrong_size_does_not_pass_however_well_it_is_signed(size: int) -> None:
    good, bad = part_of(1, SIZES[1]), part_of(1, size, PEERS[1])
    leader = KEY_OF[PEERS[2]]
    commit = commit_on(below(1), [good, bad], leader=PEERS[2]).signed(leader)
    assert commit.check_signatures()
    for check in (BORDER.check_form, lambda commit: BORDER.check_commit(commit, anybody)):
        with pytest.raises(MalformedError, match="wrong size"):
            check(commit)


def test_two_authors_with_the_same_bytes_both_pass() -> None:
    parts = [part_of(1, SIZES[1], author) for author in PEERS[:2]]
    assert parts[0].payload == parts[1].payload
    commit = commit_on(below(1), parts).signed(KEY_OF[PEERS[0]])
    assert BORDER.check_commit(commit, anybody) == commit


def test_what_belongs_to_another_run_does_not_pass() -> None:
    other = digest_of(b"another run")
    with pytest.raises(MalformedError, match="another run"):
        BORDER.check_contribution(part_of(1, SIZES[1], run=other))
    with pytest.raises(MalformedError, match="another run"):
        BORDER.check_commit(commit_on(below(1), run=other).signed(KEY_OF[PEERS[0]]), anybody)


def test_leader_and_contributors_are_or_were_members_and_have_signed() -> None:
    unsigned = commit_on(below(1), [part_of(1, SIZES[1], PEERS[1])], leader=PEERS[0])
    commit = unsigned.signed(KEY_OF[PEERS[0]])
    for stranger in PEERS[:2]:
        with pytest.raises(MalformedError, match="never a member"):
            BORDER.check_commit(commit, lambda peer, stranger=stranger: peer != stranger)
    assert BORDER.check_commit(commit, PEERS[:2].__contains__) == commit
    with pytest.raises(MalformedError, match="not signed"):
        BORDER.check_commit(unsigned, anybody)


def test_sizes_that_nobody_can_tell_are_not_checked_but_all_else_is() -> None:
    border = Border(RUN, None)
    assert border.check_contribution(part_of(1, 2**40))
    with pytest.raises(MalformedError, match="another run"):
        border.check_contribution(part_of(1, 2**40, run=digest_of(b"another run")))
