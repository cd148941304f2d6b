"""The chat template of a tokenizer: it puts a conversation into words, and shows which of them the assistant says.

A template says in general not which words are the assistant's. So the conversation is rendered as a whole, and again
up to each of the assistant's turns. A turn is what the whole has between

* the conversation before the turn, with the prompt that makes a model answer, and
* the conversation up to and with the turn.

Both must be beginnings of the whole. They are not, for example, where a template removes the reasoning from all turns
but the last; such a turn is not counted. A template that marks the turns itself ({% generation %}) is believed. What
comes after the assistant's last turn is not rendered: nothing is learned from it.

Templates come from strangers. transformers renders them in jinja2's sandbox (docs/safety.md).
"""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from p2ptrain.errors import DataError
from p2ptrain.tasks.conversation import ASSISTANT, Messages, Unusable, asked, upto_last_answer
from p2ptrain.tasks.tokenizer import Tokenizer, Tokens
from p2ptrain.text import first_line, one_line
from p2ptrain.units import counted

LONGEST_TEMPLATE = 2**18
"""Characters. The longest templates that models come with have about 20,000."""
MOST_ADDED, MOST_REPEATED = 2**18, 16
"""A text may have so many characters that are in no message, and besides each character of a message so many times."""
SLOWEST, SLOW_ONES = 10.0, 2
"""Seconds for one conversation; a usual template takes less than a thousandth of a second. A machine can sleep for
longer, so it takes several such conversations to refuse a template."""
MOST_REASONS = 20
"""So many different reasons of a template to refuse a conversation are told apart."""
_MARKS_TURNS = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
_ANOTHER = "use a tokenizer with a chat template, e.g. that of an instruct model (data.tokenizer)"


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation in words."""

    text: str
    spans: tuple[tuple[int, int], ...]
    """(begin, end) of the assistant's turns in the text, in characters; at least one. The last one is among them."""

    @property
    def last(self) -> tuple[str, str]:
        """What stands before the assistant's last turn, and that turn."""
        begin, end = self.spans[-1]
        return self.text[:begin], self.text[begin:end]


@dataclass(slots=True)
class Losses:
    """What a template has made of the conversations of a table without being asked."""

    conversations: int = 0
    uncounted: int = 0
    """Turns of the assistant that were not found in the text."""
    endless: int = 0
    """Conversations whose last turn no special token ends."""
    changed: Counter[str] = field(default_factory=Counter)
    """Conversations with a message that is not in the text as it is, by that message's role."""

    @property
    def notes(self) -> list[str]:
        """What the volunteer should know; nothing if nothing is lost."""
        notes = []
        if self.uncounted:
            turns = f"{counted(self.uncounted, 'turn')} of the assistant not counted"
            notes.append(f"{turns}: the chat template writes them in another way when the conversation goes on")
        if self.endless:
            whose = f"{self.endless:,} of {counted(self.conversations, 'conversation')}"
            notes.append(f"no token of its own ends the last turn in {whose}: the model does not learn there to stop")
        for role, number in self.changed.most_common(5):
            whose = f"{number:,} of {counted(self.conversations, 'conversation')}"
            notes.append(f"the chat template leaves out or changes a message of {one_line(role, 20)!r} in {whose}")
        return notes


