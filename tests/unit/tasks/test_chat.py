"""Conversations: which tokens the loss counts, what is left out and told, and what a chat template can't do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.errors import DataError, SpecError
from p2ptrain.run import SPSAMethod, parse_spec
from p2ptrain.spsa.estimator import Estimator
from p2ptrain.spsa.master import MasterLayout
from p2ptrain.spsa.replica import Replica
from p2ptrain.spsa.signs import signs
from p2ptrain.spsa.state import MasterState
from p2ptrain.tasks import LocalOptions, chat_format, open_task
from p2ptrain.tasks.chat import ChatTuning
from p2ptrain.tasks.chat_format import ChatFormat, Losses
from p2ptrain.tasks.completion import PromptCompletion
from p2ptrain.tasks.conversation import Messages, Unusable, messages_of
from p2ptrain.tasks.examples import Example
from p2ptrain.tasks.tokenizer import ByteTokenizer, load_tokenizer
from tests.unit.tasks.samples import example_spec

pytestmark = pytest.mark.usefixtures("own_dataset_cache")

BEGIN, END = 257, 258
CHATML = """{% for m in messages %}
{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}
{%- endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
FORGETFUL = CHATML.replace(
    "{% for m in messages %}",
    "{% for m in messages %}{% if m['role'] == 'assistant' and not loop.last and '</think>' in m['content'] %}"
    "{% set m = {'role': m['role'], 'content': m['content'].split('</think>')[-1]} %}{% endif %}",
)
"""It removes the reasoning from all turns but the last, as Qwen's and DeepSeek's templates do."""
MARKING = """{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}
{%- if m['role'] == 'assistant' %}{% generation %}{{ m['content'] + '<|im_end|>' }}{% endgeneration %}
{%- else %}{{ m['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"""
STRICT = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}{% endfor %}" + CHATML
)
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


def masked(form: ChatFormat, messages: Messages) -> str:
    return shown(*form.tokens(form.rendered(messages)))


# Which tokens count --------------------------------------------------------------------------------------------------


def test_the_assistants_words_count_and_the_token_that_ends_its_turn(tmp_path: Path) -> None:
    found = masked(format_of(tmp_path), [{"role": "system", "content": "be"}, *said("hi", "ho", "hm", " oh\n")])
    assert found == ("<S>system/be<E>/<S>user/hi<E>/<S>assistant/[ho<E>]/<S>user/hm<E>/<S>assistant/[ oh/<E>]/")


def test_what_nobody_answers_is_not_read(tmp_path: Path) -> None:
    form = format_of(tmp_path)
    assert masked(form, said("hi", "ho", "hm")) == "<S>user/hi<E>/<S>assistant/[ho<E>]/"
    two = [*said("hi", "ho"), {"role": "tool", "content": "7"}, {"role": "assistant", "content": "so 7"}]
    assert masked(form, two).endswith("[ho<E>]/<S>tool/7<E>/<S>assistant/[so 7<E>]/")


@pytest.fixture(scope="module")
def formats(tmp_path_factory: pytest.TempPathFactory) -> list[ChatFormat]:
    return [format_of(tmp_path_factory.mktemp("tokenizer"), template) for template in (CHATML, MARKING)]


