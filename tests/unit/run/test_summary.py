"""A run in a few words."""

from __future__ import annotations

import pytest

from p2ptrain.run import load_spec, recipes
from p2ptrain.run.method import METHODS
from p2ptrain.run.summary import contents, data_of, model_of
from tests.unit.run.specs import spec_with

CUSTOM = {"model": {"architecture": "custom"}, "data": {"source": "custom"}, "method": {"name": "spsa"}}


@pytest.mark.parametrize(
    ("name", "model", "data", "method"),
    [
        ("quickstart", "new llama", "stdlib-python", "Streaming DiLoCo"),
        ("gpt2-c4", "new gpt2", "allenai/c4", "Streaming DiLoCo"),
        (
            "one-byte-sentiment",
            "HuggingFaceTB/SmolLM2-135M-Instruct",
            "cornell-movie-review-data/rotten_tomatoes",
            "one-byte SPSA",
        ),
    ],
)
def test_a_recipe_in_a_few_words(name: str, model: str, data: str, method: str) -> None:
    spec = load_spec(name)
    assert (model_of(spec), data_of(spec), METHODS[spec.method.name], spec.is_custom) == (model, data, method, False)
    assert contents(spec) == f"{model} on {data}"


def test_every_recipe_has_its_words() -> None:
    assert all(contents(load_spec(name)) for name in recipes())


def test_files_are_told_as_the_spec_names_them() -> None:
    assert data_of(spec_with({"data": {"source": "files", "paths": ["a/*.txt", "b"]}})) == "a/*.txt, b"


def test_a_run_of_its_authors_program_is_told_as_such() -> None:
    assert spec_with(CUSTOM).is_custom
    assert spec_with({"data": {"source": "custom"}}).is_custom
    assert model_of(spec_with(CUSTOM)) == "its own program's"


def test_the_end_is_a_height_or_a_number_of_records_or_none() -> None:
    assert spec_with({"method.total_steps": 4000}).method.last_height == 160
    assert spec_with({"method": {"name": "spsa", "total_records": 500}}).method.last_height == 500
    assert spec_with(CUSTOM).method.last_height is None
