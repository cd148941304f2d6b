"""The run spec: everything that all peers of a run must agree on, and nothing else.

What only one volunteer cares about (device, batch size, port, folder) is a flag of the command line instead. Every
field says what it does and in which unit; `p2ptrain new` prints these sentences into the template.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, JsonValue, model_validator

from p2ptrain.errors import SpecError
from p2ptrain.run.digest import Digest, digest_of
from p2ptrain.run.method import METHODS, DiLoCoMethod, Method, SPSAMethod
from p2ptrain.run.record import PeerIdField
from p2ptrain.run.section import PositiveInt, Section
from p2ptrain.run.task import LanguageModelling, TaskSection

PROTOCOL: Final = 1
"""The version of everything peers say to each other. A peer speaks exactly the protocol of its run."""

MAX_SPEC_BYTES = 64 * 1024

Patterns = Annotated[
    tuple[Annotated[str, Field(min_length=1, max_length=200)], ...], Field(max_length=1000, strict=False)
]
"""Names with * and ? in them."""


class RunSection(Section):
    """Which run this is."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")] = Field(
        description="Name of the run for people: lower-case letters, digits and dashes, at most 40."
    )
    protocol: Literal[1] = Field(PROTOCOL, description="Version of the protocol between peers.")
    description: Annotated[str, Field(max_length=500)] = Field(
        "", description="One sentence for people who consider joining."
    )


class LoraSection(Section):
    """Low-rank adapters (LoRA, arXiv 2106.09685): only they are trained and exchanged, the model below stays frozen.
    Needs the extra p2ptrain[lora]."""

    rank: Annotated[int, Field(ge=1, le=4096)] = Field(8, description="r: rank of each adapter.")
    alpha: Annotated[float, Field(gt=0.0, le=10**6)] = Field(
        16.0, description="α: an adapter's output is scaled by alpha / rank."
    )
    targets: Patterns = Field(
        (),
        description="Modules that get an adapter, as patterns, e.g. 'q_proj' or '*.layers.1?.mlp.*'. Left out: those "
        "that peft chooses for the architecture.",
    )


class ModelSection(Section):
    """The model: an architecture with its configuration (from scratch), or a pretrained one."""

    architecture: Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,60}$")] | None = Field(
        None,
        description="A transformers model type for training from scratch, e.g. 'llama' or 'gpt2'; 'custom' for a model "
        "that the user's own program builds (Python API only).",
    )
    config: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="Fields of that architecture's transformers configuration, e.g. hidden_size. With the tokenizer "
        "'bytes', vocab_size is filled in.",
    )
    pretrained: Annotated[str, Field(min_length=1, max_length=300)] | None = Field(
        None, description="Instead of an architecture: a hub name or a local folder to start from."
    )
    revision: Annotated[str, Field(min_length=1, max_length=100)] | None = Field(
        None, description="Branch, tag or commit of the pretrained model on the hub."
    )
    trainable: Patterns = Field(
        (),
        description="Parameters that are trained and exchanged, as patterns, e.g. '*.layers.2?.*'; the others stay "
        "frozen. Left out: all; with LoRA, none besides the adapters and a classification head.",
    )
    lora: LoraSection | None = Field(
        None, description="Low-rank adapters instead of the whole model; needs p2ptrain[lora]."
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.architecture is None) == (self.pretrained is None):
            raise ValueError("give either 'architecture' or 'pretrained', one of the two")
        if self.pretrained is not None and self.config:
            raise ValueError("'config' belongs to 'architecture'; a pretrained model brings its own")
        if self.revision is not None and self.pretrained is None:
            raise ValueError("'revision' belongs to 'pretrained'")
        if self.architecture == "custom" and (self.trainable or self.lora):
            raise ValueError(
                "'trainable' and 'lora' are not for architecture = 'custom': its program chooses what trains"
            )
        return self


class TextSection(Section):
    """What all kinds of data have in common."""

    tokenizer: Annotated[str, Field(min_length=1, max_length=300)] = Field(
        "bytes", description="'bytes' (no download, 257 tokens), or the hub name or folder of a transformers tokenizer."
    )
    sequence_length: Annotated[int, Field(ge=8, le=2**20)] = Field(128, description="Tokens per training sequence.")
    held_out: Annotated[float, Field(gt=0.0, le=0.5)] = Field(
        0.05,
        description="Fraction of documents, chosen by the hash of their content, that no peer trains on and every "
        "peer may evaluate on.",
    )


class StdlibData(TextSection):
    """The .py files of the interpreter's own standard library: real text on every machine, no download."""

    source: Literal["stdlib-python"]


class FilesData(TextSection):
    """Files on each volunteer's machine."""

    source: Literal["files"]
    paths: Annotated[tuple[str, ...], Field(min_length=1, max_length=1000, strict=False)] = Field(
        description="Files, folders or globs. .jsonl, .json, .csv and .parquet are read as tables (see text_column); "
        "anything else as UTF-8 text."
    )
    text_column: Annotated[str, Field(max_length=100)] = Field(
        "text", description="Column of a table that holds the text."
    )


class DatasetData(TextSection):
    """A dataset on the Hugging Face hub."""

    source: Literal["dataset"]
    dataset: Annotated[str, Field(min_length=1, max_length=300)] = Field(
        description="Hub name or folder of the dataset."
    )
    subset: Annotated[str, Field(max_length=100)] | None = Field(None, description="Name of the dataset's subset.")
    split: Annotated[str, Field(min_length=1, max_length=100)] = Field("train", description="Split to read.")
    streaming: bool = Field(True, description="Read while training instead of downloading everything first.")
    text_column: Annotated[str, Field(max_length=100)] = Field("text", description="Column that holds the text.")


