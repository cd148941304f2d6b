"""The method's section of a run spec: how the peers of a run train together."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from p2ptrain.run.section import Fraction, PositiveInt, Section


class DiLoCoMethod(Section):
    """Streaming DiLoCo (arXiv 2311.08105, 2501.18512)."""

    computes_gradients: ClassVar[bool] = True
    """A step has a backward pass."""
    keeps_records: ClassVar[bool] = False
    """The ledger consists of records of single gradients, any of which can be taken back."""

    name: Literal["diloco"]
    inner_steps: PositiveInt = 100
    """H: inner steps between two averagings of the same fragment. Must be a multiple of fragments."""
    fragments: Annotated[int, Field(ge=1, le=1024)] = 4
    """P: number of fragments that the model is cut into. They are averaged in turn, one every H/P inner steps. With 1,
    this is plain DiLoCo."""
    overlap: Literal["free"] | Annotated[int, Field(ge=0, le=10**6)] = "free"
    """When an average (a commit) is applied. 'free': as soon as it arrives; training never waits. A number n: exactly n
    inner steps after the contribution, and training waits if needed; such a run is reproducible with a fixed --threads.
    0: training waits at once, as in plain DiLoCo."""
    merge: Literal["blend", "carry", "overwrite"] = "blend"
    """How new global weights replace the training weights. blend: α·local + (1−α)·global. carry: global plus the local
    progress since the contribution. overwrite: global."""
    alpha: Fraction = 0.5
    """α: weight of the local weights with merge = 'blend', from 0 to 1."""
    codec: Literal["e3m0", "int8", "bf16", "fp32"] = "e3m0"
    """Number format in which contributions are sent, in bits per parameter: e3m0 4, int8 8, bf16 16, fp32 32."""
    outer_lr: Annotated[float, Field(gt=0.0, le=10.0)] = 0.7
    """η: learning rate of the outer step. The paper uses 0.7, and 0.4 for large streaming runs."""
    outer_momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    """μ: Nesterov momentum of the outer step."""
    lr: Annotated[float, Field(gt=0.0, le=10.0)] = 1e-3
    """Peak learning rate of the inner AdamW optimizer."""
    betas: Annotated[tuple[Fraction, Fraction], Field(strict=False)] = (0.9, 0.95)
    """β₁ and β₂ of the inner AdamW optimizer."""
    weight_decay: Annotated[float, Field(ge=0.0, le=10.0)] = 0.1
    """Weight decay of the inner optimizer. Only matrices decay."""
    clip_norm: Annotated[float, Field(gt=0.0, le=10**6)] = 1.0
    """Largest norm of an inner gradient. Gradients with a larger norm are scaled down to it."""
    warmup_steps: Annotated[int, Field(ge=0, le=10**9)] = 100
    """Inner steps over which the learning rate rises from 0. They are counted from the run's beginning; steps that
    peers do at the same time count once."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """Learning rate after the warm-up. 'constant': lr. 'cosine': it falls from lr to lr_floor·lr at total_steps."""
    lr_floor: Fraction = 0.1
    """Last learning rate of schedule = 'cosine', as a fraction of lr."""
    total_steps: PositiveInt | None = None
    """Inner steps after which the run is complete, counted as for warmup_steps. If left out, it has no end."""
    snapshot_every: Annotated[int, Field(ge=1, le=10**6)] = 16
    """Heights (commits) between two snapshots, from which new peers start. All peers take them at the same heights."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.inner_steps % self.fragments:
            raise ValueError(f"inner_steps ({self.inner_steps}) must be a multiple of fragments ({self.fragments})")
        if isinstance(self.overlap, int) and self.overlap >= self.inner_steps:
            raise ValueError(f"overlap ({self.overlap}) must be less than inner_steps ({self.inner_steps})")
        if self.merge != "blend" and "alpha" in self.model_fields_set and self.alpha != 0.5:
            raise ValueError(f"alpha belongs to merge = 'blend', but merge is {self.merge!r}")
        if self.schedule == "cosine" and self.total_steps is None:
            raise ValueError("schedule = 'cosine' needs total_steps; use 'constant' for a run without an end")
        each = self.steps_per_round
        if self.total_steps is not None and self.total_steps % each:
            raise ValueError(f"total_steps ({self.total_steps}) must be a multiple of inner_steps / fragments ({each})")
        if self.total_steps is not None and self.warmup_steps >= self.total_steps:
            raise ValueError(f"warmup_steps ({self.warmup_steps}) must be less than total_steps ({self.total_steps})")
        return self

    @property
    def steps_per_round(self) -> int:
        """H/P: inner steps between two contributions of one peer."""
        return self.inner_steps // self.fragments

    @property
    def last_height(self) -> int | None:
        """The height at which the run is complete."""
        return None if self.total_steps is None else self.total_steps // self.steps_per_round

    @property
    def batches_per_step(self) -> int:
        """How many batches a peer reads at once."""
        return 1

    @property
    def batches(self) -> int | None:
        """How many batches a peer reads from the run's beginning to its end; None if the run has no end."""
        return self.total_steps

    @property
    def settings(self) -> str:
        """What matters most, in one line."""
        return f"H = {self.inner_steps}, P = {self.fragments}, {self.codec}, overlap {self.overlap}"


