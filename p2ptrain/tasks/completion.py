"""Complete prompts. The loss counts the completion's tokens only; the label with the likeliest completion is chosen.

The tokenizer's own first tokens stand before the prompt. If a prompt is too long, its beginning is cut off, because its
end leads to the answer; a completion is never cut. The prompt is cut in the same way for the completions of all labels.

A prompt that is chat messages goes through the tokenizer's chat template, and the completion is the assistant's answer.
Then the template says what stands before the prompt and what ends the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from p2ptrain.data.cells import Fault, chat_in
from p2ptrain.errors import DataError
from p2ptrain.run.task import Completion
from p2ptrain.tasks.chat_format import ChatFormat, Losses
from p2ptrain.tasks.conversation import ASSISTANT, Messages, Unusable, check_contents, messages_of
from p2ptrain.tasks.examples import Example, ExampleTask
from p2ptrain.tasks.model import tokenizer_name
from p2ptrain.tasks.task import EVAL_BATCH, Measured
from p2ptrain.tasks.tokenizer import Tokenizer, Tokens

Pair = tuple[Tokens, Tokens]
"""The prompt (at least one token), and the completion."""
_NOTHING = np.empty(0, dtype=np.int32)


@dataclass(frozen=True, slots=True)
class Words:
    """A prompt with its completions, and the tokens around them."""

    before: Tokens
    pairs: tuple[tuple[str, str], ...]
    end: Tokens


class PromptCompletion(ExampleTask):
    """The loss is the mean cross-entropy, in nats per token, of the completions' tokens."""

    def load_data(self, seed: int) -> None:
        self._losses = Losses()
        super().load_data(seed)
        self.read.notes += self._losses.notes

    def _check(self, where: str, example: Example) -> Fault | None:
        try:
            words = self._words(example)
            if (messages := self._messages(example)) is not None:
                answered = self._format.answered(messages, example.completions[example.label])
                self._format.count_losses(self._losses, messages, answered)
        except Unusable as unusable:
            return unusable.fault
        room = self._data.sequence_length - len(words.before) - 1
        for _, completion in words.pairs:
            if len(completion.encode(errors="replace")) + 2 <= room:
                continue  # a text has hardly ever more tokens than bytes: no need to count
            taken = len(self.tokenizer.encode(completion)) + len(words.end)
            if taken > room:
                raise DataError(
                    f"the completion of {where} is too long",
                    f"it has {taken} tokens, and data.sequence_length = {self._data.sequence_length} leaves {room}",
                    "raise data.sequence_length, or leave such rows out",
                )
        return super()._check(where, example)

    def _is_cut(self, example: Example) -> bool:
        words = self._words(example)
        most = max(len((prompt + text).encode(errors="replace")) for prompt, text in words.pairs)
        if most + 2 <= self._data.sequence_length - len(words.before):
            return False
        (prompt, _), *_ = self.pairs(example)
        return len(prompt) - len(words.before) < len(self.tokenizer.encode(words.pairs[0][0]))

    def _length(self, example: Example) -> int:
        return sum(map(len, self.pairs(example)[example.label]))

    def pairs(self, example: Example) -> list[Pair]:
        """The prompt with each of its completions, in tokens."""
        words = self._words(example)
        cut = [_cut(self.tokenizer, *pair) for pair in words.pairs]
        longest = max(len(completion) for _, completion in cut) + len(words.end)
        room = max(1, self._data.sequence_length - len(words.before) - longest)
        return [
            (np.concatenate([words.before, prompt[-room:]]), np.concatenate([completion, words.end]))
            for prompt, completion in cut
        ]

    def _words(self, example: Example) -> Words:
        """Raises Unusable if the prompt is a conversation that can't be answered."""
        completions = example.completions
        if (messages := self._messages(example)) is not None:
            answers = tuple(self._format.answered(messages, text).last for text in completions)
            return Words(_NOTHING, answers, _NOTHING)
        end = np.full(0 if self._section.labels else 1, self.tokenizer.end, dtype=np.int32)
        return Words(self.tokenizer.before, tuple((example.text, text) for text in completions), end)

    def _messages(self, example: Example) -> Messages | None:
        """The messages that the prompt is; None if it is a text. Raises Unusable if they can't be answered."""
        if self._section.chat_column is None or chat_in(example.text) is None:
            return None
        messages = messages_of(example.text)
        check_contents(messages)
        if messages[-1]["role"] == ASSISTANT:
            step = 'end them with a message of the user, or train on all answers with task.kind = "chat"'
            raise Unusable("the messages of the prompt end with the assistant's: nothing is left to answer", step)
        return messages

    @cached_property
    def _format(self) -> ChatFormat:
        """Raises DataError if the tokenizer has no chat template."""
        return ChatFormat(self.tokenizer, tokenizer_name(self._spec, self._options.model))

    @property
    def _section(self) -> Completion:
        assert isinstance(self._spec.task, Completion)
        return self._spec.task

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
