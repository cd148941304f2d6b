"""`p2ptrain runs`: the public runs in a swarm, with what their peers say; and how a command finds a run by its name."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from p2ptrain.commands.listing import print_list
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
"""The peers of at most this many runs are looked up. If there are more, a draw decides: in any fixed order, somebody
could come first by making ids."""
AT_ONCE = 8
LOOK_SECONDS = 30.0
SUGGESTED = 10

log = logging.getLogger(__name__)
Addresses = tuple[str, ...]
Tell = Callable[[str], None]
"""Gets warnings."""
Meant = Callable[[Genesis, RunSpec], bool]


def show_runs(swarms: Sequence[Addresses], json_lines: bool) -> None:
    """Print the runs in these swarms that have peers, as a table, plain lines or JSON lines. Raises NetworkError if
    nobody answers in any of the swarms."""
    runs, now = [seen for seen in look(swarms, warn) if seen.peers], clock.swarm_time()
    facts = (run_fields(seen, now) for seen in in_order(runs))
    print_list(json_lines, facts, runs_table(runs, now) if runs else None, runs_lines(runs, now), "no runs")


def warn(text: str) -> None:
    """Print a warning to standard error: standard output is for the list."""
    print(printable(f"warning: {text}"), file=sys.stderr)


def is_name(text: str) -> bool:
    """Whether `find_run` can look for this: it may be a run's name, or the first characters of its id."""
    return re.fullmatch(r"[a-z0-9][a-z0-9-]{0,63}", text) is not None


def swarms_to_look_in(invites: Sequence[str], nodes: Path | None, tell: Tell) -> list[Addresses]:
    """The addresses of the swarms to search for runs. Raises InviteError if an invite is damaged, or the list can't be
    read, and NetworkError if the list has no entry that can be used.

    Args:
        invites: each leads to a swarm; if there are none, the listed bootstrap nodes lead to one.
        nodes: the file that lists them; None: the list that came with p2ptrain.
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
            "there is no swarm to search: no bootstrap node is known",
            f"no entry of {path} can be used" if listed else f"{path} lists none",
            "search a swarm that you have an invite to: --bootstrap INVITE; or start a run: p2ptrain peer RUN",
        )
    return [found]


def find_invite(name: str, invites: Sequence[str], nodes: Path | None, reporter: Reporter) -> Invite:
    """An invite to the run of this name, for a peer that joins. Tells the reporter which run it is. Raises
    what `swarms_to_look_in`, `find_run` and `check_joinable` raise."""

    def tell(text: str) -> None:
        reporter.emit(events.Warned(text))

    seen = find_run(name, swarms_to_look_in(invites, nodes, tell), tell)
    check_joinable(seen)
    reporter.emit(events.Preparing(f"found {seen}"))
    return seen.invite


def find_run(name: str, swarms: Sequence[Addresses], tell: Tell) -> RunSeen:
    """The one run in these swarms that has this name and peers.

    Args:
        name: the name, or the first characters of the id.

    Raises:
        NetworkError: there is no such run, or nobody answers.
        InviteError: there are several; the error lists their ids.
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
            f"{len(going_on)} runs are called {name!r}: anybody can give a run any name",
            _listed(f"{seen.run.hex()} {seen}" for seen in going_on),
            "ask the founder which id is right, and give its first characters instead of the name",
        )
    others = [str(seen) for seen in runs if seen.peers]
    if meant:
        why = _listed(f"{seen} is announced, but none of its peers is online" for seen in meant)
    else:
        why = _listed(["these runs have peers:", *others]) if others else "no run there has peers"
    step = "list the runs with `p2ptrain runs`, or ask somebody for an invite"
    raise NetworkError(f"found no run called {name!r}", why, step)


def _listed(lines: Iterable[str]) -> str:
    """The first lines, one below the other, indented as `why` is printed."""
    return "\n        ".join(itertools.islice(lines, SUGGESTED))


def check_joinable(seen: RunSeen) -> None:
    """Raises SpecError if the run needs its author's program."""
    if seen.spec.is_custom:
        what, why = f"{seen} can't be joined with this command", "a program of its founder makes the model and the data"
        raise SpecError(what, why, f"get that program from the founder and give it this invite: {seen.invite}")


def look(swarms: Sequence[Addresses], tell: Tell, is_meant: Meant = lambda genesis, spec: False) -> list[RunSeen]:
    """The runs that are announced in these swarms, with their peers; if `is_meant` holds for some, only those. Raises
    NetworkError if nobody answers in any of the swarms."""
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
            before = found.get(seen.run, seen)  # two invites can lead to the same swarm
            peers = {peer.author: peer for peer in (*before.peers, *seen.peers)}
            found[seen.run] = replace(before, peers=tuple(peers.values()))
    if len(failures) == len(swarms):
        raise failures[0]
    for failure in failures:
        tell(failure.brief)
    return list(found.values())


async def _look(swarm: Swarm, addresses: Addresses, is_meant: Meant) -> tuple[list[RunSeen], int]:
    """The runs that were looked at, and how many were not."""
    try:
        async with asyncio.timeout(LOOK_SECONDS):
            announced = await swarm.directory.runs()
    except TimeoutError:
        why = f"no answer came in {LOOK_SECONDS:.0f} s"
        raise NetworkError("the swarm did not list its runs", why, "try again") from None
    readable = list(_readable(announced))
    candidates = [each for each in readable if is_meant(*each)] or readable
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
    """The public runs whose spec this version can read."""
    for each in announced:
        try:
            spec = spec_from_canonical(each.spec)
        except MalformedError as error:
            log.debug("an announced run can't be read: %s", error)
            continue
        if is_announced(spec):
            yield each.genesis, spec
