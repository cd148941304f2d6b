"""Which method a run has: asked here, and nowhere else."""

from __future__ import annotations

from p2ptrain.method import Method
from p2ptrain.run import RunSpec


def method_of(spec: RunSpec) -> Method:
    """The method that a run's spec names. Only that method's package is loaded."""
    match spec.method.name:
        case "diloco":
            from p2ptrain.diloco.method import METHOD as DILOCO

            return DILOCO
        case "spsa":
            from p2ptrain.spsa.method import METHOD as SPSA

            return SPSA
