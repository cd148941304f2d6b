"""What the documents name exists: files, folders, modules, headings that links lead to, commands."""

from __future__ import annotations

import importlib
import re
from functools import reduce
from pathlib import Path

import pytest
import typer

from p2ptrain.cli.app import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("bootstrap/*.md"))]
BASES = (ROOT, ROOT / "p2ptrain", ROOT / "benchmarks")
"""Folders that a document's paths may start in, beside its own."""
FOLDERS = {path.name for base in BASES[:2] for path in base.iterdir() if path.is_dir()}
READERS_OWN = {"train.py", "benchmarks.NAME"}
"""A file that only the reader has, and a placeholder."""
COMMANDS = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def code_of(page: Path) -> list[str]:
    """Everything between backticks, and the lines of indented blocks."""
    return re.findall(r"```.*?```|`[^`]+`|^ {4}\S[^\n]*$", page.read_text(), re.DOTALL | re.MULTILINE)


@every_page
def test_paths_exist(page: Path) -> None:
    """`.py` files and everything below a folder of the repository or of the package."""
    paths = re.findall(r"(?<![\w/.>:-])(?:[\w-]+/)*[\w-]+\.py\b|(?<![\w/.>:-])(?:[\w-]+/)+[\w.-]*", page.read_text())
    named = {path for path in paths if path.endswith(".py") or path.split("/")[0] in FOLDERS} - READERS_OWN
    missing = {path for path in named if not any((base / path).exists() for base in (page.parent, *BASES))}
    assert not missing, f"{page.name} names files that do not exist: {sorted(missing)}"


@every_page
def test_modules_exist(page: Path) -> None:
    """`p2ptrain.room.module`, and names in it."""
    for dotted in set(re.findall(r"\bp2ptrain(?:\.[A-Za-z_]\w*)+", " ".join(code_of(page)))):
        assert exists(dotted), f"{page.name} names {dotted}, which does not exist"


def exists(dotted: str) -> bool:
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        try:
            module = importlib.import_module(".".join(parts[:length]))
            reduce(getattr, parts[length:], module)
            return True
        except ModuleNotFoundError:
            continue
        except AttributeError:
            return False
    return False


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" not in link:
            name, _, heading = link.partition("#")
            target = page.parent / name if name else page
            assert target.exists(), f"{page.name} links to {link}, which does not exist"
            assert not heading or heading in headings(target), f"{page.name} links to {link}: no such heading"


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@every_page
def test_commands_exist(page: Path) -> None:
    text = " ".join([*code_of(page), *re.findall(r": p2ptrain [\w-]+(?=\n| [A-Z-])", page.read_text())])
    named = set(re.findall(r"(?<![\w/-])p2ptrain +([a-z][\w-]*)", text))
    assert named <= COMMANDS, f"{page.name} names commands that do not exist: {sorted(named - COMMANDS)}"


def test_the_architecture_s_lists_of_modules_are_right() -> None:
    """Lists like `chain round payloads`, in a paragraph or row whose first words in backticks are their room's name;
    without a room, they are modules of the package itself."""
    modules = {path.stem for path in ROOT.glob("p2ptrain/**/*.py")}
    blocks = re.split(r"\n\n|\n(?=\|)", (ROOT / "docs/architecture.md").read_text())
    for first, *spans in filter(None, (re.findall(r"`([a-z_ ]+)`", block) for block in blocks)):
        room = ROOT / "p2ptrain" / first
        folder, lists = (room, spans) if room.is_dir() else (ROOT / "p2ptrain", [first, *spans])
        known = {path.stem for path in folder.iterdir()}
        for words in map(str.split, lists):
            is_list = len(words) > 1 and modules.intersection(words)
            missing = set(words) - known
            assert not (is_list and missing), f"architecture.md: no {sorted(missing)} in {folder.name}"
