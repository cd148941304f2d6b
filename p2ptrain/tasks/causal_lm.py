"""Causal language modelling: predict the next token. Documents are laid end to end."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

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
from p2ptrain.tasks.local import LocalOptions
from p2ptrain.tasks.sequences import DrawnSequences, PooledSequences, Sequences, StreamedSequences
from p2ptrain.tasks.task import Measured, Task
from p2ptrain.tasks.tokenizer import Tokenizer, Tokens


class CausalLM(Task):
    """The loss is the mean cross-entropy, in nats per token, over whole sequences."""

    sequences: Sequences

    def load_data(self, seed: int) -> None:
        self.sequences = _open_sequences(self._spec, self._options, self.tokenizer, seed)

    @property
    def held_out_digest(self) -> Digest:
        return digest_of(np.ascontiguousarray(self.sequences.held_out).data.cast("B"))

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self._data.sequence_length

    def data_state(self) -> Any:
        return self.sequences.state()

    def restore_data(self, state: Any) -> None:
        self.sequences.restore(state)

    def longest(self, count: int) -> Tokens:
        return np.repeat(self.sequences.held_out[:1], count, axis=0)

    def _batch(self, index: int) -> Tokens:
        return self.sequences.batch(index, self.batch_size)

    def _held_out(self) -> Tokens:
        return self.sequences.held_out

    def _loss(self, forward: Any, rows: Tokens) -> torch.Tensor:
        tokens = torch.from_numpy(rows.astype(np.int64)).to(self.device)
        loss: torch.Tensor = self._answer(forward, input_ids=tokens, labels=tokens, use_cache=False).loss
        return loss.float()

    def _measure(self, forward: Any, rows: Tokens) -> Measured:
        return Measured(float(self._loss(forward, rows)) * len(rows), len(rows))


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
