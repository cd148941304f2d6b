"""What one-byte SPSA gives to the rest of the program: its side of the contract in `method`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from p2ptrain.errors import MalformedError
from p2ptrain.method import Claim, Credit, Method, PastState, Traffic
from p2ptrain.parameters import shared_parameters
from p2ptrain.run import NO_DIGEST, Digest, RunSpec, SigningKey, digest_of
from p2ptrain.run.head import Head
from p2ptrain.spsa.audit import Past, audit, check_against
from p2ptrain.spsa.estimator import Alone, Estimator
from p2ptrain.spsa.history import history
from p2ptrain.spsa.master import MasterLayout
from p2ptrain.spsa.position import total, unpacked
from p2ptrain.spsa.replica import Replica
from p2ptrain.spsa.state import MasterManifest, MasterState
from p2ptrain.spsa.trainer import SPSATrainer, as_event
from p2ptrain.state import RunFolder
from p2ptrain.state.check import Check
from p2ptrain.state.logs import Log
from p2ptrain.tasks import Task


def _alone(spec: RunSpec, task: Task) -> Callable[[int], None]:
    method, tensors = spec.spsa, shared_parameters(task.model)
    task.model.eval()
    layout = MasterLayout.for_weights(tensors)
    state = MasterState(layout, {}, layout.from_weights(tensors).numpy())
    replica = Replica(NO_DIGEST, method, state, task.device)
    log = Log(SigningKey.generate().peer_id, bytes(8))
    peer = Alone(NO_DIGEST, log, method, replica, Estimator(method, replica, tensors, task.loss_on))
    each = method.batches_per_seed

    def step(index: int) -> None:
        peer.step([task.batch(at) for at in range(index * each, (index + 1) * each)])

    return step


def _check_against(folder: RunFolder, claim: Claim) -> Check:
    try:
        position = unpacked(MasterManifest.decode(claim.manifest).position)
    except (MalformedError, ValueError) as error:
        return Check("ledger", False, f"the export does not say what its state holds: {error}")
    return check_against(folder, claim.state, position)


def _state_at(folder: RunFolder, model: torch.nn.Module, height: int | None) -> PastState:
    past = Past(folder)
    return past_state(past, past.state_at(past.book.standing() if height is None else past.position_of(height)))


def _check_weights(spec: RunSpec, claim: Claim, tensors: Mapping[str, torch.Tensor], frozen: Digest | None) -> Check:
    if problem := _problem(claim, MasterManifest.decode(claim.manifest), tensors, frozen):
        return Check("weights", False, problem)
    told = f"height {claim.height}, state {claim.state.hex()}, rounded to float32"
    return Check("weights", True, f"{told}; use --run RUN_DIR to check that the logs lead to it")


def past_state(past: Past, state: MasterState) -> PastState:
    """A state of the run, ready to be exported."""
    weights = state.layout.to_weights(torch.from_numpy(state.master.copy()))
    return PastState(
        head=Head(state.records, NO_DIGEST, state.digest),
        words=f"{state.records:,} records",
        parameters=weights,
        manifest=state.manifest,
        heights_known=(0, state.records),
        credits=[Credit(share.peer, share.standing, 0, share.share) for share in past.shares(state.position)],
        weights=_digest_of(state.layout, weights).hex(),
    )


def _digest_of(layout: MasterLayout, weights: Mapping[str, torch.Tensor]) -> Digest:
    """Names weights as they are exported, in float32. Their integers can't be computed back from them."""
    parts = [weights[slot.name].detach().to(torch.float32).contiguous().numpy() for slot in layout.slots]
    return digest_of(b"".join(part.tobytes() for part in parts))


def _problem(claim: Claim, manifest: MasterManifest, tensors: Mapping[str, torch.Tensor], frozen: Digest | None) -> str:
    """What is wrong with exported weights; empty if nothing is."""
    if digest_of(manifest.encoded) != claim.state or total(unpacked(manifest.position)) != claim.height:
        return "the manifest belongs to another state"
    layout = manifest.layout()
    if {slot.name: slot.shape for slot in layout.slots} != {name: tuple(t.shape) for name, t in tensors.items()}:
        return "names or shapes of the parameters differ from the run's"
    if _digest_of(layout, tensors).hex() != claim.weights:
        return "the numbers differ from the exported ones"
    return "" if frozen in (None, manifest.frozen) else "the weights that are not trained differ from the run's"


METHOD = Method(
    trainer=SPSATrainer,
    as_event=as_event,
    traffic=lambda spec, trained: Traffic("sends one byte for each gradient", None, 1),
    alone=_alone,
    history=history,
    audit=audit,
    state_at=_state_at,
    check_weights=_check_weights,
    check_against=_check_against,
)