class CustomData(Section):
    """Whatever the user's own program trains on (Python API only)."""

    source: Literal["custom"]


DataSection = Annotated[StdlibData | FilesData | DatasetData | CustomData, Field(discriminator="source")]
DATA_SOURCES = ("stdlib-python", "files", "dataset", "custom")


class EvalSection(Section):
    """Held-out evaluation of the global weights."""

    every: Annotated[int, Field(ge=1, le=10**6)] = Field(
        8,
        description="Heights between two evaluations; of a one-byte run, 32 records count as one. A peer drawn by the "
        "commit's digest, or each in turn, does it for all.",
    )
    sequences: Annotated[int, Field(ge=1, le=10**6)] = Field(
        64,
        description="Held-out sequences, the first ones of the held-out text, that an evaluation reads; of a table's "
        "examples, those with the lowest hashes.",
    )


class LimitsSection(Section):
    """Bounds on what one peer can do to the others."""

    contribution_tokens: PositiveInt = Field(
        4_194_304, description="Most tokens that one contribution can weigh, whatever it claims."
    )
    norm_bound: Annotated[float, Field(gt=1.0, le=1000.0)] = Field(
        3.0,
        description="With three or more contributors, a contribution's norm per inner step is scaled down to this many "
        "times the median.",
    )
    rollback_depth: Annotated[int, Field(ge=1, le=10**6)] = Field(
        32,
        description="Deepest fork, in heights, that a peer leaves by itself; beyond it stops and says so. Snapshots "
        "are kept that far back.",
    )


class SwarmSection(Section):
    """Who takes part."""

    min_peers: Annotated[int, Field(ge=1, le=1000)] = Field(
        1, description="Peers that must be ready before the first inner step of the run."
    )
    access: Literal["public", "private"] = Field(
        "public",
        description="'public': whoever has an invite. 'private': those whom an owner invites (p2ptrain invite), with "
        "everything between peers closed to others.",
    )
    owners: Annotated[tuple[PeerIdField, ...], Field(max_length=16, strict=False)] = Field(
        (),
        description="Who invites and revokes: peer ids of keys that `p2ptrain keygen` makes and that need not be on a "
        "machine that trains. Left out: the founder.",
    )


class RunSpec(Section):
    """One training job, as all its peers agree on it."""

    run: RunSection
    model: ModelSection
    data: DataSection
    task: TaskSection = LanguageModelling()
    method: Method
    eval: EvalSection = EvalSection()
    limits: LimitsSection = LimitsSection()
    swarm: SwarmSection = SwarmSection()

    @model_validator(mode="after")
    def _task_has_its_data(self) -> Self:
        if isinstance(self.task, LanguageModelling):
            return self
        task = f"task.kind = {self.task.kind!r}"
        if self.is_custom or isinstance(self.data, CustomData):  # the latter for the type checker
            raise ValueError(f"{task} is not for a run whose own program brings model and data: leave out [task]")
        if isinstance(self.data, StdlibData):
            raise ValueError(f"{task} reads tables: data.source must be 'files' or 'dataset', not 'stdlib-python'")
        if isinstance(self.data, DatasetData) and self.data.streaming:
            raise ValueError(f"{task} reads the whole dataset before it begins: set data.streaming = false")
        if self.data.text_column != "text":
            raise ValueError(f"data.text_column is for language modelling: with {task} the templates name the columns")
        return self

    @classmethod
    def custom(
        cls, name: str, *, method: Literal["diloco", "spsa"] = "diloco", min_peers: int = 1, **fields: Any
    ) -> Self:
        """The spec of a run whose model and data the user's own program brings; `fields` are the method's.

        Raises:
            pydantic.ValidationError: a field that does not exist or does not fit.
        """
        return cls(
            run=RunSection(name=name),
            model=ModelSection(architecture="custom"),
            data=CustomData(source="custom"),
            method=SPSAMethod(name="spsa", **fields)
            if method == "spsa"
            else DiLoCoMethod(name="diloco", **({"schedule": "constant"} | fields)),
            swarm=SwarmSection(min_peers=min_peers),
        )

    def canonical(self) -> bytes:
        """The one byte string that stands for this spec: JSON, defaults filled in, keys sorted, no spaces."""
        fields = self.model_dump(mode="json")
        return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()

    @property
    def digest(self) -> Digest:
        return digest_of(self.canonical())

    @property
    def is_private(self) -> bool:
        return self.swarm.access == "private"

    @property
    def is_custom(self) -> bool:
        """Whether model or data are brought by a program of its author's, without which nobody can join."""
        return self.model.architecture == "custom" or self.data.source == "custom"

    def made_private(self) -> Self:
        """The same run, for those alone whom its owners invite."""
        return self.model_copy(update={"swarm": self.swarm.model_copy(update={"access": "private"})})

    @property
    def diloco(self) -> DiLoCoMethod:
        """The method of a run that trains by Streaming DiLoCo.

        Raises:
            SpecError: this one does not.
        """
        if not isinstance(self.method, DiLoCoMethod):
            raise _another_method("diloco", self.method.name)
        return self.method

    @property
    def spsa(self) -> SPSAMethod:
        """The method of a run that trains by one-byte SPSA.

        Raises:
            SpecError: this one does not.
        """
        if not isinstance(self.method, SPSAMethod):
            raise _another_method("spsa", self.method.name)
        return self.method


def _another_method(wanted: str, found: str) -> SpecError:
    return SpecError(f"this run does not train by {METHODS[wanted]}", f"method.name is {found!r}")