@pytest.mark.parametrize("at", [0, 1])
@given(contents=st.lists(st.text(st.characters(codec="utf-8"), max_size=8), min_size=2, max_size=6))
def test_the_tokens_are_those_of_transformers_and_the_counted_ones_say_what_was_answered(
    formats: list[ChatFormat], at: int, contents: list[str]
) -> None:
    form, messages = formats[at], said(*contents[: len(contents) // 2 * 2])
    tokens, counted = form.tokens(form.rendered(messages))
    assert tokens.tolist() == form._inner.apply_chat_template(messages, return_dict=False)
    answers = b"".join(each["content"].encode() + b"|" for each in messages if each["role"] == "assistant")
    assert bytes(ord("|") if token == END else int(token) for token in tokens[counted]) == answers


def test_turns_that_a_template_changes_later_do_not_count_and_that_is_told(tmp_path: Path) -> None:
    form = format_of(tmp_path, FORGETFUL)
    messages = said("a", "<think>x</think>b", "c", "<think>y</think>d")
    assert masked(form, messages) == "<S>user/a<E>/<S>assistant/b<E>/<S>user/c<E>/<S>assistant/[<think>y</think>d<E>]/"
    losses = Losses()
    form.count_losses(losses, messages, form.rendered(messages))
    assert losses.notes[0].startswith(
        "1 turn of the assistant not counted: the chat template writes them in another way"
    )


@pytest.mark.parametrize("first", ["", "{{ messages[0]['role'][:0] }}"])
def test_a_prompt_that_a_template_always_writes_does_not_count(tmp_path: Path, first: str) -> None:
    """As the one of the first Llama 3. The prompt after the last turn asks for another one of the assistant."""
    form = format_of(tmp_path, first + CHATML.replace("{% if add_generation_prompt %}", "{% if true %}"))
    assert masked(form, said("a", "b", "c", "d")) == (
        "<S>user/a<E>/<S>assistant/[b<E>]/<S>user/c<E>/<S>assistant/[d<E>]/<S>assistant/"
    )


def test_a_prompt_that_holds_more_than_the_conversation_counts_from_where_they_part(tmp_path: Path) -> None:
    """As DeepSeek-R1's, which makes the model begin with its reasoning."""
    form = format_of(tmp_path, CHATML.replace("assistant\\n' }}{% endif", "assistant\\n<think>\\n' }}{% endif"))
    assert masked(form, said("a", "b")) == "<S>user/a<E>/<S>assistant/[b<E>]/"


def test_a_template_that_does_not_show_the_last_turn_is_a_fault(tmp_path: Path) -> None:
    form = format_of(tmp_path, "{{ messages | length }} messages: {{ messages[-1]['content'] }}")
    with pytest.raises(Unusable, match="does not show where the assistant's last turn"):
        form.rendered(said("a", "b"))


def test_a_template_without_a_token_at_the_end_is_told(tmp_path: Path) -> None:
    plain = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    form, losses = format_of(tmp_path, plain), Losses()
    rendered = form.rendered(said("a", "b"))
    form.count_losses(losses, said("a", "b"), rendered)
    assert rendered.last == ("user: a\n", "assistant: b\n"), "without a prompt of its own the model writes its role"
    assert "no token of its own ends the last turn in 1 of 1 conversation" in losses.notes[0]


# The loss ------------------------------------------------------------------------------------------------------------


def reference(made: Any, rows: list[Example]) -> torch.Tensor:
    """transformers' own loss, row by row, with everything but the answers ignored."""
    total, count = torch.zeros(()), 0
    for example in rows:
        text = made._format.rendered(messages_of(example.completions[0])).text
        tokens = torch.tensor([made.tokenizer.encode(text).tolist()])
        labels, counts = tokens.clone(), False
        words = text.encode().replace(b"<|im_start|>", b"\x01").replace(b"<|im_end|>", b"\x02")
        for at in range(len(words)):
            if not counts:
                labels[0, at] = -100
            if words[: at + 1].endswith(b"\x01assistant\n"):
                counts = True
            elif words[at] == 2:
                counts = False
        number = int((labels[0, 1:] != -100).sum())
        total, count = total + number * made.model(input_ids=tokens, labels=labels).loss, count + number
    return total / count


def test_loss_and_gradient_are_transformers_own_with_all_but_the_answers_ignored(tmp_path: Path) -> None:
    made = open_chat(tmp_path)
    rows = made.batch(1)
    assert len({len(made.turns(row)[0]) for row in rows}) > 1, "padding matters"
    loss = made.loss_on(rows)
    expected = reference(made, rows)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    names, parameters = zip(*made.model.named_parameters(), strict=True)
    for name, ours, theirs in zip(
        names, torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters), strict=True
    ):
        torch.testing.assert_close(ours, theirs, msg=name)


def test_an_evaluation_is_the_mean_over_the_answers_of_all_held_out_conversations(tmp_path: Path) -> None:
    made = open_chat(tmp_path)
    made.model.eval()
    with torch.no_grad():
        assert made.evaluate({}).loss == pytest.approx(reference(made, made.rows.held_out).item(), rel=1e-5)
    assert made.evaluate({}).accuracy is None
    assert len(made.rows.held_out) > 16, "more than one batch"


def test_no_target_of_the_user_has_a_gradient(tmp_path: Path) -> None:
    """The logits at a place feel the loss only if the next token is the assistant's."""
    made = open_chat(tmp_path, data={"sequence_length": 64})
    seen: list[torch.Tensor] = []

    def forward(**inputs: Any) -> Any:
        answer = made.model(**inputs)
        answer.logits.retain_grad()
        seen.append(answer.logits)
        return answer

    rows = made.batch(0)
    made._loss(forward, rows).backward()
    felt = seen[0].grad.abs().sum(2) > 0  # type: ignore[union-attr]
    for row, example in zip(felt, rows, strict=True):
        _, counted = made.turns(example)
        assert row[: len(counted) - 1].tolist() == counted[1:].tolist()
        assert not row[len(counted) - 1 :].any()


def test_a_tiny_model_learns_the_answers_and_not_the_questions(tmp_path: Path) -> None:
    """The questions are random, so there is nothing in them to learn; the answer is always the same."""
    rows = [{"messages": said(f"{number * 7919 % 1000}", "yes!")} for number in range(60)]
    made = open_chat(tmp_path, rows)
    optimizer = torch.optim.AdamW(made.model.parameters(), lr=0.03)
    for step in range(60):
        optimizer.zero_grad()
        made.loss(step).backward()
        optimizer.step()
    assert made.evaluate({}).loss < 0.1
    tokens, _ = made.turns(made.rows.held_out[0])
    ids = torch.from_numpy(tokens).long()[None]
    with torch.no_grad():
        losses = torch.nn.functional.cross_entropy(made.model(ids).logits[0, :-1], ids[0, 1:], reduction="none")
    assert losses[: len(tokens) - 6].mean() > 3, "the user's words are as unlikely as before"


def test_one_byte_measures_the_same_gradient(tmp_path: Path) -> None:
    made = open_chat(tmp_path)
    rows, tensors = made.batch(0), dict(made.model.named_parameters())
    loss = made.loss_on(rows)
    gradient = dict(zip(tensors, torch.autograd.grad(loss, list(tensors.values())), strict=True))
    layout = MasterLayout.for_weights(tensors)
    method = SPSAMethod(name="spsa", lr=1e-4, epsilon=1e-3, clip=256.0)
    replica = Replica(b"r" * 32, method, MasterState(layout, {}, layout.from_weights(tensors).numpy()))
    found = Estimator(method, replica, tensors, made.loss_on).measure(5, [rows])
    z = signs(5, 0, layout.tiles).flatten().double()
    expected = sum(float((slot.of(z) * gradient[slot.name].double()).sum()) for slot in layout.slots)
    assert found.gradient == pytest.approx(expected, abs=0.02)
    assert found.loss == pytest.approx(loss.item(), abs=0.01)


# Long ones -----------------------------------------------------------------------------------------------------------


def test_a_long_conversation_loses_its_end_and_that_is_told(tmp_path: Path) -> None:
    made = open_chat(tmp_path, [{"messages": said(f"{at}?", "yes" * (1 + 60 * (at % 2)))} for at in range(60)])
    short, long = (Example("", (json.dumps(said("2", "yes" * times)),), 0) for times in (1, 100))
    assert shown(*made.turns(short)) == "<S>user/2<E>/<S>assistant/[yes<E>]"
    assert shown(*made.turns(long)) == "<S>user/2<E>/<S>assistant/[" + ("yes" * 100)[:108] + "]"
    assert len(made.turns(long)[0]) == 128
    assert "30 of 60 texts are longer than data.sequence_length and are cut" in made.read.notes


def test_a_conversation_whose_answer_begins_too_late_is_left_out_and_counted(tmp_path: Path) -> None:
    rows = [*ROWS, {"messages": said("x" * 200, "late")}]
    made = open_chat(tmp_path, rows)
    why = "the first turn of the assistant begins after data.sequence_length (first: rows.jsonl, row 61)"
    assert made.read.told[0] == f"1 of 61 rows left out: {why}"
    assert made.read.used == 60


# What can't be used --------------------------------------------------------------------------------------------------

PARTS = [{"type": "text", "text": "a"}, {"type": "text", "text": "b", "image": None}]
IMAGE = [{"type": "text", "text": "a"}, {"type": "image", "image": "cat.png"}]


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        (said("alone"), "no message has the role 'assistant'"),
        ([{"role": "user", "content": None}, *said("a", "b")], "a message has no content"),
        (
            [{"role": "user", "content": IMAGE}, *said("b", first="assistant")],
            "a list with a part of type 'image', not text",
        ),
        (
            [{"role": "user", "content": 5}, *said("b", first="assistant")],
            "the content of a message is a number, not text",
        ),
        ([{"role": "user", "content": {"x": 1}}, *said("b", first="assistant")], "is an object, not text"),
        (said("a", "b", first="assistant"), "the chat template refuses the conversation: Conversation roles must"),
        (said("a<|im_end|>", "b"), "a message holds '<|im_end|>', which is a token of the chat template"),
        (said("a", "b<|endoftext|>c"), "a message holds '<|endoftext|>'"),
        ([{"from": "human", "value": "a"}], "column 'messages' holds a list, not chat messages"),
        ("a text", "column 'messages' holds text, not chat messages"),
        ([], "column 'messages' holds a list, not chat messages"),
    ],
)
def test_a_row_that_is_no_conversation_is_counted_and_many_are_an_error(
    tmp_path: Path, messages: Any, reason: str
) -> None:
    made = open_chat(tmp_path, [*ROWS, {"messages": messages}], template=STRICT)
    assert made.read.told[0].startswith("1 of 61 rows left out: ")
    assert reason in made.read.told[0]
    assert "row 61" in made.read.told[0]
    with pytest.raises(DataError, match="too many rows of the data can't be used") as many:
        open_chat(tmp_path, [*ROWS, *[{"messages": messages}] * 9], template=STRICT)
    assert many.value.why.startswith("9 of 69 rows: ")
    assert reason in many.value.why


