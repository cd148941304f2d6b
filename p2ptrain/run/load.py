"""Read a run spec by a recipe's name, from a TOML file or from the network, and say what is wrong with it."""

from __future__ import annotations

import difflib
import importlib.resources
import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from p2ptrain.errors import MalformedError, SpecError
from p2ptrain.paths import PathLike, exists, path_of
from p2ptrain.run.method import METHODS
from p2ptrain.run.spec import DATA_SOURCES, MAX_SPEC_BYTES, RunSpec
from p2ptrain.run.task import TASKS
from p2ptrain.text import first_line, reason_of

_TAGS = {"data": ("source", DATA_SOURCES), "task": ("kind", TASKS), "method": ("name", tuple(METHODS))}
"""Sections that have several kinds: the field that names the kind, and its values."""


def load_spec(name_or_path: PathLike) -> RunSpec:
    """Load the recipe of this name, or the TOML file at this path.

    Raises:
        UsageError: `name_or_path` is neither a string nor a path.
        SpecError: there is no such recipe or file, it is not TOML, or a field is wrong. The message names the file, the
            key, what was found and what is allowed.
    """
    path, name = path_of(name_or_path, "spec"), os.fspath(name_or_path)
    # A folder with a recipe's name is not meant: `p2ptrain demo` makes a folder "demo", and there is a recipe "demo".
    if not path.suffix and (not exists(path) or (path.is_dir() and name in recipes())):
        path = _recipe_path(name)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SpecError(
            f"can't read the run spec {str(path)!r}",
            reason_of(error),
            "give a recipe's name, an existing TOML file, or make one with `p2ptrain new`",
        ) from None
    except UnicodeDecodeError as error:
        raise SpecError(f"{path} is not UTF-8 text", str(error), "give a TOML file") from None
    return parse_spec(text, str(path))


def parse_spec(text: str, source: str) -> RunSpec:
    """Read a spec from TOML text. `source` names the text in messages. Raises SpecError as `load_spec` does."""
    try:
        fields = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"{source} is not valid TOML", str(error), "correct the line it names") from None
    except Exception as error:  # e.g. brackets a thousand deep, or a number of 5,000 digits
        raise SpecError(f"{source} is not valid TOML", first_line(error), "give a TOML file") from None
    return _validate(fields, source)


def spec_from_canonical(data: bytes) -> RunSpec:
    """Read a spec from its canonical bytes, which any peer may have sent.

    Raises:
        MalformedError: the bytes are not the canonical form of a spec that this version of p2ptrain knows.
    """
    if len(data) > MAX_SPEC_BYTES:
        raise MalformedError("the run's spec is too long", f"{len(data)} bytes")
    try:
        spec = _validate(json.loads(data), "the run's spec")
    except (ValueError, RecursionError, SpecError) as error:
        what = "the run's spec can't be read by this version of p2ptrain"
        raise MalformedError(what, str(error), "update p2ptrain") from None
    if spec.canonical() != data:
        raise MalformedError("the run's spec is not in its canonical form")
    return spec


def recipes() -> dict[str, Path]:
    """The TOML files of the recipes that p2ptrain was installed with, by name."""
    package = Path(str(importlib.resources.files("p2ptrain")))
    installed = package / "peers"
    folder = installed if installed.is_dir() else package.parent / "peers"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def _recipe_path(name: str) -> Path:
    known = recipes()
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise SpecError(
        f"there is no recipe and no file called {name!r}",
        f"recipes: {', '.join(known) or 'none installed'}",
        f"{hint}make a spec of your own with `p2ptrain new`",
    )


def _validate(fields: Any, source: str) -> RunSpec:
    if not isinstance(fields, Mapping):
        raise SpecError(f"{source} is not a table of sections", f"found {type(fields).__name__}")
    try:
        return RunSpec.model_validate(fields)
    except ValidationError as error:
        problems = "\n        ".join(_explain(detail) for detail in error.errors())
        next_step = "`p2ptrain new` prints a template that explains every field"
        raise SpecError(f"{source} is not a valid run spec", problems, next_step) from None


def _explain(detail: ErrorDetails) -> str:
    """One line: the key, what was found and what is allowed."""
    # Pydantic's locations also hold the tag or the branch of a union, which is not in the file.
    path = [str(part) for part in detail["loc"] if not str(part).startswith(("literal[", "constrained-"))]
    if len(path) > 1 and path[0] in _TAGS and path[1] in _TAGS[path[0]][1]:
        del path[1]
    key = ".".join(path) or "the spec"
    kind = detail["type"]
    message = detail["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    if kind == "extra_forbidden":
        close = difflib.get_close_matches(path[-1], _known_keys(path[:-1]), n=1)
        return f"{key}: no such field" + (f"; did you mean {close[0]!r}?" if close else "")
    if kind == "missing":
        return f"{key}: is missing"
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        tag, allowed = _TAGS[path[0]]
        found = "is missing" if kind == "union_tag_not_found" else f"found {detail['ctx']['tag']!r}"
        return f"{key}.{tag}: {found}; must be one of {', '.join(map(repr, allowed))}"
    found = "" if isinstance(detail["input"], Mapping) else f"found {detail['input']!r}; "
    return f"{key}: {found}{message[0].lower()}{message[1:]}"


def _known_keys(path: list[str]) -> list[str]:
    """Names of the fields that a section may have, for suggestions."""
    schema = RunSpec.model_json_schema()
    sections = [schema]
    for part in path:
        fields = [section["properties"][part] for section in sections if part in section.get("properties", {})]
        kinds = [kind for field in fields for kind in (field, *field.get("oneOf", ()), *field.get("anyOf", ()))]
        sections = [schema["$defs"][kind["$ref"].rpartition("/")[2]] for kind in kinds if "$ref" in kind]
    return sorted({key for section in sections for key in section.get("properties", {})})
