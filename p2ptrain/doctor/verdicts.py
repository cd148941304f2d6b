"""What `p2ptrain doctor` makes of what it has measured. Pure: facts in, one finding out; nothing is asked here."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from p2ptrain.run.needs import Needs
from p2ptrain.units import counted, duration, size

Verdict = Literal["ok", "warning", "problem"]

GB, MB, KB = 1e9, 1e6, 1e3
SHOWN_PACKAGES = ("torch", "hivemind", "transformers")

LEAST_MEMORY, GOOD_MEMORY = 0.8 * GB, 2 * GB
"""A peer without any model takes 0.5 GB: torch, hivemind and p2pd."""
LEAST_DISK, GOOD_DISK = 0.5 * GB, 5 * GB
SLOW_SYNC = 0.5
"""Seconds for one file of a byte. Every update is synced before others hear of it."""
LEAST_FILES, GOOD_FILES = 256, 1024
"""Open files: a peer with 64 calls at once, its ledger, snapshots and libraries stays below 256."""
NOTABLE_CLOCK, WRONG_CLOCK = 10.0, 3600.0
GOOD_LINE, LEAST_LINE = 125 * KB, 12.5 * KB
"""Bytes per second: 1 Mbit/s, 0.1 Mbit/s."""
ROOM = 1.5
"""Times what is surely needed: below that it may be too little when batches and buffers come on top."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's."""

    check: str
    verdict: Verdict
    text: str
    next_step: str = ""
    """What to type or do; empty if the verdict is ok."""


# This machine --------------------------------------------------------------------------------------------------------


def versions(
    python: str, needed_python: str, installed: Mapping[str, str | None], needed: Sequence[Requirement], own: str
) -> Finding:
    """Args:
    installed: the version of each package that is needed; None where there is none.
    own: p2ptrain's version.
    """
    shown = ", ".join(f"{name} {installed.get(name) or 'missing'}" for name in SHOWN_PACKAGES)
    text = f"p2ptrain {own}, python {python}, {shown}"
    if not SpecifierSet(needed_python).contains(python, prereleases=True):
        return Finding("versions", "problem", f"{text}: needs python {needed_python}", "python3.11 -m venv .venv")
    wrong = [each for each in needed if not _fits(installed.get(each.name), each)]
    if wrong:
        told = ", ".join(f"{each.name}{each.specifier} (found {installed.get(each.name) or 'none'})" for each in wrong)
        asked = " ".join(f"'{each.name}{each.specifier}'" for each in wrong)
        return Finding("versions", "problem", f"{text}: needs {told}", f"pip install {asked}")
    return Finding("versions", "ok", text)


def _fits(version: str | None, needed: Requirement) -> bool:
    return version is not None and needed.specifier.contains(version, prereleases=True)


def memory(available: float, total: float) -> Finding:
    text = f"{size(available)} of {size(total)} free"
    if available >= GOOD_MEMORY:
        return Finding("memory", "ok", text)
    verdict: Verdict = "problem" if available < LEAST_MEMORY else "warning"
    return Finding("memory", verdict, f"{text}: enough for small models at most", "close other programs")


def open_files(soft: int, hard: int) -> Finding:
    """Limits on open files; −1: none."""
    if soft < 0 or soft >= GOOD_FILES:
        return Finding("open files", "ok", "no limit" if soft < 0 else f"{soft} allowed")
    verdict: Verdict = "problem" if soft < LEAST_FILES else "warning"
    text = f"{soft} allowed, a peer among many others wants {GOOD_FILES}"
    if 0 <= hard < GOOD_FILES:
        return Finding(
            "open files", verdict, f"{text}; the system's limit is {hard}", "raise nofile in /etc/security/limits.conf"
        )
    return Finding("open files", verdict, text, f"ulimit -n {4 * GOOD_FILES}")


