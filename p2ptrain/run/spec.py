"""The run spec: everything that all peers of a run must agree on, and nothing else.

A choice that concerns one volunteer only (device, batch size, port, folder) is an option of the command line instead.
The text below each field says what the field does and in which unit. `p2ptrain new` prints these texts.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, JsonValue, model_validator

from p2ptrain.errors import SpecError
from p2ptrain.run.digest import Digest, digest_of
from p2ptrain.run.method import METHODS, DiLoCoMethod, Method, SPSAMethod
from p2ptrain.run.record import PeerIdField
from p2ptrain.run.section import PositiveInt, Section, Words
from p2ptrain.run.task import Chat, LanguageModelling, TaskSection

PROTOCOL: Final = 2
"""Version of the protocol between peers. A peer speaks exactly the protocol of its run."""

MAX_SPEC_BYTES = 64 * 1024

Patterns = Words
"""Patterns of names: * stands for any characters, ? for one."""


class RunSection(Section):
    """Which run this is."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")]
    """Name of the run, for people: lower-case letters, digits and dashes, at most 40 characters."""
    protocol: Literal[2] = PROTOCOL
    """Version of the protocol between peers."""
    description: Annotated[str, Field(max_length=500)] = ""
    """One sentence for people who think about joining."""


class LoraSection(Section):
    """Low-rank adapters (LoRA, arXiv 2106.09685). Only the adapters are trained and exchanged; the model's own weights
    stay as they are. Needs the extra p2ptrain[lora]."""

    rank: Annotated[int, Field(ge=1, le=4096)] = 8
    """r: rank of each adapter."""
    alpha: Annotated[float, Field(gt=0.0, le=10**6)] = 16.0
    """α: an adapter's output is multiplied by alpha / rank."""
    targets: Patterns = ()
    """Modules that get an adapter, as patterns, e.g. 'q_proj' or '*.layers.1?.mlp.*'. If left out, peft chooses them
    for the architecture."""


class ModelSection(Section):
    """The model: an architecture with its configuration (from scratch), or a pretrained one."""

    architecture: Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,60}$")] | None = None
    """Model type of transformers, to train from scratch, e.g. 'llama' or 'gpt2'. 'custom' stands for a model that your
    own program builds (Python API only)."""
    config: dict[str, JsonValue] = Field(default_factory=dict)
    """Fields of that model type's configuration in transformers, e.g. hidden_size. With the tokenizer 'bytes',
    vocab_size is filled in."""
    pretrained: Annotated[str, Field(min_length=1, max_length=300)] | None = None
    """Name on the Hugging Face hub, or folder, of a model to start from. Replaces architecture."""
    revision: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    """Branch, tag or commit of the pretrained model on the hub. If left out, its main branch."""
    trainable: Patterns = ()
    """Parameters that are trained and exchanged, as patterns, e.g. '*.layers.2?.*'. The others stay as they are. If
    left out: all of them; with LoRA, only the adapters and a classification head."""
    lora: LoraSection | None = None
    """Train low-rank adapters instead of the whole model. Needs p2ptrain[lora]."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.architecture is None) == (self.pretrained is None):
            raise ValueError("give either 'architecture' or 'pretrained', one of the two")
        if self.pretrained is not None and self.config:
            raise ValueError("'config' belongs to 'architecture'; a pretrained model brings its own")
        try:
            json.dumps(self.config, allow_nan=False)
        except ValueError:
            raise ValueError("a number in 'config' is not finite (nan or inf)") from None
        if self.revision is not None and self.pretrained is None:
            raise ValueError("'revision' belongs to 'pretrained'")
        if self.architecture == "custom" and (self.trainable or self.lora):
            chooses = "its program chooses what trains"
            raise ValueError(f"'trainable' and 'lora' are not for architecture = 'custom': {chooses}")
        return self


class TextSection(Section):
    """What all kinds of data have in common."""

    tokenizer: Annotated[str, Field(min_length=1, max_length=300)] = "bytes"
    """'bytes' (257 tokens, no download), or a transformers tokenizer: its name on the hub or folder."""
    sequence_length: Annotated[int, Field(ge=8, le=2**20)] = 128
    """Tokens in a training sequence."""
    held_out: Annotated[float, Field(gt=0.0, le=0.5)] = 0.05
    """Fraction of the documents that no peer trains on. Peers measure the held-out loss on them. The hash of its
    content decides whether a document is among them."""


class RowsSection(TextSection):
    """What data have in common that come as rows of files."""

    text_column: Annotated[str, Field(max_length=100)] = "text"
    """Column of a table that holds the text. A text file has no columns."""
    max_left_out: Annotated[float, Field(ge=0.0, le=1.0)] = 0.05
    """Largest share of the rows that may be left out because they can't be read, lack a value or hold no text. If more
    are, the peer does not start."""


class StdlibData(TextSection):
    """The .py files of the Python standard library: real text that every machine has, without a download."""

    source: Literal["stdlib-python"]


class FilesData(RowsSection):
    """Files on each volunteer's machine."""

    source: Literal["files"]
    paths: Annotated[tuple[str, ...], Field(min_length=1, max_length=1000, strict=False)]
    """Files, folders or patterns like texts/*.txt. Files that end in .jsonl, .json, .csv, .tsv or .parquet are read as
    tables (see text_column), all others as text. Text may be compressed: .gz, .xz, .zst, .bz2."""