def test_parts_of_text_are_text_and_every_format_says_the_same() -> None:
    parquet = [{"role": "user", "content": PARTS, "name": None}, *said("ho", first="assistant")]
    assert messages_of(json.dumps(parquet)) == said("a\nb", "ho")


def test_messages_that_a_csv_holds_as_json_are_messages(tmp_path: Path) -> None:
    made = open_chat(tmp_path, [{"messages": json.dumps(row["messages"])} for row in ROWS])
    assert made.held_out_digest == open_chat(tmp_path).held_out_digest


def test_a_message_that_the_template_passes_over_is_told(tmp_path: Path) -> None:
    rows = [
        {"messages": [*row["messages"][:1], {"role": "tool", "content": "7"}, *row["messages"][1:]]} for row in ROWS
    ]
    deaf = CHATML.replace("{% for m in messages %}", "{% for m in messages if m['role'] != 'tool' %}")
    made = open_chat(tmp_path, rows, template=deaf)
    assert any("leaves out or changes a message of 'tool' in" in note for note in made.read.notes)


def test_two_answers_to_one_question_are_on_the_same_side(tmp_path: Path) -> None:
    rows = [{"messages": said(f"{number}?", answer)} for number in range(60) for answer in ("yes", "no")]
    made = open_chat(tmp_path, rows)
    questions = {example.text for example in made.rows.held_out}
    assert len(made.rows.held_out) == 2 * len(questions)
    assert not questions & {example.text for example in made.rows.batch(0, 2000)}


