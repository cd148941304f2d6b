"""Options that several commands share. Those of `Volunteer` are made from its fields; an option of a field can also be
set as an environment variable, P2PTRAIN_ and its name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer
from typer.core import TyperCommand

from p2ptrain.peer import Volunteer

BEFORE_THERE_IS_A_FOLDER = ("home", "bootstrap", "nodes", "private")
"""Options that mean nothing to a run that is resumed."""


def option(
    flag: str, value: str | None, help: str, otherwise: str | None = None, env: bool = False, **more: Any
) -> Any:
    """An option for typer.

    Args:
        value: what stands for the value in the help; None for a switch.
        otherwise: the default in words, where the default itself does not say it.
        env: it can also be set as an environment variable.
    """
    variable = "P2PTRAIN_" + flag.removeprefix("--").replace("-", "_").upper() if env else None
    return typer.Option(flag, metavar=value, help=help, show_default=otherwise or True, envvar=variable, **more)


def argument(value: str, help: str, otherwise: str | None = None) -> Any:
    """An argument for typer; see `option`."""
    return typer.Argument(metavar=value, help=help, show_default=otherwise or True)


RunDir = Annotated[Path, argument("RUN_DIR", "Name of the run, or the folder that its peer printed at its start.")]
InviteOrName = Annotated[
    str,
    argument("INVITE|NAME", "Invite link (p2ptrain://…), or a run's name from `p2ptrain runs`, or how its id begins."),
]
Swarms = Annotated[
    list[str] | None,
    option(
        "--bootstrap",
        "INVITE",
        "Invite whose swarm to search for runs; repeatable.",
        "the listed bootstrap nodes",
        True,
    ),
]
Nodes = Annotated[
    Path | None,
    option("--nodes", "FILE", "List of bootstrap nodes to ask for runs.", "the list that came with p2ptrain", env=True),
]
OwnerKey = Annotated[
    Path | None,
    option("--owner-key", "FILE", "Key file of an owner of the run.", "the key of the folder's own peer", env=True),
]
Json = Annotated[bool, option("--json", None, "Print one JSON object per line, for programs.")]


def parser(parse: Callable[[str], Any]) -> Callable[[Any], Any]:
    """`parse` for typer: what it says with a ValueError becomes click's own message, which names the option."""

    def convert(given: Any) -> Any:
        try:
            return parse(given) if isinstance(given, str) else given
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None

    return convert


def takes_volunteer(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of these fields of `Volunteer`, or of all if none are named, in the place of its
    parameter `volunteer`, which gets what was given."""
    declared = inspect.signature(Volunteer, eval_str=True).parameters
    fields = [declared[name] for name in names or declared]
    options = [_typer_option(each) for each in fields]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(**given: Any) -> None:
            decided = {each.name: given.pop(each.name) for each in fields}
            lists = {name: tuple(value) for name, value in decided.items() if isinstance(value, list)}
            command(**given, volunteer=Volunteer(**decided | lists))

        parameters: list[inspect.Parameter] = []
        signature = inspect.signature(command, eval_str=True)
        for each in signature.parameters.values():
            parameters += options if each.name == "volunteer" else [each.replace(kind=each.KEYWORD_ONLY)]
        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return run

    return decorate


def _typer_option(field: inspect.Parameter) -> inspect.Parameter:
    """A field of `Volunteer` as typer takes it."""
    kind, told = get_args(field.annotation)
    flag, parse = f"--{field.name.replace('_', '-')}", parser(told.parse) if told.parse else None
    info = option(flag, told.value, told.help, told.otherwise, env=True, parser=parse)
    if get_origin(kind) is tuple:  # typer knows what can be repeated as a list
        kind, field = list[get_args(kind)[0]], field.replace(default=list(field.default))  # type: ignore[misc]
    return field.replace(annotation=Annotated[Any if told.parse else kind, info])


class Command(TyperCommand):
    """A command that keeps what was typed, as click's own parser reads it, before any of it is converted."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta["typed"] = self.make_parser(ctx).parse_args(args=list(args))[0]
        return super().parse_args(ctx, args)


def typed_options(context: typer.Context) -> tuple[str, ...]:
    """The options of this command as they were typed, for the command that resumes: without those that only matter
    before there is a run folder."""
    flags = {each.name: each.opts[0] for each in context.command.params if each.param_type_name == "option"}
    words: list[str] = []
    for name, given in context.meta["typed"].items():
        if name in flags and name not in BEFORE_THERE_IS_A_FOLDER:
            for value in given if isinstance(given, list) else [given]:
                words += [flags[name]] if value is True else [flags[name], value]
    return tuple(words)


def run_folder(given: Path) -> Path:
    """A run's folder: its path, or the run's name or id, of a run in this home."""
    from p2ptrain.state.folder import find_folder
    from p2ptrain.state.home import default_home

    return find_folder(given, default_home())


def swarm_of(invite: str | None) -> tuple[str, ...]:
    """The addresses of an invite's swarm, for a run or a bootstrap node that starts in it; none without an invite."""
    from p2ptrain.swarm import Invite

    return Invite.parse(invite).swarm() if invite else ()