class DatasetData(RowsSection):
    """A dataset on the Hugging Face hub."""

    source: Literal["dataset"]
    dataset: Annotated[str, Field(min_length=1, max_length=300)]
    """Name on the hub, or folder, of the dataset."""
    subset: Annotated[str, Field(max_length=100)] | None = None
    """Name of the dataset's subset. If left out, its default one."""
    split: Annotated[str, Field(min_length=1, max_length=100)] = "train"
    """Split to read."""
    streaming: bool = True
    """Read the data during training instead of downloading everything first."""


class CustomData(Section):
    """Data that your own program brings (Python API only)."""

    source: Literal["custom"]


DataSection = Annotated[StdlibData | FilesData | DatasetData | CustomData, Field(discriminator="source")]
DATA_SOURCES = ("stdlib-python", "files", "dataset", "custom")


class EvalSection(Section):
    """Held-out evaluation of the global weights."""

    every: Annotated[int, Field(ge=1, le=10**6)] = 8
    """Heights (commits) between two evaluations; in a one-byte run, 32 records count as one height. One peer evaluates
    for all: the commit's digest chooses it, or the peers take turns."""
    sequences: Annotated[int, Field(ge=1, le=10**6)] = 64
    """Held-out sequences that an evaluation reads: the first ones of the held-out text, or the examples of a table with
    the lowest hashes."""


class LimitsSection(Section):
    """Bounds on what one peer can do to the others."""

    contribution_tokens: PositiveInt = 4_194_304
    """Most tokens that count for one contribution, whatever it claims."""
    norm_bound: Annotated[float, Field(gt=1.0, le=1000.0)] = 3.0
    """Largest norm per inner step of a contribution, as a multiple of the contributors' median. Larger ones are scaled
    down to it. Holds with three or more contributors."""
    rollback_depth: Annotated[int, Field(ge=1, le=10**6)] = 32
    """Most heights (commits) that a peer takes back by itself to follow a heavier branch. If more are needed, the peer
    stops and says so. Snapshots are kept that far back."""


class SwarmSection(Section):
    """Who takes part."""

    min_peers: Annotated[int, Field(ge=1, le=1000)] = 1
    """Number of peers that must be ready before the run's first training step."""
    access: Literal["public", "private"] = "public"
    """Who may take part. 'public': everybody who has an invite. 'private': only peers that an owner has invited
    (p2ptrain invite); nobody else can read what peers send each other."""
    owners: Annotated[tuple[PeerIdField, ...], Field(max_length=16, strict=False)] = ()
    """Peer ids of the owners, who invite and revoke. `p2ptrain keygen` makes their keys, which need not be on a machine
    that trains. If left out, the founder is the owner."""


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
            raise ValueError(f"data.text_column is for language modelling: with {task} [task] names the columns")
        if isinstance(self.task, Chat) and self.data.tokenizer == "bytes":
            instead = "set data.tokenizer, e.g. to the name of an instruct model"
            raise ValueError(f"{task} needs a tokenizer with a chat template, which 'bytes' has not: {instead}")
        return self

    @classmethod
    def custom(
        cls, name: str, *, method: Literal["diloco", "spsa"] = "diloco", min_peers: int = 1, **fields: Any
    ) -> Self:
        """The spec of a run whose model and data your own program brings.

        Args:
            name: of the run.
            method: name of the method.
            min_peers: see `SwarmSection`.
            fields: those of the method's section.

        Raises:
            pydantic.ValidationError: a field does not exist or has a wrong value.
        """
        model, data = ModelSection(architecture="custom"), CustomData(source="custom")
        section: Method
        if method == "spsa":
            section = SPSAMethod(name="spsa", **fields)
        else:
            section = DiLoCoMethod(name="diloco", **({"schedule": "constant"} | fields))
        swarm = SwarmSection(min_peers=min_peers)
        return cls(run=RunSection(name=name), model=model, data=data, method=section, swarm=swarm)

    def canonical(self) -> bytes:
        """The one byte string that stands for this spec: JSON with every field, keys sorted, without spaces."""
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
        """Whether its author's program brings the model or the data: nobody can join without that program."""
        return self.model.architecture == "custom" or self.data.source == "custom"

    def made_private(self) -> Self:
        """The same spec for a private run."""
        return self.model_copy(update={"swarm": self.swarm.model_copy(update={"access": "private"})})

    @property
    def diloco(self) -> DiLoCoMethod:
        """The method's section of a Streaming DiLoCo run; raises SpecError if the run trains by another method."""
        if not isinstance(self.method, DiLoCoMethod):
            raise _another_method("diloco", self.method.name)
        return self.method

    @property
    def spsa(self) -> SPSAMethod:
        """The method's section of a one-byte run; raises SpecError if the run trains by another method."""
        if not isinstance(self.method, SPSAMethod):
            raise _another_method("spsa", self.method.name)
        return self.method


def _another_method(wanted: str, found: str) -> SpecError:
    return SpecError(f"this run does not train by {METHODS[wanted]}", f"method.name is {found!r}")