def disk(folder: str, free: float, total: float, sync_seconds: float | None, failure: str = "") -> Finding:
    """Args:
    sync_seconds: what writing and syncing a small file took; None if it failed, as `failure` says.
    """
    if sync_seconds is None:
        return Finding("disk", "problem", f"can't write to {folder}: {failure}", "--home FOLDER_YOU_CAN_WRITE")
    text = f"{size(free)} of {size(total)} free in {folder}"
    if free < GOOD_DISK:
        verdict: Verdict = "problem" if free < LEAST_DISK else "warning"
        return Finding("disk", verdict, f"{text}: enough for small models at most", "free some, or --home OTHER_DISK")
    if sync_seconds > SLOW_SYNC:
        return Finding(
            "disk", "warning", f"{text}; syncing one file takes {sync_seconds:.1f} s", "--home FOLDER_ON_A_LOCAL_DISK"
        )
    return Finding("disk", "ok", text)


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """A key file that is there."""

    path: str
    mode: int
    failure: str = ""
    """Why it can't be used; empty if it can."""
    in_use: bool = False


def identity(keys: Sequence[KeyFacts], given: str | None) -> Finding:
    """Args:
    given: the file that --identity names; None: the next free one is taken, or made.
    """
    for key in keys:
        if key.failure:
            return Finding("identity", "problem", f"{key.path}: {key.failure}", "--identity ANOTHER_FILE")
        if key.in_use and given is not None:
            return Finding(
                "identity",
                "problem",
                f"{key.path} is in use by another process",
                "stop that process, or leave out --identity",
            )
    for key in keys:
        if key.mode & 0o077:
            return Finding(
                "identity",
                "warning",
                f"{key.path} can be read by others (mode {key.mode:03o})",
                f"chmod 400 {key.path}",
            )
    free = [key for key in keys if not key.in_use]
    if free:
        return Finding("identity", "ok", free[0].path)
    return Finding("identity", "ok", "all in use, the next is made at the start" if keys else "is made at the start")


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """What training would compute on."""

    name: str
    kind: str
    """cpu, cuda, mps."""
    memory: tuple[float, float] | None
    """(free, total) bytes of its own; None where it shares the machine's."""
    failure: str
    """What went wrong with a small computation; empty if nothing did."""
    bf16: bool
    gpu_without_torch: bool = False
    """The machine has an NVIDIA GPU that torch can't use."""


def device(facts: DeviceFacts) -> Finding:
    text = facts.name
    if facts.memory is not None:
        text += f", {size(facts.memory[0])} of {size(facts.memory[1])} free"
    text += ", bf16" if facts.bf16 else ", no bf16"
    if facts.failure:
        return Finding("device", "problem", f"{text}: {facts.failure}", "p2ptrain doctor --device cpu")
    if facts.kind == "cpu" and facts.gpu_without_torch:
        return Finding(
            "device",
            "warning",
            f"{text}; there is an NVIDIA GPU that this torch can't use",
            "pip install --force-reinstall torch",
        )
    return Finding("device", "ok", text)


# The swarm -----------------------------------------------------------------------------------------------------------