class SPSAMethod(Section):
    """One-byte SPSA (arXiv 2306.10015): one byte for each gradient, in any order."""

    computes_gradients: ClassVar[bool] = False
    keeps_records: ClassVar[bool] = True

    name: Literal["spsa"]
    lr: Annotated[float, Field(gt=0.0, le=1.0)] = 1e-6
    """Learning rate: each record moves every parameter by lr times its projected gradient."""
    epsilon: Annotated[float, Field(gt=0.0, le=1.0)] = 1e-3
    """ε: distance, in every parameter, from the weights to each of the two measured points."""
    clip: Annotated[float, Field(gt=0.0, le=1e9)] = 64.0
    """Largest projected gradient that one byte can express. Choose a few times the usual value. The smallest one is
    clip · 2^-31.5."""
    seeds_per_step: Annotated[int, Field(ge=1, le=1024)] = 1
    """Number of perturbations that are measured on the same minibatches. Each gives one record."""
    batches_per_seed: Annotated[int, Field(ge=1, le=1024)] = 1
    """Number of minibatches whose losses are averaged for one record."""
    warmup_records: Annotated[int, Field(ge=0, le=10**9)] = 0
    """Records of all peers over which the learning rate rises from 0, in 64 equal steps."""
    decay_records: PositiveInt | None = None
    """Records of all peers after which the learning rate has fallen to lr_floor·lr, in 64 equal steps from the end of
    the warm-up. If left out, it stays at lr."""
    lr_floor: Fraction = 0.1
    """Last learning rate of the decay, as a fraction of lr."""
    total_records: PositiveInt | None = None
    """Records of all peers after which the run is complete. If left out, the run has no end."""
    mark_every: Annotated[int, Field(ge=16, le=10**6)] = 2048
    """Records of all peers between two marks. At a mark, peers compare states and take a snapshot."""
    flush_records: Annotated[int, Field(ge=1, le=256)] = 64
    """Most records that a peer signs and sends together."""
    flush_seconds: Annotated[float, Field(ge=0.05, le=3600.0)] = 5.0
    """Longest time, in seconds, that a record waits to be sent together with others."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        first, last = self.warmup_records, self.decay_records
        if last is not None and last <= first:
            raise ValueError(f"decay_records ({last}) must be more than warmup_records ({first})")
        return self

    @property
    def last_height(self) -> int | None:
        """The number of records at which the run is complete."""
        return self.total_records

    @property
    def batches_per_step(self) -> int:
        """How many batches a peer reads at once."""
        return self.batches_per_seed

    @property
    def batches(self) -> int | None:
        """How many batches a peer reads that trains alone; None if the run has no end."""
        return self.total_records and self.total_records * self.batches_per_seed // self.seeds_per_step

    @property
    def settings(self) -> str:
        """What matters most, in one line."""
        return f"lr {self.lr:g}, ε {self.epsilon:g}, clip {self.clip:g}, flush {self.flush_seconds:g} s"


Method = Annotated[DiLoCoMethod | SPSAMethod, Field(discriminator="name")]
METHODS = {"diloco": "Streaming DiLoCo", "spsa": "one-byte SPSA"}
"""Name of each method, for people."""
SHORT_METHODS = {"diloco": "DiLoCo", "spsa": "one-byte"}
"""Short names, for tables."""
