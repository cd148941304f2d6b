"""Write one random file of a format, and say what it holds."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from tests.unit.fuzz.encodings import Encoded, choose_encoding, encode, fitted, seen
from tests.unit.fuzz.truth import Row, Truth, row_of
from tests.unit.fuzz.values import broken_line, few_bad_bytes, json_value, parquet_column, text


@dataclass(frozen=True)
class Plan:
    """What all files of a trial have in common."""

    roles: dict[str, str]
    """Columns that the task reads: "document" or "words"."""
    dirt: float
    """Share of rows with faults; 0: there are none at all, in no file."""
    rows: int
    """Most rows of a file."""
    longest: int
    """Most characters of a text."""
    special: dict[str, list[Any]]
    """Columns whose values are not random texts, e.g. labels."""


def _extra_columns(random: Random, plan: Plan) -> list[str]:
    names = ("id", "", "text.en", "Größe", "a b", "source", "meta", " text", "TEXT", "__index_level_0__")
    return [name for name in random.sample(names, random.choice((0, 0, 1, 3))) if name not in plan.roles]


def _order(random: Random, plan: Plan) -> list[str]:
    columns = [*plan.roles, *_extra_columns(random, plan)]
    random.shuffle(columns)
    return columns


def _renamed(random: Random, plan: Plan, columns: list[str]) -> list[str]:
    """Sometimes a file has one of the columns under another name."""
    if random.random() < 0.02 and plan.dirt:
        lost = random.choice(list(plan.roles))
        return [lost + "_" if column == lost else column for column in columns]
    return columns


def _check_columns(plan: Plan, found: Iterable[str], truth: Truth) -> None:
    names = set(found)
    for column in plan.roles:
        if column not in names:
            truth.refused["column"] = repr(column)


def jsonl(random: Random, plan: Plan, truth: Truth) -> Encoded:
    """One object per line."""
    encoding = choose_encoding(random, plan.dirt)

    def broken(at: int, values: dict[str, Any]) -> str | None:
        if at and random.random() < plan.dirt:  # by the first line, lines are told from an array
            return fitted(broken_line(random, values), encoding)
        return None

    lines = list[str]()
    for line in _json_objects(random, plan, truth, encoding, broken):
        if random.random() < 0.05:
            lines.append(random.choice(("", "   ", "\t")))
        lines.append(line)
    end = random.choice(("\n", "\n", "\r\n"))
    return encode(end.join(lines) + random.choice((end, "")) if lines else "", encoding)


def json_array(random: Random, plan: Plan, truth: Truth) -> Encoded:
    """One array of objects."""
    encoding = choose_encoding(random, plan.dirt)

    def broken(_: int, values: dict[str, Any]) -> str | None:
        return random.choice(("1", '"text"', "null", "[]", "true")) if random.random() < plan.dirt / 2 else None

    parts = list(_json_objects(random, plan, truth, encoding, broken))
    array = "[" + random.choice((",", ", ", ",\n", "\n,\n  ")).join(parts)
    if random.random() < plan.dirt / 10:
        truth.refused["damaged"] = ""
    else:
        array += "]"
    return encode(random.choice(("", "\n", " ")) + array + random.choice(("", "\n")), encoding)


def _json_objects(
    random: Random, plan: Plan, truth: Truth, encoding: str, broken: Callable[[int, dict[str, Any]], str | None]
) -> Iterator[str]:
    """The JSON of each row. Those that must be broken are replaced by what `broken(index, values)` returns."""
    columns, found = _renamed(random, plan, _order(random, plan)), set[str]()
    for at in range(random.randint(0, plan.rows)):
        line, values, row = _json_row(random, plan, columns, encoding)
        if (instead := broken(at, values)) is not None:
            line, row = instead, Row(None, "json")
        else:
            found |= set(values)
        truth.rows.append(row)
        yield line
    if found:
        _check_columns(plan, found, truth)


def _json_row(random: Random, plan: Plan, columns: list[str], encoding: str) -> tuple[str, dict[str, Any], Row]:
    """(its JSON, its values, what must be read of it)."""
    values: dict[str, Any] = {}
    is_escaped = random.random() < 0.3
    for column in columns:
        luck = random.random()
        if column not in plan.roles:
            values[column] = random.choice((1, None, "x", [1, "a"], {"b": None}))
        elif luck < plan.dirt / 3 and (is_escaped or encoding != "latin-1"):
            values[column] = json_value(random)
        elif luck < plan.dirt / 2 and is_escaped and column not in plan.special:
            values[column] = "".join(random.choices("ab\ud800 \udbff\x00\x1f", k=6))
        elif luck > 1 - plan.dirt / 10:
            continue
        else:
            values[column] = _value(random, plan, column, encoding, encoding == "utf-8" and not is_escaped)
    if is_escaped:
        return json.dumps(values), values, row_of(values, plan.roles)
    shown = {column: seen(value, encoding) if isinstance(value, str) else value for column, value in values.items()}
    return json.dumps(values, ensure_ascii=False), values, row_of(shown, plan.roles)


def _value(random: Random, plan: Plan, column: str, encoding: str, is_raw: bool) -> Any:
    """A value in which all is right, or if it is written raw, a text with some bytes that are no UTF-8."""
    if column in plan.special:
        return random.choice(plan.special[column])
    if random.random() < 0.1:
        return random.choice(("same", "again"))
    made = fitted(text(random, plan.longest), encoding)
    return few_bad_bytes(random, made) if is_raw and random.random() < plan.dirt / 10 else made


def separated(random: Random, plan: Plan, truth: Truth, separator: str) -> Encoded:
    """CSV or TSV."""
    encoding, columns = choose_encoding(random, plan.dirt), _renamed(random, plan, _order(random, plan))
    end = random.choice(("\n", "\n", "\r\n", "\r"))
    columns = [fitted(column, encoding) for column in columns]
    _check_columns(plan, [seen(column, encoding) for column in columns], truth)
    if random.random() < 0.02 and plan.dirt and len(columns) > 1:
        truth.refused["column"] = ""
        separator = ";" if separator == "," else ","
    lines = [_line(random, columns, separator)]
    count = random.randint(0, plan.rows)
    opens = random.randrange(count) if count and random.random() < plan.dirt / 3 else count
    for _ in range(opens):
        if random.random() < 0.03:
            lines.append("")
        row = {column: _cell(random, plan, column, encoding) for column in columns}
        if random.random() >= plan.dirt:
            lines.append(_line(random, list(row.values()), separator))
            shown = {column: seen(cell, encoding) for column, cell in row.items()}
            truth.rows.append(row_of(shown, plan.roles, empty_is_none=True))
        else:
            lines.append(_broken_csv(random, list(row.values()), separator, truth))
    if opens < count:
        lines += _open_quote(random, plan, len(columns), count - opens, separator, truth)
    return encode(end.join(lines) + random.choice((end, "")), encoding)


def _cell(random: Random, plan: Plan, column: str, encoding: str) -> str:
    if column in plan.special:
        return str(random.choice(plan.special[column]))
    if random.random() < plan.dirt / 3:
        return ""
    return str(_value(random, plan, column, encoding, encoding == "utf-8"))


def _line(random: Random, cells: list[str], separator: str) -> str:
    """Quoted where that is needed, and sometimes where it is not."""
    quote_all = random.random() < 0.2
    made = []
    for cell in cells:
        needed = any(letter in cell for letter in f'{separator}"\r\n') or (not cell and len(cells) == 1)
        made.append('"' + cell.replace('"', '""') + '"' if needed or quote_all else cell)
    return separator.join(made)


def _broken_csv(random: Random, cells: list[str], separator: str, truth: Truth) -> str:
    kinds = ["more", "after quote"] + ["less"] * (len(cells) > 1)
    match random.choice(kinds):
        case "more":
            truth.rows.append(Row(None, "cells"))
            return _line(random, [*cells, "more"], separator)
        case "less":
            truth.rows.append(Row(None, "cells"))
            return _line(random, [*cells[1:-1], "less"], separator)
    truth.rows.append(Row(None, "csv"))
    return separator.join(['"quoted" and more', *("x" for _ in cells[1:])])


def _open_quote(random: Random, plan: Plan, cells: int, rows: int, separator: str, truth: Truth) -> list[str]:
    """Rows of which the first has a quote that never ends, or that ends wrongly at the quote of another row."""
    lines = [separator.join(["plain"] * cells) for _ in range(rows)]
    lines[0] = separator.join(['"open', *("x" for _ in range(cells - 1))])
    closes = random.randrange(1, rows) if rows > 1 and random.random() < 0.5 else rows - 1
    if closes < rows - 1:
        lines[closes] = separator.join(['"closes" it', *("x" for _ in range(cells - 1))])
    lost = closes + 1
    truth.rows += [Row(None, "quote" if lost > 1 else "csv")] * lost
    rest = dict.fromkeys(plan.roles, "plain")
    truth.rows += [row_of(rest, plan.roles, empty_is_none=True)] * (rows - lost)
    return lines


def parquet(random: Random, plan: Plan, truth: Truth) -> bytes:
    """Columns of one type each."""
    import pyarrow
    import pyarrow.parquet

    types = {
        "string": pyarrow.string(),
        "large_string": pyarrow.large_string(),
        "dictionary": pyarrow.dictionary(pyarrow.int32(), pyarrow.string()),
        "int64": pyarrow.int64(),
        "double": pyarrow.float64(),
        "bool": pyarrow.bool_(),
        "date": pyarrow.date32(),
        "timestamp": pyarrow.timestamp("us"),
        "decimal": pyarrow.decimal128(12, 2),
        "binary": pyarrow.binary(),
        "list": pyarrow.list_(pyarrow.string()),
        "struct": pyarrow.struct([("a", pyarrow.string()), ("b", pyarrow.int64())]),
        "chat": pyarrow.list_(pyarrow.struct([("role", pyarrow.string()), ("content", pyarrow.string())])),
        "null": pyarrow.null(),
    }
    columns, count = _renamed(random, plan, _order(random, plan)), random.randint(0, plan.rows)
    _check_columns(plan, columns, truth)
    made: dict[str, tuple[Any, list[Any]]] = {}
    for column in columns:
        kind, make = parquet_column(random, plan.roles.get(column, "words"))
        if column in plan.special:
            kind, make = _parquet_special(random, plan.special[column])
        elif not plan.dirt and kind not in ("large_string", "dictionary") and column in plan.roles:
            kind, make = "string", lambda: text(random, plan.longest)
        nulls = plan.dirt / 3
        made[column] = (types[kind], [None if random.random() < nulls else make() for _ in range(count)])
    arrays = [pyarrow.array(cells, kind) for kind, cells in made.values()]
    table = pyarrow.Table.from_arrays(arrays, names=list(made))
    file = io.BytesIO()
    codec = random.choice(("none", "snappy", "zstd", "gzip"))
    pyarrow.parquet.write_table(table, file, compression=codec, row_group_size=random.randint(1, 20))
    for at in range(count):
        row = {column: cells[at] for column, (_, cells) in made.items()}
        truth.rows.append(row_of(row, plan.roles))
    return file.getvalue()


def _parquet_special(random: Random, choices: list[Any]) -> tuple[str, Callable[[], Any]]:
    kinds = {str: "string", int: "int64", bool: "bool", float: "double"}
    return kinds[type(choices[0])], lambda: random.choice(choices)


def document(random: Random, plan: Plan, truth: Truth) -> Encoded:
    """A text file."""
    encoding, end = choose_encoding(random, plan.dirt), random.choice(("\n", "\n", "\r\n", "\r"))
    lines = [text(random, plan.longest, lines=False) for _ in range(random.randint(0, plan.rows * 3))]
    if random.random() < plan.dirt / 4 and encoding == "utf-8" and lines:
        at = random.randrange(len(lines))
        lines[at] = few_bad_bytes(random, lines[at])
    encoded = encode(fitted(end.join(lines) + random.choice((end, "")), encoding), encoding)
    truth.documents.append(encoded.read.replace("\r\n", "\n").replace("\r", "\n"))
    return encoded
