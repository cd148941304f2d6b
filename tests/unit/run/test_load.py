"""Whatever is wrong with a spec, the message names the file, the key, what was found and what is allowed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.errors import MalformedError, SpecError
from p2ptrain.run import PROTOCOL, load_spec, parse_spec, recipes, spec_from_canonical
from p2ptrain.run.spec import MAX_SPEC_BYTES
from tests.unit.run.specs import LEFT_OUT, spec_with, toml_with

# Fields that do not fit ----------------------------------------------------------------------------------------------

COMPLETION: dict[str, Any] = {
    "data": {"source": "files", "paths": ["a.csv"]},
    "task": {
        "kind": "completion",
        "prompt": "{text}?",
        "completion": " {label}",
        "label_column": "label",
        "labels": ["no", "yes"],
    },
}
CLASSES: dict[str, Any] = {
    "data": {"source": "files", "paths": ["a.csv"]},
    "task": {"kind": "classification", "text": "{text}", "label_column": "label", "labels": ["no", "yes"]},
}

# What was changed, and the line that says so.
WRONG: list[tuple[dict[str, Any], str]] = [
    # missing
    ({"run": LEFT_OUT}, "run: is missing"),
    ({"model": LEFT_OUT}, "model: is missing"),
    ({"data": LEFT_OUT}, "data: is missing"),
    ({"method": LEFT_OUT}, "method: is missing"),
    ({"run.name": LEFT_OUT}, "run.name: is missing"),
    ({"method.name": LEFT_OUT}, "method.name: is missing"),
    ({"data.source": LEFT_OUT}, "data.source: is missing; must be one of 'stdlib-python', 'files', 'dataset'"),
    ({"data.source": "files"}, "data.paths: is missing"),
    ({"data.source": "dataset"}, "data.dataset: is missing"),
    ({"method.betas": [0.9]}, "method.betas.1: is missing"),
    # unknown
    ({"methd": {}}, "methd: no such field; did you mean 'method'?"),
    ({"method.inner_step": 100}, "method.inner_step: no such field; did you mean 'inner_steps'?"),
    ({"data.tokeniser": "bytes"}, "data.tokeniser: no such field; did you mean 'tokenizer'?"),
    ({"model.architectur": "gpt2"}, "model.architectur: no such field; did you mean 'architecture'?"),
    ({"eval.evry": 8}, "eval.evry: no such field; did you mean 'every'?"),
    ({"limits.norm_bounds": 3.0}, "limits.norm_bounds: no such field; did you mean 'norm_bound'?"),
    ({"swarm.zebra": 1}, "swarm.zebra: no such field"),
    ({**COMPLETION, "task.promt": "x"}, "task.promt: no such field; did you mean 'prompt'?"),
    ({"task.prompt": "x"}, "task.kind: is missing; must be one of 'language-modelling', 'completion'"),
    ({"task.kind": "talk"}, "task.kind: found 'talk'; must be one of 'language-modelling', 'completion', 'chat'"),
    ({"task": {"kind": "language-modelling", "prompt": "x"}}, "task.prompt: no such field"),
    ({"model.lora": {"rang": 4}}, "model.lora.rang: no such field; did you mean 'rank'?"),
    # wrong type
    ({"run.name": 3}, "run.name: found 3; must be a valid string"),
    ({"method": 3}, "method: found 3; must be a"),
    ({"model.config": 3}, "model.config: found 3; must be a"),
    ({"data.sequence_length": "128"}, "data.sequence_length: found '128'; must be a valid integer"),
    ({"method.inner_steps": 100.0}, "method.inner_steps: found 100.0; must be a valid integer"),
    ({"method.inner_steps": True}, "method.inner_steps: found True; must be a valid integer"),
    ({"method.lr": "fast"}, "method.lr: found 'fast'; must be a valid number"),
    ({"method.overlap": 1.5}, "method.overlap: found 1.5; must be a valid integer"),
    ({"data.source": "files", "data.paths": "x"}, "data.paths: found 'x'; must be"),
    ({"data.source": "files", "data.paths": ["x", 1]}, "data.paths.1: found 1; must be a valid string"),
    (
        {"data.source": "dataset", "data.dataset": "c4", "data.streaming": "yes"},
        "data.streaming: found 'yes'; must be a valid boolean",
    ),
    # out of range
    ({"run.name": "Bad Name"}, "run.name: found 'Bad Name'; string should match pattern"),
    ({"run.name": "a" * 41}, "run.name: found 'aaa"),
    ({"run.protocol": 1}, f"run.protocol: found 1; must be {PROTOCOL}"),
    ({"data.sequence_length": 7}, "data.sequence_length: found 7; must be greater than or equal to 8"),
    ({"data.held_out": 0.0}, "data.held_out: found 0.0; must be greater than 0"),
    ({"data.held_out": 0.6}, "data.held_out: found 0.6; must be less than or equal to 0.5"),
    ({"data.source": "files", "data.paths": []}, "data.paths: found []; tuple should have at least 1 item"),
    ({"method.inner_steps": 0}, "method.inner_steps: found 0; must be greater than or equal to 1"),
    ({"method.overlap": -1}, "method.overlap: found -1; must be greater than or equal to 0"),
    ({"method.alpha": 2.0}, "method.alpha: found 2.0; must be less than or equal to 1"),
    ({"method.betas": [0.9, 1.5]}, "method.betas.1: found 1.5; must be less than or equal to 1"),
    ({"method.lr": 0.0}, "method.lr: found 0.0; must be greater than 0"),
    ({"method.outer_lr": 11.0}, "method.outer_lr: found 11.0; must be less than or equal to 10"),
    ({"method.outer_momentum": 1.0}, "method.outer_momentum: found 1.0; must be less than 1"),
    ({"eval.every": 0}, "eval.every: found 0; must be greater than or equal to 1"),
    ({"limits.norm_bound": 1.0}, "limits.norm_bound: found 1.0; must be greater than 1"),
    ({"limits.rollback_depth": 0}, "limits.rollback_depth: found 0; must be greater than or equal to 1"),
    ({"swarm.min_peers": 0}, "swarm.min_peers: found 0; must be greater than or equal to 1"),
    # not one of the choices
    ({"data.source": "web"}, "data.source: found 'web'; must be one of 'stdlib-python', 'files', 'dataset'"),
    ({"method.name": "sgd"}, "method.name: found 'sgd'; must be one of 'diloco', 'spsa'"),
    ({"method.codec": "int4"}, "method.codec: found 'int4'; must be 'e3m0', 'int8', 'bf16' or 'fp32'"),
    ({"method.merge": "mean"}, "method.merge: found 'mean'; must be 'blend', 'carry' or 'overwrite'"),
    ({"method.schedule": "linear"}, "method.schedule: found 'linear'; must be 'constant' or 'cosine'"),
    ({"method.overlap": "never"}, "method.overlap: found 'never'; must be 'free'"),
    # templates and labels
    ({**COMPLETION, "task.prompt": LEFT_OUT}, "task.prompt: is missing"),
    ({**CLASSES, "task.labels": LEFT_OUT}, "task.labels: is missing"),
    ({**COMPLETION, "task.prompt": "{text.x}"}, "task.prompt: found '{text.x}'; only {column} may stand in braces"),
    ({**COMPLETION, "task.prompt": "{text"}, "task.prompt: found '{text'; expected '}'"),
    ({**COMPLETION, "task.prompt": "Review:"}, "task.prompt: found 'Review:'; names no column"),
    ({**COMPLETION, "task.labels": LEFT_OUT}, "task: 'labels' and 'label_column' belong together"),
    ({**COMPLETION, "task.label_column": LEFT_OUT}, "task: 'labels' and 'label_column' belong together"),
    ({**COMPLETION, "task.labels": ["yes"]}, "task: give at least two labels"),
    ({**CLASSES, "task.labels": ["yes", "yes "]}, "task: two labels are the same word"),
    ({**COMPLETION, "task.prompt": "{text} {label}"}, "task: the prompt gives the answer away"),
    ({**CLASSES, "task.text": "{text} {label}"}, "task: the text gives the answer away"),
    ({**COMPLETION, "task.completion": " {text}"}, "task: completion must name the label column, {label},"),
    ({"model.lora": {"rank": 0}}, "model.lora.rank: found 0; must be greater than or equal to 1"),
    # contradictions
    ({**COMPLETION, "data": {"source": "stdlib-python"}}, "the spec: task.kind = 'completion' reads tables"),
    ({**CLASSES, "data": {"source": "dataset", "dataset": "x"}}, "the spec: task.kind = 'classification' reads the"),
    ({**CLASSES, "data.text_column": "body"}, "the spec: data.text_column is for language modelling"),
    ({**COMPLETION, "data": {"source": "custom"}}, "the spec: task.kind = 'completion' is not for a run whose own"),
    ({**COMPLETION, "model": {"architecture": "custom"}}, "the spec: task.kind = 'completion' is not for a run whose"),
    ({"model": {"architecture": "custom", "lora": {}}}, "model: 'trainable' and 'lora' are not for architecture"),
    ({"model.architecture": LEFT_OUT}, "model: give either 'architecture' or 'pretrained', one of the two"),
    ({"model.pretrained": "gpt2"}, "model: give either 'architecture' or 'pretrained', one of the two"),
    (
        {"model.architecture": LEFT_OUT, "model.pretrained": "gpt2", "model.config": {"hidden_size": 1}},
        "model: 'config' belongs to 'architecture'; a pretrained model brings its own",
    ),
    ({"model.revision": "main"}, "model: 'revision' belongs to 'pretrained'"),
    ({"method.inner_steps": 7}, "method: inner_steps (7) must be a multiple of fragments (4)"),
    ({"method.overlap": 100}, "method: overlap (100) must be less than inner_steps (100)"),
    (
        {"method.merge": "carry", "method.alpha": 0.7},
        "method: alpha belongs to merge = 'blend', but merge is 'carry'",
    ),
    ({"method.total_steps": LEFT_OUT}, "method: schedule = 'cosine' needs total_steps; use 'constant' for"),
    ({"method.total_steps": 4001}, "method: total_steps (4001) must be a multiple of inner_steps / fragments (25)"),
    ({"method.warmup_steps": 4000}, "method: warmup_steps (4000) must be less than total_steps (4000)"),
]


@pytest.mark.parametrize(("changes", "line"), WRONG, ids=[line[:50] for _, line in WRONG])
def test_the_message_names_the_file_the_key_what_was_found_and_what_is_allowed(
    changes: dict[str, Any], line: str, tmp_path: Path
) -> None:
    path = tmp_path / "run.toml"
    path.write_text(toml_with(changes))
    with pytest.raises(SpecError) as refusal:
        load_spec(str(path))
    assert refusal.value.what == f"{path} is not a valid run spec"
    assert any(told.strip().startswith(line) for told in refusal.value.why.splitlines()), refusal.value.why
    assert "p2ptrain new" in refusal.value.next_step
    assert refusal.value.exit_code == 3


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(SpecError) as refusal:
        spec_with({"run.name": "Bad Name", "data.held_out": 1.0, "eval.evry": 1})
    assert [line.strip().partition(":")[0] for line in refusal.value.why.splitlines()] == [
        "run.name",
        "data.held_out",
        "eval.evry",
    ]


# Files that can't be read --------------------------------------------------------------------------------------------


def refusal_of(name: str) -> SpecError:
    with pytest.raises(SpecError) as refusal:
        load_spec(name)
    assert refusal.value.next_step
    return refusal.value


def test_what_is_not_toml_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text("[run]\nname = test\n")
    refusal = refusal_of(str(path))
    assert refusal.what == f"{path} is not valid TOML"
    assert "line 2" in refusal.why


def test_what_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(b'[run]\nname = "\xff"\n')
    assert refusal_of(str(path)).what == f"{path} is not UTF-8 text"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    refusal = refusal_of(str(path))
    assert str(path) in refusal.what
    assert refusal.why == "No such file or directory"


def test_a_folder_is_no_spec(tmp_path: Path) -> None:
    assert refusal_of(str(tmp_path)).why == "Is a directory"


def test_an_unknown_recipe_is_refused_with_the_known_ones_and_a_suggestion() -> None:
    refusal = refusal_of("quickstrat")
    assert "'quickstrat'" in refusal.what
    assert all(name in refusal.why for name in recipes())
    assert "did you mean 'quickstart'?" in refusal.next_step


def test_a_file_without_a_suffix_is_read(tmp_path: Path) -> None:
    path = tmp_path / "myrun"
    path.write_text(toml_with())
    assert load_spec(str(path)) == spec_with()


@pytest.mark.parametrize("name", recipes())
def test_a_recipe_is_valid_and_bears_its_files_name(name: str) -> None:
    spec = load_spec(name)
    assert spec.run.name == name
    assert spec.run.description
    assert spec == load_spec(str(recipes()[name]))
    assert spec_from_canonical(spec.canonical()) == spec


def test_there_are_recipes() -> None:
    assert {"demo", "quickstart"} <= recipes().keys()


# Specs from the network ----------------------------------------------------------------------------------------------

CANONICAL = spec_with({"model.config": {"hidden_size": 64}}).canonical()


@given(
    steps=st.integers(1, 10**6),
    lr=st.floats(1e-12, 10.0),
    description=st.text(),
    config=st.dictionaries(st.from_regex("[a-z_]{1,10}", fullmatch=True), st.integers() | st.booleans() | st.text()),
)
def test_any_spec_survives_its_canonical_form(steps: int, lr: float, description: str, config: dict[str, Any]) -> None:
    fields = json.loads(CANONICAL)
    fields["method"] |= {"total_steps": 25 * steps, "warmup_steps": 0, "lr": lr}
    fields["model"]["config"] = config
    fields["run"]["description"] = description[:500]
    written = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    spec = spec_from_canonical(written)
    assert spec.canonical() == written
    assert spec.method.lr == lr


NOT_CANONICAL = {
    "spaces": json.dumps(json.loads(CANONICAL), sort_keys=True).encode(),
    "another order": json.dumps(dict(reversed(json.loads(CANONICAL).items())), separators=(",", ":")).encode(),
    "a line at the end": CANONICAL + b"\n",
    "a default left out": CANONICAL.replace(b'"alpha":0.5,', b""),
    "a whole number for a decimal one": CANONICAL.replace(b'"clip_norm":1.0', b'"clip_norm":1'),
    "an exponent": CANONICAL.replace(b'"lr":0.001', b'"lr":1e-3'),
    "escaped text": CANONICAL.replace(b'"name":"test"', b'"name":"\\u0074est"'),
    "a key given twice": CANONICAL.replace(b'"alpha":0.5', b'"alpha":0.1,"alpha":0.5'),
    "UTF-16": CANONICAL.decode().encode("utf-16"),
}


@pytest.mark.parametrize("data", NOT_CANONICAL.values(), ids=NOT_CANONICAL)
def test_a_spec_in_any_other_form_is_refused(data: bytes) -> None:
    assert data != CANONICAL
    with pytest.raises(MalformedError, match="not in its canonical form"):
        spec_from_canonical(data)


UNREADABLE = {
    "nothing": b"",
    "truncated": CANONICAL[:-1],
    "trailing text": CANONICAL + b"x",
    "not UTF-8": CANONICAL.replace(b"test", b"te\xff\xfe"),
    "a list": b"[]",
    "a number": b"1",
    "an unknown field": CANONICAL.replace(b'"alpha"', b'"aleph"'),
    "a contradiction": CANONICAL.replace(b'"inner_steps":100', b'"inner_steps":99'),
    "another protocol": CANONICAL.replace(b'"protocol":2', b'"protocol":1'),
    "a number without end": CANONICAL.replace(b'"hidden_size":64', b'"hidden_size":' + b"9" * 5000),
    "deep lists": CANONICAL.replace(b'"hidden_size":64', b'"x":' + b"[" * 1000 + b"]" * 1000),
    "very deep lists": CANONICAL.replace(b'"hidden_size":64', b'"x":' + b"[" * 30000 + b"]" * 30000),
}


@pytest.mark.parametrize("data", UNREADABLE.values(), ids=UNREADABLE)
def test_what_is_no_valid_spec_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedError, match="can't be read by this version"):
        spec_from_canonical(data)


def test_an_oversize_spec_is_refused_unread() -> None:
    with pytest.raises(MalformedError, match="too long"):
        spec_from_canonical(CANONICAL.ljust(MAX_SPEC_BYTES + 1))


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedError):
        spec_from_canonical(data)


@given(at=st.integers(0, len(CANONICAL) - 1), byte=st.integers(0, 255))
def test_a_damaged_spec_is_refused_or_means_itself(at: int, byte: int) -> None:
    data = CANONICAL[:at] + bytes([byte]) + CANONICAL[at + 1 :]
    try:
        spec = spec_from_canonical(data)
    except MalformedError:
        return
    assert spec.canonical() == data


@given(st.text(max_size=200))
def test_random_text_is_no_spec(text: str) -> None:
    with pytest.raises(SpecError, match=r"a\.toml"):
        parse_spec(text, "a.toml")