class ChatFormat:
    """Renders conversations with a tokenizer's template, and tokenizes them."""

    def __init__(self, tokenizer: Tokenizer, name: str) -> None:
        """Args:
            name: of the tokenizer, for messages.

        Raises:
            DataError: the tokenizer has no chat template, or does not say which characters a token stands for.
        """
        self._inner, self._name = tokenizer.library, name
        self._template = _template_of(self._inner, name)
        self._marks_turns = bool(_MARKS_TURNS.search(self._template))
        self._always_prompts = "add_generation_prompt" not in self._template
        self._named: dict[str, Any] = self._inner.special_tokens_map
        added = self._inner.added_tokens_decoder.values()
        self._ends = tuple(str(token) for token in added)
        special = {str(token) for token in added if token.special}
        named = {token for token in self._named.values() if isinstance(token, str)}
        control = sorted(named | {token for token in special if token in self._template}, key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, control)) or r"(?!)")
        self._reasons: set[str] = set()
        self._slow_ones = 0

    # Text ------------------------------------------------------------------------------------------------------------

    def rendered(self, messages: Messages) -> Rendered:
        """The conversation in words, up to the assistant's last turn.

        Raises:
            Unusable: nobody is the assistant, the template refuses the conversation, its last turn of the assistant
                can't be found in the text, or a message holds a token that belongs to the template.
            DataError: the template itself can't be used.
        """
        turns = [at for at, message in enumerate(messages) if message["role"] == ASSISTANT]
        if not turns:
            raise Unusable(f"no message has the role {ASSISTANT!r}", "use conversations with answers of an assistant")
        messages = upto_last_answer(messages)
        self._check_control(messages)
        text, marked = self._render(messages)
        if self._marks_turns:
            spans = [(begin, end) for begin, end in marked if begin < end]
        else:
            found = [self._span(messages, text, at) for at in turns]
            spans = [] if found[-1] is None else [span for span in found if span is not None]
        if not spans:
            raise Unusable(
                "the chat template does not show where the assistant's last turn begins and ends",
                "use a tokenizer with another chat template",
            )
        return Rendered(text, tuple(spans))

    def answered(self, messages: Messages, answer: str) -> Rendered:
        """The conversation with an answer of the assistant. Raises as `rendered` does."""
        return self.rendered([*messages, {"role": ASSISTANT, "content": answer}])

    def count_losses(self, losses: Losses, messages: Messages, rendered: Rendered) -> None:
        """Look for what the template has left out or changed."""
        losses.conversations += 1
        losses.endless += not rendered.last[1].endswith(self._ends)
        others = asked(upto_last_answer(messages))
        losses.changed.update({each["role"] for each in others if each.get("content", "").strip() not in rendered.text})
        if not self._marks_turns:
            answers = sum(message["role"] == ASSISTANT for message in messages)
            losses.uncounted += max(0, answers - len(rendered.spans))

    def _span(self, messages: Messages, text: str, at: int) -> tuple[int, int] | None:
        """(begin, end) of the turn with this index; None if it is not certain."""
        try:
            whole = text if at == len(messages) - 1 else self._render(messages[: at + 1])[0]
            prompt = self._render(messages[:at], prompt=True)[0]
            if not text.startswith(prompt):  # it may hold more than a prompt, e.g. the beginning of a reasoning
                before = self._render(messages[:at])[0]
                prompt = os.path.commonprefix([prompt, text])  # noqa: RUF071  (of characters, not of paths)
                if not prompt.startswith(before):
                    return None
        except Unusable:  # some templates refuse a part of a conversation that they take as a whole
            return None
        turn = self._without_rest(whole.removeprefix(prompt), messages[at])
        end = len(prompt) + len(turn)
        return (len(prompt), end) if turn and whole.startswith(prompt) and text[len(prompt) : end] == turn else None

    def _without_rest(self, turn: str, message: dict[str, Any]) -> str:
        """A turn without what stands between the token that ends it and the next turn: no model writes that."""
        said = message.get("content", "").strip()
        if self._always_prompts and said and (at := turn.find(said)) >= 0:  # a prompt may follow, as in Llama 3's first
            end = self._control.search(turn, at + len(said))
            return turn[: end.end()] if end else turn
        ended = turn.rstrip()
        return ended if ended.endswith(self._ends) else turn

    def _check_control(self, messages: Messages) -> None:
        """A message that holds e.g. <|im_end|> would end its own turn, and could begin one of somebody else."""
        for message in messages:
            if found := self._control.search(" ".join(_strings(message))):
                raise Unusable(
                    f"a message holds {found[0]!r}, which is a token of the chat template or of the tokenizer",
                    "remove these rows, or change that text",
                )

    def _render(self, messages: Messages, prompt: bool = False) -> tuple[str, list[tuple[int, int]]]:
        """The text, and the turns that the template itself marks."""
        from jinja2 import TemplateSyntaxError
        from transformers.utils.chat_template_utils import render_jinja_template

        begun = time.monotonic()
        try:
            texts, marked = render_jinja_template(
                conversations=[messages],
                chat_template=self._template,
                add_generation_prompt=prompt,
                return_assistant_tokens_mask=self._marks_turns,
                **self._named,
            )
        except TemplateSyntaxError as error:
            raise self._broken(first_line(error)) from None
        except Exception as error:  # a template can fail in every way that a program can
            raise self._refused(error) from None
        self._slow_ones += time.monotonic() - begun > SLOWEST
        if self._slow_ones >= SLOW_ONES:
            raise self._broken(f"it takes more than {SLOWEST:.0f} seconds for a conversation")
        if len(texts[0]) > MOST_ADDED + MOST_REPEATED * sum(len(text) for text in _strings(messages)):
            raise self._broken(f"it made a text of {len(texts[0]):,} characters from one conversation")
        return texts[0], marked[0] if self._marks_turns else []

    def _broken(self, why: str) -> DataError:
        return DataError(f"the chat template of {self._name!r} can't be used", why, "use another tokenizer")

    def _refused(self, error: Exception) -> Unusable:
        reason = f": {one_line(first_line(error), 200)}"
        if reason not in self._reasons and len(self._reasons) >= MOST_REASONS:
            reason = ""
        self._reasons.add(reason)
        return Unusable(
            f"the chat template refuses the conversation{reason}",
            "correct or remove these rows, or use a tokenizer whose template takes them",
        )

    # Tokens ----------------------------------------------------------------------------------------------------------

    def tokens(self, rendered: Rendered) -> tuple[Tokens, NDArray[np.bool_]]:
        """The text in tokens, and which of them lie in the assistant's turns.

        A token lies in a turn if all its characters do. The first token of a text is never counted: nothing is there to
        predict it from.
        """
        encoded = self._inner(rendered.text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids = np.asarray(encoded["input_ids"], dtype=np.int32)
        begins, ends = np.asarray(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2).T
        lies = np.zeros(len(ids), dtype=np.bool_)
        for begin, end in rendered.spans:
            lies |= (begin <= begins) & (begins < end) & (ends <= end)
        lies[:1] = False
        return ids, lies


def _template_of(inner: Any, name: str) -> str:
    if inner is None:
        why = "conversations need a chat template, and bytes have none"
        raise DataError(f"the tokenizer {name!r} has no chat template", why, _ANOTHER)
    what = f"the tokenizer {name!r} can't be used for conversations"
    if not inner.is_fast:
        why = "it does not say which characters a token stands for, so the assistant's can't be told from the others"
        raise DataError(what, why, "use a tokenizer with a tokenizer.json")
    if inner.split_special_tokens:
        why = "its configuration says split_special_tokens, so those of a chat template would be read as plain text"
        raise DataError(what, why, "use another tokenizer, or a copy without that setting")
    if not inner.chat_template:
        why = "it does not say how a conversation is written"
        raise DataError(f"the tokenizer {name!r} has no chat template", why, _ANOTHER)
    try:
        template = inner.get_chat_template()
    except ValueError as error:  # it has several, and none of them is the default
        raise DataError(f"the chat template of {name!r} can't be used", first_line(error), _ANOTHER) from None
    if not isinstance(template, str) or len(template) > LONGEST_TEMPLATE:
        why = f"it is no text, or has more than {LONGEST_TEMPLATE:,} characters"
        raise DataError(f"the chat template of {name!r} can't be used", why, "use another tokenizer")
    return template


def _strings(value: Any) -> list[str]:
    """All texts in a JSON value, keys among them."""
    found: list[str] = []
    waiting = [value]
    while waiting:
        match waiting.pop():
            case str() as text:
                found.append(text)
            case list() as parts:
                waiting += parts
            case dict() as fields:
                waiting += [*fields, *fields.values()]
    return found
