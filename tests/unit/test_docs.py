"""What the docs point at exists: links between pages, their anchors, files of the repository, names of the package."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PAGES = sorted(path for pattern in ("*.md", "docs/*.md", "bootstrap/*.md") for path in REPOSITORY.glob(pattern))
ROOMS = (REPOSITORY, REPOSITORY / "p2ptrain", REPOSITORY / "benchmarks")
"""Where a file can lie that a page names: `state/fetch.py` is p2ptrain/state/fetch.py."""
NOT_OURS = {"train.py", "benchmarks/NAME.py"}
"""The reader's own file, and a placeholder."""


def prose(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_a_file_and_a_heading(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if link.startswith(("http:", "https:")):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page: Path) -> None:
    named = set(
        re.findall(
            r"`((?:[\w-]+/)*[\w-]+\.py|(?:p2ptrain|tests|benchmarks|docs|bootstrap|peers)/[\w./-]*)`", prose(page)
        )
    )
    missing = {name for name in named - NOT_OURS if not any((room / name).exists() for room in ROOMS)}
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_of_the_package_that_a_page_uses_exist(page: Path) -> None:
    for name in set(re.findall(r"`p2ptrain((?:\.\w+)+)", prose(page))):
        assert exists(f"p2ptrain{name}"), name


def exists(name: str) -> bool:
    """Whether this is a module, or a name of one."""
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        module, _, attribute = name.rpartition(".")
        return hasattr(importlib.import_module(module), attribute)
    return True
