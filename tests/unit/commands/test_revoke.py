"""`p2ptrain revoke`: whose order it is, what it keeps, and who is told."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2ptrain.commands import cuts
from p2ptrain.commands import revoke as revoking
from p2ptrain.commands.revoke import revoke
from p2ptrain.errors import AccessError, IdentityError, NetworkError, StorageError, UsageError
from p2ptrain.spsa.audit import Past
from p2ptrain.spsa.messages import MOST_KEPT, Revocation
from p2ptrain.spsa.reconcile import GivenCut
from p2ptrain.state.contact import Contact
from tests.unit.commands.others import Others
from tests.unit.diloco.samples import KEY_OF, PEERS
from tests.unit.spsa.folders import Written
from tests.unit.spsa.samples import FOUNDER, Author

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
    """Those that were handed out, each to two peers."""
    given: list[Revocation] = []
    others = Others(PEERS[:2])

    def note(request: GivenCut) -> None:
        order = Revocation.decode(request.record)
        if order not in given:
            given.append(order)

    monkeypatch.setattr(others, "note", note)
    monkeypatch.setattr(revoking, "visit", lambda folder, key: contextlib.nullcontext(others))
    return given


@pytest.mark.parametrize(
    ("keep", "stays"), [(None, (15, 8)), (0, (0, 0)), (10, (10, 0)), (15, (15, 0)), (17, (15, 2)), (99, (15, 8))]
)
@pytest.mark.usefixtures("founders")
def test_an_order_keeps_the_first_records(
    written: Written, orders: list[Revocation], keep: int | None, stays: tuple[int, int]
) -> None:
    told = revoke(written.folder.path, ONE[-6:], keep, False, None)
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
    with pytest.raises(StorageError, match=f"found {named} with records in this folder for") as refusal:
        revoke(written.folder.path, ending, None, False, None)
    assert refusal.value.why == f"there are: {ONE[-6:]}, {OTHER[-6:]}"
    assert orders == []


def test_only_the_founder_s_key_revokes(
    written: Written, founders: Path, orders: list[Revocation], tmp_path: Path
) -> None:
    stranger = tmp_path / "stranger.key"
    stranger.write_bytes(KEY_OF[ONE].to_file_bytes())
    with pytest.raises(AccessError, match="only an owner of the run can do that") as refusal:
        revoke(written.folder.path, OTHER, None, False, stranger)
    assert refusal.value.why == f"{ONE} is not an owner; owners: {FOUNDER}"
    stranger.write_bytes(b"no key")
    for path in (stranger, tmp_path / "missing.key"):
        with pytest.raises(IdentityError, match=rf"{path.name}(?s:.*)--owner-key"):
            revoke(written.folder.path, OTHER, None, False, path)
    assert orders == []
    Contact(peer=FOUNDER).write(written.folder.path)
    with pytest.raises(IdentityError, match="this folder does not know the key of its peer"):
        revoke(written.folder.path, OTHER, None, False, None)
    revoke(written.folder.path, OTHER, None, False, founders)
    assert len(orders) == 1


@pytest.mark.usefixtures("founders")
def test_an_order_that_nobody_can_be_told_of_is_refused(written: Written) -> None:
    with pytest.raises(NetworkError, match="knows no peer of the run"):
        revoke(written.folder.path, ONE, None, False, None)


@pytest.mark.usefixtures("founders")
def test_an_author_of_very_many_logs_can_be_revoked_with_what_to_keep(
    written: Written, orders: list[Revocation], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuts, "MOST_KEPT", 1)
    with pytest.raises(StorageError, match="in 2 logs"):
        revoke(written.folder.path, ONE, None, False, None)
    revoke(written.folder.path, ONE, 15, False, None)
    assert len(orders) == 1


def test_nobody_came_by_an_invite_to_a_public_run(written: Written) -> None:
    with pytest.raises(UsageError, match="--everyone means nothing for a public run"):
        revoke(written.folder.path, ONE, None, True, None)


def test_an_order_names_as_many_logs_as_it_may() -> None:
    kept = tuple((number.to_bytes(8, "big"), 2**40) for number in range(MOST_KEPT))
    made = Revocation(author=FOUNDER, run=bytes(32), revoked=ONE, kept=kept).signed(KEY_OF[FOUNDER])
    assert Revocation.decode(made.encoded) == made
    assert len(made.encoded) < 48 * 1024, "as long as what somebody may bring"
