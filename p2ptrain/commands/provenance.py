"""Where exported weights come from: a file beside them that anyone can check against them.

`provenance.json` holds the run's genesis and spec, the manifest of the exported state (digests of every fragment's
numbers) and who contributed. The digests lead from the weights to the run id: what they can't prove is that the run's
peers agreed on this state; `p2ptrain verify` on a peer's run folder replays that.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from p2ptrain.diloco.audit import branch_of, shares
from p2ptrain.diloco.fragments import Layout
from p2ptrain.diloco.state import GlobalState, HashedVector, StateManifest
from p2ptrain.errors import MalformedError, StorageError
from p2ptrain.peer.session import prepare_torch
from p2ptrain.run import NO_DIGEST, Digest, Genesis, Record, RunSpec, SPSAMethod, digest_of, spec_from_canonical
from p2ptrain.spsa.audit import Share as LogShare
from p2ptrain.spsa.master import MasterLayout
from p2ptrain.spsa.position import total, unpacked
from p2ptrain.spsa.state import MasterManifest, MasterState
from p2ptrain.state import RunFolder
from p2ptrain.state.check import Check
from p2ptrain.tasks.model import exported_parameters

FILE = "provenance.json"
Hex = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Contributor(BaseModel):
    model_config = ConfigDict(frozen=True)

    peer: str
    contributions: int
    tokens: int
    share: float
    """Of all tokens between the two heights."""


class Provenance(BaseModel):
    """The file's content; binary records are in base64."""

    model_config = ConfigDict(frozen=True)

    name: str
    run: Hex
    founder: str
    height: int
    commit: Hex
    state: Hex
    weight: int
    heights_known: Annotated[tuple[int, int], Field(description="The commits that contributors were counted over.")]
    contributors: tuple[Contributor, ...]
    software: dict[str, str]
    genesis: str
    spec: str
    manifest: str
    weights: Annotated[str, Field(description="Of a one-byte run: digest of the weights as float32.")] = ""

    @classmethod
    def of(cls, folder: RunFolder, state: GlobalState) -> Provenance:
        """Of a state that a chain of commits leads to."""
        commits = branch_of(folder, state.commit)
        found = shares(commits, folder.spec)
        return cls(
            **_common(folder, state.manifest),
            height=state.height,
            commit=state.commit.hex(),
            state=state.digest.hex(),
            weight=state.weight,
            heights_known=(commits[0].height, commits[-1].height) if commits else (0, 0),
            contributors=tuple(
                Contributor(peer=s.peer, contributions=s.contributions, tokens=s.tokens, share=round(s.share, 4))
                for s in found
            ),
        )

    @classmethod
    def of_logs(cls, folder: RunFolder, state: MasterState, found: Sequence[LogShare]) -> Provenance:
        """Of a state that authors' logs lead to; heights count records there."""
        return cls(
            **_common(folder, state.manifest),
            height=state.records,
            commit=NO_DIGEST.hex(),
            state=state.digest.hex(),
            weight=0,
            heights_known=(0, state.records),
            contributors=tuple(
                Contributor(peer=s.peer, contributions=s.standing, tokens=0, share=round(s.share, 4)) for s in found
            ),
            weights=_digest_of(state.layout, state.layout.to_weights(torch.from_numpy(state.master.copy()))).hex(),
        )

    def write(self, out: Path) -> None:
        (out / FILE).write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, out: Path) -> Provenance:
        """Raises StorageError if the file is missing or damaged."""
        try:
            return cls.model_validate_json((out / FILE).read_bytes())
        except (OSError, ValidationError) as error:
            raise StorageError(
                f"{out / FILE} can't be read", str(error).splitlines()[0], "give a folder that `p2ptrain export` wrote"
            ) from None


def _common(folder: RunFolder, manifest: Record) -> dict[str, Any]:
    return {
        "name": folder.spec.run.name,
        "run": folder.run.hex(),
        "founder": folder.genesis.author,
        "software": {name: version(name) for name in ("p2ptrain", "torch", "transformers", "numpy")},
        "genesis": base64.b64encode(folder.genesis.encoded).decode(),
        "spec": folder.spec.canonical().decode(),
        "manifest": base64.b64encode(manifest.encoded).decode(),
    }


