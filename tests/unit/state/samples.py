"""A spec, keys, bytes of a known length, damage to files, and a clock that jumps."""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from p2ptrain.run import SigningKey
from tests.unit.run.specs import spec_with

Result = TypeVar("Result")
SPEC = spec_with()
KEYS = [SigningKey(Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32)) for n in range(1, 7)]
PEERS = [key.peer_id for key in KEYS]


def bytes_of(size: int, seed: int = 0) -> bytes:
    """The same ones each time, and no chunk like another."""
    return random.Random(f"{size} {seed}").randbytes(size)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-9] ^= 4
    path.write_bytes(data)


def overwrite(path: Path) -> None:
    path.write_bytes(b"something else entirely, and long enough to be looked at")


def empty(path: Path) -> None:
    path.write_bytes(b"")


class _Jumping(selectors.DefaultSelector):
    """Does not wait: says how long it would have."""

    def __init__(self) -> None:
        super().__init__()
        self.waited = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "everybody waits for everybody"
        self.waited += max(0.0, timeout)
        return super().select(0)


class _JumpingLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.selector = _Jumping()
        super().__init__(self.selector)

    def time(self) -> float:
        return self.selector.waited


def run_in_no_time(work: Coroutine[Any, Any, Result]) -> Result:
    """Run without threads or sockets, by a clock that begins at 0 and jumps to whatever is awaited next."""
    with asyncio.Runner(loop_factory=_JumpingLoop) as runner:
        return runner.run(work)
