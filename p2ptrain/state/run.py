"""A run as this peer takes part in it: the swarm, the genesis, the spec and the folder. It begins in one of three ways.

Run.found(spec)      a new run; its genesis is signed when the model is known
Run.join(invite)     an existing run; genesis and spec are fetched from other peers and checked
Run.resume(folder)   goes on where this peer stopped
"""

from __future__ import annotations

import contextlib
import logging
import secrets
from dataclasses import replace
from pathlib import Path
from typing import Self

from p2ptrain.errors import InviteError, MalformedError, NetworkError, StorageError
from p2ptrain.paths import PathLike, path_of
from p2ptrain.run import NO_DIGEST, Digest, Genesis, PeerId, RunSpec, load_spec, short, spec_from_canonical
from p2ptrain.run.access import Access, commitment
from p2ptrain.run.certificate import KEY_BYTES
from p2ptrain.run.spec import MAX_SPEC_BYTES
from p2ptrain.state.blobs import Blobs
from p2ptrain.state.contact import FILE as CONTACT_FILE
from p2ptrain.state.contact import REMEMBERED_ADDRESSES, Contact
from p2ptrain.state.fetch import Fetcher, FetchError
from p2ptrain.state.folder import RunFolder
from p2ptrain.state.home import default_home
from p2ptrain.state.inviting import MEMBER_DAYS, invite_member
from p2ptrain.state.limits import NO_LIMITS, Limits
from p2ptrain.state.members import MembersFile, door_for, remember_members
from p2ptrain.state.own_key import invited_identity, open_identity, open_own_key
from p2ptrain.state.throttle import Throttle, count_the_rest
from p2ptrain.swarm import Identity, Invite, NodeConfig, Presence, Swarm, Vitals, clock, version
from p2ptrain.swarm.addresses import is_relayed
from p2ptrain.swarm.announcement import Announcement
from p2ptrain.swarm.door import Door
from p2ptrain.swarm.invite import MAX_INVITED
from p2ptrain.swarm.private_door import PrivateDoor
from p2ptrain.swarm.sockets import check_port
from p2ptrain.swarm.wire import Wire
from p2ptrain.text import check_name, printable

LOOK_FOR_PEERS = 10.0

log = logging.getLogger(__name__)


