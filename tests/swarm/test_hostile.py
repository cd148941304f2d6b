"""Whatever arrives from the network is checked first: a hostile member of the swarm changes nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest

from p2ptrain.diloco.chain import Commit, Contribution
from p2ptrain.diloco.news import HoldingNews, News
from p2ptrain.run import NO_DIGEST, PROTOCOL, Digest, PeerId, SigningKey, digest_of
from p2ptrain.run.head import Head
from p2ptrain.state import Blobs, RunFolder, serve
from p2ptrain.swarm import Identity, Invite, Membership, NodeConfig, Presence, Swarm, Vitals
from tests.swarm.lab import LOOPBACK, SNAPSHOT_EVERY, Lab, Peer, assert_agreement, write_spec


class Intruder:
    """A member that speaks the protocol by hand."""

    def __init__(self, lab: Lab, victim: Peer) -> None:
        invite = Invite.parse(victim.invite)
        assert invite.run is not None
        self.run = invite.run
        config = NodeConfig(listen=(LOOPBACK,), bootstrap=invite.addresses)
        self.swarm = Swarm.start(Identity.open(lab.home / "intruder.key"), config)
        self.blobs = Blobs()
        self.news = b""
        self.vitals = Vitals("training")
        self.membership = Membership(self.swarm, self.run, lambda: self.vitals, lambda: self.news)
        self.swarm.run(serve(self.swarm.rpc, self.blobs))
        self.swarm.run(self.membership.start())

    def say(self, data: bytes) -> None:
        """Anything at all, on the run's topic."""
        self.swarm.run(self.swarm.node.publish(f"p2ptrain/{PROTOCOL}/{self.run.hex()}", data))

    def head(self, peer: Peer) -> Head:
        """Where a peer says that it is."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            seen: Presence | None = self.membership.live.get(PeerId(peer.id))
            if seen is not None:
                return Head(seen.height, Digest(seen.commit), Digest(seen.state), seen.weight)
            time.sleep(0.05)
        raise AssertionError("the intruder hears nobody")

    def contribution(self, height: int, base: Digest, payload: bytes, **changes: object) -> Contribution:
        fields = {
            "author": self.swarm.peer_id,
            "run": self.run,
            "height": height,
            "base": base,
            "tokens": 512,
            "steps": 1,
            "payload": digest_of(payload),
            "size": len(payload),
        }
        return Contribution(**(fields | changes)).signed(self.swarm.key)

    def close(self) -> None:
        self.swarm.run(self.membership.close())
        self.swarm.close()


@pytest.fixture
def swarm(lab: Lab) -> Iterator[tuple[Peer, Peer, Intruder]]:
    """Two honest peers in plain fp32, and an intruder."""
    first = lab.found(write_spec(lab.home, codec="fp32", fragments=1, min_peers=2), fault="steady")
    second = lab.join(first, fault="steady")
    first.wait_for_height(2)
    intruder = Intruder(lab, first)
    try:
        yield first, second, intruder
    finally:
        intruder.close()


def assert_untouched(first: Peer, second: Peer, intruder: Intruder, rounds: int = 4) -> None:
    """Both go on, agree, and never list the intruder."""
    height = max(first.commits()) + rounds
    for peer in (first, second):
        peer.wait_for_height(height, timeout=40)
        assert peer.process.poll() is None
        listed = {author for commit in peer.commits().values() for author in commit["contributors"]}
        assert intruder.swarm.peer_id not in listed
        assert "Traceback" not in peer.errors
    assert_agreement(first, second)


def changed(contribution: Contribution, **fields: object) -> Contribution:
    """The same with other fields and the old signature."""
    return Contribution(**{name: getattr(contribution, name) for name in Contribution.model_fields} | fields)


def elements(peer: Peer) -> int:
    return int(peer.wait_for("started")["parameters"])


@pytest.mark.long
def test_contributions_with_numbers_that_are_not_finite_are_refused(swarm: tuple[Peer, Peer, Intruder]) -> None:
    first, second, intruder = swarm
    poison = np.full(elements(first), np.nan, dtype=np.float32).tobytes()
    intruder.blobs.hold(poison, "contribution")
    for _ in range(6):
        head = intruder.head(first)
        for ahead in (1, 2):
            offer = intruder.contribution(head.height + ahead, head.commit, poison)
            intruder.news = News(offers=(offer,), payloads=(offer.payload,)).encoded
            intruder.say(offer.encoded)
        first.wait_for_next_commit(30)
    assert_untouched(first, second, intruder)


@pytest.mark.long
def test_malformed_messages_are_dropped(swarm: tuple[Peer, Peer, Intruder]) -> None:
    first, second, intruder = swarm
    head = intruder.head(first)
    size = elements(first) * 4
    good = intruder.contribution(head.height + 1, head.commit, bytes(size))
    foreign = SigningKey.generate()
    garbage = [
        b"",
        b"\x00",
        b"\x92",
        b"\xc1" * 100,
        bytes(60_000),
        good.encoded[:-1],
        good.encoded + b"\x00",
        good.encoded.replace(b"contribution/1", b"contribution/9"),
        intruder.contribution(head.height + 1, head.commit, bytes(size - 4)).encoded,
        intruder.contribution(head.height + 1, head.commit, bytes(size), run=digest_of(b"other")).encoded,
        changed(good, author=foreign.peer_id).encoded,
        HoldingNews(payloads=tuple(digest_of(bytes([n])) for n in range(256))).encoded,
    ]
    for data in garbage:
        intruder.say(data)
    assert_untouched(first, second, intruder)


@pytest.mark.long
def test_commits_that_were_made_up_are_not_followed(swarm: tuple[Peer, Peer, Intruder]) -> None:
    first, second, intruder = swarm
    for _ in range(4):
        head = intruder.head(first)
        payload = bytes(elements(first) * 4)
        made_up = intruder.contribution(head.height + 1, head.commit, payload)
        forged = changed(made_up, author=first.id, tokens=10**6)
        for contributions, state in (((), digest_of(b"no such state")), ((forged,), head.state)):
            commit = Commit(
                author=intruder.swarm.peer_id,
                run=intruder.run,
                height=head.height + 1,
                parent=head.commit,
                state=state,
                attempt=0,
                contributions=contributions,
            ).signed(intruder.swarm.key)
            intruder.say(commit.encoded)
        intruder.vitals = Vitals("training", height=10**9, commit=digest_of(b"?"), state=digest_of(b"!"), weight=2**50)
        first.wait_for_next_commit(30)
    assert_untouched(first, second, intruder)
    assert not [
        event
        for peer in (first, second)
        for event in peer.events
        if event["event"] == "warning" and "state again" in event["text"]
    ]


@pytest.mark.long
def test_a_commit_makes_nobody_fetch_what_no_contribution_can_be(swarm: tuple[Peer, Peer, Intruder]) -> None:
    """Well signed, on the right commit and state; only the size is the intruder's own choice."""
    first, second, intruder = swarm
    asked = set[Digest]()
    known = intruder.blobs.get
    intruder.blobs.get = lambda digest: asked.add(digest) or known(digest)  # type: ignore[func-returns-value, method-assign]

    def list_in_a_commit(payload: bytes, size: int) -> None:
        head = intruder.head(first)
        commit = Commit(
            author=intruder.swarm.peer_id,
            run=intruder.run,
            height=head.height + 1,
            parent=head.commit,
            state=head.state,
            attempt=0,
            contributions=(intruder.contribution(head.height + 1, head.commit, payload, size=size),),
        )
        intruder.say(commit.signed(intruder.swarm.key).encoded)

    right = 4 * elements(first)
    for _ in range(3):
        for size in (2**40, right + 4, 0):
            list_in_a_commit(b"bait", size)
        first.wait_for_next_commit(30)
    list_in_a_commit(b"of the right size, but nobody has it", right)
    assert_untouched(first, second, intruder)
    assert asked == {digest_of(b"of the right size, but nobody has it")}


