"""Which runs are there? The list of runs in a swarm, with what their peers say, and the one of a given name."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import random
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from p2ptrain.errors import InviteError, MalformedError, NetworkError, SpecError
from p2ptrain.monitor import Reporter, events
from p2ptrain.monitor.runs import RunSeen, in_order, run_fields, runs_lines, runs_table
from p2ptrain.run import Digest, Genesis, RunSpec, spec_from_canonical
from p2ptrain.run.digest import SHORTEST_ID
from p2ptrain.state.passing import passing
from p2ptrain.swarm import Invite, Swarm, clock
from p2ptrain.swarm.announcement import Announcement, is_announced
from p2ptrain.swarm.nodes import read_nodes, shipped_list
from p2ptrain.text import printable

MAX_LOOKED_AT = 200
"""Runs whose peers are asked for. If there are more, these are drawn by lot: an order could be had by making ids."""
AT_ONCE = 8
LOOK_SECONDS = 30.0
SUGGESTED = 10

log = logging.getLogger(__name__)
Addresses = tuple[str, ...]
Tell = Callable[[str], None]
Meant = Callable[[Genesis, RunSpec], bool]


def show_runs(swarms: Sequence[Addresses], json_lines: bool) -> None:
    """Print the runs that are announced in these swarms and go on, as a table, plain lines or JSON lines.

    Raises:
        NetworkError: nobody answers in any of them.
    """
    runs, now = [seen for seen in look(swarms, warn) if seen.peers], clock.swarm_time()
    if json_lines:
        for seen in in_order(runs):
            print(json.dumps(run_fields(seen, now)))
    elif sys.stdout.isatty() and runs:
        Console().print(runs_table(runs, now))
    else:
        print("\n".join(runs_lines(runs, now)) or "no runs")


def warn(text: str) -> None:
    """Beside the list, not in it."""
    print(printable(f"warning: {text}"), file=sys.stderr)


def is_name(text: str) -> bool:
    """Whether this can be a run's name or the beginning of its id, as `find_run` takes them."""
    return re.fullmatch(r"[a-z0-9][a-z0-9-]{0,63}", text) is not None


def swarms_to_look_in(invites: Sequence[str], nodes: Path | None, tell: Tell) -> list[Addresses]:
    """Where to look: in the swarm of each invite; without any, in that of the listed bootstrap nodes.

    Raises:
        InviteError: an invite is damaged, or the list can't be read.
        NetworkError: the list has no entry that can be used.
    """
    if invites:
        return [Invite.parse(invite).swarm() for invite in invites]
    path = nodes or shipped_list()
    listed = read_nodes(path, datetime.now(UTC).date())
    for each in listed:
        if each.entry is None:
            tell(f"{path}: {each} (skipped)")
    found = tuple(address for each in listed if each.entry for address in each.entry.addresses)
    if not found:
        raise NetworkError(
            "there is no swarm to look in: no bootstrap node is known",
            f"{path} lists none" if not listed else f"no entry of {path} can be used",
            "look in a swarm that you have an invite of: --bootstrap INVITE; or start a run: p2ptrain peer RUN",
        )
    return [found]


def find_invite(name: str, invites: Sequence[str], nodes: Path | None, reporter: Reporter) -> Invite:
    """A link to the run of this name, for a peer that wants to join it; says which one it is.

    Raises:
        P2PTrainError: as `swarms_to_look_in`, `find_run` and `check_joinable` say.
    """

    def tell(text: str) -> None:
        reporter.emit(events.Warned(text))

    seen = find_run(name, swarms_to_look_in(invites, nodes, tell), tell)
    check_joinable(seen)
    reporter.emit(events.Preparing(f"found {seen}"))
    return seen.invite