# Tokenizers and templates --------------------------------------------------------------------------------------------


def test_bytes_have_no_chat_template_and_the_spec_says_so() -> None:
    text = (
        '[run]\nname = "x"\n[model]\narchitecture = "llama"\n[data]\nsource = "files"\npaths = ["a.jsonl"]\n'
        '[task]\nkind = "chat"\n[method]\nname = "diloco"\nschedule = "constant"\n'
    )
    with pytest.raises(SpecError) as bytes_only:
        parse_spec(text, "x.toml")
    assert "needs a tokenizer with a chat template, which 'bytes' has not: set data.tokenizer" in bytes_only.value.why


def test_a_tokenizer_without_a_template_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no chat template") as plain:
        open_chat(tmp_path, template=None, loaded=False)
    assert "that of an instruct model" in plain.value.next_step


def test_a_template_that_is_no_template_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the chat template of .* can't be used"):
        open_chat(tmp_path, template="{% for m in messages %}")


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.system('touch HARM') }}",
        "{{ messages.append(1) }}",
        "{% include 'HARM' %}",
        "{% import 'os' as os %}",
    ],
)
def test_a_strangers_template_reaches_nothing_but_the_messages(tmp_path: Path, template: str) -> None:
    harm = tmp_path / "harm"
    form = format_of(tmp_path / "tokenizer", template.replace("HARM", str(harm)) + CHATML)
    messages = said("a", "b")
    with pytest.raises(Unusable, match="refuses the conversation"):
        form.rendered(messages)
    assert not harm.exists()
    assert messages == said("a", "b")


