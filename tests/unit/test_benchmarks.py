"""Benchmarks run seldom, and a name that has moved would be noticed late. So every name that a benchmark takes from the
package, from the tests or from another benchmark is looked for here. No benchmark is run."""

from __future__ import annotations

import ast
import importlib
import symtable
from importlib.util import find_spec
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize("benchmark", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_what_a_benchmark_imports_exists(benchmark: Path) -> None:
    wrong = [
        f"{benchmark.name}:{line}: {module}.{name}" for module, name, line in taken(benchmark) if not has(module, name)
    ]
    assert not wrong, "\n".join([*wrong, "no longer exists under this name"])


def taken(benchmark: Path) -> list[tuple[str, str, int]]:
    """The names that a benchmark takes from modules of this repository: module, name, line."""
    nodes = list(ast.walk(ast.parse(benchmark.read_text())))
    names = [
        (node.module, alias.name, node.lineno)
        for node in nodes
        if isinstance(node, ast.ImportFrom) and node.module and is_ours(node.module)
        for alias in node.names
    ]
    modules = {name: f"{module}.{name}" for module, name, _ in names if is_module(f"{module}.{name}")}
    modules["p2ptrain"] = "p2ptrain"
    return names + [
        (modules[node.value.id], node.attr, node.lineno)
        for node in nodes
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules
    ]


def is_ours(module: str) -> bool:
    return module.split(".")[0] in ("p2ptrain", "tests", "benchmarks")


def is_module(dotted: str) -> bool:
    try:
        return find_spec(dotted) is not None
    except ModuleNotFoundError:  # what is before the last dot is no package
        return False


def has(module: str, name: str) -> bool:
    """Whether a module has this name; another benchmark is read for that, not run."""
    package, _, rest = module.partition(".")
    file = FOLDER / f"{rest}.py"
    if package == "benchmarks":
        if not file.exists():
            return False
        symbols = symtable.symtable(file.read_text(), str(file), "exec").get_symbols()
        return name in {symbol.get_name() for symbol in symbols if symbol.is_assigned() or symbol.is_imported()}
    return is_module(f"{module}.{name}") or (is_module(module) and hasattr(importlib.import_module(module), name))
