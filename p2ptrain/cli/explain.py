"""p2ptrain explain [CODE]"""

from __future__ import annotations

from typing import Annotated

from p2ptrain.cli import options as o
from p2ptrain.errors import UsageError


def explain(code: Annotated[int | None, o.argument("CODE", "Exit code to explain.", "list all codes")] = None) -> None:
    """Explain an exit code.

    Says what it means, what usually causes it, and what to do.
    """
    from p2ptrain.exit_codes import EXIT_CODES, as_text, find

    if code is None:
        print("\n".join(f"{each.code:>3}  {each.title}" for each in EXIT_CODES))
        return
    found = find(code)
    if found is None:
        known = ", ".join(str(each.code) for each in EXIT_CODES)
        raise UsageError(f"p2ptrain never ends with {code}", f"its exit codes are {known}", "give one of them")
    print(as_text(found))
