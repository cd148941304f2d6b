"""Templates name columns and can do nothing else, whoever wrote them."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from p2ptrain.run.task import columns_of, fill, parse_template

COLUMNS = st.text(st.characters(exclude_characters=".[]{}!:"), min_size=1).filter(str.strip)


def escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


@given(st.lists(st.tuples(st.text(), COLUMNS)), st.text(), st.data())
def test_a_template_is_its_text_with_the_columns_values(
    pieces: list[tuple[str, str]], end: str, data: st.DataObject
) -> None:
    template = "".join(f"{escaped(text)}{{{column}}}" for text, column in pieces) + escaped(end)
    row = {column: data.draw(st.text() | st.integers()) for _, column in pieces}
    assert fill(template, row) == "".join(text + str(row[column]) for text, column in pieces) + end
    assert columns_of(template) == tuple(dict.fromkeys(column for _, column in pieces))


@given(st.text(alphabet="ab{}.[]!:0 "))
@example("{a}{{b}}")
def test_any_text_is_a_template_of_plain_columns_or_refused(text: str) -> None:
    try:
        columns = columns_of(text)
    except ValueError:
        return
    assert not any(set(column) & set(".[]{}") for column in columns)
    assert isinstance(fill(text, dict.fromkeys(columns, "x")), str)


@pytest.mark.parametrize(
    "template",
    ["{a.__class__}", "{a[0]}", "{a!r}", "{a:>10}", "{a:{b}}", "{}", "{ }", "{a", "a}", "{a:{b.__class__}}", "{{a}"],
)
def test_what_format_strings_can_do_besides_is_refused(template: str) -> None:
    with pytest.raises(ValueError):
        parse_template(template)


def test_values_are_not_read_as_templates() -> None:
    assert fill("{a} {b}", {"a": "{b}", "b": "{a.x}"}) == "{b} {a.x}"


def test_a_columns_value_is_written_as_str_writes_it() -> None:
    assert fill("{n} {x} {flag}", {"n": 3, "x": 0.5, "flag": True}) == "3 0.5 True"