def clock(offsets: Sequence[tuple[float, float]]) -> Finding:
    """Args:
    offsets: (the swarm's time minus this machine's, seconds that asking took), one for each peer that told.
    """
    if not offsets:
        return Finding("clock", "warning", "no peer told its time", "p2ptrain doctor INVITE")
    offset = sorted(offset for offset, _ in offsets)[len(offsets) // 2]
    certain = max(0.0, abs(offset) - max(took for _, took in offsets) / 2)
    if certain <= NOTABLE_CLOCK:
        return Finding("clock", "ok", f"within {max(abs(offset), 0.1):.1f} s of the swarm's")
    direction = "behind" if offset > 0 else "ahead of"
    text = f"{duration(abs(offset))} {direction} the swarm's; p2ptrain goes by the swarm's"
    verdict: Verdict = "problem" if certain > WRONG_CLOCK else "warning"
    return Finding("clock", verdict, text, "timedatectl set-ntp true")


@dataclass(frozen=True, slots=True)
class DialledBack:
    """What one peer says that it has seen of this one."""

    ip: str
    ports: tuple[int, ...]
    """That it reached this peer at."""


def reachability(
    listening: Sequence[int], announced: Sequence[str], told: Sequence[DialledBack], refusals: Sequence[str]
) -> Finding:
    """Args:
    listening: TCP ports that peers were asked to dial.
    announced: IPs that this peer would tell others.
    refusals: why the other peers that were asked did not dial.
    """
    name = "reachable"
    if not listening:
        return Finding(
            name,
            "warning",
            "not tested: peers dial port 443 and TCP ports from 1024 on only",
            "--listen /ip4/0.0.0.0/tcp/31337",
        )
    if not told:
        why = f" ({refusals[0]})" if refusals else ""
        return Finding(name, "warning", f"not tested: no peer dialled back{why}", "wait a minute and try again")
    reached = [each for each in told if each.ports]
    if not reached:
        seen, port = told[0].ip, listening[0]
        return Finding(
            name,
            "warning",
            f"no: {counted(len(told), 'peer')} dialled {seen} in vain; training works, but others reach you through "
            "relays only",
            f"forward TCP port {port} to this machine, then "
            f"--listen /ip4/0.0.0.0/tcp/{port} --announce /{_family(seen)}/{seen}/tcp/{port}",
        )
    seen = reached[0].ip
    text = f"{len(reached)} of {len(told)} peers reached {_with_port(seen, reached[0].ports[0])}{_scope(seen)}"
    wrong = [ip for ip in announced if ip not in {each.ip for each in told}]
    if wrong:
        return Finding(
            name,
            "warning",
            f"{text}; nobody sees the announced {wrong[0]}",
            f"--announce /{_family(seen)}/{seen}/tcp/{reached[0].ports[0]}",
        )
    return Finding(name, "ok", text)


def _family(ip: str) -> str:
    return f"ip{ipaddress.ip_address(ip).version}"


def _with_port(ip: str, port: int) -> str:
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def _scope(ip: str) -> str:
    """From how far away a peer was that saw this address."""
    address = ipaddress.ip_address(ip)
    if address.is_loopback:
        return ", from this machine; nobody outside has tried"
    return "" if address.is_global else ", from your own network; nobody outside has tried"


def bandwidth(down: float | None, up: float | None, refusal: str = "") -> Finding:
    """Bytes per second from and to a peer of the invite; None where it could not be measured, as `refusal` says."""
    parts = [f"{speed(rate)} {way}" for way, rate in (("down", down), ("up", up)) if rate is not None]
    if refusal or not parts:
        text = ", ".join([*parts, f"not measured: {refusal or 'no peer to measure with'}"])
        return Finding("bandwidth", "warning", text, "wait a minute and try again")
    slowest = min(rate for rate in (down, up) if rate is not None)
    if slowest >= GOOD_LINE:
        return Finding("bandwidth", "ok", ", ".join(parts))
    verdict: Verdict = "problem" if slowest < LEAST_LINE else "warning"
    return Finding(
        "bandwidth", verdict, f"{', '.join(parts)}: contributions will come late", "stop what else uses the line"
    )


# A run ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RunFacts:
    """A run and what this machine has for it."""

    name: str
    contents: str
    peers: int
    parameters: int
    needs: Needs
    free_memory: float
    free_device: float | None
    free_disk: float
    own_files: bool = False
    """The run trains on files that each volunteer names."""
    down: float | None = None
    """Bytes per second."""


def run(facts: RunFacts) -> Finding:
    text = f"{facts.name}: {facts.contents}, {facts.parameters:,} parameters, {counted(facts.peers, 'peer')}"
    join = "p2ptrain join INVITE"
    if facts.own_files:
        text, join = f"{text}; it trains on files that you name", f"{join} --data FILES"
    wanted = facts.needs
    places = [
        ("memory", wanted.host, facts.free_memory, "close other programs"),
        ("GPU memory", wanted.device, facts.free_device, "--device cpu"),
        ("disk", wanted.disk, facts.free_disk, "--home OTHER_DISK"),
    ]
    for place, need, free, step in places:
        if free is not None and free < need:
            return Finding("run", "problem", f"{text}; takes {size(need)} of {place}, {size(free)} are free", step)
    for place, need, free, step in places:
        if free is not None and free < ROOM * need:
            told = f"{text}; takes at least {size(need)} of {place}, {size(free)} are free"
            return Finding("run", "warning", told, f"{join} --batch-size 1, or {step}")
    seconds = wanted.fetched / facts.down if facts.down else 0.0
    fetch = f", {duration(seconds)} to fetch" if seconds >= 1 else ""
    text = f"{text}; state of {size(wanted.fetched)} at most{fetch}"
    return Finding("run", "warning", text, join) if facts.own_files else Finding("run", "ok", text)


def exit_code(findings: Sequence[Finding]) -> int:
    return int(any(finding.verdict == "problem" for finding in findings))


def speed(rate: float) -> str:
    return f"{8 * rate / MB:.1f} Mbit/s"
