"""`p2ptrain revoke`: whose order it is, what it keeps, and who is told."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from p2ptrain.errors import IdentityError, NetworkError, StorageError
from p2ptrain.peer import revoke as revoking
from p2ptrain.peer.revoke import _tell, revoke
from p2ptrain.run import PeerId, Record
from p2ptrain.spsa.audit import Past
from p2ptrain.spsa.batch import MOST_KEPT, Revocation
from p2ptrain.spsa.reconcile import Taken
from p2ptrain.state.contact import Contact
from p2ptrain.swarm import RpcError
from tests.unit.diloco.samples import KEY_OF, PEERS
from tests.unit.spsa.folders import Written
from tests.unit.spsa.samples import FOUNDER, Author
from tests.unit.swarm.people import presence_of

ONE, OTHER = PEERS[1], PEERS[2]
"""One has said 15 records and, in another log, 8; the other one 20."""


@pytest.fixture
def written(tmp_path: Path) -> Iterator[Written]:
    """Its folder stays open, as a running peer has it."""
    made = Written(tmp_path / "home")
    yield made
    made.close()


@pytest.fixture
def founders(written: Written, tmp_path: Path) -> Path:
    """The founder's key, which the folder knows."""
    path = tmp_path / "founder.key"
    path.write_bytes(KEY_OF[FOUNDER].to_file_bytes())
    Contact(peer=FOUNDER, identity=str(path)).write(written.folder.path)
    return path


@pytest.fixture
def orders(monkeypatch: pytest.MonkeyPatch) -> list[Revocation]:
    """Those that were handed out, to two peers."""
    given: list[Revocation] = []

    def hand_out(_contact: Contact, signed: Revocation) -> int:
        given.append(signed)
        return 2

    monkeypatch.setattr(revoking, "_hand_out", hand_out)
    return given


@pytest.mark.parametrize(
    ("keep", "stays"), [(None, (15, 8)), (0, (0, 0)), (10, (10, 0)), (15, (15, 0)), (17, (15, 2)), (99, (15, 8))]
)
@pytest.mark.usefixtures("founders")
def test_an_order_keeps_the_first_records(
    written: Written, orders: list[Revocation], keep: int | None, stays: tuple[int, int]
) -> None:
    told = revoke(written.folder.path, ONE[-6:], keep, None)
    kept = sum(stays)
    expected = f"{ONE[-6:]} is revoked: {23 - kept} of its records are taken back, {kept} stay; 2 peers were told"
    assert told == f"{expected} and pass it on"
    [given] = orders
    assert given.author == FOUNDER
    book = Past(written.folder).book
    assert book.revoke(given)
    left = {written.logs[0]: stays[0], written.logs[1]: 20, written.logs[2]: stays[1]}
    assert book.standing() == {log: count for log, count in left.items() if count}
    assert book.allows({Author(ONE, session=9).log: 1}) is False, "what it says from now on is in vain"


@pytest.mark.usefixtures("founders")
@pytest.mark.parametrize(("ending", "named"), [("nobody", "no peer"), ("", "no peer"), (PEERS[3], "no peer")])
def test_who_has_said_nothing_here_is_not_revoked(
    written: Written, orders: list[Revocation], ending: str, named: str
) -> None:
    with pytest.raises(StorageError, match=f"names {named} that this folder has records of") as refusal:
        revoke(written.folder.path, ending, None, None)
    assert refusal.value.why == f"there are: {ONE[-6:]}, {OTHER[-6:]}"
    assert orders == []


