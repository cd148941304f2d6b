"""p2ptrain new"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from p2ptrain.cli import options as o
from p2ptrain.text import reason_of


def new(
    path: Annotated[Path | None, o.argument("FILE", "New file for the spec.", "standard output")] = None,
    name: Annotated[str, o.option("--name", "NAME", "Name of the run.")] = "my-run",
) -> None:
    """Write a run spec to start from.

    The file explains every field of a run spec.
    """
    from p2ptrain.errors import SpecError
    from p2ptrain.run import parse_spec
    from p2ptrain.run.template import template

    text = template(name)
    parse_spec(text, "the template")
    if path is None:
        print(text, end="")
        return
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise SpecError(f"can't write {path}", reason_of(error), "choose another file name") from None
    print(f"wrote {path}; start the run with\n  p2ptrain peer {path}")
