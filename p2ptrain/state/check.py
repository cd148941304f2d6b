"""The findings of an audit."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that an audit has looked at, and whether it is good."""

    subject: str
    good: bool
    found: str
    """What was found, in words."""
