"""Rows in words: no row twice, none on both sides, every peer's draws its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from p2ptrain.errors import DataError
from p2ptrain.run.task import Classification, Completion, fill
from p2ptrain.tasks import LocalOptions, open_task
from p2ptrain.tasks.documents import is_held_out
from p2ptrain.tasks.examples import Example, Examples, ExampleTask, example_of
from tests.unit.data.samples import write_table
from tests.unit.tasks.samples import CLASSIFICATION, COMPLETION, REVIEWS, example_spec, tiny_spec

pytestmark = pytest.mark.usefixtures("own_dataset_cache")

FRACTION = 0.3
CHOICE = Completion.model_validate(COMPLETION)
FREE = Completion(kind="completion", prompt="{text}?", completion=" {mood}")
CLASSES = Classification.model_validate(CLASSIFICATION)

Row = dict[str, Any]


def examples(
    rows: list[Row], task: Completion | Classification = CHOICE, seed: int = 1, evaluated: int = 99
) -> Examples:
    return Examples(rows, task, FRACTION, evaluated, seed)


def drawn(source: Examples, count: int = 600) -> set[Example]:
    return set(source.batch(0, count))


# In words ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "example"),
    [
        (CHOICE, Example("so fine?", (" bad", " good"), 1)),
        (FREE, Example("so fine?", (" good",), 0)),
        (CLASSES, Example("so fine", (), 1)),
    ],
)
def test_a_row_is_put_into_the_tasks_words(task: Completion | Classification, example: Example) -> None:
    assert example_of(task, {"text": "so fine", "mood": "good"}) == example


@pytest.mark.parametrize(("cell", "label"), [("bad", 0), (" good ", 1), ("0", 0), ("1", 1), ("1.0", 1), ("01", 1)])
def test_a_label_is_its_word_or_its_number(cell: str, label: int) -> None:
    assert example_of(CHOICE, {"text": "x", "mood": cell}) == Example("x?", (" bad", " good"), label)


@pytest.mark.parametrize("cell", ["Good", "2", "-1", "0.5", "nan", "NA", "true", "1e0", "\u0661"])
def test_another_label_is_an_error_that_names_row_and_labels(cell: str) -> None:
    with pytest.raises(DataError, match=r"rows\.csv, row 7 has the label") as unknown:
        example_of(CLASSES, {"text": "x", "mood": cell}, lambda: "rows.csv, row 7")
    assert unknown.value.why.startswith("the labels are 'bad', 'good'")
    assert "task.labels" in unknown.value.next_step


@pytest.mark.parametrize("written", [("true", "false"), ("True", "False"), ("TRUE", "FALSE")])
def test_true_and_false_are_words_however_a_table_writes_them(written: tuple[str, str]) -> None:
    backwards = CLASSES.model_copy(update={"labels": ("True", "false")})
    assert [example_of(backwards, {"text": "x", "mood": cell}).label for cell in written] == [0, 1]


def test_where_the_words_are_numbers_a_number_is_its_word() -> None:
    stars = CLASSES.model_copy(update={"labels": ("1", "2", "3")})
    assert [example_of(stars, {"text": "x", "mood": cell}).label for cell in ("1", "3", " 2")] == [0, 2, 1]
    with pytest.raises(DataError, match="label '0'"):
        example_of(stars, {"text": "x", "mood": "0"})


# The split ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from(REVIEWS), min_size=30), st.sampled_from([CHOICE, FREE, CLASSES]))
def test_every_row_is_on_one_side_and_counts_once(rows: list[Row], task: Completion | Classification) -> None:
    sides = {is_held_out(fill(task.text, row), FRACTION) for row in rows}
    assume(len(sides) == 2)
    assume(len({row["mood"] for row in rows}) == 2)
    source = examples(rows, task)
    training = {source._example(number) for number in source._training}
    everything = {example_of(task, row) for row in rows}
    assert source.repeated == len(rows) - len(everything)
    assert len(source._training) + len(source.held_out) == len(training | set(source.held_out)) == len(everything)
    assert all(is_held_out(example.text, FRACTION) for example in source.held_out)
    assert not any(is_held_out(example.text, FRACTION) for example in training)
    assert drawn(source) == training


def test_a_text_that_comes_with_two_answers_is_on_one_side() -> None:
    both = [{**row, "mood": mood} for row in REVIEWS for mood in ("bad", "good")]
    source = examples(both)
    training = {example.text for example in drawn(source, 2000)}
    assert len(source.held_out) == 2 * len({example.text for example in source.held_out})
    assert not training & {example.text for example in source.held_out}


def test_the_order_of_the_rows_does_not_decide_what_is_evaluated() -> None:
    by_label = sorted(REVIEWS, key=lambda row: str(row["mood"]))
    few = examples(by_label, evaluated=10)
    assert few.held_out == examples(REVIEWS, evaluated=10).held_out == examples(REVIEWS).held_out[:10]
    assert {example.label for example in few.held_out} == {0, 1}
    assert few.digest == examples(REVIEWS, seed=2, evaluated=10).digest
    assert few.digest != examples(REVIEWS, evaluated=11).digest


@pytest.mark.parametrize(
    ("keep", "what"),
    [(True, "no example to train on"), (False, "no example is held out"), (None, "no example to train on")],
)
def test_a_side_without_examples_is_an_error(keep: bool | None, what: str) -> None:
    rows = [row for row in REVIEWS if is_held_out(f"{row['text']}?", FRACTION) is keep]
    with pytest.raises(DataError, match=what):
        examples(rows)


def test_a_label_that_no_row_has_is_an_error_that_names_it() -> None:
    """A class that is spelt in another way would have no row, and accuracy would look fine."""
    three = CLASSES.model_copy(update={"labels": ("bad", "good", "fair", "awful")})
    with pytest.raises(DataError, match="no row has the label 'fair'") as absent:
        examples(REVIEWS, three)
    assert absent.value.why == "2 of the 4 labels of the spec are in no row of the data"


# Draws -------------------------------------------------------------------------------------------------------------


def test_a_batch_is_a_function_of_seed_and_index_alone() -> None:
    source, again = examples(REVIEWS), examples(REVIEWS)
    in_order = [source.batch(index, 4) for index in range(5)]
    assert [again.batch(index, 4) for index in (4, 0, 2)] == [in_order[4], in_order[0], in_order[2]]
    assert len({tuple(batch) for batch in in_order}) == 5
    assert examples(REVIEWS, seed=2**127 + 5).batch(0, 4) != in_order[0]


# Tables ------------------------------------------------------------------------------------------------------------


def opened(spec: Any, **local: Any) -> ExampleTask:
    task = open_task(spec, LocalOptions(device="cpu", **local))
    assert isinstance(task, ExampleTask)
    task.load_data(1)
    return task


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl", "json", "dataset"])
def test_every_kind_of_table_holds_the_same_examples(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "rows" / f"rows.{'csv' if kind == 'dataset' else kind}"
    path.parent.mkdir()
    write_table(path, [{**row, "other": 1} for row in REVIEWS])
    data: Row = {"source": "files", "paths": [str(path)]}
    if kind == "dataset":
        data = {"source": "dataset", "dataset": str(path.parent), "streaming": False}
    task = opened(tiny_spec(data={**data, "held_out": FRACTION, "sequence_length": 32}, task=COMPLETION, evaluated=99))
    assert task.rows.digest == examples(REVIEWS).digest
    assert drawn(task.rows) == drawn(examples(REVIEWS))
    assert (task.read.rows, task.read.used, task.read.told) == (60, 60, [])


def test_a_table_without_a_column_of_the_task_is_an_error(tmp_path: Path) -> None:
    spec = example_spec(tmp_path, COMPLETION, [{"text": "x", "label": "good"}])
    with pytest.raises(DataError, match="no column 'mood'") as missing:
        opened(spec)
    assert missing.value.why == "its columns are: 'text', 'label'"
    assert "[task]" in missing.value.next_step


@pytest.mark.parametrize("empty", [{"text": None}, {"text": ""}, {"mood": None}, {"mood": float("nan")}])
def test_a_row_with_an_empty_column_is_left_out_and_told(tmp_path: Path, empty: Row) -> None:
    task = opened(example_spec(tmp_path, CLASSIFICATION, [{**REVIEWS[0], **empty}, *REVIEWS]))
    assert drawn(task.rows) == drawn(examples(REVIEWS, CLASSES))
    [column] = empty
    assert task.read.told == [f"1 of 61 rows left out: column '{column}' is empty (first: rows.jsonl, row 1)"]


def test_rows_that_say_the_same_and_texts_that_are_cut_are_told(tmp_path: Path) -> None:
    rows = [*REVIEWS, REVIEWS[7], {"text": "x" * 99, "mood": "bad"}]
    assert opened(example_spec(tmp_path, CLASSIFICATION, rows)).read.told == [
        "1 of 62 rows say the same as another row and count once",
        "1 of 61 texts are longer than data.sequence_length and are cut",
    ]


def test_a_volunteers_table_stands_for_the_specs_and_must_be_one(tmp_path: Path) -> None:
    example_spec(tmp_path, COMPLETION)
    data = {"source": "files", "paths": ["/no/such.csv"], "held_out": FRACTION, "sequence_length": 32}
    nowhere = tiny_spec(data=data, task=COMPLETION)
    assert opened(nowhere, data=(f"{tmp_path}/*.jsonl",)).rows.held_out
    (tmp_path / "prose.txt").write_text("text")
    with pytest.raises(DataError, match="no table"):
        opened(nowhere, data=(f"{tmp_path}/prose.txt",))
