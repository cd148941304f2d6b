"""What one volunteer decides about this machine. The command line makes its options from the fields of `Volunteer`.

Nothing heavy is imported here: `p2ptrain --help` reads this module.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from p2ptrain.errors import UsageError
from p2ptrain.peer.hours import Hours
from p2ptrain.text import check_name

if TYPE_CHECKING:
    from p2ptrain.state import Limits
    from p2ptrain.swarm import NodeConfig
    from p2ptrain.tasks import LocalOptions


class PauseCause(StrEnum):
    """What can make a peer pause: other programs use the GPU, or the CPU."""

    GPU_BUSY = "gpu-busy"
    CPU_BUSY = "cpu-busy"


@dataclass(frozen=True, slots=True)
class Option:
    """How the command line offers a field. The field `max_disk` is the option --max-disk and the environment variable
    P2PTRAIN_MAX_DISK."""

    value: str | None
    """The word for the value in the help; None: the option is a switch."""
    help: str
    otherwise: str | None = None
    """The default in words; None: the field's own default says it."""
    parse: Callable[[str], Any] | None = None
    """Makes the field's value from a text, or raises a ValueError that says what is wrong; None: typer converts it."""


def _count(text: str, word: str = "") -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{text!r} is not a count: give a whole number from 1 on{word and f', or {word}'}")
    return int(text)


def _batch_size(text: str) -> int | None:
    return None if text == "auto" else _count(text, "auto")


def _gigabytes(least: float) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not least <= number < math.inf:
            raise ValueError(f"{text!r} is not a size: give a number of GB, at least {least}")
        return int(number * 1e9)

    return parse


def _rate(text: str) -> float:
    from p2ptrain.state.limits import bytes_per_second

    return bytes_per_second(text)


def _rate_option(doing: str) -> Option:
    return Option("RATE", f"Limit for {doing}, e.g. 5Mbit or 600kB a second.", "no limit", _rate)


@dataclass(frozen=True, slots=True, kw_only=True)
class Volunteer:
    """What one volunteer decides about this machine. Sizes are in bytes, rates in bytes per second. Raises UsageError
    if two decisions contradict each other, or an address can't be announced."""

    home: Annotated[Path | None, Option("FOLDER", "Folder for identities and runs.", "the system's data folder")] = None
    identity: Annotated[Path | None, Option("FILE", "Key file of this peer.", "the first one that is not in use")] = (
        None
    )
    listen: Annotated[
        tuple[str, ...],
        Option("ADDRESS", "libp2p address to listen at; repeatable.", "/ip4/0.0.0.0/tcp/0, any free port"),
    ] = ()
    announce: Annotated[
        tuple[str, ...],
        Option(
            "ADDRESS", "Address to tell other peers, e.g. of a forwarded port; repeatable.", "the addresses seen here"
        ),
    ] = ()
    no_listen: Annotated[bool, Option(None, "Accept no connections from outside; open all of them from here.")] = False
    no_lan: Annotated[bool, Option(None, "Do not look for peers in the local network (mDNS).")] = False
    device: Annotated[str, Option("NAME", "Device: cpu, cuda, cuda:1, mps, or auto (a GPU if there is one).")] = "auto"
    batch_size: Annotated[
        int | None,
        Option("N|auto", "Sequences or examples per inner step; auto measures what fits and pays.", None, _batch_size),
    ] = 8
    threads: Annotated[
        int | None,
        Option("N", "CPU threads.", "one per core; a peer takes fewer while other programs need them", _count),
    ] = None
    autocast: Annotated[bool, Option(None, "Compute in bf16 where that is safe; the weights stay float32.")] = False
    compile: Annotated[bool, Option(None, "Compile the model with torch.compile.")] = False
    model: Annotated[
        str | None, Option("FOLDER", "Folder with the pretrained model and its tokenizer.", "what the run names")
    ] = None
    data: Annotated[
        tuple[str, ...], Option("FILES", "File or glob pattern of the training data; repeatable.", "what the run names")
    ] = ()
    max_disk: Annotated[
        int | None,
        Option("GB", "Limit for the run's snapshots and contributions on disk.", "no limit", _gigabytes(0.001)),
    ] = None
    max_up: Annotated[float | None, _rate_option("sending")] = None
    max_down: Annotated[float | None, _rate_option("receiving")] = None
    max_memory: Annotated[
        int | None, Option("GB", "Limit for main memory, and for the GPU's.", "all there is", _gigabytes(0.1))
    ] = None
    hours: Annotated[
        Hours | None,
        Option("FROM-TO", "Train only at these local times, e.g. 22-07 or 22:30-7,12-13.", "always", Hours.parse),
    ] = None
    pause_when: Annotated[
        tuple[PauseCause, ...],
        Option("gpu-busy|cpu-busy", "Pause while other programs use the GPU or the CPU; repeatable.", "never"),
    ] = ()
    name: Annotated[str, Option("NAME", "Name of this peer in tables.", None, check_name)] = ""
    archive: Annotated[bool, Option(None, "Keep every contribution, so that the whole run can be replayed.")] = False

    def __post_init__(self) -> None:
        for address in self.announce:
            if address.endswith(("/tcp/0", "/udp/0")):
                step = "give the same port with --listen and --announce"
                raise UsageError(f"can't announce {address}", "nobody can connect to port 0", step)
        if self.no_listen and (self.listen or self.announce):
            what, why = "--no-listen contradicts --listen and --announce", "a peer that does not listen has no address"
            raise UsageError(what, f"{why} of its own", "leave out --no-listen, or leave out the others")
        if self.archive and self.max_disk is not None:
            why = "an archive keeps every contribution and grows as long as the run goes on"
            raise UsageError("--archive and --max-disk contradict each other", why, "give only one of them")

    @property
    def local(self) -> LocalOptions:
        """The part that the task needs: the model, its data and the device."""
        from p2ptrain.tasks import LocalOptions

        return LocalOptions(self.device, self.batch_size, self.autocast, self.compile, self.model, self.data)

    @property
    def limits(self) -> Limits:
        """The part that the run needs."""
        from p2ptrain.state import Limits

        return Limits(self.max_disk, self.max_up, self.max_down, self.archive)

    def network(self, bootstrap: tuple[str, ...] = ()) -> NodeConfig:
        """The part that the swarm needs, for a swarm that is found at the addresses `bootstrap`."""
        from p2ptrain.swarm import NodeConfig

        listen = self.listen or NodeConfig().listen
        return NodeConfig(listen, self.announce, bootstrap, no_listen=self.no_listen, lan=not self.no_lan)
