"""Options that several commands share. Each can also be set as an environment variable, P2PTRAIN_ and its name."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from p2ptrain.errors import NetworkError, StorageError
from p2ptrain.text import check_name

if TYPE_CHECKING:
    from p2ptrain.peer import PeerOptions
    from p2ptrain.peer.hours import Hours
    from p2ptrain.state import Limits
    from p2ptrain.swarm import NodeConfig
    from p2ptrain.tasks import LocalOptions


def _parser(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """What `parse` says with a ValueError, said as a wrong command line."""

    def convert(text: Any) -> Any:
        try:
            return parse(text) if isinstance(text, str) else text
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None

    return convert


@_parser
def _rate(text: str) -> float:
    from p2ptrain.state.limits import bytes_per_second

    return bytes_per_second(text)


@_parser
def _hours(text: str) -> Hours:
    from p2ptrain.peer.hours import Hours

    return Hours.parse(text)


@_parser
def parse_name(text: str) -> str:
    return check_name(text)


@_parser
def _batch_size(text: str) -> str:
    if text != "auto" and not (text.isdecimal() and int(text) >= 1):
        raise ValueError(f"{text!r} is no batch size: give a whole number from 1 on, or auto")
    return text


class PauseCause(StrEnum):
    """For which a peer can be told to pause."""

    GPU_BUSY = "gpu-busy"
    CPU_BUSY = "cpu-busy"


Home = Annotated[
    Path | None,
    typer.Option(envvar="P2PTRAIN_HOME", help="Folder for identities and runs [default: the system's data folder]."),
]
IdentityFile = Annotated[
    Path | None,
    typer.Option("--identity", envvar="P2PTRAIN_IDENTITY", help="Key file of this peer [default: the next free one]."),
]
OwnerKey = Annotated[
    Path | None,
    typer.Option(
        "--owner-key", envvar="P2PTRAIN_OWNER_KEY", help="Key file of an owner of the run [default: the folder's own]."
    ),
]
Listen = Annotated[
    list[str] | None,
    typer.Option(
        envvar="P2PTRAIN_LISTEN", help="libp2p address to listen at; repeatable [default: /ip4/0.0.0.0/tcp/0]."
    ),
]
Announce = Annotated[
    list[str] | None,
    typer.Option(envvar="P2PTRAIN_ANNOUNCE", help="Address to tell others instead, e.g. of a forwarded port."),
]
NoListen = Annotated[
    bool,
    typer.Option(
        "--no-listen", envvar="P2PTRAIN_NO_LISTEN", help="Take no connections from outside; open all of them from here."
    ),
]
NoLan = Annotated[
    bool, typer.Option("--no-lan", envvar="P2PTRAIN_NO_LAN", help="Don't look for peers in the local network (mDNS).")
]
Device = Annotated[str, typer.Option(envvar="P2PTRAIN_DEVICE", help="cpu, cuda, cuda:1, mps, or auto.")]
BatchSize = Annotated[
    str,
    typer.Option(
        envvar="P2PTRAIN_BATCH_SIZE",
        parser=_batch_size,
        metavar="N|auto",
        help="Sequences per inner step; auto: as many as fit and pay.",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        envvar="P2PTRAIN_THREADS", min=1, help="CPU threads [default: one per core that no other program uses]."
    ),
]
Autocast = Annotated[
    bool, typer.Option("--autocast", envvar="P2PTRAIN_AUTOCAST", help="Compute in bf16, where that is safe.")
]
Compile = Annotated[bool, typer.Option("--compile", envvar="P2PTRAIN_COMPILE", help="Use torch.compile.")]
Model = Annotated[
    str | None,
    typer.Option(
        envvar="P2PTRAIN_MODEL", help="Folder to load instead of the run's pretrained model and its tokenizer."
    ),
]
Data = Annotated[
    list[str] | None, typer.Option(envvar="P2PTRAIN_DATA", help="File or glob to read instead of the run's data.")
]
MaxDisk = Annotated[
    float | None,
    typer.Option(envvar="P2PTRAIN_MAX_DISK", min=0.001, help="GB for snapshots and contributions of the run."),
]
MaxUp = Annotated[
    float | None,
    typer.Option(
        envvar="P2PTRAIN_MAX_UP", parser=_rate, metavar="RATE", help="Most to send per second, e.g. 5Mbit or 600kB."
    ),
]
MaxDown = Annotated[
    float | None,
    typer.Option(envvar="P2PTRAIN_MAX_DOWN", parser=_rate, metavar="RATE", help="Most to receive per second."),
]
MaxMemory = Annotated[
    float | None,
    typer.Option(
        envvar="P2PTRAIN_MAX_MEMORY", min=0.1, help="GB of main memory, and of the GPU's, that the peer may take."
    ),
]
HoursOption = Annotated[
    Any,
    typer.Option(
        "--hours",
        envvar="P2PTRAIN_HOURS",
        parser=_hours,
        metavar="FROM-TO",
        help="Train only then, in local time, e.g. 22-07 or 22:30-7,12-13.",
    ),
]
PauseWhen = Annotated[
    list[PauseCause] | None,
    typer.Option(envvar="P2PTRAIN_PAUSE_WHEN", help="Pause while other processes use the GPU or the CPU; repeatable."),
]
Name = Annotated[
    str, typer.Option(envvar="P2PTRAIN_NAME", parser=parse_name, metavar="TEXT", help="What tables call this peer.")
]
Archive = Annotated[
    bool,
    typer.Option(
        "--archive", envvar="P2PTRAIN_ARCHIVE", help="Keep every contribution: the whole run can be replayed."
    ),
]
Swarms = Annotated[
    list[str] | None,
    typer.Option(
        "--bootstrap",
        envvar="P2PTRAIN_BOOTSTRAP",
        metavar="INVITE",
        help="Swarm to look in for runs, or for a NAME, by a bootstrap node's or any run's invite; repeatable "
        "[default: that of the listed nodes].",
    ),
]
Nodes = Annotated[
    Path | None,
    typer.Option(
        envvar="P2PTRAIN_NODES",
        metavar="FILE",
        help="List of bootstrap nodes to look for runs, or for a NAME, with [default: the one that came along].",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object per line, for programs.")]


def run_folder(given: Path) -> Path:
    """A run's folder: its path, or the run's name or id, of a run in this home."""
    from p2ptrain.state.folder import find_folder
    from p2ptrain.state.home import default_home

    return find_folder(given, default_home())


def swarm_of(invite: str | None) -> tuple[str, ...]:
    """Where the swarm of an invite is, for who starts a run or a bootstrap node in it; nowhere without one."""
    from p2ptrain.swarm import Invite

    return Invite.parse(invite).swarm() if invite else ()


def node_config(
    listen: list[str] | None,
    announce: list[str] | None,
    bootstrap: tuple[str, ...] = (),
    no_listen: bool = False,
    no_lan: bool = False,
) -> NodeConfig:
    """The network part of what was given."""
    from p2ptrain.swarm import NodeConfig

    for address in announce or ():
        if address.endswith(("/tcp/0", "/udp/0")):
            raise NetworkError(
                f"can't announce {address}", "port 0 is no port", "give --listen and --announce one port"
            )
    if no_listen and (listen or announce):
        raise NetworkError(
            "--no-listen contradicts --listen and --announce",
            "a peer that does not listen has no address of its own",
            "leave out --no-listen or the others",
        )
    return NodeConfig(
        tuple(listen or NodeConfig().listen), tuple(announce or ()), bootstrap, no_listen=no_listen, lan=not no_lan
    )


def peer_options(
    home: Path | None,
    identity: Path | None,
    network: NodeConfig,
    device: str,
    batch_size: str,
    threads: int | None,
    autocast: bool,
    compile_model: bool,
    model: str | None,
    data: list[str] | None,
    max_memory: float | None,
    hours: Hours | None,
    pause_when: list[PauseCause] | None,
    again: tuple[str, ...],
) -> PeerOptions:
    """What the volunteer decides, as the peer takes it."""
    from p2ptrain.peer import PeerOptions
    from p2ptrain.state.home import default_home

    local = local_options(device, batch_size, autocast, compile_model, model, data)
    memory = None if max_memory is None else int(max_memory * 1e9)
    causes = tuple(dict.fromkeys(cause.value for cause in pause_when or ()))
    return PeerOptions(home or default_home(), identity, network, local, threads, memory, hours, causes, again)


def options_to_repeat(subject: str) -> tuple[str, ...]:
    """This command's options as they were typed, for the one that goes on in the run's folder: without `subject` (what
    was founded or joined), and without those that only matter before there is a folder."""
    once = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for option in ("--home", "--bootstrap", "--nodes"):
        once.add_argument(option)
    once.add_argument("--private", action="store_true")
    words = once.parse_known_args(sys.argv[2:])[1]
    words.remove(subject)
    return tuple(words)


def local_options(
    device: str, batch_size: str, autocast: bool, compile_model: bool, model: str | None, data: list[str] | None
) -> LocalOptions:
    """What concerns the model and its data here."""
    from p2ptrain.tasks import LocalOptions

    size = None if batch_size == "auto" else int(batch_size)
    return LocalOptions(device, size, autocast, compile_model, model, tuple(data or ()))


def limits_of(max_disk: float | None, max_up: float | None, max_down: float | None, archive: bool) -> Limits:
    """The volunteer's limits, in bytes."""
    from p2ptrain.state import Limits

    if max_disk is not None and not math.isfinite(max_disk):
        raise StorageError(f"--max-disk {max_disk} is no limit", "", "leave out --max-disk for none")
    if archive and max_disk is not None:
        raise StorageError(
            "--archive and --max-disk contradict each other",
            "an archive keeps every contribution and grows as long as the run goes on",
            "give one of them",
        )
    return Limits(None if max_disk is None else int(max_disk * 1e9), max_up, max_down, archive)
