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
HEAP_BYTES = 32 * 2**20
"""glibc gives larger arrays back to the system at once. Smaller ones lie in the heap, and some of what they leave stays
unused there."""


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
    """One method's figures: bytes for each trained parameter, beside its weight; `program` is bytes."""

    program: float
    """Main memory of a peer with a tiny model, and of its p2pd."""
    device: float
    """Where training computes."""
    host: float
    """Main memory, if training computes on a GPU."""
    together: float
    """Main memory, if training computes there, too. The peaks of the two need not come at the same time."""
    disk: float
    fetched: float


def needs_of(spec: RunSpec, parameters: int, trained: int, on_gpu: bool, contributors: int = 1) -> Needs:
    """All that a peer takes.

    Args:
        parameters: number of the whole model's parameters.
        trained: number of those that are trained and exchanged.
        on_gpu: training computes on a GPU that has memory of its own.
        contributors: number of peers whose contributions lie on each peer's disk.
    """
    kept = kept_by_method(spec, trained, on_gpu, contributors)
    weights = WEIGHT_BYTES * parameters
    host = kept.host + int(_figures(spec, trained, contributors).program) + (0 if on_gpu else weights)
    return Needs(host, kept.device + (weights if on_gpu else 0), kept.disk, kept.fetched)


def kept_by_method(spec: RunSpec, trained: int, on_gpu: bool, contributors: int = 1) -> Needs:
    """The part of `needs_of` that the method keeps: all but the program and the model's weights."""
    each = _figures(spec, trained, contributors)
    memory = (each.host, each.device) if on_gpu else (each.together, 0)
    return Needs(*(round(trained * figure) for figure in (*memory, each.disk, each.fetched)))


def _figures(spec: RunSpec, trained: int, contributors: int) -> _Method:
    match spec.method.name:
        case "diloco":
            return _diloco(spec, trained, contributors)
        case "spsa":
            return _spsa()


def _diloco(spec: RunSpec, trained: int, contributors: int) -> _Method:
    """Streaming DiLoCo. A fragment has 1/P of the trained parameters.

    Where training computes are the gradient (4 bytes), AdamW's two moments (8), the error feedback of a codec that
    loses something (4), and four copies of the fragment that is contributed.

    Main memory has two peaks. While a peer trains, it holds the global state (θ and momentum, 8) at the last P + 2
    heights, which share all fragments but one, the arrays of the outer step, and the new checkpoint (weights, moments
    and feedback, and a copy of the weights). While it goes on from a checkpoint, it holds the file, a copy of it, the
    tensors in it, and the global state.
    """
    method, depth = spec.diloco, spec.limits.rollback_depth
    fragment, every = 1 / method.fragments, method.snapshot_every
    feedback = 0 if method.codec == "fp32" else 4
    device = 12 + feedback + 16 * fragment
    checkpoint = 12 + feedback
    training, resuming = 16 + checkpoint + 20 * fragment, 12 + 3 * checkpoint
    heap = 13 if WEIGHT_BYTES * trained * fragment < HEAP_BYTES else 0
    snapshots = -(-depth // every) + 2  # within the depth, one below it, and the one that is being written
    changed = min(1.0, every * fragment)  # share of the vectors that differ between two snapshots
    heights = depth + 2 * every  # above the oldest snapshot
    return _Method(
        program=610e6,
        device=device,
        host=max(training, resuming) + heap,
        together=max(device + training, resuming) + heap,
        disk=8 * (1 + (snapshots - 1) * changed)
        + 2 * (checkpoint + feedback * fragment)  # the new one beside the old one
        + heights * contributors * PAYLOAD_BYTES[method.codec] * fragment,
        fetched=8,
    )


def _spsa() -> _Method:
    """One-byte SPSA. Where training computes are the integers of the master weights (4 bytes) and, at the start, the
    model's own weights beside the working copy (4). Main memory holds three copies of the master weights while a mark
    is made, and the snapshot that the peer began with. On the disk are four snapshots: the base, the last two, and the
    one that is being written. The logs take one byte for each record and are not counted."""
    return _Method(program=730e6, device=8, host=16, together=24, disk=16, fetched=4)
