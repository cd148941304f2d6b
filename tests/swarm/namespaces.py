"""Machines whose network can be torn apart: network namespaces, each with one link into a bridge.

The bridges live in a namespace of their own, so the host's network stays as it is. A partition moves the links of each
group to a bridge of its own: they all stay up, and what is sent to another group is lost in silence, as on a real
network. Needs Linux, root and iproute2.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Self

from tests.swarm.lab import Place

PREFIX = "p2ptrain-test"
SUBNET = "10.77.0"


class NamespaceError(RuntimeError):
    """`ip` could not do what was asked; the text is its own."""


class _Namespaces(ABC):
    """Namespaces of one test, built and removed as a whole."""

    def __init__(self, names: list[str]) -> None:
        self._all = names

    @abstractmethod
    def _build(self) -> None: ...

    def __enter__(self) -> Self:
        sweep()
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove everything, with the processes that still run in it."""
        for name in self._all:
            remove(name)


class Network(_Namespaces):
    """So many machines that reach one another until they are parted. Use it in a `with` block."""

    def __init__(self, machines: int) -> None:
        own = f"{PREFIX}-{os.getpid()}"
        self._hub = f"{own}-hub"
        self._names = [f"{own}-{number}" for number in range(1, machines + 1)]
        self.places = tuple(
            Place(("ip", "netns", "exec", name), f"/ip4/{SUBNET}.{number}/tcp/0")
            for number, name in enumerate(self._names, 1)
        )
        """Where peers can be started, one for each machine."""
        super().__init__([*self._names, self._hub])

    def part(self, *groups: Collection[int]) -> None:
        """From now on only machines of the same group reach one another; machines count from 0."""
        assert sorted(machine for group in groups for machine in group) == list(range(len(self._names)))
        for bridge, group in enumerate(groups):
            self._connect(group, bridge)

    def heal(self) -> None:
        """Everyone reaches everyone again."""
        self.part(range(len(self._names)))

    @contextlib.contextmanager
    def parted_for(self, seconds: float, *groups: Collection[int]) -> Iterator[None]:
        """Part the machines and heal after so many seconds, whatever happens in the `with` block; that lasts as long
        at least."""
        healing = threading.Timer(seconds, self.heal)
        self.part(*groups)
        healing.start()
        try:
            yield
        except BaseException:
            healing.cancel()
            raise
        finally:
            healing.join()

    def _build(self) -> None:
        ip("netns", "add", self._hub)
        for number, name in enumerate(self._names, 1):
            ip("netns", "add", name)
            ip_in(self._hub, f"link add bridge{number - 1} type bridge", f"link set bridge{number - 1} up")
            # The link's two ends are made where they belong; the host sees neither.
            ip_in(self._hub, f"link add port{number - 1} type veth peer name eth0 netns {name}")
            ip_in(name, "link set lo up", f"address add {SUBNET}.{number}/24 dev eth0", "link set eth0 up")
            ip_in(self._hub, f"link set port{number - 1} up")
        self.heal()

    def _connect(self, machines: Collection[int], bridge: int) -> None:
        ip_in(self._hub, *(f"link set port{machine} master bridge{bridge}" for machine in machines))


class Islands(_Namespaces):
    """Machines that reach nobody but one in the middle, each over a link of its own. Use it in a `with` block."""

    def __init__(self, machines: int) -> None:
        own = f"{PREFIX}-{os.getpid()}"
        self._middle = f"{own}-middle"
        self._names = [f"{own}-{number}" for number in range(1, machines + 1)]
        self.middle = Place(("ip", "netns", "exec", self._middle), "/ip4/0.0.0.0/tcp/0")
        self.places = tuple(
            Place(("ip", "netns", "exec", name), f"/ip4/10.78.{number}.2/tcp/0")
            for number, name in enumerate(self._names, 1)
        )
        super().__init__([*self._names, self._middle])

    def _build(self) -> None:
        ip("netns", "add", self._middle)
        ip_in(self._middle, "link set lo up")
        for number, name in enumerate(self._names, 1):
            ip("netns", "add", name)
            ip_in(
                self._middle,
                f"link add port{number} type veth peer name eth0 netns {name}",
                f"address add 10.78.{number}.1/24 dev port{number}",
                f"link set port{number} up",
            )
            ip_in(name, "link set lo up", f"address add 10.78.{number}.2/24 dev eth0", "link set eth0 up")


def reason_not() -> str:
    """Why namespaces can't be made here; empty if they can."""
    if sys.platform != "linux":
        return "network namespaces need Linux"
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need the command `ip` of iproute2"
    try:
        with Network(1) as network:
            subprocess.run([*network.places[0].prefix, "true"], check=True, capture_output=True, text=True)
    except NamespaceError as error:
        return f"network namespaces can't be made here: {error}"
    except subprocess.CalledProcessError as error:
        return f"network namespaces can't be entered here: {error.stderr.strip()}"
    return ""


def sweep() -> None:
    """Remove what an earlier run of the tests has left that was killed before it could do so."""
    for name in _namespaces():
        owner = re.fullmatch(rf"{PREFIX}-(\d+)-\w+", name)
        if owner and not Path(f"/proc/{owner[1]}").exists():
            remove(name)


def remove(name: str) -> None:
    """End the processes in a namespace, then the namespace and its links."""
    if name not in _namespaces():
        return
    for pid in ip("netns", "pids", name).split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    ip("netns", "delete", name)


def _namespaces() -> list[str]:
    return [line.split()[0] for line in ip("netns", "list").splitlines()]


def ip(*arguments: str, commands: str | None = None) -> str:
    """What `ip` prints.

    Raises:
        NamespaceError: it could not do it.
    """
    done = subprocess.run(["ip", *arguments], input=commands, capture_output=True, text=True)
    if done.returncode:
        raise NamespaceError(f"`ip {' '.join(arguments)}`: {done.stderr.strip()}")
    return done.stdout


def ip_in(name: str, *commands: str) -> None:
    """Carry out commands of `ip` in a namespace, one right after another."""
    ip("-netns", name, "-batch", "-", commands="\n".join(commands))
