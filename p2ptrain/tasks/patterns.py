"""Find a model's parts by patterns; the error names similar parts if a pattern matches nothing."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from fnmatch import fnmatchcase

from p2ptrain.errors import SpecError


def matching(patterns: Sequence[str], names: Sequence[str], key: str, anywhere: bool = False) -> list[str]:
    """The names that match one of the patterns (* any text, ? one letter, [ab] one of them), in their own order.

    Args:
        key: the spec's key, for messages.
        anywhere: a pattern may also match the end of a name after a dot: 'q_proj' finds 'layers.0.q_proj'.

    Raises:
        SpecError: a pattern matches nothing.
    """
    found = set[str]()
    for pattern in patterns:
        forms = (pattern, f"*.{pattern}") if anywhere else (pattern,)
        hits = [name for name in names if any(fnmatchcase(name, form) for form in forms)]
        if not hits:
            near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.0)
            raise SpecError(
                f"{key}: {pattern!r} matches nothing in this model",
                f"similar names are: {', '.join(near)}" if near else "the model has no such parts",
                "correct the pattern; * stands for any text",
            )
        found.update(hits)
    return [name for name in names if name in found]
