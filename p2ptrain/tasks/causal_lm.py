"""Causal language modelling: predict the next token. Documents are laid end to end."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from p2ptrain.run.spec import DatasetData, FilesData, StdlibData
from p2ptrain.tasks import documents
from p2ptrain.tasks.sequences import Cutter, DrawnSequences, PooledSequences, Sequences, StreamedSequences
from p2ptrain.tasks.task import Measured, Task
from p2ptrain.tasks.tokenizer import Tokens


class CausalLM(Task):
    """The loss is the mean cross-entropy, in nats per token, over whole sequences."""

    def load_data(self, seed: int) -> None:
        data = self._data
        cutter = Cutter(self.tokenizer, data.sequence_length, data.held_out, self._spec.eval.sequences, seed)
        if self._options.data:
            column = "text" if isinstance(data, StdlibData) else data.text_column
            data = FilesData(source="files", paths=self._options.data, text_column=column)
        self.rows = _open_sequences(data, cutter)

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self._data.sequence_length

    def longest(self, count: int) -> Tokens:
        return np.repeat(self.rows.held_out[:1], count, axis=0)

    def loss_of_row(self, tokens: Tokens) -> torch.Tensor:
        return self._loss(self.model, tokens[None])

    def _loss(self, forward: Any, rows: Tokens) -> torch.Tensor:
        tokens = torch.from_numpy(rows.astype(np.int64)).to(self.device)
        loss: torch.Tensor = self._answer(forward, input_ids=tokens, labels=tokens, use_cache=False).loss
        return loss.float()

    def _measure(self, forward: Any, rows: Tokens) -> Measured:
        return Measured(float(self._loss(forward, rows)) * len(rows), len(rows))


def _open_sequences(data: documents.TextData, cutter: Cutter) -> Sequences:
    match data:
        case StdlibData():
            return PooledSequences(documents.stdlib_documents(), cutter)
        case FilesData():
            paths = documents.expand(data.paths)
            if any(path.suffix.lower() in documents.TABLES for path in paths):
                return DrawnSequences(documents.open_table(data, paths), data.text_column, cutter)
            return PooledSequences(documents.text_documents(paths), cutter)
        case DatasetData():
            kind = StreamedSequences if data.streaming else DrawnSequences
            return kind(documents.open_dataset(data), data.text_column, cutter)
