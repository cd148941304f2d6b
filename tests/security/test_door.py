"""Members of a private run find out about each other, and about who is out, whatever they have missed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from p2ptrain.errors import AccessError, InviteError, NetworkError
from p2ptrain.run import Genesis, PeerId, SigningKey, digest_of
from p2ptrain.run.certificate import certify
from p2ptrain.state.members import MembersFile, door_for
from p2ptrain.state.run import Run
from p2ptrain.swarm import Identity, Invite, NodeConfig, RpcError, Swarm, private_door
from p2ptrain.swarm.private_door import PrivateDoor
from p2ptrain.swarm.swarm import Hello, HelloAnswer
from tests.security.house import DAY, LOOPBACK, House, Resident
from tests.unit.swarm.conftest import Swarms, eventually

MoveIn = Callable[..., Resident]


@pytest.fixture
def swarms(tmp_path: Path) -> Iterator[Swarms]:
    started = Swarms(tmp_path)
    try:
        yield started
    finally:
        started.close()


@pytest.fixture
def home(house: House, tmp_path: Path) -> Iterator[MoveIn]:
    """More members, who have left when the test ends."""
    made: list[Resident] = []

    def move_in(link: Invite | None = None, name: str = "home") -> Resident:
        invite = link or house.owner.run.invite(name)
        made.append(Resident.move_in(Run.join(invite, config=LOOPBACK, home=tmp_path / name)))
        return made[-1]

    try:
        yield move_in
    finally:
        for each in made:
            each.close()


def say_hello(one: Swarm, other: Swarm) -> HelloAnswer:
    return one.run(one.rpc.call(other.peer_id, "hello", Hello(), HelloAnswer))


def knows(resident: Resident, peer: PeerId) -> bool:
    return resident.door.refusal(peer) == ""


# Coming in -----------------------------------------------------------------------------------------------------------


def test_a_newcomer_is_told_what_the_run_is_and_everybody_learns_of_it(house: House, home: MoveIn) -> None:
    third = home()
    assert (third.run.id, third.run.spec) == (house.owner.run.id, house.spec)
    for other in (house.owner, house.member):
        eventually(lambda other=other: knows(other, third.peer))  # type: ignore[misc]
        eventually(lambda other=other: third.peer in other.membership.live)  # type: ignore[misc]
        eventually(lambda other=other: other.peer in third.membership.live)  # type: ignore[misc]


def test_a_member_takes_in_a_newcomer_while_the_owner_is_away(house: House, home: MoveIn) -> None:
    link = house.owner.run.invite("through the member")
    third = home(Invite(link.run, tuple(house.member.run.swarm.addresses()), link.ticket))
    assert knows(house.member, third.peer)


def test_who_hands_out_another_run_is_not_believed(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever answers at the addresses of a link can't swap the model or the data under it."""
    fake = Genesis.found(house.spec, digest_of(b"base"), digest_of(b"data"), "p2ptrain test", house.key)
    monkeypatch.setattr(house.owner.door.access, "genesis", fake)
    with pytest.raises(NetworkError, match="no member of the run answers") as failure:
        Run.join(house.owner.run.invite(), config=LOOPBACK, home=tmp_path)
    assert "not the run that the invite names" in failure.value.why


def test_a_link_without_its_key_says_what_is_missing(house: House, tmp_path: Path) -> None:
    link = house.owner.run.invite()
    with pytest.raises(AccessError, match="this run is private") as refusal:
        Run.join(Invite(link.run, link.addresses), config=LOOPBACK, home=tmp_path)
    assert refusal.value.why == "the invite holds no key"
    assert refusal.value.exit_code == 12


def test_an_invite_for_one_peer_uses_that_peer_s_key(house: House, home: MoveIn, tmp_path: Path) -> None:
    key = Identity.open(tmp_path / "bound" / "identities" / "7.key")
    key.close()
    link = house.owner.run.invite("bound", peer=key.peer_id)
    assert home(link, "bound").peer == key.peer_id
    with pytest.raises(InviteError, match="for another peer"):
        Run.join(link, config=LOOPBACK, home=tmp_path / "elsewhere")


def test_an_invite_that_has_ended_is_refused_with_the_time_here(house: House, tmp_path: Path) -> None:
    link = house.owner.run.invite(days=-1.0)
    with pytest.raises(AccessError, match="do not let this peer in") as refusal:
        Run.join(link, config=LOOPBACK, home=tmp_path)
    assert "its invite has ended on" in refusal.value.why
    assert "and here it is" in refusal.value.why


