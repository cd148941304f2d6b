"""The rooms of the package import each other in one direction only, and no modules import each other in a circle.

Every import counts: those at the top of a file, those inside a function and those under `if TYPE_CHECKING`.
"""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

import pytest

import p2ptrain

LEVELS = (
    {"run"},
    {"swarm", "data"},
    {"state"},
    {"tasks", "monitor"},
    {"method"},
    {"diloco", "spsa"},
    {"peer"},
    {"commands", "doctor", "bootstrap"},
    {"cli"},
)
"""The rooms from the bottom to the top. A room imports rooms of lower levels only, and none of its own level."""
BESIDE = {
    "errors": set(),
    "causes": set(),
    "caches": set(),
    "compiled": set(),
    "exit_codes": set(),
    "text": set(),
    "units": set(),
    "lean": set(),
    "paths": set(),
    "output": set(),
    "parameters": {"run"},
}
"""Modules beside the rooms, which every room may import; the set names the rooms that the module itself may import."""
EXEMPT = {"__init__", "__main__"}
"""`p2ptrain/__init__.py` hands on public names of several rooms, `__main__.py` starts `cli`. Nobody imports either."""
MATHEMATICS = {
    "diloco": ("fragments", "codecs", "kernels", "outer", "merge", "schedule"),
    "spsa": ("signs", "byte", "master", "kernels"),
}
OUTSIDE = {"asyncio", "hivemind", "io", "os", "pathlib", "shutil", "socket", "sqlite3", "subprocess", "tempfile"}
"""Modules that reach files, the network or other processes."""

PACKAGE = Path(p2ptrain.__file__).parent
FILES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def imports_of(module: str) -> dict[str, int]:
    """The modules that a module imports, and in which line."""
    found: dict[str, int] = {}
    for node in ast.walk(ast.parse(FILES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name: node.lineno for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in FILES else str(node.module): node.lineno for name in names.values()}
    return found


def room_of(module: str) -> str:
    """`swarm` of `p2ptrain.swarm.node`, `errors` of `p2ptrain.errors`, `__init__` of `p2ptrain`."""
    return module.split(".")[1] if "." in module else "__init__"


def places(pairs: list[tuple[str, str]], rule: str) -> str:
    """Where each first module imports the second, and the rule that this breaks."""
    lines = [f"{FILES[one].relative_to(PACKAGE.parent)}:{IMPORTS[one][other]} imports {other}" for one, other in pairs]
    return "\n".join([*lines, rule])


def wrong_imports(modules: set[str], rooms: set[str]) -> list[tuple[str, str]]:
    """The imports of p2ptrain's modules that are neither in one of the rooms nor beside them."""
    return [
        (module, imported)
        for module in sorted(modules)
        for imported in IMPORTS[module]
        if imported.split(".")[0] == "p2ptrain" and room_of(imported) not in rooms | BESIDE.keys()
    ]


IMPORTS = {module: imports_of(module) for module in FILES}
ROOMS = {room_of(module) for module in FILES} - EXEMPT


def test_every_room_has_its_level() -> None:
    unknown = ROOMS - BESIDE.keys() - set().union(*LEVELS)
    assert not unknown, f"say in LEVELS or BESIDE what these may import: {sorted(unknown)}"


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_a_room_imports_only_rooms_below(room: str) -> None:
    level = next((number for number, rooms in enumerate(LEVELS) if room in rooms), 0)
    below = BESIDE[room] if room in BESIDE else set().union(*LEVELS[:level])
    wrong = wrong_imports({module for module in FILES if room_of(module) == room}, {room, *below})
    assert not wrong, places(wrong, f"{room} may import only {', '.join(sorted({*below, *BESIDE}))}")


def test_no_modules_import_each_other_in_a_circle() -> None:
    try:
        TopologicalSorter({module: IMPORTS[module].keys() & FILES.keys() for module in FILES}).prepare()
    except CycleError as error:
        circle = [(importer, imported) for imported, importer in pairwise(error.args[1])]
        pytest.fail(
            places(circle, "a circle: cut one of these imports; a Protocol is enough where only a type is needed")
        )


@pytest.mark.parametrize(("room", "name"), [(room, name) for room, names in MATHEMATICS.items() for name in names])
def test_mathematics_knows_neither_files_nor_the_network(room: str, name: str) -> None:
    """Neither itself nor through modules of its own room."""
    start = f"p2ptrain.{room}.{name}"
    modules = {module for module in FILES if module == start or module.startswith(f"{start}.")}
    while more := {i for m in modules for i in IMPORTS[m] if i in FILES and room_of(i) == room} - modules:
        modules |= more
    wrong = wrong_imports(modules, {room, "run"})
    wrong += [(m, imported) for m in sorted(modules) for imported in IMPORTS[m] if imported.split(".")[0] in OUTSIDE]
    assert not wrong, places(wrong, f"{start} is mathematics: it reaches no files, no network and no room but run")