class Run:
    """One run, as this peer takes part in it. Close it, or use it in a `with` block."""

    def __init__(
        self, swarm: Swarm, spec: RunSpec, home: Path, folder: RunFolder | None, limits: Limits, name: str
    ) -> None:
        self.swarm, self.spec, self._home, self._folder = swarm, spec, home, folder
        self.limits, self.up, self.down = limits, Throttle(limits.up), Throttle(limits.down)
        swarm.probes.pace = self.up.take
        self._name = check_name(name)
        self.blobs = Blobs()
        self.founding = folder is None
        self._offer_records()
        if limits.up is not None or limits.down is not None:
            self._count_on_the_wire()

    @classmethod
    def found(
        cls,
        spec: RunSpec | PathLike,
        *,
        config: NodeConfig | None = None,
        home: PathLike | None = None,
        identity: PathLike | None = None,
        limits: Limits = NO_LIMITS,
        name: str = "",
        private: bool = False,
    ) -> Self:
        """Begin a new run of a spec, a recipe's name or a TOML file; `name` is what tables call this peer.

        A private run is for those whom its owner invites, also if the spec does not say so.

        Raises:
            UsageError: `spec`, `home` or `identity` is no path.
            SpecError: there is no such recipe or file, or it is no valid spec.
            IdentityError: the identity can't be used.
            NetworkError: this machine can't listen, or nobody answers.
        """
        home, identity = _path(home, "home") or default_home(), _path(identity, "identity")
        spec = spec if isinstance(spec, RunSpec) else load_spec(spec)
        spec = spec.made_private() if private else spec
        config = config or NodeConfig()
        key = open_identity(home, identity, config)
        door = PrivateDoor(key.peer_id, None) if spec.is_private else Door()
        with contextlib.ExitStack() as undo:
            swarm = undo.enter_context(Swarm.start(key, config, door))
            run = cls(swarm, spec, home, None, limits, name)
            undo.pop_all()
        return run

    @classmethod
    def join(
        cls,
        invite: Invite | str,
        *,
        config: NodeConfig | None = None,
        home: PathLike | None = None,
        identity: PathLike | None = None,
        limits: Limits = NO_LIMITS,
        name: str = "",
    ) -> Self:
        """Take part in the run that an invite names.

        Raises:
            UsageError: `home` or `identity` is no path.
            InviteError: the invite names no run, or is for another peer.
            NetworkError: nobody there answers, or knows the run.
            AccessError: the run is private, and its members do not let this peer in.
        """
        home, identity = _path(home, "home") or default_home(), _path(identity, "identity")
        invite = Invite.parse(invite) if isinstance(invite, str) else invite
        if invite.run is None:
            what, why = "this invite is a bootstrap node's, not a run's", "it leads to a swarm but names no run in it"
            next_step = "ask for the invite of a run, or start one there: p2ptrain peer RUN --bootstrap INVITE"
            raise InviteError(what, why, next_step)
        config = replace(config or NodeConfig(), bootstrap=invite.addresses)
        key = open_identity(home, identity or invited_identity(home, invite), config)
        door = door_for(invite, key)
        with contextlib.ExitStack() as undo:
            swarm = undo.enter_context(_start_or_look_in_lan(key, config, invite.run, door))
            genesis, spec = swarm.run(fetch_genesis(swarm, invite.run))
            folder = undo.enter_context(RunFolder.create(home, genesis, spec, swarm.peer_id))
            if isinstance(door, PrivateDoor):
                remember_members(swarm, door, MembersFile.begin(folder.path, door.access, door.certificate))
            _note_contact(folder, swarm)
            run = cls(swarm, spec, home, folder, limits, name)
            undo.pop_all()
        return run

    @classmethod
    def resume(
        cls,
        path: PathLike,
        *,
        config: NodeConfig | None = None,
        identity: PathLike | None = None,
        limits: Limits = NO_LIMITS,
        name: str = "",
    ) -> Self:
        """Go on in a run folder, with the identity that it belongs to.

        Raises:
            UsageError: `path` or `identity` is no path.
            StorageError: no run folder, damaged or in use.
        """
        path, identity = path_of(path, "path"), _path(identity, "identity")
        home = path.resolve().parent.parent.parent
        with contextlib.ExitStack() as undo:
            folder = undo.enter_context(RunFolder.open(path))
            contact = folder.contact
            key = open_own_key(identity, contact, home, path.resolve().name)
            config = _at_the_same_port(config or NodeConfig(), contact.port)
            members = MembersFile(folder.path, folder.genesis, folder.spec) if folder.spec.is_private else None
            door = members.door(key.peer_id) if members else Door()
            swarm = undo.enter_context(_start_or_go_alone(key, config, folder, door))
            if members and isinstance(door, PrivateDoor):
                remember_members(swarm, door, members)
            _note_contact(folder, swarm)
            run = cls(swarm, folder.spec, home, folder, limits, name)
            undo.pop_all()
        return run

    @property
    def id(self) -> Digest:
        return self.folder.run

    @property
    def has_folder(self) -> bool:
        """Whether the run has a folder here. A founder's run has none until its genesis is signed."""
        return self._folder is not None

    @property
    def folder(self) -> RunFolder:
        """This peer's folder of the run; raises StorageError as long as the run has no genesis."""
        if self._folder is None:
            raise StorageError("the run has no genesis yet", "it is signed when the model is known")
        return self._folder

    def establish(self, base: Digest, held_out: Digest) -> None:
        """Sign the genesis of a run that is being founded, and make its folder. Does nothing for a run that exists.

        Args:
            base: digest of the state at height 0.
            held_out: digest of the held-out text.
        """
        if self._folder is None:
            software, secret = f"p2ptrain {version()}", secrets.token_bytes(KEY_BYTES)
            founded, seal = round(clock.swarm_time()), commitment(secret) if self.spec.is_private else NO_DIGEST
            genesis = Genesis.found(self.spec, base, held_out, software, self.swarm.key, founded, seal)
            self._folder = RunFolder.create(self._home, genesis, self.spec, self.swarm.peer_id)
            if isinstance(self.swarm.door, PrivateDoor):
                access = Access.restore(genesis, self.spec, (), (secret,))
                self.swarm.door.establish(access)
                remember_members(self.swarm, self.swarm.door, MembersFile.begin(self._folder.path, access, None))
            _note_contact(self._folder, self.swarm)
            self._offer_records()

    def invite(self, label: str = "", days: float = MEMBER_DAYS, peer: PeerId | None = None) -> Invite:
        """An invite for others. It leads to this peer's own addresses or, if nobody can reach this peer, to those by
        which it found the swarm. `label`, `days` and `peer` count in private runs only.

        Args:
            label: name in lists for the peers that come by the invite.
            days: how long their membership lasts.
            peer: the only peer that may use the invite; None if everybody who has the link may.

        Raises:
            AccessError: the run is private, and this peer is not an owner.
        """
        addresses = tuple((self.swarm.addresses() or self.swarm.config.bootstrap)[:MAX_INVITED])
        if not self.spec.is_private:
            return Invite(self.id, addresses)
        return invite_member(self.folder, self.swarm.key, addresses, label, days, peer)

    def announcement(self) -> Announcement | None:
        """The run's entry in the list of runs; None if the run is not listed."""
        return Announcement.of(self.folder.genesis, self.spec)

    def remember_peers(self, peers: list[Presence]) -> None:
        """Note the addresses of these peers for the next start, before those noted earlier."""
        known = self.folder.contact
        own = tuple(self.swarm.addresses()[:MAX_INVITED])
        met = known.met(address for seen in peers for address in seen.addresses).model_copy(update={"addresses": own})
        if met != known:
            met.write(self.folder.path)

    def remembered_addresses(self) -> list[str]:
        """Addresses at which other peers were reachable, the latest first."""
        return list(self.folder.contact.peers)

    def describe(self, vitals: Vitals) -> Vitals:
        """Add to a trainer's vitals what does not depend on the method: name, device, bytes sent, limits."""
        device, sent = printable(vitals.device), self.swarm.node.sent.total()
        up, down = int(self.limits.up or 0), int(self.limits.down or 0)
        return replace(vitals, name=self._name, device=device, bytes_sent=sent, max_up=up, max_down=down)

    def close(self) -> None:
        self.swarm.close()
        if self._folder is not None:
            self._folder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _count_on_the_wire(self) -> None:
        try:
            wire = Wire(self.swarm.node.daemon_pid, inside=self.swarm.config.local)
        except OSError as error:
            log.warning("the limits hold for weights and contributions only; gossip is not counted: %s", error)
            return
        self.swarm.loop.call_soon_threadsafe(self.swarm.spawn, count_the_rest(wire, self.up, self.down))

    def _offer_records(self) -> None:
        if self._folder is not None:
            self.blobs.hold(self._folder.genesis.encoded, "record")
            self.blobs.hold(self.spec.canonical(), "record")


