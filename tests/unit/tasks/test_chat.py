"""Training on conversations: the loss of a batch, and what is left out and told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from p2ptrain.errors import DataError
from p2ptrain.run import SPSAMethod
from p2ptrain.spsa.estimator import Estimator
from p2ptrain.spsa.master import MasterLayout
from p2ptrain.spsa.replica import Replica
from p2ptrain.spsa.signs import signs
from p2ptrain.spsa.state import MasterState
from p2ptrain.tasks.chat import ChatTuning
from p2ptrain.tasks.completion import PromptCompletion
from p2ptrain.tasks.conversation import messages_of
from p2ptrain.tasks.examples import Example
from tests.unit.tasks.chats import CHATML, ROWS, open_chat, said, shown
from tests.unit.tasks.samples import COMPLETION

pytestmark = pytest.mark.usefixtures("own_dataset_cache")

STRICT = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}{% endfor %}" + CHATML
)


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


# Completions ---------------------------------------------------------------------------------------------------------

RATE = {**COMPLETION, "prompt": "{messages}", "completion": "{mood}"}
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
