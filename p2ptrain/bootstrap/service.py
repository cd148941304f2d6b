"""`p2ptrain bootstrap`: a node that gives newcomers a first address and relays for peers behind NAT. It trains nothing.

It can run for months on a small machine: it loads no torch, keeps the addresses of its peers on disk, connects to them
again after a restart, and tells a supervisor whether it is healthy. Its home holds its key file (the peer id in every
invite to it comes from that key) and `bootstrap/<peer id>/contact.json`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from p2ptrain import output
from p2ptrain.bootstrap.health import ANSWER_SECONDS, LOOK_SECONDS, Look, look_at
from p2ptrain.bootstrap.metrics import MetricsServer, NodeCollector, free_port, parse_address
from p2ptrain.errors import NetworkError, StorageError
from p2ptrain.peer.stopping import Stopping
from p2ptrain.run import PeerId
from p2ptrain.state.contact import REMEMBERED_ADDRESSES, Contact
from p2ptrain.state.own_key import open_identity
from p2ptrain.swarm import Identity, Invite, NodeConfig, RelayLimits, Swarm, monotonic
from p2ptrain.swarm.addresses import by_peer
from p2ptrain.swarm.invite import MAX_INVITED
from p2ptrain.swarm.node import ControlError
from p2ptrain.text import reason_of

STOP_SECONDS = 0.5
REPORT_SECONDS = 10.0
LOG_SECONDS = 60.0
OLD_LOGS = 5
ADDRESSES_OF_ONE = 4
MAX_ADDRESS = 256
DAEMON_MEMORY = {"GOMEMLIMIT": "128MiB", "GOGC": "10"}
"""For p2pd, which is written in Go: collect garbage when the heap has grown by a tenth, and more often above the (soft)
limit. The heap is small, so that costs little."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BootstrapOptions:
    """What the operator of a node decides."""

    home: Path
    identity: Path | None
    network: NodeConfig
    metrics: str | None = None
    """HOST:PORT where the node serves /metrics and /healthz; None: nowhere."""
    log: Path | None = None
    """File for the log; None: standard output, or standard error if `json_lines`."""
    json_lines: bool = False


def run_bootstrap(options: BootstrapOptions) -> None:
    """Run a node until Ctrl-C or SIGTERM.

    Raises:
        UsageError: an address is malformed.
        IdentityError: the key file can't be used.
        StorageError: the home or the log can't be written.
        NetworkError: this machine can't listen there; or the node starts for the first time and no peer of the given
            swarm answers; or p2pd has ended: then a supervisor should start the node again.
    """
    with Stopping("leaving the swarm") as stopping:
        try:
            _serve(options, stopping)
        except KeyboardInterrupt:  # at its start
            stopping.leave()


def _serve(options: BootstrapOptions, stopping: Stopping) -> None:
    if not options.json_lines:  # with --json, a program that reads the lines has started the node, and ends it
        output.outlive(lambda error: output.say_on_stderr(f"standard output is gone ({error.strerror})"))
    metrics_address = parse_address(options.metrics) if options.metrics else None
    _log_to(options.log, options.json_lines)
    for variable, value in DAEMON_MEMORY.items():
        os.environ.setdefault(variable, value)
    daemon_port = free_port() if metrics_address else None
    flags = (("metricsAddr", f"127.0.0.1:{daemon_port}"),) if daemon_port else ()
    with ExitStack() as stack:
        identity = open_identity(options.home, options.identity, options.network)
        regulars = Regulars(_folder(options.home, identity.peer_id))
        config = replace(options.network, relay=RelayLimits(), daemon_flags=flags)
        swarm = stack.enter_context(_start(identity, config, regulars.addresses))
        service = _Service(swarm, regulars, options)
        port = None
        if metrics_address and daemon_port:
            collector = NodeCollector(swarm, lambda: service.last_look, daemon_port)
            port = stack.enter_context(MetricsServer(metrics_address, collector)).port
        stopping.finish_steps()
        service.introduce(port)
        while not stopping.requested():
            swarm.check()
            service.attend()
            time.sleep(STOP_SECONDS)
        service.leave()


