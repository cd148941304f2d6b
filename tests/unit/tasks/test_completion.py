"""Completions: which tokens the loss counts, what is cut, and which label is the model's answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from p2ptrain.errors import DataError
from p2ptrain.tasks import LocalOptions, open_task
from p2ptrain.tasks.completion import PromptCompletion
from p2ptrain.tasks.examples import Example
from tests.unit.tasks.samples import COMPLETION, REVIEWS, example_spec, framing_tokenizer

pytestmark = pytest.mark.usefixtures("own_dataset_cache")

BY_LETTER = [{**row, "mood": row["mood"][0]} for row in REVIEWS]
FREE = {"kind": "completion", "prompt": "{text}?", "completion": " {mood}"}


def open_completion(folder: Path, task: dict[str, Any] = COMPLETION, **fields: Any) -> PromptCompletion:
    made = open_task(example_spec(folder, task, **fields), LocalOptions(device="cpu", batch_size=5))
    assert isinstance(made, PromptCompletion)
    made.load_data(3)
    return made


def surprise(model: Any, prompt: Any, completion: Any) -> float:
    """−log p of the completion, token by token, in nats: without padding, masks or batches."""
    tokens = torch.tensor([[*prompt, *completion]])
    with torch.no_grad():
        logits = model(tokens).logits[0].double()
    total = 0.0
    for at, token in enumerate(completion, len(prompt)):
        total += float(torch.logsumexp(logits[at - 1], 0) - logits[at - 1, token])
    return total


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("task", [COMPLETION, FREE])
def test_the_loss_is_the_mean_surprise_at_the_completions_tokens(
    tmp_path: Path, task: dict[str, Any], architecture: str
) -> None:
    made = open_completion(tmp_path, task, architecture=architecture)
    made.model.eval()
    end = b"" if task is COMPLETION else (256,)
    said = [(e.text.encode(), (*e.completions[e.label].encode(), *end)) for e in made.rows.batch(2, 5)]
    assert len({len(prompt) for prompt, _ in said}) > 1, "padding matters"
    expected = sum(surprise(made.model, *pair) for pair in said) / sum(len(completion) for _, completion in said)
    assert made.loss(2).item() == pytest.approx(expected, rel=1e-5)
    assert made.loss(2).requires_grad


def test_its_gradient_is_that_of_transformers_own_loss_with_all_other_tokens_ignored(tmp_path: Path) -> None:
    made = open_completion(tmp_path)
    made.loss(1).backward()  # type: ignore[no-untyped-call]
    gradients = {name: parameter.grad for name, parameter in made.model.named_parameters()}
    made.model.zero_grad()
    pairs = [made.pairs(example)[example.label] for example in made.rows.batch(1, 5)]
    width = max(len(prompt) + len(completion) for prompt, completion in pairs)
    ids, labels = torch.full((5, width), 256), torch.full((5, width), -100)
    for row, (prompt, completion) in enumerate(pairs):
        ids[row, : len(prompt) + len(completion)] = torch.tensor([*prompt, *completion])
        labels[row, len(prompt) : len(prompt) + len(completion)] = torch.tensor(completion)
    made.model(input_ids=ids, attention_mask=(ids != 256).long(), labels=labels).loss.backward()
    for name, parameter in made.model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad)


def test_an_evaluation_compares_all_labels_by_their_summed_surprise(tmp_path: Path) -> None:
    task = {**COMPLETION, "labels": ["bad", "a good one indeed", "good"]}
    rows = [*REVIEWS, {"text": "a saint", "mood": "a good one indeed"}]
    made = open_completion(tmp_path, task, rows=rows, data={"sequence_length": 64})
    generator = torch.Generator().manual_seed(4)
    given = {n: 0.5 * torch.randn(p.shape, generator=generator) for n, p in made.model.named_parameters()}
    with torch.no_grad():
        own = {name: parameter.clone() for name, parameter in made.model.named_parameters()}
        found = made.evaluate(given)
        assert all(torch.equal(parameter, own[name]) for name, parameter in made.model.named_parameters())
        for name, parameter in made.model.named_parameters():
            parameter.copy_(given[name])
    made.model.eval()
    total, tokens, correct = 0.0, 0, 0
    for example in made.rows.held_out:
        each = [surprise(made.model, example.text.encode(), words.encode()) for words in example.completions]
        total, tokens = total + each[example.label], tokens + len(example.completions[example.label])
        correct += int(np.argmin(each)) == example.label
    assert len(made.rows.held_out) > 8
    assert found.loss == pytest.approx(total / tokens, rel=1e-5)
    assert found.accuracy == pytest.approx(correct / len(made.rows.held_out))


def test_without_labels_there_is_no_accuracy(tmp_path: Path) -> None:
    made = open_completion(tmp_path, FREE)
    assert made.evaluate({}).accuracy is None


@pytest.mark.parametrize(("labels", "accuracy"), [(["x", "y"], 1.0), (["y", "x"], 0.0)])
def test_a_model_that_knows_the_answers_is_right(tmp_path: Path, labels: list[str], accuracy: float) -> None:
    """After A it says x, after B y: with all layers off, a token's embedding alone chooses the next one."""
    rows = [{"text": f"{number} {'AB'[number % 2]}", "mood": number % 2} for number in range(60)]
    task = {"kind": "completion", "prompt": "{text}", "completion": "{mood}", "label_column": "mood", "labels": labels}
    made = open_completion(tmp_path, task, rows=rows)
    given = {name: torch.zeros_like(p) for name, p in made.model.named_parameters()}
    given["model.norm.weight"] += 1
    for index, (seen, said) in enumerate((("A", "x"), ("B", "y"))):
        given["model.embed_tokens.weight"][ord(seen), index] = 1.0
        given["lm_head.weight"][ord(said), index] = 5.0
    found = made.evaluate(given)
    assert found.accuracy == accuracy
    assert found.loss < 0.1 if accuracy else found.loss > 5


