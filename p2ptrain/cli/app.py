"""The `p2ptrain` program: its commands, and how errors end it."""

from __future__ import annotations

import sys
from typing import NoReturn

import typer

from p2ptrain.cli import (
    bootstrap,
    demo,
    doctor,
    explain,
    export,
    history,
    invite,
    join,
    keygen,
    members,
    new,
    peer,
    replay,
    revoke,
    runs,
    speed,
    status,
    verify,
)
from p2ptrain.errors import P2PTrainError
from p2ptrain.text import printable

app = typer.Typer(
    help="Train one language model together, peer to peer, with no coordinator.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (
    demo.demo,
    peer.peer,
    join.join,
    runs.runs,
    bootstrap.bootstrap,
    status.status,
    invite.invite,
    members.members,
    revoke.revoke,
    export.export,
    verify.verify,
    history.history,
    replay.replay,
    new.new,
    keygen.keygen,
    speed.speed,
    doctor.doctor,
    explain.explain,
):
    app.command()(command)


def end_with(error: P2PTrainError) -> NoReturn:
    print(printable(f"error: {error}"), file=sys.stderr)
    sys.exit(error.exit_code)


def main() -> None:
    """Run the program; an expected error is three short lines on standard error and its exit code."""
    try:
        app()
    except P2PTrainError as error:
        end_with(error)
    except ModuleNotFoundError as error:  # of an installation that is a bootstrap node's
        package = (error.name or "").partition(".")[0]
        if package in ("", "p2ptrain"):
            raise
        end_with(
            P2PTrainError(
                f"this command needs the package {package}",
                "it is not installed: a bootstrap node needs fewer",
                "install all that p2ptrain needs: pip install p2ptrain",
            )
        )
    except KeyboardInterrupt:
        sys.exit(130)
