"""Streaming DiLoCo behind the contract that every method keeps: see `method.Method`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch

from p2ptrain.diloco.audit import audit, branch_of, check_against, shares
from p2ptrain.diloco.codecs import CODECS
from p2ptrain.diloco.fragments import Layout
from p2ptrain.diloco.history import history
from p2ptrain.diloco.replica import Replica, StateGone
from p2ptrain.diloco.state import HashedVector, StateManifest
from p2ptrain.diloco.trainer import DiLoCoTrainer, as_event, make_optimizer
from p2ptrain.errors import StorageError
from p2ptrain.method import Claim, Credit, Method, PastState, Traffic
from p2ptrain.parameters import digest_of_frozen, shared_parameters
from p2ptrain.run import NO_DIGEST, Digest, RunSpec, digest_of
from p2ptrain.state import Blobs, RunFolder
from p2ptrain.state.check import Check
from p2ptrain.tasks import Task
from p2ptrain.units import size


def _alone(spec: RunSpec, task: Task) -> Callable[[int], None]:
    optimizer = make_optimizer(task.model, spec.diloco)

    def step(index: int) -> None:
        loss = task.loss(index)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(task.model.parameters(), spec.diloco.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()

    return step


def _state_at(folder: RunFolder, model: torch.nn.Module, height: int | None) -> PastState:
    head = folder.ledger.head
    if head == NO_DIGEST:
        why = "the peer stopped before its first snapshot"
        raise StorageError(f"{folder.path} holds no state yet", why, "start the peer again")
    shapes = {name: parameter.shape for name, parameter in shared_parameters(model).items()}
    layout = Layout.of(shapes, folder.spec.diloco.fragments, digest_of_frozen(model))
    try:
        state = Replica(folder, layout, Blobs()).state_at(_commit_at(folder, head, height))
    except StateGone as error:
        wanted, then = "the newest state", "start the peer again: it fetches what is missing"
        if height is not None:
            wanted, then = f"the state of height {height}", "choose a later height"
        raise StorageError(f"{wanted} can't be computed in {folder.path}", error.why, then) from None
    commits = branch_of(folder, state.commit)
    return PastState(
        head=state.head,
        words=f"height {state.height}",
        parameters=layout.assemble([torch.tensor(fragment.theta.values) for fragment in state.fragments]),
        manifest=state.manifest,
        heights_known=(commits[0].height, commits[-1].height) if commits else (0, 0),
        credits=[Credit(s.peer, s.contributions, s.tokens, s.share) for s in shares(commits, folder.spec)],
    )


def _check_weights(spec: RunSpec, claim: Claim, tensors: Mapping[str, torch.Tensor], frozen: Digest | None) -> Check:
    if problem := _problem(claim, StateManifest.decode(claim.manifest), tensors, frozen):
        return Check("weights", False, problem)
    unchecked = ""
    if spec.model.lora is not None:
        unchecked = "; only adapters.safetensors was checked, not the base model that it was merged into"
    return Check("weights", True, f"height {claim.height}, state {claim.state.hex()}{unchecked}")


def _commit_at(folder: RunFolder, head: Digest, height: int | None) -> Digest:
    """The commit of a height on the head's branch; the head if `height` is None."""
    if height is None:
        return head
    if height == 0:
        return NO_DIGEST
    by_height = {commit.height: commit.digest for commit in branch_of(folder, head)}
    if height not in by_height:
        known = f"it has heights {min(by_height)} to {max(by_height)}" if by_height else "it has no commits"
        raise StorageError(f"{folder.path} has no commit of height {height}", known, "choose another height with --at")
    return by_height[height]


def _problem(claim: Claim, manifest: StateManifest, tensors: Mapping[str, torch.Tensor], frozen: Digest | None) -> str:
    """What is wrong with exported weights; empty if nothing is."""
    if digest_of(manifest.encoded) != claim.state or manifest.height != claim.height:
        return "the manifest belongs to another state"
    layout = Layout.of({name: tensor.shape for name, tensor in tensors.items()}, len(manifest.vectors))
    if layout.digest != manifest.layout:
        return "names or shapes of the parameters differ from the run's"
    for index, (theta, _) in enumerate(manifest.vectors):
        values = np.ascontiguousarray(layout.gather(tensors, index).numpy())
        if HashedVector(values).digest != theta:
            return f"the weights of fragment {index} differ from those of height {claim.height}"
    return "" if frozen in (None, manifest.frozen) else "the weights that are not trained differ from the run's"


def _traffic(spec: RunSpec, trained: int | None) -> Traffic:
    method = spec.diloco
    if trained is None:
        return Traffic("", None, method.steps_per_round)
    count = CODECS[method.codec].encoded_bytes(trained // method.fragments)
    every = f"every {method.steps_per_round} steps" if method.steps_per_round > 1 else "every step"
    return Traffic(f"sends each peer about {size(count)} {every}", count, method.steps_per_round)


METHOD = Method(
    trainer=DiLoCoTrainer,
    as_event=as_event,
    traffic=_traffic,
    alone=_alone,
    history=history,
    audit=audit,
    state_at=_state_at,
    check_weights=_check_weights,
    check_against=lambda folder, claim: check_against(folder, claim.commit, claim.state),
)
