"""A private run from outside and from inside, with real peers of either method."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from p2ptrain.run import PeerId, SigningKey
from p2ptrain.run.access import Access
from p2ptrain.run.certificate import Certificate, Invitation, make_invitation
from p2ptrain.state import RunFolder
from p2ptrain.state.members import MembersFile
from p2ptrain.swarm import Invite
from tests.security.outsiders import ATTEMPTS, Outsider, Victim, known_epoch, try_to, words_of
from tests.swarm import one_byte
from tests.swarm.lab import Lab, Peer, write_spec

OUT = 12
"""The exit code of who is not let in."""


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(tmp_path)
    try:
        yield lab
    finally:
        lab.close()


def join(lab: Lab, owner: Peer, link: str, home: str) -> Peer:
    """A member on a machine of its own."""
    return lab.join_privately(owner, link, "--home", str(lab.home / home))


def members(lab: Lab, peer: Peer) -> dict[str, dict[str, str]]:
    """By id."""
    lines = lab.command("members", str(peer.folder), "--json").splitlines()
    return {member["peer"]: member for member in map(json.loads, lines)}


Trains = Callable[[Peer, float], object]


def diloco(home: Path) -> tuple[Path, Trains]:
    return write_spec(home, inner_steps=20, fragments=2, min_peers=2), lambda peer, after: peer.wait_for(
        "commit", lambda event: len(event["contributors"]) > 1, 60, after
    )


def spsa(home: Path) -> tuple[Path, Trains]:
    def trains(peer: Peer, after: float) -> None:
        records = max((event["height"] for event in peer.events if event["event"] == "progress"), default=0)
        one_byte.wait_for_records(peer, records + 100, after=after)

    return one_byte.write_spec(home, min_peers=2), trains


METHODS = {"Streaming DiLoCo": diloco, "one-byte SPSA": spsa}
SHORT_AND_LONG = [
    pytest.param(diloco, id="Streaming DiLoCo"),
    pytest.param(spsa, id="one-byte SPSA", marks=pytest.mark.long),
]


@pytest.mark.parametrize("method", SHORT_AND_LONG)
def test_a_private_swarm_takes_in_two_members_and_shuts_one_out(
    lab: Lab, method: Callable[[Path], tuple[Path, Trains]]
) -> None:
    spec, trains = method(lab.home)
    owner = lab.found(spec, "--private")
    anna_s, ben_s = (lab.invite(owner, label) for label in ("anna", "ben"))
    anna, ben = join(lab, owner, anna_s, "anna"), join(lab, owner, ben_s, "ben")
    for peer in (owner, anna, ben):
        trains(peer, 0.0)
    assert {(each["label"], each["role"], each["refusal"]) for each in members(lab, owner).values()} == {
        ("", "owner", ""),
        ("anna", "member", ""),
        ("ben", "member", ""),
    }

    began = time.monotonic()
    told = lab.command("revoke", str(owner.folder), "ben")
    assert f"{ben.id[-6:]} is revoked" in told
    assert ben.exit_code(30) == OUT
    assert time.monotonic() - began < 30
    assert "revoked by the owner" in ben.errors
    stopped = ben.wait_for("stopped")
    assert (stopped["reason"], stopped["resume"]) == ("shut out", "")

    refused, another = join(lab, owner, ben_s, "ben"), join(lab, owner, ben_s, "ben's other home")
    assert (refused.exit_code(60), another.exit_code(60)) == (OUT, OUT)
    assert f"revoked by the owner {owner.id[-6:]}" in refused.errors
    assert "invite was closed" in another.errors

    for peer in (owner, anna):
        trains(peer, time.monotonic())
        assert members(lab, peer)[ben.id]["refusal"].startswith("revoked by the owner")
    assert "Traceback" not in "".join(peer.errors for peer in lab.peers)


# From outside --------------------------------------------------------------------------------------------------------


@dataclass
class Papers:
    """What somebody might have got hold of, of a run whose peers are other processes."""

    owner: SigningKey
    access: Access

    @classmethod
    def of(cls, owner: Peer) -> Papers:
        folder = RunFolder.open(owner.folder, lock=False)
        try:
            key = SigningKey.from_file_bytes(Path(folder.contact.identity).read_bytes())
            return cls(key, MembersFile(folder.path, folder.genesis, folder.spec).access)
        finally:
            folder.close()

    def held_by(self, peer: Peer) -> Certificate:
        certificate = self.access.certificate_of(PeerId(peer.id), time.time())
        assert certificate is not None
        return certificate

    def made_by(self, owner: SigningKey, days: float = 1.0) -> tuple[Invitation, bytes]:
        return make_invitation(owner, self.access.run, "", int(time.time() + days * 86_400))


def wrong_papers(papers: Papers, member: Peer, them: Outsider) -> dict[str, Certificate | None]:
    held = papers.held_by(member)
    return {
        "nothing": None,
        "a member's certificate": held,
        "a member's invitation without its key": Certificate.of(held.invitation, bytes(32), them.peer),
        "an invitation of their own": Certificate.of(*papers.made_by(them.key), them.peer),
        "an invite that has ended": Certificate.of(*papers.made_by(papers.owner, -1.0), them.peer),
    }


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_outsiders_get_nothing_from_peers_that_train_and_keep_nobody_from_it(
    lab: Lab, method: Callable[[Path], tuple[Path, Trains]], tmp_path: Path
) -> None:
    """Strangers with every kind of wrong paper; and a member that was revoked, who knows the key of before."""
    spec, trains = method(lab.home)
    owner = lab.found(spec, "--private")
    link = lab.invite(owner, "member")
    member, ben = join(lab, owner, link, "member"), join(lab, owner, lab.invite(owner, "ben"), "ben")
    for peer in (owner, member, ben):
        trains(peer, 0.0)
    victim, papers = Victim(PeerId(owner.id), Invite.parse(link).addresses), Papers.of(owner)
    with contextlib.closing(Outsider(tmp_path / "stranger.key", papers.access.run)) as them:
        for certificate in wrong_papers(papers, member, them).values():
            assert them.introduce(victim, certificate)
        assert [attempt for attempt in ATTEMPTS if try_to(attempt, them, victim)] == []

    lab.command("revoke", str(owner.folder), "ben")
    assert ben.exit_code(30) == OUT
    key_file = lab.home / "ben" / "identities" / "1.key"
    with contextlib.closing(Outsider(key_file, papers.access.run, known_epoch(papers.access))) as them:
        assert them.introduce(victim, papers.held_by(ben)).startswith("revoked by the owner")
        assert [attempt for attempt in ATTEMPTS if try_to(attempt, them, victim)] == []
        for words in words_of(them):
            them.swarm.run(them.swarm.node.publish(them.topic, words))
    for peer in (owner, member):
        trains(peer, time.monotonic())
        assert "Traceback" not in peer.errors