def find_run(name: str, swarms: Sequence[Addresses], tell: Tell) -> RunSeen:
    """The one run that goes on in these swarms under this name, or whose id begins so.

    Raises:
        NetworkError: there is none, or nobody answers.
        InviteError: there are several; lists their ids.
    """

    def is_meant(genesis: Genesis, spec: RunSpec) -> bool:
        return name == spec.run.name or (len(name) >= SHORTEST_ID and genesis.digest.hex().startswith(name))

    runs = in_order(look(swarms, tell, is_meant))
    meant = [seen for seen in runs if is_meant(seen.genesis, seen.spec)]
    going_on = [seen for seen in meant if seen.peers]
    if len(going_on) == 1:
        return going_on[0]
    if going_on:
        raise InviteError(
            f"{len(going_on)} runs go by {name!r}: anybody can give a run any name",
            _listed(f"{seen.run.hex()} {seen}" for seen in going_on),
            "ask which one is meant, and give the beginning of its id",
        )
    others = [str(seen) for seen in runs if seen.peers]
    if meant:
        why = _listed(f"{seen} is announced, but none of its peers is there" for seen in meant)
    else:
        why = _listed(["those are there:", *others]) if others else "no run at all is there"
    raise NetworkError(
        f"no run called {name!r} goes on there", why, "see what there is with `p2ptrain runs`, or ask for an invite"
    )


def _listed(lines: Iterable[str]) -> str:
    """Below one another, as `why` is printed."""
    return "\n        ".join(itertools.islice(lines, SUGGESTED))


def check_joinable(seen: RunSeen) -> None:
    """Raises SpecError if the run needs its author's program."""
    if seen.spec.is_custom:
        raise SpecError(
            f"{seen} can't be joined with this command",
            "its model and data are made by a program of its founder",
            f"get that program from them and give it this invite: {seen.invite}",
        )


def look(swarms: Sequence[Addresses], tell: Tell, is_meant: Meant = lambda genesis, spec: False) -> list[RunSeen]:
    """The runs that are announced in these swarms, and their peers; where some are meant, those alone.

    Raises:
        NetworkError: nobody answers in any of them.
    """
    found: dict[Digest, RunSeen] = {}
    failures: list[NetworkError] = []
    for addresses in swarms:
        try:
            with passing(Invite(None, addresses)) as swarm:
                runs, left_out = swarm.run(_look(swarm, addresses, is_meant))
        except NetworkError as error:
            failures.append(error)
            continue
        if left_out:
            tell(f"{left_out} more runs are announced than were looked at")
        for seen in runs:
            before = found.get(seen.run, seen)  # two ways into one swarm
            peers = {peer.author: peer for peer in (*before.peers, *seen.peers)}
            found[seen.run] = replace(before, peers=tuple(peers.values()))
    if len(failures) == len(swarms):
        raise failures[0]
    for failure in failures:
        tell(failure.brief)
    return list(found.values())


async def _look(swarm: Swarm, addresses: Addresses, is_meant: Meant) -> tuple[list[RunSeen], int]:
    """What is there, and how many more there are that were not looked at."""
    try:
        async with asyncio.timeout(LOOK_SECONDS):
            announced = await swarm.directory.runs()
    except TimeoutError:
        raise NetworkError("the swarm does not say which runs there are", "no answer in time", "try again") from None
    candidates = list(_readable(announced))
    candidates = [each for each in candidates if is_meant(*each)] or candidates
    places = asyncio.Semaphore(AT_ONCE)

    async def see(genesis: Genesis, spec: RunSpec) -> RunSeen:
        async with places:
            peers = await swarm.directory.peers(genesis.digest)
        return RunSeen(genesis, spec, tuple(peers.values()), addresses)

    chosen = random.sample(candidates, min(MAX_LOOKED_AT, len(candidates)))
    looks = [asyncio.create_task(see(*each)) for each in chosen]
    done, late = await asyncio.wait(looks, timeout=LOOK_SECONDS) if looks else (set(), set())
    for task in late:
        task.cancel()
    seen = [task.result() for task in done]
    return seen, len(candidates) - len(seen)


def _readable(announced: Iterable[Announcement]) -> Iterator[tuple[Genesis, RunSpec]]:
    """Those whose spec this version understands, and which are for everybody."""
    for each in announced:
        try:
            spec = spec_from_canonical(each.spec)
        except MalformedError as error:
            log.debug("an announced run can't be read: %s", error)
            continue
        if is_announced(spec):
            yield each.genesis, spec
