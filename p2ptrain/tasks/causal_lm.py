"""Causal language modelling: predict the next token of documents laid end to end."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from p2ptrain.errors import DataError, SpecError
from p2ptrain.run import Digest, RunSpec, digest_of
from p2ptrain.run.spec import DatasetData, FilesData, StdlibData
from p2ptrain.tasks.documents import (
    TABLES,
    expand,
    open_dataset,
    open_table,
    stdlib_documents,
    text_data,
    text_documents,
)
from p2ptrain.tasks.model import build_model
from p2ptrain.tasks.sequences import DrawnSequences, PooledSequences, Sequences, StreamedSequences
from p2ptrain.tasks.tokenizer import Tokenizer, load_tokenizer

EVAL_BATCH = 16


@dataclass(frozen=True, slots=True)
class LocalOptions:
    """What only this volunteer cares about."""

    device: str = "auto"
    """'auto' (a GPU if there is one), 'cpu', 'cuda', 'cuda:1', 'mps'."""
    batch_size: int = 8
    """Sequences per inner step."""
    autocast: bool = False
    """Compute in bf16 where that is safe; weights stay float32."""
    compile: bool = False
    model: str | None = None
    """A folder to load instead of the pretrained model that the spec names."""
    data: tuple[str, ...] = ()
    """Files to read instead of those that the spec names."""


class CausalLM:
    """The task: model, data and loss of one run on this machine."""

    def __init__(self, spec: RunSpec, options: LocalOptions) -> None:
        """Load tokenizer and model.

        Raises:
            SpecError, DataError: see `build_model` and `load_tokenizer`; or this device can't do what was asked.
        """
        self._spec, self._options = spec, options
        self._data = text_data(spec)
        self.device = _device(options)
        self.tokenizer: Tokenizer = load_tokenizer(self._data.tokenizer)
        self.model: torch.nn.Module = build_model(spec, self.tokenizer, options.model).to(self.device)
        if options.compile:
            _check_compiler(self.device)
        self._forward: Any = torch.compile(self.model) if options.compile else self.model
        self.sequences: Sequences

    def load_data(self, seed: int) -> None:
        """Open the data; `seed` decides which sequences this peer draws.

        Raises:
            DataError: files, columns or datasets that are missing, empty or unreadable.
        """
        self.sequences = _open_sequences(self._spec, self._options, self.tokenizer, seed)

    @property
    def held_out_digest(self) -> Digest:
        """Names the held-out sequences: evaluations can be compared between peers that have the same."""
        return digest_of(np.ascontiguousarray(self.sequences.held_out).data.cast("B"))

    @property
    def tokens_per_step(self) -> int:
        return self._options.batch_size * self._data.sequence_length

    def loss(self, index: int) -> torch.Tensor:
        """Mean cross-entropy, nats per token, on this peer's `index`-th batch; differentiable."""
        return self._loss(self._forward, self.sequences.batch(index, self._options.batch_size))

    def evaluate(self, parameters: Mapping[str, torch.Tensor]) -> float:
        """Held-out loss in nats per token, with these weights instead of the model's own, which stay as they are."""
        rows = self.sequences.held_out
        was_training = self.model.training
        self.model.eval()
        total = 0.0
        try:
            with torch.no_grad():
                for start in range(0, len(rows), EVAL_BATCH):
                    batch = rows[start : start + EVAL_BATCH]

                    def forward(batch_parameters: Mapping[str, torch.Tensor] = parameters, **inputs: Any) -> Any:
                        return torch.func.functional_call(self.model, dict(batch_parameters), kwargs=inputs)

                    total += float(self._loss(forward, batch)) * len(batch)
        finally:
            self.model.train(was_training)
        return total / len(rows)

    def _loss(self, forward: Any, batch: Any) -> torch.Tensor:
        tokens = torch.from_numpy(batch.astype(np.int64)).to(self.device)
        with self._autocast():
            loss: torch.Tensor = forward(input_ids=tokens, labels=tokens, use_cache=False).loss
        return loss.float()

    def _autocast(self) -> contextlib.AbstractContextManager[None]:
        if not self._options.autocast:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def export(self, parameters: Mapping[str, torch.Tensor], folder: Path) -> None:
        """Write model and tokenizer so that transformers' Auto classes load them from `folder`."""
        with torch.no_grad():
            for name, tensor in self.model.named_parameters():
                if name in parameters:
                    tensor.copy_(parameters[name])
        saver: Any = self.model
        saver.save_pretrained(folder)
        self.tokenizer.save(folder)


def _open_sequences(spec: RunSpec, options: LocalOptions, tokenizer: Tokenizer, seed: int) -> Sequences:
    data = text_data(spec)
    length, fraction, evaluated = data.sequence_length, data.held_out, spec.eval.sequences
    if options.data:
        column = "text" if isinstance(data, StdlibData) else data.text_column
        data = FilesData(source="files", paths=options.data, text_column=column)
    match data:
        case StdlibData():
            documents = stdlib_documents()
        case FilesData():
            paths = expand(data.paths)
            if any(path.suffix.lower() in TABLES for path in paths):
                table = open_table(data, paths)
                return DrawnSequences(table, data.text_column, tokenizer, length, fraction, evaluated, seed)
            documents = text_documents(paths)
        case DatasetData():
            opened = open_dataset(data)
            kind = StreamedSequences if data.streaming else DrawnSequences
            return kind(opened, data.text_column, tokenizer, length, fraction, evaluated, seed)
    return PooledSequences(documents, tokenizer, length, fraction, evaluated, seed)


def _device(options: LocalOptions) -> torch.device:
    name = options.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise DataError(
            f"the device {name!r} can't be used", str(error).splitlines()[0], "choose another --device, e.g. cpu"
        ) from None
    if options.autocast and not torch.amp.is_autocast_available(device.type):
        raise SpecError(f"--autocast: the device {name!r} has no bf16 autocast", "", "leave --autocast out")
    return device


def _check_compiler(device: torch.device) -> None:
    """torch.compile works when the first batch is there, which is too late to find that it can't."""
    try:
        torch.compile(lambda x: 2 * x + 1)(torch.zeros(8, device=device))
    except RuntimeError as error:  # torch's base of everything that goes wrong there
        raise DataError(
            "--compile: torch.compile does not work on this machine",
            str(error).splitlines()[0],
            "install a C++ compiler (g++ or clang), or leave --compile out",
        ) from None
