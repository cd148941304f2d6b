"""Answer in conversations. The loss counts the tokens of the assistant's turns only.

A conversation that is too long loses its end. One of which no turn of the assistant is left then is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from p2ptrain.data.cells import Fault
from p2ptrain.run import RunSpec
from p2ptrain.tasks.chat_format import ChatFormat, Losses
from p2ptrain.tasks.conversation import Messages, Unusable, check_contents, messages_of
from p2ptrain.tasks.examples import Example, ExampleTask
from p2ptrain.tasks.local import LocalOptions
from p2ptrain.tasks.model import tokenizer_name
from p2ptrain.tasks.task import Measured
from p2ptrain.tasks.tokenizer import Tokens

Turns = tuple[Tokens, NDArray[np.bool_]]
"""A conversation in tokens, and which of them the loss counts."""


class ChatTuning(ExampleTask):
    """The loss is the mean cross-entropy, in nats per token, of the assistant's tokens."""

    def __init__(self, spec: RunSpec, options: LocalOptions) -> None:
        """Raises as `Task` does; DataError also if the tokenizer has no chat template."""
        super().__init__(spec, options)
        self._format = ChatFormat(self.tokenizer, tokenizer_name(spec, options.model))

    def load_data(self, seed: int) -> None:
        self._losses = Losses()
        super().load_data(seed)
        self.read.notes += self._losses.notes

    def _check(self, where: str, example: Example) -> Fault | None:
        messages = messages_of(example.completions[0])
        try:
            self._look_at(messages)
        except Unusable as unusable:
            return unusable.fault
        return super()._check(where, example)

    def _look_at(self, messages: Messages) -> None:
        """Count what the template loses of a conversation that can be used.

        Raises:
            Unusable: this one can't be used.
        """
        check_contents(messages)
        rendered = self._format.rendered(messages)
        room, (begin, _) = self._data.sequence_length, rendered.spans[0]
        if len(rendered.text[:begin].encode(errors="replace")) >= room:  # else there are fewer tokens than room
            _, counted = self._format.tokens(rendered)
            if not counted[:room].any():
                raise Unusable(
                    "the first turn of the assistant begins after data.sequence_length", "raise data.sequence_length"
                )
        self._format.count_losses(self._losses, messages, rendered)

    def _is_cut(self, example: Example) -> bool:
        rendered = self._format.rendered(messages_of(example.completions[0]))
        room, text = self._data.sequence_length, rendered.text[: rendered.spans[-1][1]]
        return len(text.encode(errors="replace")) > room and bool(self._format.tokens(rendered)[1][room:].any())

    def _length(self, example: Example) -> int:
        return len(self.turns(example)[0])

    def turns(self, example: Example) -> Turns:
        """The conversation in tokens: at most `sequence_length`, and none after the last that the loss counts."""
        tokens, counted = self._format.tokens(self._format.rendered(messages_of(example.completions[0])))
        last = int(counted[: self._data.sequence_length].nonzero()[0].max(initial=1))
        return tokens[: last + 1], counted[: last + 1]

    def loss_of_row(self, tokens: Tokens) -> torch.Tensor:
        return self._surprise(self.model, [(tokens, np.arange(len(tokens)) > 0)]).mean()

    def _loss(self, forward: Any, rows: Sequence[Example]) -> torch.Tensor:
        surprise = self._surprise(forward, [self.turns(example) for example in rows])
        return surprise.sum() / max(1, len(surprise))

    def _measure(self, forward: Any, rows: Sequence[Example]) -> Measured:
        surprise = self._surprise(forward, [self.turns(example) for example in rows])
        return Measured(float(surprise.double().sum()), len(surprise))

    def _surprise(self, forward: Any, turns: Sequence[Turns]) -> torch.Tensor:
        """−log p of each token that counts, in nats: (tokens,), float32."""
        ids, mask = self._padded([tokens[:-1] for tokens, _ in turns])  # the last token is predicted, never read
        row = np.concatenate([np.full(int(counted.sum()), at) for at, (_, counted) in enumerate(turns)])
        place = np.concatenate([counted.nonzero()[0] - 1 for _, counted in turns])
        asked = np.concatenate([tokens[counted] for tokens, counted in turns]).astype(np.int64)
        at, there, token = (torch.from_numpy(part).to(self.device) for part in (row, place, asked))
        answer = self._answer(forward, input_ids=ids, attention_mask=mask, use_cache=False)
        return torch.nn.functional.cross_entropy(answer.logits[at, there].float(), token, reduction="none")
