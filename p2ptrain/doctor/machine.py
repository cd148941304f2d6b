"""The checks of this machine: facts are measured here and judged by `verdicts`.

Modules that import torch are imported inside the checks that need them: if torch is broken, the doctor reports that and
does not crash.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from packaging.requirements import Requirement

from p2ptrain.caches import own_cache, place_for, why_not
from p2ptrain.doctor import verdicts
from p2ptrain.doctor.verdicts import DeviceFacts, Finding, KeyFacts
from p2ptrain.paths import nearest
from p2ptrain.text import first_line, reason_of

if TYPE_CHECKING:
    import torch

CGROUP = Path("/sys/fs/cgroup")


def check_versions() -> Finding:
    """Compare Python and the installed packages with those that p2ptrain needs."""
    own = importlib.metadata.metadata("p2ptrain")
    requirements = [Requirement(text) for text in importlib.metadata.requires("p2ptrain") or ()]
    needed = [each for each in requirements if each.marker is None or each.marker.evaluate({"extra": ""})]
    installed: dict[str, str | None] = dict.fromkeys(each.name for each in needed)
    for name in installed:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            installed[name] = importlib.metadata.version(name)
    return verdicts.versions(platform.python_version(), own["Requires-Python"] or "", installed, needed, own["Version"])


def free_memory() -> tuple[float, float]:
    """(available, total) bytes of main memory. In a container: of the memory that the container may use."""
    machine = psutil.virtual_memory()
    available, total = float(machine.available), float(machine.total)
    with contextlib.suppress(OSError, ValueError):  # without a limit the file says "max", which is no number
        limit = int((CGROUP / "memory.max").read_text())
        used = int((CGROUP / "memory.current").read_text())
        stat = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        available, total = min(available, limit - used + int(stat["inactive_file"])), min(total, limit)
    return available, total


def check_disk(home: Path) -> Finding:
    """Measure the free space, and how long it takes to write and sync one byte."""
    folder = nearest(home)
    space = shutil.disk_usage(folder)
    began = time.monotonic()
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".p2ptrain-doctor-") as file:
            file.write(b"!")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return verdicts.disk(str(folder), space.free, space.total, None, reason_of(error))
    return verdicts.disk(str(home), space.free, space.total, time.monotonic() - began)


def check_temporary() -> Finding:
    """Try the folders for temporary files, until one can be used."""
    from p2ptrain.swarm.sockets import is_too_long, temporary_folders

    tried: list[tuple[str, str]] = []
    for folder in temporary_folders():
        tried.append((str(folder), "its path is too long for a socket" if is_too_long(folder) else why_not(folder)))
        if not tried[-1][1]:
            break
    return verdicts.temporary(tried)


def check_caches(home: Path | None) -> Finding:
    """Try the folders where libraries keep files."""
    own, hub = own_cache(os.environ), os.environ.get("HF_HOME", "")
    refusal = why_not(own) if own else "there is none"
    instead = place_for(home) if refusal else None
    hub_refusal = why_not(Path(hub)) if hub else ""
    return verdicts.caches(_text(own), refusal, _text(instead), hub, hub_refusal)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def check_identity(home: Path, given: Path | None) -> Finding:
    """Read the given key file, or all key files of the home folder."""
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
        return KeyFacts(str(path), 0, reason_of(error))
    except ValueError as error:
        return KeyFacts(str(path), mode, str(error))
    return KeyFacts(str(path), mode, in_use=Identity.is_in_use(path))


def check_listen(listen: tuple[str, ...], announce: tuple[str, ...] = ()) -> Finding:
    """Try to listen at each address, or at the peer's own default if there is none, and read those to announce.

    Raises:
        NetworkError, UsageError: an address can't be used.
    """
    from p2ptrain.swarm import NodeConfig
    from p2ptrain.swarm.sockets import check_port

    addresses = NodeConfig(listen or NodeConfig().listen, announce).listen
    for address in addresses:
        check_port(address)
    return Finding("listen", "ok", ", ".join(addresses).replace("tcp/0", "tcp/<any free port>"))


def check_device(name: str) -> Finding:
    """Open the device and compute on it.

    Raises:
        DataError: there is no such device.
    """
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
    """(what went wrong when two matrices were multiplied, whether the device multiplies in bf16)."""
    import torch

    numbers = (torch.arange(64 * 64, dtype=torch.float32) % 7).reshape(64, 64)  # small: sums are exact in any order
    expected = numbers @ numbers
    try:
        there = numbers.to(device)
        if not torch.equal((there @ there).cpu(), expected):
            return "a product of two matrices is wrong", False
    except RuntimeError as error:
        return first_line(error), False
    try:
        half = there.bfloat16()
        return "", torch.allclose((half @ half).float().cpu(), expected, rtol=0.01)
    except RuntimeError:
        return "", False
