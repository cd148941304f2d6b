"""What all tasks share: model and tokenizer, the loss of a batch, the held-out evaluation, the export."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from p2ptrain.data.tally import Tally
from p2ptrain.run import Digest, RunSpec
from p2ptrain.tasks.adapters import export_adapters, merged
from p2ptrain.tasks.documents import text_data
from p2ptrain.tasks.local import LocalOptions, open_device
from p2ptrain.tasks.model import build_model, tokenizer_name
from p2ptrain.tasks.reasons import enough_memory
from p2ptrain.tasks.tokenizer import Tokenizer, Tokens, load_tokenizer

EVAL_BATCH = 16


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How well weights do on the held-out rows."""

    loss: float
    """Nats per token; per example for a classification."""
    accuracy: float | None = None
    """Share of examples whose label was found; None in tasks without labels."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What one batch of held-out rows adds to an evaluation."""

    loss: float
    """Nats, summed over `count` tokens or examples."""
    count: int
    correct: int | None = None
    """Rows whose label was found; None in tasks without labels."""


class Rows(Protocol):
    """What a task reads: the batches that this peer draws, and the held-out rows."""

    held_out: Any
    """A sequence of the rows that an evaluation reads: the same on every peer with the same data."""

    @property
    def digest(self) -> Digest:
        """Digest of the held-out rows."""

    def batch(self, index: int, size: int) -> Any:
        """This peer's training batch number `index`, of `size` rows. A stream gives each batch once only."""

    def prepare(self, size: int) -> None:
        """Fetch what the next batches need, `size` rows in all. Only a stream has to; it may raise SourceSilent."""
        return

    def state(self) -> Any:
        """What `restore` needs after a restart, besides the index; nothing if a batch is a function of its index."""
        return None

    def restore(self, state: Any) -> None:
        """Continue where `state` was called."""
        return


class Task(ABC):
    """Model, data and loss of one run on this machine."""

    rows: Rows
    read: Tally
    """What was read, left out and replaced. Both are there once `load_data` is done."""

    def __init__(self, spec: RunSpec, options: LocalOptions) -> None:
        """Load tokenizer and model.

        Raises:
            SpecError, DataError, MemoryLimitError: as `build_model`, `load_tokenizer` and `open_device` raise.
        """
        self._spec, self._options = spec, options
        self.batch_size = options.batch_size or 1
        """Rows of a batch. The trainer may change it between two batches."""
        self._data = text_data(spec)
        self.device = open_device(options)
        self.tokenizer: Tokenizer = load_tokenizer(tokenizer_name(spec, options.model))
        self.model: torch.nn.Module = build_model(spec, self.tokenizer, options.model)
        with enough_memory("for the model on this device"):
            self.model.to(self.device)
        self.bf16 = options.autocast
        # Autocast would round float32 weights at each use, the perturbation of one-byte SPSA with them: there it is the
        # working copy that is bfloat16, after a check.
        self._autocast = options.autocast and spec.method.computes_gradients
        self._forward: Any = torch.compile(self.model) if options.compile else self.model

    @abstractmethod
    def load_data(self, seed: int) -> None:
        """Open the data; `seed` decides which batches this peer draws.

        Raises:
            DataError: files, columns or datasets are missing, empty or unreadable.
        """

    @property
    def held_out_digest(self) -> Digest:
        """Digest of the held-out rows. Peers can compare their evaluations if their digests are equal."""
        return self.rows.digest

    @property
    @abstractmethod
    def tokens_per_step(self) -> int:
        """Tokens that the model reads for one batch; an estimate for examples, since they differ in length."""

    def prepare(self) -> None:
        """Fetch what the next step needs. After that its batches can be had, whatever becomes of the data's source.

        Raises:
            SourceSilent: the source of the data does not answer; ask again later.
            DataError: the data are gone, or too much of them can't be used.
        """
        self.rows.prepare(self.batch_size * self._spec.method.batches_per_step)

    def data_state(self) -> Any:
        """What `restore_data` needs after a restart, besides the batch's index."""
        return self.rows.state()

    def restore_data(self, state: Any) -> None:
        """Continue where `data_state` was called."""
        self.rows.restore(state)

    def loss(self, index: int) -> torch.Tensor:
        """Mean loss, in nats, on this peer's batch number `index`: a differentiable scalar, float32."""
        return self.loss_on(self.batch(index))

    def batch(self, index: int) -> Any:
        """This peer's training batch number `index`. A stream gives each batch once only."""
        return self.rows.batch(index, self.batch_size)

    @abstractmethod
    def longest(self, count: int) -> Any:
        """`count` of the longest known rows, to try whether they fit into memory. This uses up no training data."""

    def loss_on(self, rows: Any) -> torch.Tensor:
        """Mean loss, in nats, on these rows: a differentiable scalar, float32."""
        return self._loss(self._forward, rows)

    @abstractmethod
    def loss_of_row(self, tokens: Tokens) -> torch.Tensor:
        """Mean loss on one row of these tokens, at least 2: a differentiable scalar, float32. It needs no data, and the
        model is not compiled for it: that is for trying the model out."""

    def evaluate(
        self, parameters: Mapping[str, torch.Tensor], stop: Callable[[], bool] = lambda: False
    ) -> Evaluation | None:
        """Evaluate on the held-out rows with these weights. The model's own weights do not change.

        Returns None if `stop`, which is asked before each batch, has returned True.
        """

        def forward(**inputs: Any) -> Any:
            return torch.func.functional_call(self.model, dict(parameters), kwargs=inputs)

        rows, parts = self.rows.held_out, list[Measured]()
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():
                for at in range(0, len(rows), EVAL_BATCH):
                    if stop():
                        return None
                    parts.append(self._measure(forward, rows[at : at + EVAL_BATCH]))
        finally:
            self.model.train(was_training)
        correct = [part.correct for part in parts if part.correct is not None]
        loss = sum(part.loss for part in parts) / sum(part.count for part in parts)
        return Evaluation(loss, sum(correct) / len(rows) if correct else None)

    def export(self, parameters: Mapping[str, torch.Tensor], folder: Path) -> None:
        """Write model and tokenizer so that transformers' Auto classes load them from `folder`. Adapters are merged
        into the weights, and also written on their own.
        """
        with torch.no_grad():
            for name, tensor in self.model.named_parameters():
                if name in parameters:
                    tensor.copy_(parameters[name])
        saver: Any = self.model if self._spec.model.lora is None else merged(self.model)
        saver.save_pretrained(folder)
        self.tokenizer.save(folder)
        if self._spec.model.lora is not None:
            export_adapters(self.model, folder)

    @abstractmethod
    def _loss(self, forward: Any, rows: Any) -> torch.Tensor:
        """Mean loss of rows; `forward` is called like the model."""

    @abstractmethod
    def _measure(self, forward: Any, rows: Any) -> Measured: ...

    def _answer(self, forward: Any, **inputs: Any) -> Any:
        """The model's output, in the precision that the volunteer has chosen."""
        context: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
        if self._autocast:
            context = torch.autocast(self.device.type, torch.bfloat16)
        with context:
            return forward(**inputs)