def test_labels_of_one_token_share_what_the_model_reads(tmp_path: Path) -> None:
    made = open_completion(tmp_path, {**COMPLETION, "completion": "{mood}", "labels": ["b", "g"]}, rows=BY_LETTER)
    read: list[int] = []

    def forward(**inputs: Any) -> Any:
        read.append(len(inputs["input_ids"]))
        return made.model(**inputs)

    with torch.no_grad():
        made._measure(forward, made.rows.held_out[:8])
    assert read == [8]


# Tokens ------------------------------------------------------------------------------------------------------------


def text_of(tokens: Any) -> str:
    return "".join(chr(token) if token < 256 else f"<{token}>" for token in tokens)


def test_a_long_prompt_loses_its_beginning_and_all_labels_see_the_same_rest(tmp_path: Path) -> None:
    made = open_completion(tmp_path)
    long = Example("Review: " + "very " * 20 + "good?", (" bad", " good"), 0)
    first, second = made.pairs(long)
    assert [text_of(completion) for _, completion in (first, second)] == [" bad", " good"]
    assert text_of(first[0]) == text_of(second[0]) == long.text[-27:]
    assert sum(map(len, second)) == 32
    short = Example("so?", (" bad", " good"), 0)
    assert text_of(made.pairs(short)[1][0]) == "so?"


def test_what_the_tokenizer_puts_before_a_text_stays_and_what_it_puts_after_does_not_come(tmp_path: Path) -> None:
    tokenizer = framing_tokenizer(tmp_path / "tokenizer")
    made = open_completion(tmp_path, FREE, data={"tokenizer": str(tokenizer)})
    prompt, completion = made.pairs(Example("so " * 30, (" good",), 0))[0]
    assert text_of(prompt) == "<257>" + ("so " * 30)[-25:]
    assert text_of(completion) == " good<256>"
    assert made.loss(0).isfinite(), "this tokenizer knows no padding"


def test_a_completion_that_leaves_no_room_is_an_error_that_names_its_row(tmp_path: Path) -> None:
    rows = [*REVIEWS, {"text": "long", "mood": "x" * 30}]
    assert open_completion(tmp_path, FREE, rows=[*REVIEWS, {"text": "long", "mood": "x" * 29}])
    with pytest.raises(DataError, match=r"completion of rows\.jsonl, row 61 is too long") as long:
        open_completion(tmp_path, FREE, rows=rows)
    assert long.value.why == "it has 32 tokens, and data.sequence_length = 32 leaves 31"


class Merging:
    """A tokenizer that makes one token of 'ab' and begins every text with a token of its own."""

    before = after = np.empty(0, dtype=np.int32)
    end = 256

    def encode(self, text: str) -> Any:
        return np.asarray([300, *text.replace("ab", "\u0122").encode("utf-16-le")[::2]], dtype=np.int32)


def test_a_completions_tokens_are_those_that_follow_in_the_whole_text(tmp_path: Path) -> None:
    made = open_completion(tmp_path)
    made.tokenizer = Merging()  # type: ignore[assignment]
    prompt, completion = made.pairs(Example("x", ("ya",), 0))[0]
    assert (prompt.tolist(), completion.tolist()) == ([300, 120], [121, 97]), "not 300 again in the middle"
    prompt, completion = made.pairs(Example("xa", ("by",), 0))[0]
    assert (prompt.tolist(), completion.tolist()) == ([300, 120, 97], [300, 98, 121]), "merged across: each on its own"


def test_a_step_is_counted_by_the_examples_mean_length(tmp_path: Path) -> None:
    made = open_completion(tmp_path)
    lengths = [sum(map(len, made.pairs(example)[example.label])) for example in made.rows.held_out]
    assert made.tokens_per_step == round(5 * np.mean(lengths))


def test_a_volunteers_folder_stands_for_model_and_tokenizer_of_a_hub_name(tmp_path: Path) -> None:
    folder, name = framing_tokenizer(tmp_path / "model"), "nobody/has-this"
    wide = open_completion(tmp_path, data={"tokenizer": str(folder)})
    wide.model.save_pretrained(folder)  # type: ignore[operator]
    spec = example_spec(tmp_path, COMPLETION, pretrained=name, data={"tokenizer": name})
    made = open_task(spec, LocalOptions(device="cpu", model=str(folder)))
    assert made.tokenizer.before.tolist() == [257], "the folder's tokenizer puts something before a text"
