"""Chat templates: which tokens of a conversation the loss counts, and what a template can't do."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.errors import DataError, SpecError
from p2ptrain.run import parse_spec
from p2ptrain.tasks import chat_format
from p2ptrain.tasks.chat_format import ChatFormat, Losses
from p2ptrain.tasks.conversation import Messages, Unusable
from tests.unit.tasks.chats import CHATML, END, format_of, open_chat, said, shown

pytestmark = pytest.mark.usefixtures("own_dataset_cache")

FORGETFUL = CHATML.replace(
    "{% for m in messages %}",
    "{% for m in messages %}{% if m['role'] == 'assistant' and not loop.last and '</think>' in m['content'] %}"
    "{% set m = {'role': m['role'], 'content': m['content'].split('</think>')[-1]} %}{% endif %}",
)
"""It removes the reasoning from all turns but the last, as Qwen's and DeepSeek's templates do."""
MARKING = """{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}
{%- if m['role'] == 'assistant' %}{% generation %}{{ m['content'] + '<|im_end|>' }}{% endgeneration %}
{%- else %}{{ m['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"""


def masked(form: ChatFormat, messages: Messages) -> str:
    return shown(*form.tokens(form.rendered(messages)))


# Which tokens count --------------------------------------------------------------------------------------------------


def test_the_assistants_words_count_and_the_token_that_ends_its_turn(tmp_path: Path) -> None:
    found = masked(format_of(tmp_path), [{"role": "system", "content": "be"}, *said("hi", "ho", "hm", " oh\n")])
    assert found == ("<S>system/be<E>/<S>user/hi<E>/<S>assistant/[ho<E>]/<S>user/hm<E>/<S>assistant/[ oh/<E>]/")


def test_what_nobody_answers_is_not_read(tmp_path: Path) -> None:
    form = format_of(tmp_path)
    assert masked(form, said("hi", "ho", "hm")) == "<S>user/hi<E>/<S>assistant/[ho<E>]/"
    two = [*said("hi", "ho"), {"role": "tool", "content": "7"}, {"role": "assistant", "content": "so 7"}]
    assert masked(form, two).endswith("[ho<E>]/<S>tool/7<E>/<S>assistant/[so 7<E>]/")


@pytest.fixture(scope="module")
def formats(tmp_path_factory: pytest.TempPathFactory) -> list[ChatFormat]:
    return [format_of(tmp_path_factory.mktemp("tokenizer"), template) for template in (CHATML, MARKING)]


@pytest.mark.parametrize("at", [0, 1])
@given(contents=st.lists(st.text(st.characters(codec="utf-8"), max_size=8), min_size=2, max_size=6))
def test_the_tokens_are_those_of_transformers_and_the_counted_ones_say_what_was_answered(
    formats: list[ChatFormat], at: int, contents: list[str]
) -> None:
    form, messages = formats[at], said(*contents[: len(contents) // 2 * 2])
    tokens, counted = form.tokens(form.rendered(messages))
    assert tokens.tolist() == form._inner.apply_chat_template(messages, return_dict=False)
    answers = b"".join(each["content"].encode() + b"|" for each in messages if each["role"] == "assistant")
    assert bytes(ord("|") if token == END else int(token) for token in tokens[counted]) == answers


def test_turns_that_a_template_changes_later_do_not_count_and_that_is_told(tmp_path: Path) -> None:
    form = format_of(tmp_path, FORGETFUL)
    messages = said("a", "<think>x</think>b", "c", "<think>y</think>d")
    assert masked(form, messages) == "<S>user/a<E>/<S>assistant/b<E>/<S>user/c<E>/<S>assistant/[<think>y</think>d<E>]/"
    losses = Losses()
    form.count_losses(losses, messages, form.rendered(messages))
    assert losses.notes[0].startswith(
        "1 turn of the assistant not counted: the chat template writes them in another way"
    )


@pytest.mark.parametrize("first", ["", "{{ messages[0]['role'][:0] }}"])
def test_a_prompt_that_a_template_always_writes_does_not_count(tmp_path: Path, first: str) -> None:
    """As the one of the first Llama 3. The prompt after the last turn asks for another one of the assistant."""
    form = format_of(tmp_path, first + CHATML.replace("{% if add_generation_prompt %}", "{% if true %}"))
    assert masked(form, said("a", "b", "c", "d")) == (
        "<S>user/a<E>/<S>assistant/[b<E>]/<S>user/c<E>/<S>assistant/[d<E>]/<S>assistant/"
    )


def test_a_prompt_that_holds_more_than_the_conversation_counts_from_where_they_part(tmp_path: Path) -> None:
    """As DeepSeek-R1's, which makes the model begin with its reasoning."""
    form = format_of(tmp_path, CHATML.replace("assistant\\n' }}{% endif", "assistant\\n<think>\\n' }}{% endif"))
    assert masked(form, said("a", "b")) == "<S>user/a<E>/<S>assistant/[b<E>]/"


def test_a_template_that_does_not_show_the_last_turn_is_a_fault(tmp_path: Path) -> None:
    form = format_of(tmp_path, "{{ messages | length }} messages: {{ messages[-1]['content'] }}")
    with pytest.raises(Unusable, match="does not show where the assistant's last turn"):
        form.rendered(said("a", "b"))


def test_a_template_without_a_token_at_the_end_is_told(tmp_path: Path) -> None:
    plain = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    form, losses = format_of(tmp_path, plain), Losses()
    rendered = form.rendered(said("a", "b"))
    form.count_losses(losses, said("a", "b"), rendered)
    assert rendered.last == ("user: a\n", "assistant: b\n"), "without a prompt of its own the model writes its role"
    assert "no token of its own ends the last turn in 1 of 1 conversation" in losses.notes[0]


# Tokenizers and templates --------------------------------------------------------------------------------------------


def test_bytes_have_no_chat_template_and_the_spec_says_so() -> None:
    text = (
        '[run]\nname = "x"\n[model]\narchitecture = "llama"\n[data]\nsource = "files"\npaths = ["a.jsonl"]\n'
        '[task]\nkind = "chat"\n[method]\nname = "diloco"\nschedule = "constant"\n'
    )
    with pytest.raises(SpecError) as bytes_only:
        parse_spec(text, "x.toml")
    assert "needs a tokenizer with a chat template, which 'bytes' has not: set data.tokenizer" in bytes_only.value.why


def test_a_tokenizer_without_a_template_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no chat template") as plain:
        open_chat(tmp_path, template=None, loaded=False)
    assert "that of an instruct model" in plain.value.next_step


def test_a_template_that_is_no_template_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the chat template of .* can't be used"):
        open_chat(tmp_path, template="{% for m in messages %}")


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.system('touch HARM') }}",
        "{{ messages.append(1) }}",
        "{% include 'HARM' %}",
        "{% import 'os' as os %}",
    ],
)
def test_a_strangers_template_reaches_nothing_but_the_messages(tmp_path: Path, template: str) -> None:
    harm = tmp_path / "harm"
    form = format_of(tmp_path / "tokenizer", template.replace("HARM", str(harm)) + CHATML)
    messages = said("a", "b")
    with pytest.raises(Unusable, match="refuses the conversation"):
        form.rendered(messages)
    assert not harm.exists()
    assert messages == said("a", "b")


def test_a_template_that_takes_too_long_or_writes_too_much_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wordy = format_of(tmp_path / "wordy", CHATML + "{{ 'x' * 300000 }}")
    with pytest.raises(DataError, match="can't be used") as long:
        wordy.rendered(said("a", "b"))
    assert "characters from one conversation" in long.value.why
    monkeypatch.setattr(chat_format, "SLOWEST", 0.0)
    with pytest.raises(DataError, match="can't be used") as slow:
        format_of(tmp_path / "slow").rendered(said("a", "b"))
    assert "seconds for a conversation" in slow.value.why


def test_reasons_of_a_template_do_not_become_as_many_as_rows(tmp_path: Path) -> None:
    form = format_of(tmp_path, "{{ raise_exception('not ' + messages[0]['content']) }}")
    faults = set()
    for number in range(100):
        with pytest.raises(Unusable) as refused:
            form.rendered(said(f"{number}", "b"))
        faults.add(refused.value.fault)
    assert len(faults) == chat_format.MOST_REASONS + 1


def test_an_export_brings_the_chat_template_along(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    made = open_chat(tmp_path)
    made.export({}, tmp_path / "exported")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "exported")
    assert loaded.apply_chat_template(said("a"), add_generation_prompt=True, tokenize=False).endswith("assistant\n")
