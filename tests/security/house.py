"""A private run in this process: an owner's peer and a member's, with the calls and the gossip of both methods."""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections.abc import Mapping
from pathlib import Path

from p2ptrain.commands.orders import make_order
from p2ptrain.diloco.join import serve_commits
from p2ptrain.run import NO_DIGEST, PeerId, RunSpec, SigningKey
from p2ptrain.run.certificate import Certificate, Invitation, Order, make_invitation
from p2ptrain.spsa import reconcile
from p2ptrain.state import serve as serve_blobs
from p2ptrain.state.run import Run
from p2ptrain.swarm import Membership, NodeConfig, Presence, Vitals
from p2ptrain.swarm.private_door import PrivateDoor
from tests.security.outsiders import Victim
from tests.unit.run.specs import spec_with

LOOPBACK = NodeConfig(listen=("/ip4/127.0.0.1/tcp/0",))
DAY = 86_400


class Ears:
    """What a method hears."""

    def __init__(self) -> None:
        self.messages: list[tuple[PeerId, str]] = []

    def heard(self, presence: Presence, news: bytes) -> None:
        self.messages.append((PeerId(presence.author), "heartbeat"))

    def message(self, origin: PeerId, kind: str, data: bytes) -> None:
        self.messages.append((origin, kind))

    def peers_changed(self, live: Mapping[PeerId, Presence]) -> None:
        pass

    def resumed(self) -> None:
        pass


@dataclasses.dataclass
class Resident:
    """One peer of the run."""

    run: Run
    membership: Membership
    ears: Ears

    @classmethod
    def move_in(cls, run: Run) -> Resident:
        """Serve everything that peers of either method serve, and take part in the gossip."""
        swarm, ears = run.swarm, Ears()
        membership = Membership(swarm, run.id, lambda: Vitals("training"), lambda: b"")
        membership.listener = ears

        async def serve() -> None:
            await serve_blobs(swarm.rpc, run.blobs)
            await serve_commits(swarm.rpc, lambda digest: None)
            logs = run.folder.ledger.logs
            await reconcile.serve(swarm.rpc, run.id, dict, logs, list, lambda record: None)
            await membership.start()

        swarm.run(serve())
        return cls(run, membership, ears)

    @property
    def peer(self) -> PeerId:
        return self.run.swarm.peer_id

    @property
    def door(self) -> PrivateDoor:
        door = self.run.swarm.door
        assert isinstance(door, PrivateDoor)
        return door

    def close(self) -> None:
        self.run.swarm.run(self.membership.close())
        self.run.close()


class House:
    """The run, its owner's key, and two peers who know each other."""

    def __init__(self, home: Path) -> None:
        self.spec: RunSpec = spec_with({"swarm.access": "private"})
        self.home = home
        self.owner = Resident.move_in(self._found(home / "owner"))
        self.invite = self.owner.run.invite("member")
        self.member = Resident.move_in(Run.join(self.invite, config=LOOPBACK, home=home / "member"))

    def _found(self, home: Path) -> Run:
        run = Run.found(self.spec, config=LOOPBACK, home=home)
        run.establish(NO_DIGEST, NO_DIGEST)
        return run

    @property
    def victim(self) -> Victim:
        """The owner's peer, as outsiders know it."""
        return Victim.of(self.owner.run.swarm)

    @property
    def key(self) -> SigningKey:
        return self.owner.run.swarm.key

    def invitation(self, days: float = 1, peer: str = "") -> tuple[Invitation, bytes]:
        """An owner's."""
        return make_invitation(self.key, self.owner.run.id, "", int(time.time() + days * DAY), peer)

    def order(self, *peers: PeerId, invite: bytes | None = None) -> tuple[Order, bytes]:
        """The owner's, with its secret."""
        secret = secrets.token_bytes(32)
        return make_order(self.owner.door.access, self.key, peers, (invite,) if invite else (), secret), secret

    def revoke(self, *peers: PeerId, invite: bytes | None = None) -> None:
        """On both peers, at once."""
        order, secret = self.order(*peers, invite=invite)

        async def hear(door: PrivateDoor) -> None:
            door.papers.learn(order, tell=False, secret=secret)

        for resident in (self.owner, self.member):
            resident.run.swarm.run(hear(resident.door))

    def admit(self, certificate: Certificate) -> None:
        async def learn(door: PrivateDoor) -> None:
            door.papers.learn(certificate, tell=False)

        for resident in (self.owner, self.member):
            resident.run.swarm.run(learn(resident.door))

    def close(self) -> None:
        self.member.close()
        self.owner.close()