def test_only_an_owner_makes_invites(house: House) -> None:
    with pytest.raises(AccessError, match="only an owner"):
        house.member.run.invite()


# Coming back ---------------------------------------------------------------------------------------------------------


def test_a_member_that_has_forgotten_another_one_is_introduced_again(house: House, home: MoveIn) -> None:
    """As after a restart before anything was written."""
    third = home()
    say_hello(third.run.swarm, house.owner.run.swarm)
    certificates = house.owner.door.access._certificates
    held = certificates.pop(third.peer)
    papers = house.owner.door.access._papers
    for paper in held:
        del papers[paper.claim]
    assert not knows(house.owner, third.peer)
    say_hello(third.run.swarm, house.owner.run.swarm)
    assert knows(house.owner, third.peer)


def test_a_member_comes_back_with_what_it_knew(house: House, tmp_path: Path) -> None:
    run = Run.join(house.owner.run.invite("back"), config=LOOPBACK, home=tmp_path)
    peer, path = run.swarm.peer_id, run.folder.path
    run.close()
    again = Run.resume(path, config=LOOPBACK)
    try:
        assert again.swarm.peer_id == peer
        say_hello(again.swarm, house.owner.run.swarm)
        assert isinstance(again.swarm.door, PrivateDoor)
        assert again.swarm.door.access.epoch() is not None
    finally:
        again.close()


def test_a_member_that_was_away_learns_what_happened(house: House, home: MoveIn, tmp_path: Path) -> None:
    run = Run.join(house.owner.run.invite("away"), config=LOOPBACK, home=tmp_path)
    path = run.folder.path
    run.close()
    revoked = home()
    house.revoke(revoked.peer)
    back = Resident.move_in(Run.resume(path, config=LOOPBACK))
    try:
        eventually(lambda: back.door.refusal(revoked.peer).startswith("revoked"))
        eventually(lambda: back.door.access.epoch() == house.owner.door.access.epoch())
        eventually(lambda: house.owner.peer in back.membership.live)
    finally:
        back.close()
    kept = MembersFile(path, back.door.access.genesis, back.door.access.spec).access
    assert kept.digest == back.door.access.digest, "and has it on disk"


# Out -----------------------------------------------------------------------------------------------------------------


def test_an_order_reaches_everyone_and_its_secret_those_who_stay(house: House, home: MoveIn) -> None:
    """Told to one of three; the two others hear of it by gossip, and fetch the new key."""
    third = home(name="third")
    shut_out = home(name="shut out")
    eventually(lambda: {shut_out.peer, third.peer} <= house.owner.membership.live.keys())
    order, secret = house.order(shut_out.peer)
    third.run.swarm.run(third.door.papers.give(house.owner.peer, order, secret))
    for resident in (house.owner, house.member, third):
        eventually(
            lambda resident=resident: (
                not resident.door.access.lacks_secrets  # type: ignore[misc]
                and resident.door.refusal(shut_out.peer).startswith("revoked")
            )
        )
    assert len({resident.door.access.epoch() for resident in (house.owner, house.member, third)}) == 1
    eventually(lambda: shut_out.door.expelled is not None)
    with pytest.raises(AccessError, match="do not let this peer in"):
        shut_out.run.swarm.check()
    assert shut_out.door.access.epoch() != house.owner.door.access.epoch()
    eventually(lambda: shut_out.peer not in house.owner.membership.live)


def test_a_secret_that_comes_after_its_order_is_learned_and_another_s_is_not(house: House) -> None:
    """Gossip is faster than the owner's own call, and brings the order alone."""
    order, secret = house.order(SigningKey.generate().peer_id)
    owner, member = house.owner, house.member

    async def give(secret: bytes) -> None:
        await owner.door.papers.give(member.peer, order, secret)

    async def hear() -> None:
        member.door.papers.learn(order, tell=False)
        member.door.papers._pulling |= {owner.peer}  # and nobody else has it yet

    member.run.swarm.run(hear())
    assert member.door.access.lacks_secrets
    with pytest.raises(RpcError, match="a secret belongs to another order"):
        owner.run.swarm.run(give(bytes(32)))
    owner.run.swarm.run(give(secret))
    assert not member.door.access.lacks_secrets
    member.door.papers._pulling.clear()
    eventually(lambda: owner.door.access.epoch() == member.door.access.epoch())


