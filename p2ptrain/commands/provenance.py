"""Where exported weights come from: a file beside them that anyone can check against them.

`provenance.json` holds the run's genesis and spec, the manifest of the exported state (digests of every fragment's
numbers) and who contributed. The digests lead from the weights to the run id: what they can't prove is that the run's
peers agreed on this state; `p2ptrain verify` on a peer's run folder replays that.
"""

from __future__ import annotations

import base64
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from p2ptrain.errors import MalformedError, StorageError
from p2ptrain.method import Claim, PastState
from p2ptrain.peer.methods import method_of
from p2ptrain.peer.session import prepare_torch
from p2ptrain.run import Digest, Genesis, spec_from_canonical
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
    def of(cls, folder: RunFolder, state: PastState) -> Provenance:
        """Of a state that the folder's ledger leads to."""
        return cls(
            name=folder.spec.run.name,
            run=folder.run.hex(),
            founder=folder.genesis.author,
            height=state.head.height,
            commit=state.head.commit.hex(),
            state=state.head.state.hex(),
            weight=state.head.weight,
            heights_known=state.heights_known,
            contributors=tuple(
                Contributor(peer=c.peer, contributions=c.contributions, tokens=c.tokens, share=round(c.share, 4))
                for c in state.credits
            ),
            software={name: version(name) for name in ("p2ptrain", "torch", "transformers", "numpy")},
            genesis=base64.b64encode(folder.genesis.encoded).decode(),
            spec=folder.spec.canonical().decode(),
            manifest=base64.b64encode(state.manifest.encoded).decode(),
            weights=state.weights,
        )

    @property
    def claim(self) -> Claim:
        """What the method checks. A manifest that is no base64 is none at all."""
        try:
            manifest = base64.b64decode(self.manifest)
        except ValueError:
            manifest = b""
        commit, state = (Digest(bytes.fromhex(name)) for name in (self.commit, self.state))
        return Claim(self.height, commit, state, manifest, self.weights)

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
        tensors, frozen = exported_parameters(spec, out)
        return method_of(spec).check_weights(spec, told.claim, tensors, frozen)
    except MalformedError as error:
        return Check("weights", False, str(error))
    except (OSError, ValueError, RuntimeError) as error:
        raise StorageError(f"the model in {out} can't be loaded", str(error).splitlines()[0]) from None
