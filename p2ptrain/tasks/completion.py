"""Complete prompts. The loss counts the completion's tokens only; the label with the likeliest completion is chosen.

The tokenizer's own first tokens stand before the prompt. If a prompt is too long, its beginning is cut off, because its
end leads to the answer; a completion is never cut. The prompt is cut in the same way for the completions of all labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from p2ptrain.errors import DataError
from p2ptrain.tasks.examples import Example, ExampleTask
from p2ptrain.tasks.task import EVAL_BATCH, Measured
from p2ptrain.tasks.tokenizer import Tokenizer, Tokens

Pair = tuple[Tokens, Tokens]
"""The prompt (at least one token), and the completion."""


class PromptCompletion(ExampleTask):
    """The loss is the mean cross-entropy, in nats per token, of the completions' tokens."""

    def _check(self, row: int, example: Example) -> None:
        room = self._data.sequence_length - len(self.tokenizer.before) - 1
        for completion in example.completions:
            if len(completion.encode(errors="replace")) + 2 <= room:
                continue  # a text has hardly ever more tokens than bytes: no need to count
            taken = len(self.tokenizer.encode(completion)) + (not self._section.labels)
            if taken > room:
                raise DataError(
                    f"the completion of row {row} is too long",
                    f"it has {taken} tokens, and data.sequence_length = {self._data.sequence_length} leaves {room}",
                    "raise data.sequence_length, or leave such rows out",
                )

    def _length(self, example: Example) -> int:
        return sum(map(len, self.pairs(example)[example.label]))

    def pairs(self, example: Example) -> list[Pair]:
        """The prompt with each of its completions, in tokens."""
        end = np.full(0 if self._section.labels else 1, self.tokenizer.end, dtype=np.int32)
        cut = [_cut(self.tokenizer, example.text, completion) for completion in example.completions]
        longest = max(len(completion) for _, completion in cut) + len(end)
        room = max(1, self._data.sequence_length - len(self.tokenizer.before) - longest)
        return [
            (np.concatenate([self.tokenizer.before, prompt[-room:]]), np.concatenate([completion, end]))
            for prompt, completion in cut
        ]

    def loss_of_row(self, tokens: Tokens) -> torch.Tensor:
        return self._surprise(self.model, [(tokens[:-1], tokens[-1:])]).mean()

    def _loss(self, forward: Any, rows: Sequence[Example]) -> torch.Tensor:
        pairs = [self.pairs(example)[example.label] for example in rows]
        return self._surprise(forward, pairs).sum() / sum(len(completion) for _, completion in pairs)

    def _measure(self, forward: Any, rows: Sequence[Example]) -> Measured:
        pairs = [pair for example in rows for pair in self.pairs(example)]
        parts = [self._surprise(forward, pairs[at : at + EVAL_BATCH]) for at in range(0, len(pairs), EVAL_BATCH)]
        surprise = torch.cat(parts).view(len(rows), -1).cpu()
        right = torch.tensor([example.label for example in rows])
        each = surprise.shape[1]
        count = sum(len(pairs[row * each + example.label][1]) for row, example in enumerate(rows))
        correct = int((surprise.argmin(1) == right).sum()) if self._section.labels else None
        return Measured(float(surprise[range(len(rows)), right].double().sum()), count, correct)

    def _surprise(self, forward: Any, pairs: Sequence[Pair]) -> torch.Tensor:
        """−log p of each completion after its prompt, in nats: (pairs,), float32."""
        # The model never reads the last token, it only predicts it: labels of one token share one row.
        contexts = [np.concatenate(pair)[:-1] for pair in pairs]
        read = {context.tobytes(): context for context in contexts}
        ids, mask = self._padded(list(read.values()))
        row_of = {name: row for row, name in enumerate(read)}
        lengths = [len(completion) for _, completion in pairs]
        rows = np.repeat([row_of[context.tobytes()] for context in contexts], lengths)
        places = np.concatenate([len(prompt) - 1 + np.arange(len(completion)) for prompt, completion in pairs])
        asked = np.concatenate([completion for _, completion in pairs]).astype(np.int64)
        at, there, token = (torch.from_numpy(part).to(self.device) for part in (rows, places, asked))
        answer = self._answer(forward, input_ids=ids, attention_mask=mask, use_cache=False)
        losses = torch.nn.functional.cross_entropy(answer.logits[at, there].float(), token, reduction="none")
        return torch.stack([part.sum() for part in torch.split(losses, lengths)])


def _cut(tokenizer: Tokenizer, prompt: str, completion: str) -> Pair:
    """(prompt, completion) in tokens.

    Where possible both are cut out of the tokens of the whole text: many tokenizers put a token at the beginning of a
    text that the middle of a text does not have.
    """
    given, whole = tokenizer.encode(prompt), tokenizer.encode(prompt + completion)
    if len(given) < len(whole) and np.array_equal(whole[: len(given)], given):
        rest = whole[len(given) :]
    else:
        rest = tokenizer.encode(completion)
    return (given if len(given) else np.asarray([tokenizer.end], dtype=np.int32)), rest
