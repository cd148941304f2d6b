"""Conversations: the messages of one row, as a chat template takes them. Pure.

A message has a role and a content. Its other fields (tool_calls, reasoning_content, …) reach the template as they are.
"""

from __future__ import annotations

import json
from typing import Any

from p2ptrain.data.cells import Fault
from p2ptrain.text import one_line

Messages = list[dict[str, Any]]

ASSISTANT = "assistant"
_CORRECT = "correct or remove these rows"


class Unusable(Exception):
    """A conversation can't be put into words."""

    def __init__(self, reason: str, next_step: str = _CORRECT) -> None:
        super().__init__(reason)
        self.fault = Fault(reason, next_step)


def messages_of(cell: str) -> Messages:
    """The messages that a cell holds as JSON (see `data.cells.is_chat`).

    Formats write them in several ways, which become one here: fields without a value are left out (in Parquet every
    message has the fields of all), and a content that is a list of text parts becomes their texts, one below the other.
    """
    messages = [{key: value for key, value in message.items() if value is not None} for message in json.loads(cell)]
    for message in messages:
        parts = message.get("content")
        if isinstance(parts, list) and parts and all(map(_is_text_part, parts)):
            message["content"] = "\n".join(part["text"] for part in parts)
    return messages


def written(messages: Messages) -> str:
    """The messages as JSON: the same text on every peer. `messages_of` reads it."""
    return json.dumps(messages, ensure_ascii=False, sort_keys=True)


def asked(messages: Messages) -> Messages:
    """What all others say. It decides whether a conversation is held out: two answers to one question stay together."""
    return [message for message in messages if message["role"] != ASSISTANT]


def upto_last_answer(messages: Messages) -> Messages:
    """The messages up to the assistant's last one."""
    last = max((at for at, message in enumerate(messages) if message["role"] == ASSISTANT), default=-1)
    return messages[: last + 1]


def check_contents(messages: Messages) -> None:
    """Check that every content is text. Only a call of tools needs none.

    Raises:
        Unusable: one is not.
    """
    for message in messages:
        content = message.get("content")
        if content is None and not message.get("tool_calls"):
            raise Unusable("a message has no content")
        if not isinstance(content, str | None):
            raise Unusable(f"the content of a message is {_kind_of(content)}, not text", "use data with texts only")


def _is_text_part(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type", "text") == "text" and isinstance(part.get("text"), str)


def _kind_of(content: Any) -> str:
    match content:
        case []:
            return "an empty list"
        case list():
            part = next((part for part in content if not _is_text_part(part)), None)
            kind = part.get("type") if isinstance(part, dict) else None
            return f"a list with a part of type {one_line(kind, 20)!r}" if isinstance(kind, str) else "a list"
        case dict():
            return "an object"
        case bool():
            return "true or false"
    return "a number"
