"""How `p2ptrain doctor` judges what it has measured. Pure functions: each takes facts and returns one finding."""

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
"""Bytes. A peer with a tiny model takes 0.6 to 0.75 GB; see `run.needs`."""
LEAST_DISK, GOOD_DISK = 0.5 * GB, 5 * GB
"""Bytes."""
SLOW_SYNC = 0.5
"""Seconds to sync a file of one byte. A peer syncs each update to the disk before it tells others of it."""
LEAST_FILES, GOOD_FILES = 256, 1024
"""Open files. A peer that serves 64 calls at once stays below 256, with its ledger, snapshots and libraries."""
NOTABLE_CLOCK, WRONG_CLOCK = 10.0, 3600.0
"""Seconds."""
GOOD_LINE, LEAST_LINE = 125 * KB, 12.5 * KB
"""Bytes per second: 1 Mbit/s, 0.1 Mbit/s."""
ROOM = 1.25
"""With less than this many times the need there is a warning: the need is known to 15%, and batches come on top."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check has found."""

    check: str
    verdict: Verdict
    text: str
    next_step: str = ""
    """What the volunteer can type or do; empty if the verdict is ok."""


# This machine --------------------------------------------------------------------------------------------------------


def versions(
    python: str, needed_python: str, installed: Mapping[str, str | None], needed: Sequence[Requirement], own: str
) -> Finding:
    """Judge the versions of Python and of the packages that p2ptrain needs.

    Args:
        installed: the version of each needed package; None if the package is missing.
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
    """Judge the main memory; both in bytes."""
    text = f"{size(available)} of {size(total)} free"
    if available >= GOOD_MEMORY:
        return Finding("memory", "ok", text)
    verdict: Verdict = "problem" if available < LEAST_MEMORY else "warning"
    return Finding("memory", verdict, f"{text}: enough for small models at most", "close other programs")


def open_files(soft: int, hard: int) -> Finding:
    """Judge the limits on open files; −1 means no limit."""
    if soft < 0 or soft >= GOOD_FILES:
        return Finding("open files", "ok", "no limit" if soft < 0 else f"{soft} allowed")
    verdict: Verdict = "problem" if soft < LEAST_FILES else "warning"
    text = f"{soft} allowed; a peer in a large swarm needs {GOOD_FILES}"
    step = f"ulimit -n {4 * GOOD_FILES}"
    if 0 <= hard < GOOD_FILES:
        text, step = f"{text}; the system's limit is {hard}", "raise nofile in /etc/security/limits.conf"
    return Finding("open files", verdict, text, step)


def disk(folder: str, free: float, total: float, sync_seconds: float | None, failure: str = "") -> Finding:
    """Judge the disk of a folder.

    Args:
        free, total: bytes.
        sync_seconds: time to write and sync a small file; None if that failed.
        failure: why it failed.
    """
    if sync_seconds is None:
        return Finding("disk", "problem", f"can't write to {folder}: {failure}", "--home FOLDER_YOU_CAN_WRITE")
    text = f"{size(free)} of {size(total)} free in {folder}"
    if free < GOOD_DISK:
        verdict: Verdict = "problem" if free < LEAST_DISK else "warning"
        return Finding("disk", verdict, f"{text}: enough for small models at most", "free some, or --home OTHER_DISK")
    if sync_seconds > SLOW_SYNC:
        text += f"; syncing one file takes {sync_seconds:.1f} s"
        return Finding("disk", "warning", text, "--home FOLDER_ON_A_LOCAL_DISK")
    return Finding("disk", "ok", text)


def temporary(tried: Sequence[tuple[str, str]]) -> Finding:
    """Judge the folders for temporary files, which p2pd's sockets need.

    Args:
        tried: (folder, why it can't be used, empty if it can), the best place first; all until the first that can.
    """
    step = "set TMPDIR to a folder that you can write, with a short path"
    refused = "; ".join(f"{folder}: {why}" for folder, why in tried if why)
    usable = [folder for folder, why in tried if not why]
    if not usable:
        return Finding("temporary", "problem", refused, step)
    if refused:
        return Finding("temporary", "warning", f"{refused}; sockets go to {usable[0]}", step)
    return Finding("temporary", "ok", usable[0])


def caches(own: str | None, refusal: str, instead: str | None, hub: str, hub_refusal: str) -> Finding:
    """Judge the folders where libraries keep what they download and compile.

    Args:
        own: this user's folder; None without a home folder.
        refusal: why it can't be written; empty if it can.
        instead: the folder that a peer uses then; None if there is none.
        hub: where downloads of the hub go.
        hub_refusal: why that can't be written.
    """
    if refusal:
        text = f"can't write to {own}: {refusal}" if own else "this user has no home folder"
        step = "set HOME to a folder that you can write"
        if instead is None:
            return Finding("caches", "problem", text, step)
        return Finding("caches", "warning", f"{text}; downloads and compiled code go to {instead}", step)
    if hub_refusal:
        text = f"can't write to {hub}: {hub_refusal}; only what is there already can be loaded"
        return Finding("caches", "warning", text, "set HF_HOME to a folder that you can write")
    return Finding("caches", "ok", f"{own}, and {hub} for the hub" if hub else f"{own}")


def shared_memory(is_usable: bool) -> Finding:
    """Judge /dev/shm. hivemind asks for it, and p2ptrain does without it."""
    return Finding("/dev/shm", "ok", "usable" if is_usable else "can't be used; p2ptrain does without it")


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """A key file that exists."""

    path: str
    mode: int
    failure: str = ""
    """Why it can't be used; empty if it can be used."""
    in_use: bool = False
    """Another process uses it."""


def identity(keys: Sequence[KeyFacts], given: str | None) -> Finding:
    """Judge the key files.

    Args:
        given: the file that --identity names. None: the peer takes the first free file, or makes one.
    """
    for key in keys:
        if key.failure:
            return Finding("identity", "problem", f"{key.path}: {key.failure}", "--identity ANOTHER_FILE")
        if key.in_use and given is not None:
            text = f"{key.path} is in use by another process"
            return Finding("identity", "problem", text, "stop that process, or leave out --identity")
    for key in keys:
        if key.mode & 0o077:
            text = f"{key.path} can be read by others (mode {key.mode:03o})"
            return Finding("identity", "warning", text, f"chmod 400 {key.path}")
    none_free = "all keys are in use; the peer makes another one" if keys else "the peer makes a key"
    return Finding("identity", "ok", next((key.path for key in keys if not key.in_use), f"{none_free} when it starts"))


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """The device that training would compute on."""

    name: str
    kind: str
    """cpu, cuda, mps."""
    memory: tuple[float, float] | None
    """(free, total) bytes of its own memory; None if it uses the machine's main memory."""
    failure: str
    """What went wrong with a small computation; empty if nothing went wrong."""
    bf16: bool
    """It multiplies matrices in bf16."""
    gpu_without_torch: bool = False
    """There is an NVIDIA GPU that torch can't use."""


def device(facts: DeviceFacts) -> Finding:
    """Judge the device."""
    text = facts.name
    if facts.memory is not None:
        text += f", {size(facts.memory[0])} of {size(facts.memory[1])} free"
    text += ", bf16" if facts.bf16 else ", no bf16"
    if facts.failure:
        return Finding("device", "problem", f"{text}: {facts.failure}", "p2ptrain doctor --device cpu")
    if facts.kind == "cpu" and facts.gpu_without_torch:
        text += "; there is an NVIDIA GPU, but this installation of torch can't use it"
        return Finding("device", "warning", text, "pip install --force-reinstall torch")
    return Finding("device", "ok", text)


# The swarm -----------------------------------------------------------------------------------------------------------


def clock(offsets: Sequence[tuple[float, float]]) -> Finding:
    """Judge this machine's clock by the median of the others' clocks.

    Args:
        offsets: (a peer's clock minus this machine's, how long the question took), in seconds, one for each peer.
    """
    if not offsets:
        return Finding("clock", "warning", "no peer has told its time", "p2ptrain doctor INVITE")
    offset = sorted(offset for offset, _ in offsets)[len(offsets) // 2]
    certain = max(0.0, abs(offset) - max(took for _, took in offsets) / 2)
    if certain <= NOTABLE_CLOCK:
        return Finding("clock", "ok", f"within {max(abs(offset), 0.1):.1f} s of the swarm's clock")
    direction = "behind" if offset > 0 else "ahead of"
    text = f"{duration(abs(offset))} {direction} the swarm's clock; p2ptrain uses the swarm's clock"
    verdict: Verdict = "problem" if certain > WRONG_CLOCK else "warning"
    return Finding("clock", verdict, text, "timedatectl set-ntp true")


@dataclass(frozen=True, slots=True)
class DialledBack:
    """What a peer saw when it dialled this one."""

    ip: str
    """Of this machine, as the peer sees it."""
    ports: tuple[int, ...]
    """TCP ports at which the peer reached this one."""


def reachability(
    listening: Sequence[int], announced: Sequence[str], told: Sequence[DialledBack], refusals: Sequence[str]
) -> Finding:
    """Judge whether other peers can connect to this one.

    Args:
        listening: TCP ports that peers were asked to dial.
        announced: IP addresses that this peer would tell others.
        told: what the peers that dialled saw.
        refusals: why the others did not dial.
    """
    name = "reachable"
    if not listening:
        text = "not tested: other peers dial only TCP port 443 and ports from 1024 upwards"
        return Finding(name, "warning", text, "--listen /ip4/0.0.0.0/tcp/31337")
    if not told:
        why = f" ({refusals[0]})" if refusals else ""
        return Finding(name, "warning", f"not tested: no peer dialled back{why}", "wait a minute and try again")
    reached = [each for each in told if each.ports]
    if not reached:
        seen, port = told[0].ip, listening[0]
        text = f"no: {counted(len(told), 'peer')} dialled {seen} and could not connect; training works, but others"
        forward = f"forward TCP port {port} to this machine, then --listen /ip4/0.0.0.0/tcp/{port}"
        step = f"{forward} {_announce_option(seen, port)}"
        return Finding(name, "warning", f"{text} reach you only through relays", step)
    seen, port = reached[0].ip, reached[0].ports[0]
    place = f"[{seen}]:{port}" if ":" in seen else f"{seen}:{port}"
    text = f"{len(reached)} of {len(told)} peers reached {place}{_scope(seen)}"
    wrong = [ip for ip in announced if ip not in {each.ip for each in told}]
    if wrong:
        text += f"; no peer sees the announced address {wrong[0]}"
        return Finding(name, "warning", text, _announce_option(seen, port))
    return Finding(name, "ok", text)


def _announce_option(ip: str, port: int) -> str:
    return f"--announce /ip{ipaddress.ip_address(ip).version}/{ip}/tcp/{port}"


def _scope(ip: str) -> str:
    """A remark if the peer that saw this address is on this machine or in its own network."""
    address = ipaddress.ip_address(ip)
    if address.is_loopback:
        return ", from this machine; no peer outside has tried"
    return "" if address.is_global else ", from your own network; no peer outside has tried"


def bandwidth(down: float | None, up: float | None, refusal: str = "") -> Finding:
    """Judge the line to the nearest peer of the invite.

    Args:
        down, up: bytes per second; None if not measured.
        refusal: why it was not measured.
    """
    parts = [f"{speed(rate)} {way}" for way, rate in (("down", down), ("up", up)) if rate is not None]
    if refusal or not parts:
        text = ", ".join([*parts, f"not measured: {refusal or 'there is no peer to measure with'}"])
        return Finding("bandwidth", "warning", text, "wait a minute and try again")
    slowest = min(rate for rate in (down, up) if rate is not None)
    if slowest >= GOOD_LINE:
        return Finding("bandwidth", "ok", ", ".join(parts))
    verdict: Verdict = "problem" if slowest < LEAST_LINE else "warning"
    text = f"{', '.join(parts)}: contributions will arrive late"
    return Finding("bandwidth", verdict, text, "stop other programs that use the line")


# A run ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RunFacts:
    """A run, what it needs, and what this machine has."""

    name: str
    contents: str
    peers: int
    parameters: int
    needs: Needs
    free_memory: float
    """Bytes, like all sizes here."""
    free_device: float | None
    """None without a GPU."""
    free_disk: float
    own_files: bool = False
    """The run trains on files that each volunteer names."""
    down: float | None = None
    """Bytes per second from the nearest peer; None if not measured."""


def run(facts: RunFacts) -> Finding:
    """Judge whether a run fits on this machine."""
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
            return Finding("run", "problem", f"{text}; it needs {size(need)} of {place}, {size(free)} are free", step)
    for place, need, free, step in places:
        if free is not None and free < ROOM * need:
            told = f"{text}; it needs {size(need)} of {place}, {size(free)} are free: that is little"
            return Finding("run", "warning", told, f"{join} --batch-size 1, or {step}")
    seconds = wanted.fetched / facts.down if facts.down else 0.0
    fetch = f", {duration(seconds)} to fetch" if seconds >= 1 else ""
    text = f"{text}; state of {size(wanted.fetched)} at most{fetch}"
    return Finding("run", "warning", text, join) if facts.own_files else Finding("run", "ok", text)


def exit_code(findings: Sequence[Finding]) -> int:
    """1 if a finding is a problem, else 0."""
    return int(any(finding.verdict == "problem" for finding in findings))


def speed(rate: float) -> str:
    """Bytes per second as people know them."""
    return f"{8 * rate / MB:.1f} Mbit/s"
