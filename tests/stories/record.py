"""Play the stories and write docs/stories/: NAME.svg, a moving picture for readers, and NAME.cast for players.

python -m tests.stories.record [STORY …]     all of them without a name; takes two minutes
"""

from __future__ import annotations

import getpass
import re
import socket
import sys
import tempfile
from pathlib import Path

from tests.stories.cast import asciicast
from tests.stories.desk import REPOSITORY, Desk
from tests.stories.stories import STORIES, Story
from tests.stories.svg import moving_picture

FOLDER = REPOSITORY / "docs" / "stories"
PACE = 0.03
"""Seconds between two typed characters."""


def record(story: Story) -> None:
    """Play a story as a person would, and keep what was seen.

    Raises:
        AssertionError: it went wrong, or what was seen tells where it was recorded.
    """
    with tempfile.TemporaryDirectory() as folder:
        desk = Desk(Path(folder), pace=PACE)
        try:
            story.play(desk)
            told = [word for word in local_words(folder) for text in desk.texts() if word.search(text)]
            assert not told, f"this tells where it was recorded: {told}"
            recording = desk.recording()
        finally:
            desk.close()
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{story.name}.svg").write_text(moving_picture(recording, story.title))
    (FOLDER / f"{story.name}.cast").write_text(asciicast(recording, story.title))


def local_words(folder: str) -> list[re.Pattern[str]]:
    """What is nobody's business: names and places of this machine."""
    words = (folder, str(Path.home()), str(REPOSITORY), sys.prefix, socket.gethostname(), getpass.getuser())
    return [re.compile(rf"(?<!\w){re.escape(word)}(?!\w)") for word in words]


if __name__ == "__main__":
    names = sys.argv[1:] or [story.name for story in STORIES]
    for name in names:
        print(f"playing {name}")
        record(next(story for story in STORIES if story.name == name))