def test_a_member_s_word_alone_does_not_end_who_has_been_in_the_run(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.join(house.owner.run.invite("back"), config=LOOPBACK, home=tmp_path)
    path = run.folder.path
    run.close()
    for resident in (house.owner, house.member):
        monkeypatch.setattr(resident.door, "_judge", lambda *_, **__: "you are revoked, believe me")
    again = Run.resume(path, config=LOOPBACK)
    try:
        assert again.swarm.door.expelled is None
    finally:
        again.close()


def test_who_missed_its_own_revocation_is_shown_the_owner_s_order(house: House, tmp_path: Path) -> None:
    run = Run.join(house.owner.run.invite("revoked"), config=LOOPBACK, home=tmp_path)
    peer, path = run.swarm.peer_id, run.folder.path
    run.close()
    house.revoke(peer)
    with pytest.raises(AccessError, match="do not let this peer in") as refusal:
        Run.resume(path, config=LOOPBACK)
    assert refusal.value.why.startswith("revoked by the owner")


def test_a_membership_that_ends_meanwhile_is_told(house: House, home: MoveIn, monkeypatch: pytest.MonkeyPatch) -> None:
    third = home(house.owner.run.invite("short", days=1.0))
    monkeypatch.setattr(private_door, "time", SimpleNamespace(time=lambda: time.time() + 2 * DAY))
    eventually(lambda: third.door.expelled is not None)
    assert "its invite has ended on" in str(third.door.expelled)


def test_a_membership_is_renewed_wherever_the_member_is(house: House, home: MoveIn) -> None:
    third = home(house.owner.run.invite("short", days=1.0))
    later = time.time() + 2 * DAY
    assert "has ended" in house.owner.door.access.refusal(third.peer, later)
    paper = certify(house.key, house.owner.run.id, "short", int(time.time()) + 9 * DAY, third.peer)
    house.member.run.swarm.run(house.member.door.papers.give(house.owner.peer, paper))
    for resident in (house.owner, house.member, third):
        eventually(lambda resident=resident: resident.door.access.refusal(third.peer, later) == "")  # type: ignore[misc]


def test_a_renewal_holds_after_a_restart_also_of_who_was_away_meanwhile(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It shows what it came by at first, which has ended; whom it meets hands it the better one."""
    run = Run.join(house.owner.run.invite("away", days=1.0), config=LOOPBACK, home=tmp_path)
    peer, path = run.swarm.peer_id, run.folder.path
    run.close()
    until = int(time.time()) + 9 * DAY
    house.admit(certify(house.key, house.owner.run.id, "away", until, peer))
    monkeypatch.setattr(private_door, "time", SimpleNamespace(time=lambda: time.time() + 2 * DAY))
    for _ in range(2):
        again = Run.resume(path, config=LOOPBACK)
        try:
            door = again.swarm.door
            assert isinstance(door, PrivateDoor)
            eventually(lambda door=door: not door.refusal(peer))  # type: ignore[misc]
            assert door.certificate is not None
            assert door.certificate.invitation.expires == until
            assert door.expelled is None
        finally:
            again.close()


def test_a_looker_on_is_let_in_and_remembered_by_nobody(house: House, tmp_path: Path) -> None:
    identity = Identity.open(tmp_path / "passing.key")
    link = house.owner.run.invite("many may look")
    before = house.owner.door.access.digest
    config = NodeConfig(listen=LOOPBACK.listen, bootstrap=link.addresses)
    with Swarm.start(identity, config, door_for(link, identity, passing=True)) as looker:
        # Those that have gone since are nodes of the directory for a while yet, and may hold the record.
        eventually(lambda: house.owner.peer in looker.run(looker.directory.peers(house.owner.run.id), 20.0), 60)
    assert house.owner.door.access.digest == before


# Bootstrap nodes -----------------------------------------------------------------------------------------------------


def test_a_bootstrap_node_outside_helps_and_learns_nothing(swarms: Swarms, house: House, tmp_path: Path) -> None:
    node = swarms.start()
    config = NodeConfig(listen=LOOPBACK.listen, bootstrap=tuple(node.addresses()))
    with Run.found(house.spec, config=config, home=tmp_path) as run:
        run.establish(digest_of(b""), digest_of(b""))
        door = run.swarm.door
        assert isinstance(door, PrivateDoor)
        run.swarm.run(door._sweep())
        assert node.peer_id in run.swarm.run(run.swarm.node.connected()), "it is not hung up on"
        assert door.refusal(node.peer_id) != ""
        assert node.run(node.directory.peers(run.id)) == {}