def _path(given: PathLike | None, argument: str) -> Path | None:
    return None if given is None else path_of(given, argument)


def _note_contact(folder: RunFolder, swarm: Swarm) -> None:
    """Note port and addresses, so that after the next start this peer can be reached as before."""
    known, addresses = folder.contact, swarm.addresses()
    direct = [address for address in addresses if not is_relayed(address)]
    ports = [address.split("/tcp/")[1].split("/")[0] for address in direct if "/tcp/" in address]
    port = int(ports[0]) if ports else known.port
    identity, own = str(swarm.identity.path.resolve()), tuple(addresses[:MAX_INVITED])
    met = known.met(swarm.config.bootstrap).peers
    Contact(peer=swarm.peer_id, identity=identity, port=port, addresses=own, peers=met).write(folder.path)


def _known_addresses(folder: RunFolder) -> tuple[str, ...]:
    """Addresses at which others may be reachable: those noted last time, and those in their presence records."""
    if not (noted := folder.path / CONTACT_FILE).exists():
        log.warning("%s is missing: other peers are looked for where the ledger saw them last", noted)
    told: list[str] = []
    for seen in folder.ledger.heads():
        with contextlib.suppress(MalformedError):
            told += Presence.decode(seen.head).addresses
    return tuple(dict.fromkeys((*folder.contact.peers, *told)))[:REMEMBERED_ADDRESSES]


