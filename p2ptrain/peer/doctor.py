"""`p2ptrain doctor`: can this machine train, and does an invite lead anywhere? One finding after another.

What is measured here is judged by `verdicts`. A check that fails in a way that nobody foresaw is a finding, too. What
brings torch along is imported by the checks that need it, so that a broken installation is found and not fallen over.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import logging
import os
import platform
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from packaging.requirements import Requirement
from rich.console import Console
from rich.table import Table

from p2ptrain.errors import P2PTrainError
from p2ptrain.peer import verdicts
from p2ptrain.peer.verdicts import DeviceFacts, Finding, KeyFacts

if TYPE_CHECKING:
    import torch

COLOURS = {"ok": "green", "warning": "yellow", "problem": "bold red"}
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class DoctorOptions:
    """What the peer would be started with; None: as the peer would choose."""

    invite: str | None = None
    home: Path | None = None
    identity: Path | None = None
    listen: tuple[str, ...] | None = None
    announce: tuple[str, ...] = ()
    device: str = "auto"


def run_doctor(options: DoctorOptions, json_lines: bool) -> int:
    """Print each finding as it comes.

    Returns:
        The exit code: 1 if there is a problem.
    """
    logging.getLogger("p2ptrain").addHandler(logging.NullHandler())  # the findings say what a log would
    told, console = [], Console()
    live = sys.stdout.isatty() and not json_lines
    with console.status("looking") if live else contextlib.nullcontext():
        for finding in map(printable, findings(options)):
            told.append(finding)
            if live:
                console.print(_row(finding))
            else:
                line = json.dumps({"event": "finding", **asdict(finding)}) if json_lines else as_text(finding)
                print(line, flush=True)
    return verdicts.exit_code(told)


def findings(options: DoctorOptions) -> Iterator[Finding]:
    """All checks, the quick ones first."""
    yield checked("versions", check_versions)
    yield checked("memory", lambda: verdicts.memory(*free_memory()))
    yield checked("open files", lambda: verdicts.open_files(*resource.getrlimit(resource.RLIMIT_NOFILE)))
    yield checked("disk", lambda: check_disk(home_of(options)))
    yield checked("identity", lambda: check_identity(home_of(options), options.identity))
    yield checked("listen", lambda: check_listen(options.listen))
    yield checked("device", lambda: check_device(options.device))
    if options.invite is not None:
        from p2ptrain.peer.doctor_swarm import swarm_findings

        yield from swarm_findings(options)


def checked(name: str, check: Callable[[], Finding]) -> Finding:
    """What the check finds; or, as a problem, that it failed."""
    try:
        return check()
    except P2PTrainError as error:
        return failed(name, error)
    except Exception as error:  # a doctor does not fall ill
        text = f"this check failed: {type(error).__name__}: {_flat(str(error))}"
        return Finding(name, "problem", text, "p2ptrain explain 1")


def failed(name: str, error: P2PTrainError) -> Finding:
    return Finding(name, "problem", _flat(error.brief), _flat(error.next_step) or f"p2ptrain explain {error.exit_code}")


def printable(finding: Finding) -> Finding:
    """Some of the words are another peer's: nothing in them may steer the terminal."""
    text, step = ("".join(filter(str.isprintable, words)) for words in (finding.text, finding.next_step))
    return replace(finding, text=text, next_step=step)


def as_text(finding: Finding) -> str:
    """For a pipe: one line, and one more if there is something to do."""
    text = f"{finding.verdict:<8} {finding.check:<11} {finding.text}"
    return text + (f"\n         next: {finding.next_step}" if finding.next_step else "")


