"""Stands for what commands call: it keeps what they hand over, and nothing runs. And what a volunteer may say."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import p2ptrain.bootstrap
import p2ptrain.commands.demo
import p2ptrain.commands.export
import p2ptrain.commands.speed
import p2ptrain.commands.verify
import p2ptrain.peer
from p2ptrain.monitor import Reporter
from p2ptrain.peer import Volunteer
from p2ptrain.peer.hours import Hours
from p2ptrain.peer.volunteer import PauseCause
from p2ptrain.state.run import Run
from p2ptrain.swarm import NodeConfig


class Handed:
    """What a command handed over instead of running, and how its run would have begun."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.arguments: tuple[Any, ...] = ()
        self.began: list[tuple[str, Any, dict[str, Any]]] = []
        monkeypatch.setattr(p2ptrain.peer, "run_peer", self.run_peer)
        for module, name in (
            (p2ptrain.commands.speed, "measure_speed"),
            (p2ptrain.bootstrap, "run_bootstrap"),
            (p2ptrain.commands.demo, "run_demo"),
        ):
            monkeypatch.setattr(module, name, self.take)
        for way in ("found", "join", "resume"):
            monkeypatch.setattr(Run, way, self.beginning(way))

    def take(self, *arguments: Any) -> None:
        self.arguments = arguments

    def run_peer(
        self, begin: Callable[[], Run], volunteer: Volunteer, reporter: Reporter, again: tuple[str, ...]
    ) -> None:
        begin()
        self.take(volunteer, reporter, again)

    def beginning(self, way: str) -> Callable[..., None]:
        def begin(subject: Any, **given: Any) -> None:
            self.began.append((way, subject, given))

        return begin

    @property
    def volunteer(self) -> Volunteer:
        """What was decided, however it was said."""
        given: Volunteer = self.arguments[0]
        return given

    @property
    def config(self) -> NodeConfig:
        """The network part of how the run began."""
        given: NodeConfig = self.began[-1][2]["config"]
        return given

    @property
    def again(self) -> str:
        """What is typed once more to resume."""
        return shlex.join(self.arguments[2])


GIVEN: dict[str, tuple[str, ...]] = {
    "home": ("/a/home",),
    "identity": ("/a/me.key",),
    "listen": ("/ip4/127.0.0.1/tcp/1", "/ip6/::1/tcp/2"),
    "announce": ("/ip4/1.2.3.4/tcp/3", "/dns4/example.org/tcp/3"),
    "device": ("cuda:1",),
    "batch-size": ("3",),
    "threads": ("2",),
    "autocast": (),
    "compile": (),
    "model": ("/a/model",),
    "data": ("/texts/*.txt", "/more/texts"),
    "max-memory": ("7.5",),
    "hours": ("22-07,12-13",),
    "pause-when": ("gpu-busy", "cpu-busy"),
}
LIMITS: dict[str, tuple[str, ...]] = {"max-disk": ("2.5",), "max-up": ("300kB",), "max-down": ("32Mbit",)}
EXPECTED = Volunteer(
    home=Path("/a/home"),
    identity=Path("/a/me.key"),
    listen=("/ip4/127.0.0.1/tcp/1", "/ip6/::1/tcp/2"),
    announce=("/ip4/1.2.3.4/tcp/3", "/dns4/example.org/tcp/3"),
    device="cuda:1",
    batch_size=3,
    threads=2,
    autocast=True,
    compile=True,
    model="/a/model",
    data=("/texts/*.txt", "/more/texts"),
    max_memory=7_500_000_000,
    hours=Hours.parse("22-07,12-13"),
    pause_when=(PauseCause.GPU_BUSY, PauseCause.CPU_BUSY),
    max_disk=2_500_000_000,
    max_up=300_000.0,
    max_down=4_000_000.0,
)
ALL = GIVEN | LIMITS | {"archive": ()}


def flags(names: list[str]) -> list[str]:
    return [word for name in names for value in ALL[name] or ("",) for word in (f"--{name}", value) if word]
