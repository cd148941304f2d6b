from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import cast

import pytest

from p2ptrain.cli import main
from tests.unit.cli.handed import Handed

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub: no test asks the network


@dataclass(frozen=True)
class Ended:
    """How the program ended, and what it said."""

    code: int
    out: str
    errors: str

    @property
    def flowing(self) -> str:
        """Its output without line breaks, which depend on the terminal."""
        return " ".join(self.out.split())


Program = Callable[..., Ended]


@pytest.fixture
def program(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Program:
    """`p2ptrain` with arguments, in this process: what it imports is imported once."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # typer sets it
    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))  # else it is called pytest
    for name in [name for name in os.environ if name.startswith("P2PTRAIN_")]:
        monkeypatch.delenv(name)

    def run(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["p2ptrain", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        told = capsys.readouterr()
        return Ended(cast(int, end.value.code) or 0, told.out, told.err)

    return run


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> Handed:
    return Handed(monkeypatch)
