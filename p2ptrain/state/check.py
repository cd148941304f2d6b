"""What an audit says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    subject: str
    good: bool
    found: str
    """In words, what holds or what is wrong."""