@pytest.mark.long
def test_a_peer_that_always_sends_zeros_stops_nobody(lab: Lab) -> None:
    """Its bytes are the same at every height, also when the first of these heights lies below all snapshots."""
    path = write_spec(
        lab.home, inner_steps=10, fragments=1, overlap=0, merge="overwrite", codec="fp32", min_peers=2, rollback_depth=4
    )
    first = lab.found(path, fault="steady")
    idle = lab.join(first, fault="zeros")
    for peer in (first, idle):
        peer.wait_for_height(2 * SNAPSHOT_EVERY + 4, timeout=60)
    newcomer = lab.join(first, fault="steady")
    newcomer.wait_for("training")
    height = max(first.commits()) + SNAPSHOT_EVERY
    for peer in (first, idle, newcomer):
        peer.wait_for_height(height, timeout=60)
        texts = [event["text"] for event in peer.events if event["event"] == "warning"]
        assert not [text for text in texts if "state again" in text]
    assert_agreement(first, idle, newcomer)
    opened = RunFolder.open(first.folder, lock=False)
    try:
        commits = [Commit.decode(record) for record in opened.ledger.commits(0).values()]
    finally:
        opened.close()
    sent = [part.payload for commit in commits for part in commit.contributions if part.author == idle.id]
    assert len(sent) >= 2 * SNAPSHOT_EVERY
    assert set(sent) == {digest_of(bytes(4 * elements(first)))}


@pytest.mark.long
def test_a_flood_does_not_stop_the_others(swarm: tuple[Peer, Peer, Intruder]) -> None:
    first, second, intruder = swarm
    head = intruder.head(first)
    stale = intruder.contribution(max(1, head.height - 1), NO_DIGEST, b"x").encoded
    until = time.monotonic() + 5
    while time.monotonic() < until:
        intruder.say(stale)
    assert_untouched(first, second, intruder)
