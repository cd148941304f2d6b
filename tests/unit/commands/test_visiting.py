"""What an owner gives the peers of a run reaches those who are there, and says so if nobody is."""

from __future__ import annotations

from typing import Any, cast

import pytest

from p2ptrain.commands.visiting import find_member, tell_everyone, told_words
from p2ptrain.errors import NetworkError, StorageError
from p2ptrain.run import NO_DIGEST, PeerId
from p2ptrain.spsa.messages import Revocation
from p2ptrain.spsa.reconcile import give_cut
from tests.unit.commands.others import Others
from tests.unit.diloco.samples import KEY_OF, PEERS
from tests.unit.run.papers import ANNA, BEN, FOUNDER, access, certificate


def tell(others: Others) -> int:
    order = Revocation(author=PEERS[0], run=bytes(32), revoked=PEERS[1], kept=()).signed(KEY_OF[PEERS[0]])

    async def give(peer: PeerId) -> None:
        await give_cut(cast(Any, others), peer, order)

    return tell_everyone(cast(Any, others), NO_DIGEST, give)


def test_everyone_who_is_there_is_told() -> None:
    others = Others(PEERS[:4], gone=tuple(PEERS[:1]), unwilling=tuple(PEERS[1:2]))
    assert tell(others) == 2
    assert sorted(others.taken) == PEERS[2:4]


@pytest.mark.parametrize(
    ("count", "words"), [(1, "1 peer was told and passes it on"), (2, "2 peers were told and pass it on")]
)
def test_how_many_were_told_is_said_in_good_english(count: int, words: str) -> None:
    assert told_words(count) == words


@pytest.mark.parametrize(
    ("others", "why"),
    [
        (Others([]), "no peer is online"),
        (Others(PEERS[:1], gone=tuple(PEERS[:1])), "can't connect to"),
        (Others(PEERS[:1], unwilling=tuple(PEERS[:1])), "not today"),
    ],
)
def test_what_nobody_takes_is_no_success(others: Others, why: str) -> None:
    with pytest.raises(NetworkError, match="no peer of the run has taken the order") as failure:
        tell(others)
    assert why in failure.value.why


def test_a_member_is_found_by_its_id_its_ending_or_the_label_of_its_invite() -> None:
    known = access(certificate(ANNA, label="anna"), certificate(BEN, label="laptops"))
    for text in (ANNA.peer_id, ANNA.peer_id[-6:], "anna"):
        assert find_member(known, text).peer == ANNA.peer_id
    assert find_member(known, FOUNDER.peer_id).role == "founder"


@pytest.mark.parametrize(("text", "told"), [("nobody", "no member"), ("", "no member"), ("laptops", "several members")])
def test_what_names_nobody_or_several_is_refused_with_who_there_is(text: str, told: str) -> None:
    known = access(*(certificate(peer, label="laptops") for peer in (ANNA, BEN)))
    with pytest.raises(StorageError, match=f"found {told} of the run for") as refusal:
        find_member(known, text)
    assert f"{BEN.peer_id[-6:]} laptops" in refusal.value.why
