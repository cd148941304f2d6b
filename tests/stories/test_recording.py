"""How a recording is looked at later: frames, the moving picture, the asciicast; and those that are in docs/."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pyte
import pytest

from tests.stories.cast import asciicast
from tests.stories.desk import REPOSITORY, Desk, Moment, Recording, Take
from tests.stories.frames import Span, frames
from tests.stories.record import FOLDER, local_words
from tests.stories.stories import STORIES, Story
from tests.stories.svg import box_lines, moving_picture, stretches
from tests.stories.terminal import Output
from tests.stories.test_stories import as_in_the_readme, commands_of_the_readme

SVG = "{http://www.w3.org/2000/svg}"


def recording() -> Recording:
    """Two terminals of 20 columns and 3 rows, of which the second one speaks later."""
    first = Take(
        "first",
        20,
        3,
        (
            Output(10.0, b"$ "),
            Output(11.0, b"count"),
            Output(12.0, b"\r\n\x1b[1mone\x1b[0m <1>"),
            Output(14.0, b"\r\x1b[2Ktwo"),
        ),
        ((11.5, "count"),),
    )
    second = Take("second", 20, 3, (Output(13.0, "┏━┓\r\n│ │".encode()),), ())
    return Recording(10.0, 15.0, (first, second), (Moment(12.5, 2.0), Moment(14.5, 3.0)))


def test_a_frame_shows_each_terminal_as_it_was_then() -> None:
    at = list(frames(recording(), [10.5, 12.5, 14.5]))
    assert [[[span.text for span in row] for row in frame[0].rows] for frame in at] == [
        [["$"], [], []],
        [["$ count"], ["one", " <1>"], []],
        [["$ count"], ["two"], []],
    ]
    assert at[1][0].rows[1] == (Span(0, "one", bold=True), Span(3, " <1>", bold=False))
    assert [frame[1].rows[0] for frame in at] == [(), (), (Span(0, "┏━┓", bold=False),)]
    assert [frame[0].cursor for frame in at] == [(2, 0), (7, 1), (3, 1)]


# The moving picture --------------------------------------------------------------------------------------------------


def seen_at(picture: str, seconds: float) -> set[str]:
    """The words that a viewer sees, by what the rules say of each group; before 0 s: where nothing is animated."""
    root = ElementTree.fromstring(picture)
    style = str(root.findtext(f"{SVG}style"))
    words = set()
    for group in root.iter(f"{SVG}g"):
        name = group.get("class")
        rule = re.search(
            rf"\.{name}{{(.*?)animation:{name} ([\d.]+)s step-end infinite}}@keyframes {name}{{(.*)}}", style
        )
        visible = not (rule and "hidden" in rule[1])
        if rule and seconds >= 0:
            flips = re.findall(r"([\d.]+)%{visibility:(\w+)}", rule[3])
            visible = [what for when, what in flips if float(when) <= 100 * seconds / float(rule[2])][-1] == "visible"
        words |= {str(text.text) for text in group.iter(f"{SVG}text") if visible}
    return words


def test_the_picture_shows_the_moments_one_after_another_and_the_last_one_where_nothing_moves() -> None:
    picture = moving_picture(recording(), "A title & more")
    assert seen_at(picture, 0.5) == {"$ count"}, "as typed, for 1.5 s"
    assert seen_at(picture, 2.0) == {"$ count", "one", "<1>"}
    assert seen_at(picture, 4.0) == seen_at(picture, -1) == {"$ count", "two"}
    assert ElementTree.fromstring(picture).findtext(f"{SVG}title") == "A title & more"
    assert picture.count("$ count") == 1, "what stays is drawn once"


def test_lines_of_tables_are_drawn_in_one_piece_and_as_heavy_as_they_are() -> None:
    assert "".join(box_lines((Span(0, "┏━┓", False),), 0.0)) == (
        '<path class="heavy" d="M16.2 9H33M16.2 9V18M33 9V18"/>'
    )
    assert "".join(box_lines((Span(1, "│x┡", False),), 18.0)) == (
        '<path class="light" d="M24.6 18V36M41.4 27V36"/><path class="heavy" d="M41.4 27H45.6M41.4 18V27"/>'
    )
    assert list(stretches([])) == []
    assert list(stretches([0, 1, 4, 5, 7])) == [(0, 2), (4, 6), (7, 8)]


# The asciicast -------------------------------------------------------------------------------------------------------


def played(cast: str) -> list[str]:
    """What is on the screen at the end."""
    header, *events = map(json.loads, cast.splitlines())
    screen = pyte.Screen(header["width"], header["height"])
    stream = pyte.Stream(screen)
    for _, kind, data in events:
        if kind == "o":
            stream.feed(data)
    return [line.rstrip() for line in screen.display]


def test_the_asciicast_ends_where_the_recording_did_and_marks_each_command() -> None:
    cast = asciicast(recording(), "a title")
    assert played(cast) == [
        "── first ───────────",
        "$ count",
        "two",
        "",
        "── second ──────────",
        "┏━┓",
        "│ │",
        "",
    ]
    header, *events = map(json.loads, cast.splitlines())
    assert (header["version"], header["width"], header["height"], header["title"]) == (2, 20, 8, "a title")
    assert [event for event in events if event[1] == "m"] == [[1.5, "m", "count"]]
    assert [at for at, _, _ in events] == sorted(at for at, _, _ in events)


def test_a_terminal_alone_fills_the_asciicast(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    try:
        terminal = desk.open("alone", columns=30, rows=4)
        terminal.run("echo hello")
        terminal.wait_for("^hello$")
        terminal.wait_for_prompt()
        desk.look()
        recorded = desk.recording()
    finally:
        desk.close()
    assert played(asciicast(recorded, "")) == ["$ echo hello", "hello", "$", ""]
    assert seen_at(moving_picture(recorded, ""), -1) == {"$ echo hello", "hello", "$"}


# Those in docs/ ------------------------------------------------------------------------------------------------------


def test_every_story_is_in_the_docs_and_in_the_readme() -> None:
    files = {f"{story.name}.{kind}" for story in STORIES for kind in ("svg", "cast")}
    assert {path.name for path in FOLDER.iterdir()} == files
    readme = (REPOSITORY / "README.md").read_text()
    assert all(f"(docs/stories/{story.name}.svg)" in readme for story in STORIES)


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
def test_a_recording_shows_what_the_readme_says_and_nothing_of_where_it_was_made(story: Story) -> None:
    cast, picture = ((FOLDER / f"{story.name}.{kind}").read_text() for kind in ("cast", "svg"))
    typed = [data for _, kind, data in map(json.loads, cast.splitlines()[1:]) if kind == "m"]
    assert typed
    assert {as_in_the_readme(command) for command in typed} <= commands_of_the_readme()
    for text in (cast, picture):
        assert not re.search(r"/(tmp|root|home|Users|var|private)\b", text)


def test_a_recorder_knows_what_is_nobodys_business() -> None:
    words = local_words("/tmp/abc")
    assert any(word.search("folder /tmp/abc/otto/x") for word in words)
    assert any(word.search(f"  {REPOSITORY}/p2ptrain") for word in words)
    assert not any(
        word.search("p2ptrain peer ~/.local/share/p2ptrain/runs/quickstart-0123abcd/abcdef") for word in words
    )
