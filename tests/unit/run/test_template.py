"""`p2ptrain new` writes a spec that is valid as it stands and explains everything that can be set."""

from __future__ import annotations

import re

import pytest
from pydantic import BaseModel

from p2ptrain.run import DiLoCoMethod, parse_spec
from p2ptrain.run.spec import (
    DatasetData,
    EvalSection,
    FilesData,
    LimitsSection,
    LoraSection,
    ModelSection,
    RunSection,
    StdlibData,
    SwarmSection,
)
from p2ptrain.run.task import Chat, Classification, Completion, LanguageModelling
from p2ptrain.run.template import template

SHOWN: list[type[BaseModel]] = [
    RunSection,
    ModelSection,
    LoraSection,
    StdlibData,
    LanguageModelling,
    Completion,
    Chat,
    Classification,
    DiLoCoMethod,
    EvalSection,
    LimitsSection,
    SwarmSection,
]
TAGS = {(StdlibData, "source"), (DiLoCoMethod, "name"), (Completion, "kind"), (Chat, "kind"), (Classification, "kind")}
"""They choose the section; its other fields are what there is to explain."""


def test_the_template_is_a_valid_spec_as_it_stands() -> None:
    spec = parse_spec(template("my-run"), "run.toml")
    assert spec.run.name == "my-run"
    assert spec.model.config


@pytest.mark.parametrize("section", [*SHOWN, FilesData, DatasetData])
def test_the_template_mentions_every_field(section: type[BaseModel]) -> None:
    text = template("my-run")
    for key in section.model_fields:
        assert re.search(rf"\b{key}\b( =|\])", text) or re.search(rf"\b{key}$", text, re.MULTILINE), key


@pytest.mark.parametrize("section", SHOWN)
def test_the_template_explains_fields_in_the_specs_own_words(section: type[BaseModel]) -> None:
    flowing = " ".join(line.lstrip("# ") for line in template("my-run").splitlines())
    for key, field in section.model_fields.items():
        if (section, key) not in TAGS:
            assert field.description, key
            assert " ".join(field.description.split()) in flowing, key


def test_a_line_that_is_commented_out_shows_the_default() -> None:
    text = template("my-run")
    spelled_out = re.sub(r"^# (\w+ = [^…]+)$", r"\1", text, flags=re.MULTILINE)
    assert spelled_out.count("\n#") < text.count("\n#")
    assert parse_spec(spelled_out, "run.toml").canonical() == parse_spec(text, "run.toml").canonical()


@pytest.mark.parametrize("section", ["model.lora", "task"])
def test_what_is_commented_out_as_a_whole_is_valid_too(section: str) -> None:
    """As a reader would: take the block's prefix away, and the other section of that name."""
    text = template("my-run").replace('kind = "language-modelling"\n', "").replace("\n[task]\n", "\n", 1)
    data = '[data]\nsource = "files"\npaths = ["reviews.csv"]\ntokenizer = "an/instruct-model"\n'
    text = re.sub(r"\[data\].*?\n\n", lambda _: data + "\n", text, count=1, flags=re.DOTALL)
    blocks = re.findall(rf"(?:#   .*\n)*?#   \[{section}\]\n(?:#   .*\n)*", text)
    assert len(blocks) == (1 if section == "model.lora" else 3)
    for block in blocks:
        spec = parse_spec(text.replace(block, re.sub("^#   ", "", block, flags=re.MULTILINE)), "run.toml")
        assert (
            spec.model.lora if section == "model.lora" else spec.task.kind in ("completion", "chat", "classification")
        )


def test_no_line_is_too_wide_for_an_editor() -> None:
    assert max(map(len, template("my-run").splitlines())) <= 120
