"""`provenance.json`: a file beside exported weights that says where they come from. Anyone can check it.

It holds the run's genesis and spec, the manifest of the exported state (a digest of every fragment's numbers), and who
contributed. The digests prove that the weights belong to this run id. They do not prove that the run's peers agreed on
this state; `p2ptrain verify` on a peer's run folder checks that.
"""

from __future__ import annotations

import base64
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from p2ptrain.errors import MalformedError, StorageError
from p2ptrain.method import Claim, Credit, PastState
from p2ptrain.peer.methods import method_of
from p2ptrain.peer.session import prepare_torch
from p2ptrain.run import Digest, Genesis, spec_from_canonical
from p2ptrain.state import RunFolder
from p2ptrain.state.check import Check
from p2ptrain.tasks.model import exported_parameters
from p2ptrain.text import first_line

FILE = "provenance.json"
Hex = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Provenance(BaseModel):
    """What the file holds; binary records are in base64."""

    model_config = ConfigDict(frozen=True)

    name: str
    run: Hex
    founder: str
    height: int
    commit: Hex
    state: Hex
    weight: int
    heights_known: tuple[int, int]
    """Contributions were counted from the first height to the second."""
    contributors: tuple[Credit, ...]
    software: dict[str, str]
    genesis: str
    spec: str
    manifest: str
    weights: str = ""
    """In a one-byte run, digest of the weights as float32."""

    @classmethod
    def of(cls, folder: RunFolder, state: PastState) -> Provenance:
        """The provenance of a state that was made from this folder."""
        return cls(
            name=folder.spec.run.name,
            run=folder.run.hex(),
            founder=folder.genesis.author,
            height=state.head.height,
            commit=state.head.commit.hex(),
            state=state.head.state.hex(),
            weight=state.head.weight,
            heights_known=state.heights_known,
            contributors=tuple(replace(each, share=round(each.share, 4)) for each in state.credits),
            software={name: version(name) for name in ("p2ptrain", "torch", "transformers", "numpy")},
            genesis=base64.b64encode(folder.genesis.encoded).decode(),
            spec=folder.spec.canonical().decode(),
            manifest=base64.b64encode(state.manifest.encoded).decode(),
            weights=state.weights,
        )

    @property
    def claim(self) -> Claim:
        """What the method checks. A manifest that is not base64 becomes an empty one, which the check refuses."""
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
            step = "give a folder that `p2ptrain export` wrote"
            raise StorageError(f"{out / FILE} can't be read", first_line(error), step) from None


def check_export(out: Path) -> list[Check]:
    """Check that a founder signed the run that an export names, and that the weights are those of the state it names.
    Raises StorageError if the folder is no export, or its model can't be loaded."""
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
        return Check("run", False, "the genesis belongs to another run")
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
