"""Classify texts with a head on the model. If a text is too long, its end is cut off."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import Any

import numpy as np
import torch

from p2ptrain.tasks.examples import Example, ExampleTask
from p2ptrain.tasks.task import Measured
from p2ptrain.tasks.tokenizer import Tokens


class TextClassification(ExampleTask):
    """The loss is the mean cross-entropy of the labels, in nats per example. The likeliest label is the answer."""

    def _length(self, example: Example) -> int:
        return len(self.tokens(example))

    def _is_cut(self, example: Example) -> bool:
        room, text = self._room, example.text
        return len(text.encode(errors="replace")) > room and len(self.tokenizer.encode(text)) > room

    @property
    def _room(self) -> int:
        """Tokens of a text that the model reads."""
        return self._data.sequence_length - len(self.tokenizer.before) - len(self.tokenizer.after)

    def tokens(self, example: Example) -> Tokens:
        """The text in tokens, with the tokenizer's own tokens around it; at most `sequence_length` of them."""
        before, after = self.tokenizer.before, self.tokenizer.after
        tokens = np.concatenate([before, self.tokenizer.encode(example.text)[: self._room], after])
        return tokens if len(tokens) else np.asarray([self.tokenizer.end], dtype=np.int32)

    def loss_of_row(self, tokens: Tokens) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(self.scores([tokens]), torch.tensor([0], device=self.device))

    def scores(self, rows: Sequence[Tokens]) -> torch.Tensor:
        """The model's scores of texts in tokens: (rows, labels), float32."""
        return self._scores(self.model, rows)

    def _loss(self, forward: Any, rows: Sequence[Example]) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(self._logits(forward, rows), self._right(rows))

    def _measure(self, forward: Any, rows: Sequence[Example]) -> Measured:
        logits, right = self._logits(forward, rows), self._right(rows)
        loss = torch.nn.functional.cross_entropy(logits, right, reduction="sum")
        return Measured(float(loss), len(rows), int((logits.argmax(1) == right).sum()))

    def _logits(self, forward: Any, rows: Sequence[Example]) -> torch.Tensor:
        """(rows, labels), float32."""
        return self._scores(forward, [self.tokens(example) for example in rows])

    def _scores(self, forward: Any, rows: Sequence[Tokens]) -> torch.Tensor:
        ids, mask = self._padded(rows)
        # Only decoders have a cache, which training does not use.
        fields = {"use_cache": False} if "use_cache" in signature(self.model.forward).parameters else {}
        logits: torch.Tensor = self._answer(forward, input_ids=ids, attention_mask=mask, **fields).logits
        return logits.float()

    def _right(self, rows: Sequence[Example]) -> torch.Tensor:
        return torch.tensor([example.label for example in rows], device=self.device)
