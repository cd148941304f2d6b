"""Causal language modelling: predict the next token. Documents are laid end to end."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from p2ptrain.data.cells import Kind
from p2ptrain.data.library import stream_sources
from p2ptrain.data.stream import Stream
from p2ptrain.data.tally import Tally
from p2ptrain.run.spec import DatasetData, StdlibData
from p2ptrain.tasks import documents
from p2ptrain.tasks.sequences import Cutter, DrawnSequences, PooledSequences, Sequences, StreamedSequences
from p2ptrain.tasks.task import Measured, Task
from p2ptrain.tasks.tokenizer import Tokens


class CausalLM(Task):
    """The loss is the mean cross-entropy, in nats per token, over whole sequences."""

    def load_data(self, seed: int) -> None:
        data = documents.chosen_data(self._spec, self._options)
        cutter = Cutter(self.tokenizer, data.sequence_length, data.held_out, self._spec.eval.sequences, seed)
        batches = self._spec.method.batches
        wanted = None if batches is None else batches * self.tokens_per_step
        self.rows, self.read = _open_sequences(data, cutter, wanted)

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


def _open_sequences(data: documents.TextData, cutter: Cutter, wanted: int | None) -> tuple[Sequences, Tally]:
    if isinstance(data, StdlibData):
        return PooledSequences(documents.stdlib_documents(), cutter), Tally(0.0)
    column = data.text_column
    columns = {column: Kind.TEXT}
    if isinstance(data, DatasetData) and data.streaming:
        stream = Stream(stream_sources(data, columns), columns, cutter.seed, data.max_left_out)
        streamed = StreamedSequences(stream, column, cutter, wanted)
        return streamed, streamed.tally
    table = documents.open_table(data, columns)
    if table.is_text:
        return PooledSequences((row[column] for row in table), cutter), table.tally
    return DrawnSequences(table, column, cutter), table.tally