def _digest_of(layout: MasterLayout, weights: Mapping[str, torch.Tensor]) -> Digest:
    """Names weights as they are exported: the integers that they were rounded from can't be had back."""
    parts = [weights[slot.name].detach().to(torch.float32).contiguous().numpy() for slot in layout.slots]
    return digest_of(b"".join(part.tobytes() for part in parts))


def check_export(out: Path) -> list[Check]:
    """Whether an exported folder's weights are those of the state that it names, of a run that its founder signed.

    Raises:
        StorageError: the folder is no export.
    """
    prepare_torch(None)
    told = Provenance.read(out)
    return [_check_run(told), _check_weights(told, out)]


def _check_run(told: Provenance) -> Check:
    try:
        genesis = Genesis.decode(base64.b64decode(told.genesis)).check_signature()
        spec = spec_from_canonical(told.spec.encode())
    except (MalformedError, ValueError) as error:
        return Check("run", False, str(error))
    if genesis.digest.hex() != told.run:
        return Check("run", False, "the genesis is another run's")
    if spec.digest != genesis.spec:
        return Check("run", False, "the spec is not the one that the genesis names")
    return Check("run", True, f"{told.name} ({told.run[:8]}), signed by its founder {genesis.author}")


def _check_weights(told: Provenance, out: Path) -> Check:
    try:
        spec = spec_from_canonical(told.spec.encode())
        record = base64.b64decode(told.manifest)
        tensors, frozen = exported_parameters(spec, out)
        manifest: MasterManifest | StateManifest
        if isinstance(spec.method, SPSAMethod):
            manifest = MasterManifest.decode(record)
            problem = _problem_of_masters(told, manifest, tensors)
        else:
            manifest = StateManifest.decode(record)
            problem = _problem_of_fragments(told, manifest, tensors)
        if not problem and frozen not in (None, manifest.frozen):
            problem = "the numbers that are not trained are not the run's"
    except MalformedError as error:
        return Check("weights", False, str(error))
    except (OSError, ValueError, RuntimeError) as error:
        raise StorageError(f"the model in {out} can't be loaded", str(error).splitlines()[0]) from None
    if problem:
        return Check("weights", False, problem)
    return Check("weights", True, f"height {told.height}, state {told.state}{_scope(spec)}")


def _problem_of_fragments(told: Provenance, manifest: StateManifest, tensors: Mapping[str, torch.Tensor]) -> str:
    """What is wrong with the weights of a state of Streaming DiLoCo; empty if nothing is."""
    if digest_of(manifest.encoded).hex() != told.state or manifest.height != told.height:
        return "the manifest is another state's"
    layout = Layout.of({name: tensor.shape for name, tensor in tensors.items()}, len(manifest.vectors))
    if layout.digest != manifest.layout:
        return "names or shapes of the parameters are not the run's"
    for index, (theta, _) in enumerate(manifest.vectors):
        values = np.ascontiguousarray(layout.gather(tensors, index).numpy())
        if HashedVector(values).digest != theta:
            return f"the numbers of fragment {index} are not those of height {told.height}"
    return ""


def _problem_of_masters(told: Provenance, manifest: MasterManifest, tensors: Mapping[str, torch.Tensor]) -> str:
    """The same for one-byte SPSA."""
    if digest_of(manifest.encoded).hex() != told.state or total(unpacked(manifest.position)) != told.height:
        return "the manifest is another state's"
    layout = manifest.layout()
    if {slot.name: slot.shape for slot in layout.slots} != {name: tuple(t.shape) for name, t in tensors.items()}:
        return "names or shapes of the parameters are not the run's"
    return "" if _digest_of(layout, tensors).hex() == told.weights else "the numbers are not those that were exported"


def _scope(spec: RunSpec) -> str:
    """What this alone can't say."""
    if isinstance(spec.method, SPSAMethod):
        return "; rounded to float32: --run RUN_DIR checks that the logs lead to it"
    if spec.model.lora is not None:
        return "; checked: adapters.safetensors, not the base model that it was merged into"
    return ""
