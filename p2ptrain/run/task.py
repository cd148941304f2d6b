"""The task's section of a run spec: what the model learns to do with the data.

A task with templates reads tables. A template is text with `{column}` in it. It is not Python's format language: specs
arrive from the network, and `str.format` would read attributes and indices that the author of a spec has chosen.
"""

from __future__ import annotations

from collections.abc import Mapping
from string import Formatter
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from p2ptrain.run.section import Section, Words


def parse_template(template: str) -> tuple[tuple[str, str | None], ...]:
    """Cut a template into pieces: pairs of literal text and the column that follows it (None at the end).

    Raises:
        ValueError: braces do not match, or something else than a column's name stands between them.
    """
    pieces = []
    for literal, column, form, conversion in Formatter().parse(template):
        if column is not None and (form or conversion or not column.strip() or set(column) & set(".[]{}")):
            raise ValueError("only {column} may stand in braces: no attribute, index, conversion or format")
        pieces.append((literal, column))
    return tuple(pieces)


def columns_of(*templates: str) -> tuple[str, ...]:
    """The columns that valid templates name: each once, in the order in which they first appear."""
    named = (column for template in templates for _, column in parse_template(template) if column is not None)
    return tuple(dict.fromkeys(named))


def fill(template: str, row: Mapping[str, Any]) -> str:
    """Fill a valid template: each column is replaced by the row's value, as `str` writes it."""
    pieces = parse_template(template)
    return "".join(literal + ("" if column is None else str(row[column])) for literal, column in pieces)


def _with_column(template: str) -> str:
    if not columns_of(template):
        raise ValueError("names no column, so it would be the same text for every row")
    return template


Template = Annotated[str, Field(min_length=1, max_length=10_000), AfterValidator(_with_column)]
Column = Annotated[str, Field(min_length=1, max_length=100)]


class LanguageModelling(Section):
    """Predict the next token of documents that are laid end to end. Works with every kind of data."""

    kind: Literal["language-modelling"] = "language-modelling"
    """What the model learns."""


class Completion(Section):
    """Continue a prompt. The loss counts the tokens of the completion only. With labels, accuracy is measured, too: an
    example counts as right if the completion with the right label is the most likely one."""

    kind: Literal["completion"]
    prompt: Template
    """What the model reads. {column} stands for the value in that column of the table. The column may hold chat
    messages if the prompt is nothing else, e.g. "{messages}". A prompt that is too long loses its beginning."""
    completion: Template
    """What the model should answer. The loss counts its tokens and, without labels, the token that ends a text. It is
    never cut."""
    label_column: Column | None = None
    """Column that holds the right label: its word, or its number, counted from 0. In the completion, it stands for the
    word."""
    labels: Words = ()
    """The words to choose from, at least 2. If left out, no accuracy is measured."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.label_column is None and not self.labels:
            return self
        if self.label_column is None or not self.labels:
            raise ValueError("'labels' and 'label_column' belong together")
        _check_labels(self.labels)
        if self.label_column in columns_of(self.prompt):
            raise ValueError(f"the prompt gives the answer away: it names the label column, {self.label_column!r}")
        if self.label_column not in columns_of(self.completion):
            raise ValueError(f"completion must name the label column, {{{self.label_column}}}, to tell labels apart")
        return self

    @property
    def text(self) -> str:
        """The template of what the model is given. Its text decides whether an example is held out."""
        return self.prompt

    @property
    def chat_column(self) -> str | None:
        """The column that is the whole prompt, so that it may hold chat messages; None if there is no such column."""
        (literal, column), *more = parse_template(self.prompt)
        return None if literal or more or column in columns_of(self.completion) else column

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns that the task reads. The label's is among them: a completion with labels names it."""
        return columns_of(self.prompt, self.completion)


class Chat(Section):
    """Answer in conversations. Each row of the table is one conversation, which the chat template of the tokenizer puts
    into words. The loss counts the tokens of the assistant's turns only."""

    kind: Literal["chat"]
    messages: Column = "messages"
    """Column that holds the conversation: a list of messages, each with a role and a content. A conversation that is
    too long loses its end."""

    label_column: ClassVar[None] = None
    labels: ClassVar[tuple[str, ...]] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """The column that the task reads."""
        return (self.messages,)


class Classification(Section):
    """Choose one of several labels for a text, with a classification head on the model. A model without such a head
    gets a new one."""

    kind: Literal["classification"]
    text: Template
    """What is classified. {column} stands for the value in that column of the table. A text that is too long loses its
    end."""
    label_column: Column
    """Column that holds the right label: its word, or its number, counted from 0."""
    labels: Words
    """The words of the labels, at least 2."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _check_labels(self.labels)
        if self.label_column in columns_of(self.text):
            raise ValueError(f"the text gives the answer away: it names the label column, {self.label_column!r}")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns that the task reads."""
        return (*columns_of(self.text), self.label_column)


def _check_labels(labels: tuple[str, ...]) -> None:
    if len(labels) < 2:
        raise ValueError("give at least two labels")
    if len({label.strip() for label in labels}) < len(labels):
        raise ValueError("two labels are the same word")


TableTask = Completion | Chat | Classification
"""Tasks whose examples are the rows of a table."""
TaskSection = Annotated[LanguageModelling | Completion | Chat | Classification, Field(discriminator="kind")]
TASKS = ("language-modelling", "completion", "chat", "classification")