def _row(finding: Finding) -> Table:
    table = Table.grid(padding=(0, 1))
    for width in (8, 11):
        table.add_column(min_width=width, no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row(f"[{COLOURS[finding.verdict]}]{finding.verdict}[/]", finding.check, _plain(finding.text))
    if finding.next_step:
        table.add_row("", "[dim]next[/]", _plain(finding.next_step))
    return table


def _plain(text: str) -> str:
    """Brackets, e.g. of an IPv6 address, are no markup."""
    return text.replace("[", "\\[")


def _flat(text: str) -> str:
    return " ".join(text.split())[:400]


# This machine --------------------------------------------------------------------------------------------------------


def home_of(options: DoctorOptions) -> Path:
    from p2ptrain.state.home import default_home

    return options.home or default_home()


def check_versions() -> Finding:
    own = importlib.metadata.metadata("p2ptrain")
    requirements = [Requirement(text) for text in importlib.metadata.requires("p2ptrain") or ()]
    needed = [each for each in requirements if each.marker is None or each.marker.evaluate({"extra": ""})]
    installed: dict[str, str | None] = dict.fromkeys(each.name for each in needed)
    for name in installed:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            installed[name] = importlib.metadata.version(name)
    return verdicts.versions(platform.python_version(), own["Requires-Python"] or "", installed, needed, own["Version"])


def free_memory() -> tuple[float, float]:
    """(available, total) bytes; in a container those that it may use."""
    machine = psutil.virtual_memory()
    available, total = float(machine.available), float(machine.total)
    with contextlib.suppress(OSError, ValueError):  # "max" is no number: no limit
        limit = int((CGROUP / "memory.max").read_text())
        used = int((CGROUP / "memory.current").read_text())
        cache = next(
            int(line.split()[1])
            for line in (CGROUP / "memory.stat").read_text().splitlines()
            if line.startswith("inactive_file ")
        )
        available, total = min(available, limit - used + cache), min(total, limit)
    return available, total


def nearest(folder: Path) -> Path:
    """The folder, or the one above in which it would be made."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def check_disk(home: Path) -> Finding:
    folder = nearest(home)
    space = shutil.disk_usage(folder)
    began = time.monotonic()
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".p2ptrain-doctor-") as file:
            file.write(b"!")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return verdicts.disk(str(folder), space.free, space.total, None, error.strerror or str(error))
    return verdicts.disk(str(home), space.free, space.total, time.monotonic() - began)


def check_identity(home: Path, given: Path | None) -> Finding:
    paths = [given] if given is not None else sorted((home / "identities").glob("*.key"))
    keys = [_key_facts(path) for path in paths if path.exists()]
    return verdicts.identity(keys, None if given is None else str(given))


def _key_facts(path: Path) -> KeyFacts:
    from p2ptrain.run import SigningKey
    from p2ptrain.swarm import Identity

    try:
        mode = path.stat().st_mode & 0o777
        SigningKey.from_file_bytes(path.read_bytes())
    except OSError as error:
        return KeyFacts(str(path), 0, error.strerror or str(error))
    except ValueError as error:
        return KeyFacts(str(path), mode, str(error))
    return KeyFacts(str(path), mode, in_use=Identity.is_in_use(path))


def check_listen(listen: tuple[str, ...] | None) -> Finding:
    from p2ptrain.swarm import NodeConfig
    from p2ptrain.swarm.sockets import check_port

    addresses = listen or NodeConfig().listen
    for address in addresses:
        check_port(address)
    return Finding("listen", "ok", ", ".join(addresses).replace("tcp/0", "tcp/<any free port>"))


def check_device(name: str) -> Finding:
    import torch

    from p2ptrain.tasks import LocalOptions
    from p2ptrain.tasks.local import open_device

    device = open_device(LocalOptions(device=name))
    failure, bf16 = _compute(device)
    if device.type == "cuda":
        title, own = torch.cuda.get_device_name(device), torch.cuda.mem_get_info(device)
        memory: tuple[float, float] | None = (float(own[0]), float(own[1]))
    else:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        title, memory = f"{device.type}, {cores} core{'s' * (cores > 1)}", None
    unused = device.type == "cpu" and name == "auto" and Path("/proc/driver/nvidia/version").exists()
    return verdicts.device(DeviceFacts(title, device.type, memory, failure, bf16, unused))


def _compute(device: torch.device) -> tuple[str, bool]:
    """(what went wrong with a product of matrices, whether there is one in bf16)."""
    import torch

    numbers = (torch.arange(64 * 64, dtype=torch.float32) % 7).reshape(64, 64)  # their sums are exact in any order
    expected = numbers @ numbers
    try:
        there = numbers.to(device)
        if not torch.equal((there @ there).cpu(), expected):
            return "a product of two matrices is wrong", False
    except RuntimeError as error:
        return str(error).splitlines()[0], False
    try:
        half = there.bfloat16()
        return "", torch.allclose((half @ half).float().cpu(), expected, rtol=0.01)
    except RuntimeError:
        return "", False
