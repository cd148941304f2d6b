"""Run specs for tests: a small valid one, changed field by field."""

from __future__ import annotations

import copy
import json
from typing import Any

from p2ptrain.run import RunSpec, parse_spec

Fields = dict[str, dict[str, Any]]

LEFT_OUT = object()
"""Stands for a field or section that is not there."""

_MINIMAL: Fields = {
    "run": {"name": "test"},
    "model": {"architecture": "llama"},
    "data": {"source": "stdlib-python"},
    "method": {"name": "diloco", "total_steps": 4000},
}


def fields_with(changes: dict[str, Any] | None = None) -> Fields:
    """A small valid spec's fields, changed by their dotted keys ('run' alone is the whole section)."""
    fields = copy.deepcopy(_MINIMAL)
    for dotted, value in (changes or {}).items():
        section, _, key = dotted.partition(".")
        if not key:
            fields.pop(section, None)
            if value is not LEFT_OUT:
                fields[section] = copy.deepcopy(value)
        elif value is LEFT_OUT:
            del fields[section][key]
        else:
            fields.setdefault(section, {})[key] = value
    return fields


def toml_with(changes: dict[str, Any] | None = None) -> str:
    return to_toml(fields_with(changes))


def spec_with(changes: dict[str, Any] | None = None) -> RunSpec:
    return parse_spec(toml_with(changes), "test.toml")


def to_toml(fields: Fields) -> str:
    """Numbers, booleans, strings and lists look alike in JSON and TOML; tables are written as sections."""
    lines = []
    for section, values in fields.items():
        if not isinstance(values, dict):
            lines.insert(0, f"{section} = {json.dumps(values)}")
            continue
        lines.append(f"[{section}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in values.items() if not isinstance(value, dict)]
        for key, value in values.items():
            if isinstance(value, dict):
                lines += [f"[{section}.{key}]", *(f"{name} = {json.dumps(part)}" for name, part in value.items())]
    return "\n".join(lines) + "\n"