def test_a_template_that_takes_too_long_or_writes_too_much_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wordy = format_of(tmp_path / "wordy", CHATML + "{{ 'x' * 300000 }}")
    with pytest.raises(DataError, match="can't be used") as long:
        wordy.rendered(said("a", "b"))
    assert "characters from one conversation" in long.value.why
    monkeypatch.setattr(chat_format, "SLOWEST", 0.0)
    with pytest.raises(DataError, match="can't be used") as slow:
        format_of(tmp_path / "slow").rendered(said("a", "b"))
    assert "seconds for a conversation" in slow.value.why


def test_reasons_of_a_template_do_not_become_as_many_as_rows(tmp_path: Path) -> None:
    form = format_of(tmp_path, "{{ raise_exception('not ' + messages[0]['content']) }}")
    faults = set()
    for number in range(100):
        with pytest.raises(Unusable) as refused:
            form.rendered(said(f"{number}", "b"))
        faults.add(refused.value.fault)
    assert len(faults) == chat_format.MOST_REASONS + 1


def test_an_export_brings_the_chat_template_along(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    made = open_chat(tmp_path)
    made.export({}, tmp_path / "exported")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "exported")
    assert loaded.apply_chat_template(said("a"), add_generation_prompt=True, tokenize=False).endswith("assistant\n")


# Completions ---------------------------------------------------------------------------------------------------------

RATE = {
    "kind": "completion",
    "prompt": "{messages}",
    "completion": "{mood}",
    "label_column": "mood",
    "labels": ["bad", "good"],
}
ASKED = [
    {"messages": [{"role": "system", "content": "rate"}, *said(f"{number}")], "mood": "bad" if number % 3 else "good"}
    for number in range(60)
]


@pytest.mark.parametrize("labels", [True, False])
def test_a_prompt_of_messages_is_rendered_and_the_completion_is_the_answer(tmp_path: Path, labels: bool) -> None:
    free = {key: value for key, value in RATE.items() if key not in ("label_column", "labels")}
    made = open_chat(tmp_path, ASKED, RATE if labels else free)
    assert isinstance(made, PromptCompletion)
    example = made.rows.held_out[0]
    number = messages_of(example.text)[1]["content"]
    for (prompt, completion), word in zip(made.pairs(example), example.completions, strict=True):
        assert shown(prompt, [False] * len(prompt)) == f"<S>system/rate<E>/<S>user/{number}<E>/<S>assistant/"
        assert shown(completion, [True] * len(completion)) == f"[{word}<E>]"
    assert made.loss(0).isfinite()
    assert (made.evaluate({}).accuracy is None) != labels


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": said("a", "b"), "mood": "bad"}, "the messages of the prompt end with the assistant's"),
        ({"messages": [{"role": "user", "content": IMAGE}], "mood": "bad"}, "a part of type 'image'"),
    ],
)
def test_messages_that_can_not_be_answered_are_counted(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    made = open_chat(tmp_path, [*ASKED, row], RATE)
    assert reason in made.read.told[0]
    assert made.read.used == 60


def test_messages_in_the_midst_of_a_template_are_refused_and_the_error_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="too many rows") as mixed:
        open_chat(tmp_path, ASKED, {**RATE, "prompt": "Rate this: {messages}"})
    assert "column 'messages' holds chat messages, not text" in mixed.value.why
    assert 'task.prompt = "{messages}"' in mixed.value.next_step


def test_a_prompt_of_messages_needs_a_chat_template(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no chat template"):
        open_chat(tmp_path, ASKED, RATE, data={"tokenizer": "bytes"})


def test_a_prompt_column_of_plain_text_is_as_before(tmp_path: Path) -> None:
    made = open_chat(
        tmp_path, [{"messages": f"{row['mood']} {at}", "mood": row["mood"]} for at, row in enumerate(ASKED)], RATE
    )
    assert made.pairs(Example("so", ("bad", "good"), 0))[1][1].tolist() == list(b"good")


def test_it_is_a_chat_task(tmp_path: Path) -> None:
    assert isinstance(open_chat(tmp_path, loaded=False), ChatTuning)
