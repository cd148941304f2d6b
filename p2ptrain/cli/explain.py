"""p2ptrain explain [CODE]"""

from __future__ import annotations

from typing import Annotated

import typer


def explain(
    code: Annotated[int | None, typer.Argument(help="An exit code; without one all are listed.")] = None,
) -> None:
    """Say what an exit code means, what usually causes it, and what to do."""
    from p2ptrain.exit_codes import EXIT_CODES, as_text, find

    if code is None:
        print("\n".join(f"{each.code:>3}  {each.title}" for each in EXIT_CODES))
        return
    found = find(code)
    if found is None:
        known = ", ".join(str(each.code) for each in EXIT_CODES)
        raise typer.BadParameter(f"p2ptrain never ends with {code}; its codes are {known}")
    print(as_text(found))
