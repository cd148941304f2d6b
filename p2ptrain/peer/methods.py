"""Chooses the training method of a run. No other module asks which method a run has."""

from __future__ import annotations

from p2ptrain.method import Method
from p2ptrain.run import RunSpec


def method_of(spec: RunSpec) -> Method:
    """The method that the spec names. Only the package of that method is imported."""
    match spec.method.name:
        case "diloco":
            from p2ptrain.diloco.method import METHOD as DILOCO

            return DILOCO
        case "spsa":
            from p2ptrain.spsa.method import METHOD as SPSA

            return SPSA
