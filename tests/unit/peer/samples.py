"""A run whose model has a few thousand parameters, and a reporter that remembers."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

from p2ptrain.monitor import events
from p2ptrain.monitor.report import Peers
from p2ptrain.peer import Volunteer
from p2ptrain.run import RunSpec
from p2ptrain.swarm import NodeConfig
from tests.unit.tasks.samples import TINY_LLAMA

LOOPBACK = NodeConfig(listen=("/ip4/127.0.0.1/tcp/0",))
VOLUNTEER = Volunteer(device="cpu", batch_size=2, threads=1)


def spec_of(corpus: Path, **method: Any) -> RunSpec:
    return RunSpec.model_validate(
        {
            "run": {"name": "tiny"},
            "model": {"architecture": "llama", "config": {**TINY_LLAMA, "tie_word_embeddings": True}},
            "data": {"source": "files", "paths": [str(corpus)], "sequence_length": 32, "held_out": 0.2},
            "method": {"name": "diloco", "schedule": "constant", "inner_steps": 4, "fragments": 2, **method},
            "eval": {"every": 2, "sequences": 8},
        }
    )


class Notebook:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.events: list[events.Event] = []
        self.me, self.closed = "", False

    def emit(self, event: events.Event) -> None:
        self.events.append(event)

    def watch(self, me: str, peers: Peers) -> None:
        self.me = me
        assert [seen.author for seen in peers()] == [me]

    def close(self) -> None:
        self.closed = True

    def all(self, kind: type[events.Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


class Leaver(Notebook):
    """Presses Ctrl-C at the first commit."""

    def emit(self, event: events.Event) -> None:
        if isinstance(event, events.Committed) and not self.all(events.Committed):
            signal.raise_signal(signal.SIGINT)
        super().emit(event)
