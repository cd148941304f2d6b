"""The checks of a swarm and of the run that an invite names. They use an identity that is deleted afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from p2ptrain.doctor import verdicts
from p2ptrain.doctor.check import checked, failed
from p2ptrain.doctor.machine import free_memory
from p2ptrain.doctor.verdicts import DialledBack, Finding, RunFacts
from p2ptrain.errors import NetworkError, P2PTrainError, UsageError
from p2ptrain.paths import nearest
from p2ptrain.peer import Volunteer
from p2ptrain.run import Digest, PeerId
from p2ptrain.run.needs import needs_of
from p2ptrain.run.summary import contents
from p2ptrain.state.home import default_home
from p2ptrain.state.passing import passing
from p2ptrain.state.run import fetch_genesis
from p2ptrain.swarm import Invite, NodeConfig, Presence, RpcError, Swarm
from p2ptrain.swarm.addresses import address_parts, by_peer, host_of
from p2ptrain.swarm.probe import LOWEST_PORT, PORTS_PER_CALL, ask_to_dial_back, measure_down, measure_up
from p2ptrain.swarm.sockets import check_port
from p2ptrain.swarm.swarm import Hello, HelloAnswer

ASKED = 4
"""Number of peers that are asked to dial back."""
CALL_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Greeted:
    """A peer named in the invite that has answered."""

    peer: PeerId
    answer: HelloAnswer
    round_trip: float
    """Seconds."""
    offset: float
    """The peer's clock minus this machine's clock, in seconds."""


def swarm_findings(volunteer: Volunteer, link: str) -> Iterator[Finding]:
    """The findings about the invite. If the swarm can't be reached, there is one finding only."""
    try:
        invite = Invite.parse(link)
    except P2PTrainError as error:
        yield failed("invite", error)
        return
    listen = volunteer.listen or NodeConfig().listen
    listens = _can_listen(listen)
    with contextlib.ExitStack() as stack:
        try:
            visit = passing(invite, listen, volunteer.announce) if listens else passing(invite)
            swarm = stack.enter_context(visit)
        except P2PTrainError as error:
            yield failed("swarm", error)
            return
        yield from _within(swarm, invite, volunteer, listens)


def _can_listen(addresses: Sequence[str]) -> bool:
    try:
        for address in addresses:
            check_port(address)
    except (NetworkError, UsageError, ValueError):
        return False
    return True


def _within(swarm: Swarm, invite: Invite, volunteer: Volunteer, listens: bool) -> Iterator[Finding]:
    invited = set(by_peer(invite.addresses))
    greeted: list[Greeted] = []

    def reached() -> Finding:
        greeted.extend(swarm.run(_greet_all(swarm, invited), CALL_SECONDS))
        return _reached(greeted, len(invited))

    yield checked("swarm", reached)
    yield checked("clock", lambda: verdicts.clock([(each.offset, each.round_trip) for each in greeted]))
    presences: dict[PeerId, Presence] = {}
    if invite.run is not None:
        with contextlib.suppress(Exception):  # the checks below report an empty directory
            presences = swarm.run(swarm.directory.peers(invite.run), CALL_SECONDS)
    if listens:
        yield checked("reachable", lambda: _reachability(swarm, [each.peer for each in greeted], presences, volunteer))
    else:
        text = "not tested: this machine can't listen at the address, see above"
        yield Finding("reachable", "warning", text, "--listen ANOTHER_PORT")
    down: float | None = None

    def line() -> Finding:
        nonlocal down
        down, up, refusal = swarm.run(_measure(swarm, greeted), CALL_SECONDS)
        return verdicts.bandwidth(down, up, refusal)

    yield checked("bandwidth", line)
    if (run := invite.run) is None:
        yield Finding("run", "ok", "none: the invite comes from a bootstrap node and names no run")
    else:
        yield checked("run", lambda: _run(swarm, run, presences, volunteer, down))


# The swarm -----------------------------------------------------------------------------------------------------------


async def _greet_all(swarm: Swarm, invited: set[PeerId]) -> list[Greeted]:
    met = await asyncio.gather(*(_greet(swarm, peer) for peer in invited & await swarm.node.connected()))
    return sorted(filter(None, met), key=lambda each: each.round_trip)


async def _greet(swarm: Swarm, peer: PeerId) -> Greeted | None:
    asked, began = time.time(), time.monotonic()
    try:
        answer = await swarm.rpc.call(peer, "hello", Hello(), HelloAnswer)
    except RpcError:
        return None
    took = time.monotonic() - began
    return Greeted(peer, answer, took, answer.time - (asked + took / 2))


