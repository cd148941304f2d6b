"""A tokenizer with a chat template, conversations, and tasks that read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from p2ptrain.tasks import LocalOptions, open_task
from p2ptrain.tasks.chat_format import ChatFormat
from p2ptrain.tasks.conversation import Messages
from p2ptrain.tasks.tokenizer import ByteTokenizer, load_tokenizer
from tests.unit.tasks.samples import example_spec

BEGIN, END = 257, 258
CHATML = """{% for m in messages %}
{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}
{%- endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
CHAT = {"kind": "chat"}


def chat_tokenizer(folder: Path, template: str | None = CHATML) -> Path:
    """Bytes, with <|im_start|> as 257 and <|im_end|> as 258."""
    from tokenizers import Tokenizer

    ByteTokenizer().save(folder)
    fast = Tokenizer.from_file(str(folder / "tokenizer.json"))
    fast.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    fast.save(str(folder / "tokenizer.json"))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "split_special_tokens": False}))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return folder


def format_of(folder: Path, template: str = CHATML) -> ChatFormat:
    return ChatFormat(load_tokenizer(str(chat_tokenizer(folder, template))), "tiny")


def said(*contents: str, first: str = "user") -> Messages:
    """A conversation in which the user and the assistant take turns."""
    roles = ["user", "assistant"] if first == "user" else ["assistant", "user"]
    return [{"role": roles[at % 2], "content": content} for at, content in enumerate(contents)]


ROWS: list[dict[str, Any]] = [
    {"messages": said(f"{number}?", f"yes {number}", "so?" * (number % 4), "ok")} for number in range(60)
]


def open_chat(
    folder: Path,
    rows: list[dict[str, Any]] = ROWS,
    task: dict[str, Any] = CHAT,
    template: str | None = CHATML,
    data: dict[str, Any] | None = None,
    loaded: bool = True,
) -> Any:
    tokenizer = str(chat_tokenizer(folder / "tokenizer", template))
    fields = {"tokenizer": tokenizer, "sequence_length": 128, **(data or {})}
    spec = example_spec(folder, task, rows, data=fields, max_position_embeddings=512)
    made = open_task(spec, LocalOptions(device="cpu", batch_size=5))
    if loaded:
        made.load_data(3)
    return made


def shown(tokens: Any, counted: Any) -> str:
    """The tokens as text, and those that count in brackets."""
    names = {BEGIN: "<S>", END: "<E>"}
    letters = [names.get(token, chr(token) if token < 256 else "?") for token in tokens]
    text = "".join(f"[{letter}]" if counts else letter for letter, counts in zip(letters, counted, strict=True))
    return text.replace("][", "").replace("\n", "/")
