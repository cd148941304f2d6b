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
    inner_steps: PositiveInt = Field(
        100, description="H: inner steps between two averagings of the same fragment. A multiple of fragments."
    )
    fragments: Annotated[int, Field(ge=1, le=1024)] = Field(
        4, description="P: fragments of the model, averaged in turn, one every H/P inner steps. 1 is plain DiLoCo."
    )
    overlap: Literal["free"] | Annotated[int, Field(ge=0, le=10**6)] = Field(
        "free",
        description="'free': training never waits, a commit is applied when it arrives. n: applied exactly n inner "
        "steps after contributing, waiting if needed (reproducible, with a fixed --threads). 0: blocking, as in plain "
        "DiLoCo.",
    )
    merge: Literal["blend", "carry", "overwrite"] = Field(
        "blend",
        description="How new global weights enter the training weights: blend = α·local + (1−α)·global, carry = global "
        "+ local progress since the contribution, overwrite = global.",
    )
    alpha: Fraction = Field(0.5, description="α of merge = 'blend'.")
    codec: Literal["e3m0", "int8", "bf16", "fp32"] = Field(
        "e3m0", description="Number format of pseudo-gradients on the wire: e3m0 takes 4 bits a parameter."
    )
    outer_lr: Annotated[float, Field(gt=0.0, le=10.0)] = Field(
        0.7, description="η: learning rate of the outer step (0.7 in the paper; 0.4 for large streaming runs)."
    )
    outer_momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.9, description="μ: Nesterov momentum of the outer step."
    )
    lr: Annotated[float, Field(gt=0.0, le=10.0)] = Field(
        1e-3, description="Peak learning rate of the inner AdamW optimizer."
    )
    betas: Annotated[tuple[Fraction, Fraction], Field(strict=False)] = Field(
        (0.9, 0.95), description="β₁ and β₂ of the inner AdamW optimizer."
    )
    weight_decay: Annotated[float, Field(ge=0.0, le=10.0)] = Field(
        0.1, description="Weight decay of the inner optimizer, on matrices only."
    )
    clip_norm: Annotated[float, Field(gt=0.0, le=10**6)] = Field(
        1.0, description="Largest norm of one inner gradient; longer ones are scaled down."
    )
    warmup_steps: Annotated[int, Field(ge=0, le=10**9)] = Field(
        100, description="Inner steps of global progress over which the learning rate rises from 0."
    )
    schedule: Literal["constant", "cosine"] = Field(
        "cosine", description="Learning rate after the warm-up; 'cosine' falls to lr_floor·lr at total_steps."
    )
    lr_floor: Fraction = Field(0.1, description="Last learning rate of the cosine schedule, as a fraction of lr.")
    total_steps: PositiveInt | None = Field(
        None, description="Inner steps of global progress after which the run is complete. Left out: it has no end."
    )
    snapshot_every: Annotated[int, Field(ge=1, le=10**6)] = Field(
        16, description="Heights between two snapshots that newcomers start from, the same heights on every peer."
    )

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
        if self.total_steps is not None and self.total_steps % self.steps_per_round:
            raise ValueError(
                f"total_steps ({self.total_steps}) must be a multiple of inner_steps / fragments "
                f"({self.steps_per_round})"
            )
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
    def settings(self) -> str:
        """What matters most, in one line."""
        return f"H = {self.inner_steps}, P = {self.fragments}, {self.codec}, overlap {self.overlap}"


class SPSAMethod(Section):
    """One-byte SPSA (arXiv 2306.10015): one byte for each gradient, in any order."""

    computes_gradients: ClassVar[bool] = False
    keeps_records: ClassVar[bool] = True

    name: Literal["spsa"]
    lr: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        1e-6, description="Learning rate: a record moves every parameter by lr times its projected gradient."
    )
    epsilon: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        1e-3, description="ε: how far the two measured points lie from the weights, in every parameter."
    )
    clip: Annotated[float, Field(gt=0.0, le=1e9)] = Field(
        64.0,
        description="Largest projected gradient that a byte can say, a few times the usual one; the smallest is "
        "2^-31.5 of it.",
    )
    seeds_per_step: Annotated[int, Field(ge=1, le=1024)] = Field(
        1, description="Perturbations, and so records, that are measured on the same minibatches."
    )
    batches_per_seed: Annotated[int, Field(ge=1, le=1024)] = Field(
        1, description="Minibatches whose losses are averaged for one record."
    )
    warmup_records: Annotated[int, Field(ge=0, le=10**9)] = Field(
        0, description="Records, of all peers, over which the learning rate rises in 64 equal steps."
    )
    decay_records: PositiveInt | None = Field(
        None,
        description="Records, of all peers, after which the learning rate has fallen, in 64 equal steps after the "
        "warm-up, to lr_floor. Left out: it stays constant.",
    )
    lr_floor: Fraction = Field(0.1, description="Last learning rate of the decay, as a fraction of lr.")
    total_records: PositiveInt | None = Field(
        None, description="Records, of all peers, after which the run is complete. Left out: it has no end."
    )
    mark_every: Annotated[int, Field(ge=16, le=10**6)] = Field(
        2048, description="Records between two marks, at which peers compare states and take snapshots."
    )
    flush_records: Annotated[int, Field(ge=1, le=256)] = Field(
        64, description="Records that a peer signs and sends together, at most."
    )
    flush_seconds: Annotated[float, Field(ge=0.05, le=3600.0)] = Field(
        5.0, description="Longest time, in seconds, that a record waits for others to be sent with."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.decay_records is not None and self.decay_records <= self.warmup_records:
            raise ValueError(
                f"decay_records ({self.decay_records}) must be more than warmup_records ({self.warmup_records})"
            )
        return self

    @property
    def last_height(self) -> int | None:
        """The number of records at which the run is complete."""
        return self.total_records

    @property
    def settings(self) -> str:
        """What matters most, in one line."""
        return f"lr {self.lr:g}, ε {self.epsilon:g}, clip {self.clip:g}, flush {self.flush_seconds:g} s"


Method = Annotated[DiLoCoMethod | SPSAMethod, Field(discriminator="name")]
METHODS = {"diloco": "Streaming DiLoCo", "spsa": "one-byte SPSA"}
"""What people call each."""
SHORT_METHODS = {"diloco": "DiLoCo", "spsa": "one-byte"}
"""The same where there is little room."""