def test_only_the_founder_s_key_revokes(
    written: Written, founders: Path, orders: list[Revocation], tmp_path: Path
) -> None:
    stranger = tmp_path / "stranger.key"
    stranger.write_bytes(KEY_OF[ONE].to_file_bytes())
    with pytest.raises(IdentityError, match="is not the key of the run's founder") as refusal:
        revoke(written.folder.path, OTHER, None, stranger)
    assert refusal.value.why == f"that is {FOUNDER}"
    stranger.write_bytes(b"no key")
    for path in (stranger, tmp_path / "missing.key"):
        with pytest.raises(IdentityError, match="can't read the key"):
            revoke(written.folder.path, OTHER, None, path)
    assert orders == []
    Contact(peer=FOUNDER).write(written.folder.path)
    with pytest.raises(IdentityError, match="can't read the key"):
        revoke(written.folder.path, OTHER, None, None)
    revoke(written.folder.path, OTHER, None, founders)
    assert len(orders) == 1


@pytest.mark.usefixtures("founders")
def test_an_order_that_nobody_can_be_told_of_is_refused(written: Written) -> None:
    with pytest.raises(NetworkError, match="knows no peer of the run"):
        revoke(written.folder.path, ONE, None, None)


@pytest.mark.usefixtures("founders")
def test_an_author_of_very_many_logs_can_be_revoked_with_what_to_keep(
    written: Written, orders: list[Revocation], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revoking, "MOST_KEPT", 1)
    with pytest.raises(StorageError, match="in 2 logs, and an order can keep those of 1"):
        revoke(written.folder.path, ONE, None, None)
    revoke(written.folder.path, ONE, 15, None)
    assert len(orders) == 1


def test_an_order_names_as_many_logs_as_it_may() -> None:
    kept = tuple((number.to_bytes(8, "big"), 2**40) for number in range(MOST_KEPT))
    made = Revocation(author=FOUNDER, run=bytes(32), revoked=ONE, kept=kept).signed(KEY_OF[FOUNDER])
    assert Revocation.decode(made.encoded) == made
    assert len(made.encoded) < 48 * 1024, "as long as what somebody may bring"


# Telling -------------------------------------------------------------------------------------------------------------


class Others:
    """A swarm in which some peers are not there any more, and some do not take the order."""

    def __init__(self, peers: list[PeerId], gone: list[PeerId], unwilling: list[PeerId]) -> None:
        self._peers, self._gone, self._unwilling = peers, gone, unwilling
        self.taken: list[PeerId] = []
        self._arrived = 0
        self._everyone = asyncio.Event()
        self.directory = self.node = self.rpc = self

    async def peers(self, _run: bytes) -> dict[PeerId, Any]:
        return {peer: presence_of(KEY_OF[peer]) for peer in self._peers}

    async def connect(self, peer: PeerId, _addresses: Any) -> None:
        self._arrived += 1
        if self._arrived == len(self._peers):
            self._everyone.set()
        await self._everyone.wait()  # whoever is slow keeps nobody waiting
        if peer in self._gone:
            raise NetworkError(f"can't connect to {peer}")

    async def call(self, peer: PeerId, method: str, _request: Record, _answer: type[Record]) -> Taken:
        if peer in self._unwilling:
            raise RpcError(peer, method, "refused", "not today")
        self.taken.append(peer)
        return Taken()


def tell(others: Others) -> int:
    order = Revocation(author=FOUNDER, run=bytes(32), revoked=ONE, kept=()).signed(KEY_OF[FOUNDER])
    return asyncio.run(asyncio.wait_for(_tell(cast(Any, others), order), 10))


def test_everyone_who_is_there_is_told() -> None:
    others = Others(PEERS[:4], gone=PEERS[:1], unwilling=PEERS[1:2])
    assert tell(others) == 2
    assert sorted(others.taken) == PEERS[2:4]


@pytest.mark.parametrize(
    ("others", "why"),
    [
        (Others([], [], []), "nobody is there"),
        (Others(PEERS[:1], PEERS[:1], []), "can't connect to"),
        (Others(PEERS[:1], [], PEERS[:1]), "not today"),
    ],
)
def test_an_order_that_nobody_takes_is_no_success(others: Others, why: str) -> None:
    with pytest.raises(NetworkError, match="no peer of the run took the order") as failure:
        tell(others)
    assert why in failure.value.why
