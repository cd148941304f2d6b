"""The `p2ptrain` program: its commands, and how errors end it."""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Callable
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from p2ptrain import output
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
from p2ptrain.cli.options import Command
from p2ptrain.errors import P2PTrainError
from p2ptrain.peer.stopping import QUIT_CODE, Stopping
from p2ptrain.text import first_line, printable

GROUPS: dict[str, tuple[Callable[..., None], ...]] = {
    "Train": (demo.demo, peer.peer, join.join, speed.speed),
    "Invites and members": (invite.invite, members.members, revoke.revoke, keygen.keygen),
    "Look at runs": (runs.runs, status.status, history.history, verify.verify, replay.replay, export.export),
    "Set up": (new.new, bootstrap.bootstrap, doctor.doctor, explain.explain),
}


class Program(TyperGroup):
    """Lists its commands in groups, on terminals and in pipes alike."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        width = max(map(len, self.commands))
        for title, commands in GROUPS.items():
            named = [(each.__name__, self.commands[each.__name__]) for each in commands]
            room = formatter.width - width - 6
            with formatter.section(title):
                formatter.write_dl([(f"{name:<{width}}", each.get_short_help_str(room)) for name, each in named])


app = typer.Typer(cls=Program, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)
for commands in GROUPS.values():
    for command in commands:
        app.command(cls=Command)(command)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(version("p2ptrain"))
        raise typer.Exit


@app.callback()
def p2ptrain(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Train one language model together, peer to peer, with no coordinator."""


def end_with(error: P2PTrainError) -> NoReturn:
    print(printable(f"error: {error}"), file=sys.stderr)
    sys.exit(error.exit_code)


def main() -> None:
    """Run the program; an expected error is three short lines on standard error and its exit code."""
    output.open_standard_streams()
    try:
        _run()
    except P2PTrainError as error:
        end_with(error)
    except ModuleNotFoundError as error:  # of an installation that is a bootstrap node's
        package = (error.name or "").partition(".")[0]
        if package in ("", "p2ptrain"):
            raise
        what, why = f"this command needs the package {package}", "it is not installed: a bootstrap node needs fewer"
        end_with(P2PTrainError(what, why, "install all that p2ptrain needs: pip install p2ptrain"))
    except Exception as error:
        traceback.print_exc()
        why = f"{type(error).__name__}: {first_line(error)}"
        step = "report the lines above, with log.txt if there is a run folder; start a peer again: it resumes"
        end_with(P2PTrainError("this is a bug of p2ptrain", why, step))
    finally:
        output.close()


def _run() -> None:
    """Run the command. Ctrl-C ends it with `QUIT_CODE`, unless the command hears signals itself."""
    with Stopping(quiet=True, signals=(signal.SIGINT,)) as stopping:
        try:
            app()
        except BaseException as error:
            if stopping.requested():  # a library may have turned the interruption into an error of its own
                sys.exit(QUIT_CODE)
            if isinstance(error, SystemExit) and not error.code:
                sys.stdout.flush()  # if that fails, the command has failed
            raise
