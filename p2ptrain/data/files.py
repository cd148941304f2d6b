"""Find the files that a volunteer or a spec names.

A path that exists is that file or folder, whatever its name. Only a text that is no path is a pattern.
"""

from __future__ import annotations

import glob
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from p2ptrain.data.formats import TEXT, format_of
from p2ptrain.errors import DataError
from p2ptrain.text import first_line

NOT_DATA = re.compile(r"(readme|licen[sc]e|citation|changelog)\b|dataset_(infos?|dict)\.json$", re.IGNORECASE)
"""How the names of files begin that describe a data folder. A table is data, whatever its name."""


@dataclass(frozen=True, slots=True)
class Found:
    """The files that paths name."""

    files: tuple[Path, ...]
    """Each once; those of a folder are sorted."""
    passed_over: tuple[Path, ...]
    """Files of a folder that describe it, such as README.md. Hidden files are not among them."""


def find_files(names: Sequence[str]) -> Found:
    """Find files, all files in folders, and the matches of patterns (*, **, ?, [ab]).

    Raises:
        DataError: one of the names matches nothing, or can't be read.
    """
    files: list[Path] = []
    passed_over: list[Path] = []
    for name in names:
        try:
            found = [file for match in _matches(name) for file in _files_in(match, passed_over)]
        except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: ~ without a home; ValueError: a zero byte
            raise DataError(f"can't look for {name!r}", first_line(error), "name another path with --data") from None
        if not found:
            why = "the run reads files of each volunteer's machine"
            raise DataError(f"no file matches {name!r}", why, "name yours with --data")
        files += found
    return Found(tuple(dict.fromkeys(files)), tuple(dict.fromkeys(passed_over)))


def _matches(name: str) -> list[Path]:
    if not name:
        return []  # the empty path would be the working folder
    path = Path(name)
    if not path.exists() and name.startswith("~"):
        path = path.expanduser()
    if path.exists():
        return [path]
    return [Path(each) for each in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207  (Path.glob: no absolute)


def _files_in(match: Path, passed_over: list[Path]) -> Iterator[Path]:
    if not match.is_dir():
        _check_link(match)
        yield match
        return
    for file in sorted(match.rglob("*")):
        if file.is_dir() or any(part.startswith(".") for part in file.relative_to(match).parts):
            continue
        _check_link(file)
        if NOT_DATA.match(file.name) and format_of(file.name) in (TEXT, "json"):
            passed_over.append(file)
        else:
            yield file


def _check_link(path: Path) -> None:
    if not path.exists():
        raise FileNotFoundError(f"{path} is a link to a file that is not there")


def one_format(files: Sequence[Path]) -> str:
    """The format that all these files have (see `format_of`).

    Raises:
        DataError: they have several.
    """
    formats = {file: format_of(file.name) for file in files}
    if len(kinds := Counter(formats.values())) > 1:
        example = {kind: file.name for file, kind in reversed(formats.items())}
        shown = ", ".join(f"{count} {kind} (e.g. {example[kind]})" for kind, count in kinds.items())
        raise DataError("the data files are of different kinds", shown, "name files of one kind, e.g. --data '*.jsonl'")
    return next(iter(kinds))
