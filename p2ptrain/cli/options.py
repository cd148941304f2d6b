"""Options that several commands share. Each can also be set as an environment variable, P2PTRAIN_ and its name."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from p2ptrain.errors import NetworkError, StorageError

if TYPE_CHECKING:
    from p2ptrain.peer import PeerOptions
    from p2ptrain.state import Limits
    from p2ptrain.swarm import NodeConfig

Home = Annotated[
    Path | None,
    typer.Option(envvar="P2PTRAIN_HOME", help="Folder for identities and runs [default: the system's data folder]."),
]
IdentityFile = Annotated[
    Path | None,
    typer.Option("--identity", envvar="P2PTRAIN_IDENTITY", help="Key file of this peer [default: the next free one]."),
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
BatchSize = Annotated[int, typer.Option(envvar="P2PTRAIN_BATCH_SIZE", min=1, help="Sequences per inner step.")]
Threads = Annotated[
    int | None, typer.Option(envvar="P2PTRAIN_THREADS", min=1, help="CPU threads [default: one per core].")
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
    float | None, typer.Option(envvar="P2PTRAIN_MAX_UP", min=0.1, help="MB per second to hand out to others.")
]
MaxDown = Annotated[
    float | None, typer.Option(envvar="P2PTRAIN_MAX_DOWN", min=0.1, help="MB per second to fetch from others.")
]
Archive = Annotated[
    bool,
    typer.Option(
        "--archive", envvar="P2PTRAIN_ARCHIVE", help="Keep every contribution: the whole run can be replayed."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object per line, for programs.")]


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
    batch_size: int,
    threads: int | None,
    autocast: bool,
    compile_model: bool,
    model: str | None,
    data: list[str] | None,
) -> PeerOptions:
    """What the volunteer decides, as the peer takes it."""
    from p2ptrain.peer import PeerOptions
    from p2ptrain.state.run import default_home
    from p2ptrain.tasks import LocalOptions

    local = LocalOptions(device, batch_size, autocast, compile_model, model, tuple(data or ()))
    return PeerOptions(home or default_home(), identity, network, local, threads)


def limits_of(max_disk: float | None, max_up: float | None, max_down: float | None, archive: bool) -> Limits:
    """The volunteer's limits, in bytes."""
    from p2ptrain.state import Limits

    for flag, value in (("--max-disk", max_disk), ("--max-up", max_up), ("--max-down", max_down)):
        if value is not None and not math.isfinite(value):
            raise StorageError(f"{flag} {value} is no limit", "", f"leave out {flag} for none")
    if archive and max_disk is not None:
        raise StorageError(
            "--archive and --max-disk contradict each other",
            "an archive keeps every contribution and grows as long as the run goes on",
            "give one of them",
        )
    return Limits(
        None if max_disk is None else int(max_disk * 1e9),
        None if max_up is None else max_up * 1e6,
        None if max_down is None else max_down * 1e6,
        archive,
    )