class _Service:
    """What the main thread does while the network thread serves the swarm."""

    def __init__(self, swarm: Swarm, regulars: Regulars, options: BootstrapOptions) -> None:
        self._swarm, self._regulars, self._json_lines = swarm, regulars, options.json_lines
        self._given = options.network.bootstrap
        self._search: concurrent.futures.Future[None] | None = None
        self.last_look = look_at(swarm)
        self._reported = self._logged = monotonic()

    def introduce(self, metrics_port: int | None) -> None:
        """Print the node's id and an invite to it."""
        addresses = self._swarm.addresses()
        invite = Invite(None, tuple(addresses[:MAX_INVITED]))
        log.info("bootstrap node %s at %s", self._swarm.peer_id, ", ".join(addresses))
        if self._json_lines:
            line = {"event": "bootstrap", "peer": self._swarm.peer_id, "invite": str(invite), "metrics": metrics_port}
            print(json.dumps(line), flush=True)
        else:
            print(f"bootstrap node {self._swarm.peer_id}\nstart a run in this swarm with:", flush=True)
            print(f"  p2ptrain peer RUN --bootstrap {invite}", flush=True)

    def attend(self) -> None:
        """Check the node, note its peers, search for peers if there are none, and report; each when it is time."""
        now = monotonic()
        if now - self.last_look.at > LOOK_SECONDS:
            before, self.last_look = self.last_look, look_at(self._swarm)
            if self.last_look.problem != before.problem:
                log.warning("%s", self.last_look.problem or "p2pd and the DHT answer again")
            self._regulars.seen(self._swarm, self.last_look)
            alone = not self.last_look.peers and not self.last_look.problem
            if alone and (self._search is None or self._search.done()):
                known = (*self._given, *self._regulars.addresses)
                self._search = self._swarm.submit(find_back(self._swarm, known))
        if self._json_lines and now - self._reported > REPORT_SECONDS:  # fails if the reader has gone
            self._reported = now
            print(json.dumps({"event": "connected", "peers": len(self.last_look.peers)}), flush=True)
        if now - self._logged > LOG_SECONDS:
            self._logged = now
            log.info("%d peers connected, %d records kept", len(self.last_look.peers), self.last_look.records)

    def leave(self) -> None:
        """Note a last time which peers are connected; those that came lately are noted only now."""
        self.last_look = look_at(self._swarm)
        self._regulars.seen(self._swarm, self.last_look)
        log.info("leaving the swarm: %d peers connected", len(self.last_look.peers))


class Regulars:
    """The addresses of the node's peers, on disk for the next start. Peers that stayed longest come first: a crowd that
    only passes by can't push them out."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._contact = Contact.read(folder)
        self._there: dict[PeerId, tuple[str, ...]] = {}

    @property
    def addresses(self) -> tuple[str, ...]:
        return self._contact.peers

    def seen(self, swarm: Swarm, look: Look) -> None:
        """Note the connected peers. A peer is asked for its addresses when a second check finds it, too."""
        if look.problem:
            return  # this check did not find out which peers are connected
        known = {peer: addresses for peer, addresses in self._there.items() if peer in look.peers}
        for peer in list(known)[:REMEMBERED_ADDRESSES]:
            if not known[peer]:
                known[peer] = _addresses_of(swarm, peer)
        self._there = {**known, **{peer: () for peer in look.peers if peer not in known}}
        met = self._contact.met(address for addresses in known.values() for address in addresses)
        if met != self._contact:
            self._contact = met
            met.write(self._folder)


async def find_back(swarm: Swarm, addresses: Sequence[str]) -> None:
    """Connect to the peers at these addresses, all at once, and join their DHT."""
    known = by_peer(addresses)
    known.pop(swarm.peer_id, None)

    async def meet(peer: PeerId) -> None:
        try:
            await swarm.node.connect(peer, known[peer])
        except NetworkError as error:
            log.debug("%s", error)
            return
        await swarm.directory.meet(peer)
        log.info("connected to %s again", peer)

    await asyncio.gather(*map(meet, known))


def _addresses_of(swarm: Swarm, peer: PeerId) -> tuple[str, ...]:
    """Addresses where a connected peer says that it is reachable, without those that lead through this node. The peer
    may lie."""
    try:
        told = swarm.run(swarm.node.addresses_of(peer), ANSWER_SECONDS)
    except (OSError, ControlError, asyncio.IncompleteReadError) as error:  # a TimeoutError is an OSError
        log.debug("no addresses of %s: %s", peer, error)
        return ()
    return tuple(address for address in told if _is_usable(address) and swarm.peer_id not in address)[:ADDRESSES_OF_ONE]


def _is_usable(address: str) -> bool:
    """Whether the address can be kept and given to p2pd again. A comma would end it there: p2pd's flags take lists."""
    return address.startswith(("/ip4/", "/ip6/", "/dns")) and len(address) <= MAX_ADDRESS and "," not in address


def _start(identity: Identity, config: NodeConfig, remembered: tuple[str, ...]) -> Swarm:
    """Join the given swarm and the peers of last time. If none of them answers, a node that had peers before starts
    alone: they find each other when a peer comes back."""
    known = dict.fromkeys((*config.bootstrap, *remembered))
    if elsewhere := tuple(address for address in known if not address.endswith(identity.peer_id)):
        try:
            return Swarm.start(identity, replace(config, bootstrap=elsewhere))
        except NetworkError as error:
            if not remembered:
                raise
            log.warning("no peer of last time answers; waiting for them (%s)", error.what)
            identity = Identity.open(identity.path)
    return Swarm.start(identity, replace(config, bootstrap=()))


def _folder(home: Path, peer: PeerId) -> Path:
    folder = home / "bootstrap" / peer
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise StorageError(f"can't make {folder}", reason_of(error), "choose another folder with --home") from None
    return folder


def _log_to(path: Path | None, json_lines: bool) -> None:
    """Write this process's log to a file that is rotated; without one, to the stream that JSON lines do not use."""
    handler: logging.Handler
    try:
        if path is None:
            handler = logging.StreamHandler(sys.stderr if json_lines else sys.stdout)
        else:
            path.open("a").close()  # raises now if that is impossible
            handler = output.LogFile(path, OLD_LOGS, output.say_on_stderr)
    except OSError as error:
        raise StorageError(f"can't write the log {path}", reason_of(error), "choose another file with --log") from None
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("p2ptrain")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
