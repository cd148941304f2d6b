"""The README's stories, played at pseudo-terminals: what is typed is what it shows, and what it promises appears."""

from __future__ import annotations

import re

import pytest

from tests.stories.desk import REPOSITORY, Desk
from tests.stories.stories import STORIES, Story

README = (REPOSITORY / "README.md").read_text()


def as_in_the_readme(command: str) -> str:
    """A command with what is different each time left open: links and folders of runs. Peers go by their labels."""
    command = re.sub(r"p2ptrain://\S+", "INVITE", command)
    return re.sub(r"~/\S+", "RUN_DIR", command)


def commands_of_the_readme() -> set[str]:
    """The lines of its code blocks, without comments."""
    blocks = re.findall(r"^```\n(.*?)^```$", README, re.M | re.S)
    lines = [line.split(" #")[0].strip() for block in blocks for line in block.splitlines()]
    return {as_in_the_readme(line) for line in lines}


def marked(story: Story) -> object:
    """One story for `make test`: each further one takes half a minute, and what it shows is tested elsewhere, too."""
    return pytest.param(story, id=story.name, marks=() if story.name == "start" else pytest.mark.long)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("story", map(marked, STORIES))
def test_a_story_of_the_readme_works_as_typed(story: Story, desk: Desk) -> None:
    story.play(desk)
    missing = {as_in_the_readme(command) for command in desk.commands} - commands_of_the_readme()
    assert not missing, f"the README does not tell of {missing}"