def _reached(greeted: Sequence[Greeted], invited: int) -> Finding:
    if not greeted:
        return Finding("swarm", "problem", "no peer of the invite answers", "ask for a newer invite")
    nearest = greeted[0]
    text = (
        f"{len(greeted)} of {invited} peers of the invite answer; the nearest runs {nearest.answer.software}, "
        f"protocol {nearest.answer.newest_protocol}, {1000 * nearest.round_trip:.0f} ms away"
    )
    some_silent = len(greeted) < invited
    return Finding("swarm", "warning", text, "ask for a newer invite") if some_silent else Finding("swarm", "ok", text)


def _reachability(
    swarm: Swarm, greeted: Sequence[PeerId], presences: dict[PeerId, Presence], volunteer: Volunteer
) -> Finding:
    addresses = [_place(address) for address in swarm.addresses()]
    ports = list(dict.fromkeys(port for _, port in filter(None, addresses) if port == 443 or port >= LOWEST_PORT))
    announced = [place[0] for place in map(_place, volunteer.announce) if place]
    told, refusals = swarm.run(_ask(swarm, greeted, presences, tuple(ports[:PORTS_PER_CALL])), 2 * CALL_SECONDS)
    return verdicts.reachability(ports, announced, told, refusals)


def _place(address: str) -> tuple[str, int] | None:
    """(IP, TCP port) of a direct libp2p address."""
    host, parts = host_of(address), address_parts(address)
    return (str(host), parts[2]) if host is not None and parts is not None and parts[1] == "tcp" else None


async def _ask(
    swarm: Swarm, greeted: Sequence[PeerId], presences: dict[PeerId, Presence], ports: tuple[int, ...]
) -> tuple[list[DialledBack], list[str]]:
    """(what some peers saw when they dialled back, why other peers did not dial)."""
    if not ports:
        return [], []
    others = [peer for peer in presences if peer not in greeted]
    told: list[DialledBack] = []
    refusals: list[str] = []

    async def ask(peer: PeerId) -> None:
        try:
            if peer in others:
                await swarm.node.connect(peer, presences[peer].addresses)
            answer = await ask_to_dial_back(swarm.rpc, peer, ports)
        except RpcError as error:
            refusals.append(_why(error))
        except NetworkError as error:
            refusals.append(error.why)
        else:
            told.append(DialledBack(answer.seen, answer.reached))

    await asyncio.gather(*(ask(peer) for peer in [*greeted, *others][:ASKED]))
    return told, refusals


async def _measure(swarm: Swarm, greeted: Sequence[Greeted]) -> tuple[float | None, float | None, str]:
    """(bytes per second from the nearest peer of the invite, bytes per second to it, why they were not measured)."""
    if not greeted:
        return None, None, "no peer of the invite answers"
    nearest, down, up = greeted[0], None, None
    try:
        down = await measure_down(swarm.rpc, nearest.peer)
        up = await measure_up(swarm.rpc, nearest.peer, nearest.round_trip)
    except RpcError as error:
        return down, up, _why(error)
    return down, up, ""


def _why(error: RpcError) -> str:
    old = error.reason == "unknown method"
    return "it runs an older version of p2ptrain" if old else error.detail or error.reason


# The run -------------------------------------------------------------------------------------------------------------


def _run(
    swarm: Swarm, run: Digest, presences: dict[PeerId, Presence], volunteer: Volunteer, down: float | None
) -> Finding:
    """Compare what the run needs with what this machine has.

    Raises:
        P2PTrainError: the run's genesis and spec, or its model's configuration, can't be had.
    """
    _, spec = swarm.run(fetch_genesis(swarm, run), CALL_SECONDS)
    if spec.is_custom:
        text = f"{spec.run.name}: sizes are unknown, because its founder's own program makes model and data"
        return Finding("run", "ok", text)
    from p2ptrain.tasks.documents import own_files
    from p2ptrain.tasks.model import count_parameters

    parameters, trained = count_parameters(spec)
    free_device = _free_on_gpu(volunteer.device)
    return verdicts.run(
        RunFacts(
            name=spec.run.name,
            contents=contents(spec),
            peers=len(presences),
            parameters=parameters,
            needs=needs_of(spec, parameters, trained, free_device is not None, len(presences) + 1),
            free_memory=free_memory()[0],
            free_device=free_device,
            free_disk=shutil.disk_usage(nearest(volunteer.home or default_home())).free,
            own_files=bool(own_files(spec)),
            down=down,
        )
    )


def _free_on_gpu(name: str) -> float | None:
    """Free bytes of the GPU's memory; None if training computes in main memory."""
    import torch

    from p2ptrain.tasks import LocalOptions
    from p2ptrain.tasks.local import open_device

    device = open_device(LocalOptions(device=name))
    return float(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else None
