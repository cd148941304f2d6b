"""What a run takes of one machine, reckoned from its spec and from the number of its model's parameters.

All that tell a volunteer a size ask here: the doctor, `--max-memory`, the search for a batch size, and the rows that a
peer prints before it loads anything. The figures were measured on real peers on a CPU (docs/limits.md says how), and
tests/swarm/test_needs.py holds them against real peers. Pure, and without torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from p2ptrain.run.spec import RunSpec

WEIGHT_BYTES = 4
"""Models are held in float32."""
PAYLOAD_BYTES = {"e3m0": 1 / 2 + 2 / 256, "int8": 1 + 2 / 256, "bf16": 2.0, "fp32": 4.0}
"""Bytes of a contribution for each of its parameters, by `method.codec`."""


@dataclass(frozen=True, slots=True)
class Needs:
    """Bytes at the peak. Batches come on top."""

    host: int
    """Main memory. Without a GPU, training computes there, too."""
    device: int
    """A GPU's memory; 0 without a GPU."""
    disk: int
    fetched: int
    """What a newcomer fetches from the other peers, at most."""


@dataclass(frozen=True, slots=True)
class _Method:
    """One method's figures: bytes for each trained parameter, except `program`."""

    program: float
    """Main memory that a peer and its p2pd take with a tiny model, in bytes."""
    device: float
    """Memory where training computes, beside the weights."""
    host: float
    """Main memory, with and without a GPU."""
    disk: float
    fetched: float


def needs_of(spec: RunSpec, parameters: int, trained: int, on_gpu: bool, contributors: int = 1) -> Needs:
    """All that a peer takes.

    Args:
        parameters: of the whole model.
        trained: those of them that are trained and exchanged.
        on_gpu: training computes on a GPU that has memory of its own.
        contributors: peers whose contributions lie on each peer's disk.
    """
    kept = kept_by_method(spec, trained, on_gpu, contributors)
    weights = WEIGHT_BYTES * parameters
    host = kept.host + int(_figures(spec, contributors).program) + (0 if on_gpu else weights)
    return Needs(host, kept.device + (weights if on_gpu else 0), kept.disk, kept.fetched)


def kept_by_method(spec: RunSpec, trained: int, on_gpu: bool, contributors: int = 1) -> Needs:
    """The part of `needs_of` that the method keeps: all but the program and the model's weights."""
    each = _figures(spec, contributors)
    host = each.host + (0 if on_gpu else each.device)
    device = each.device if on_gpu else 0
    return Needs(*(round(trained * figure) for figure in (host, device, each.disk, each.fetched)))


def _figures(spec: RunSpec, contributors: int) -> _Method:
    match spec.method.name:
        case "diloco":
            return _diloco(spec, contributors)
        case "spsa":
            return _spsa()


def _diloco(spec: RunSpec, contributors: int) -> _Method:
    """A fragment has 1/P of the parameters. Where training computes are the gradient (4 bytes), AdamW's two moments (8)
    and the error feedback (4), and while a fragment is contributed, four copies of it. In main memory are the global
    state (θ and momentum, 8) at the last P + 2 heights, which share all fragments but one each, the arrays of the outer
    step, and the checkpoint in the making."""
    method, depth = spec.diloco, spec.limits.rollback_depth
    fragment, every = 1 / method.fragments, method.snapshot_every
    snapshots = -(-depth // every) + 2  # within the depth, one below it, one in the making
    changed = min(1.0, every * fragment)  # of the vectors, from one snapshot to the next
    heights = depth + 2 * every  # above the oldest snapshot
    return _Method(
        program=610e6,
        device=16 + 16 * fragment,
        host=47 + 6 * fragment,
        disk=8 * (1 + (snapshots - 1) * changed)
        + 2 * (16 + 4 * fragment)  # the new checkpoint beside the old one
        + heights * contributors * PAYLOAD_BYTES[method.codec] * fragment,
        fetched=8,
    )


def _spsa() -> _Method:
    """Where training computes are the integers of the master weights (4 bytes) and, at the start, the weights that they
    were made from beside the working copy (4). In main memory are three copies of the master weights while a mark is
    made, and the snapshot that this peer began with. On disk are four snapshots: the base, the last two, and one in the
    making. The logs take one byte for each record and are not counted."""
    return _Method(program=730e6, device=8, host=16, disk=16, fetched=4)