def _at_the_same_port(config: NodeConfig, port: int) -> NodeConfig:
    """Listen at the port of last time where any port would do, if it is free."""
    same = tuple(f"{each[:-1]}{port}" if each.endswith("/tcp/0") else each for each in config.listen)
    try:
        for address in same:
            check_port(address)
    except NetworkError:
        return config
    return replace(config, listen=same)


def _start_or_look_in_lan(key: Identity, config: NodeConfig, run: Digest, door: Door) -> Swarm:
    """Join the peers whose addresses are known; if none of them answers, those in the local network."""
    try:
        return Swarm.start(key, config, door)
    except NetworkError as error:
        if not config.searches_lan:
            raise
        from p2ptrain.swarm import lan  # not needed by a bootstrap node

        elsewhere = tuple(address for address in lan.find(run) if not address.endswith(key.peer_id))
        if not elsewhere:
            raise
        log.warning("%s; taking those that the local network offers", error.what)
        return Swarm.start(Identity.open(key.path), replace(config, bootstrap=elsewhere), door)


def _start_or_go_alone(key: Identity, config: NodeConfig, folder: RunFolder, door: Door) -> Swarm:
    """Join the peers of last time; if none of them answers, start alone and wait for others."""
    bootstrap = (*config.bootstrap, *_known_addresses(folder))
    elsewhere = tuple(address for address in bootstrap if not address.endswith(key.peer_id))
    if elsewhere:
        try:
            return _start_or_look_in_lan(key, replace(config, bootstrap=elsewhere), folder.run, door)
        except NetworkError as error:
            if config.bootstrap:
                raise
            log.warning("none of the peers of last time answers; going on alone until somebody joins (%s)", error.what)
            key = Identity.open(key.path)
    return Swarm.start(key, config, door)


async def fetch_genesis(swarm: Swarm, run: Digest) -> tuple[Genesis, RunSpec]:
    """Fetch the run's genesis and spec from its peers, and check them.

    Raises:
        NetworkError: no peer there knows the run, or what they sent is wrong.
    """
    if isinstance(swarm.door, PrivateDoor):  # the peer that let this one in has sent them
        return swarm.door.access.genesis, swarm.door.access.spec
    fetcher = Fetcher(swarm.rpc, Blobs())
    peers = await swarm.directory.peers(run)
    for peer, presence in peers.items():
        swarm.node.book.learn(peer, presence.addresses)
    sources = list(dict.fromkeys((*peers, *await swarm.node.connected())))
    try:
        record = await fetcher.fetch(run, lambda: sources, "record", Genesis.max_bytes, LOOK_FOR_PEERS)
        genesis = Genesis.decode(bytes(record)).check_signature()
        canonical = await fetcher.fetch(genesis.spec, lambda: sources, "record", MAX_SPEC_BYTES, LOOK_FOR_PEERS)
        return genesis, spec_from_canonical(bytes(canonical))
    except FetchError as error:
        next_step = "check that a peer that trains in it is running, or ask for a newer invite"
        raise NetworkError(f"nobody in this swarm knows the run {short(run)}", str(error), next_step) from None
    except MalformedError as error:
        next_step = error.next_step or "ask for another invite"
        raise NetworkError(f"the run {short(run)} can't be joined", error.brief, next_step) from None
