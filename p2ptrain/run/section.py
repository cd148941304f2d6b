"""What the sections of a run spec have in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

PositiveInt = Annotated[int, Field(ge=1, le=10**9)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Word = Annotated[str, Field(min_length=1, max_length=200)]
Words = Annotated[tuple[Word, ...], Field(max_length=1000, strict=False)]


class Section(BaseModel, frozen=True, strict=True, extra="forbid", use_attribute_docstrings=True):
    """Base of all sections: frozen, strict, without unknown fields. The text below a field is its description."""
