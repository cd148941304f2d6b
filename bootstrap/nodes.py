"""Make and check entries of the signed list of bootstrap nodes; what they are is in p2ptrain/swarm/nodes.py.

python bootstrap/nodes.py sign --identity KEY --invite INVITE --operator "Ada, ada@example.org" --until 2027-06-30
python bootstrap/nodes.py check [FILE]
"""

from __future__ import annotations

import sys
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated

import typer

from p2ptrain.errors import P2PTrainError
from p2ptrain.lean import spare_torch
from p2ptrain.text import printable

spare_torch()  # where a bootstrap node runs there is none
from p2ptrain.swarm.identity import read_key  # noqa: E402
from p2ptrain.swarm.nodes import NodeEntry, read_nodes  # noqa: E402

app = typer.Typer(help="The signed list of bootstrap nodes.", add_completion=False, pretty_exceptions_enable=False)


@app.command()
def sign(
    identity: Annotated[Path, typer.Option(help="The node's key file, e.g. <home>/identities/1.key.")],
    invite: Annotated[str, typer.Option(help="The link that the node prints at its start.")],
    operator: Annotated[str, typer.Option(help="Who runs it: a name or how to reach you, at most 100 characters.")],
    until: Annotated[datetime, typer.Option(formats=["%Y-%m-%d"], help="The last day, at most two years ahead.")],
) -> None:
    """Print a node's entry, to be put into the list."""
    print(NodeEntry.sign(invite, operator, until.date(), read_key(identity), _today()).to_toml(), end="")


@app.command()
def check(
    file: Annotated[Path | None, typer.Argument(help="The list [default: nodes.toml in this folder].")] = None,
) -> None:
    """Say of each entry whose it is, or what is wrong; ends with 1 if one is wrong."""
    listed = read_nodes(file or Path(__file__).with_name("nodes.toml"), _today())
    print(printable("\n".join(map(str, listed)) or "no entries"))
    raise typer.Exit(int(any(each.entry is None for each in listed)))


def _today() -> date:
    return datetime.now(UTC).date()


if __name__ == "__main__":
    try:
        app()
    except P2PTrainError as error:
        print(printable(f"error: {error}"), file=sys.stderr)
        sys.exit(error.exit_code)
