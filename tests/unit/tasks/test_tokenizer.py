"""Bytes as tokens, and the same tokens for whoever loads the export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from p2ptrain.errors import DataError
from p2ptrain.tasks.tokenizer import ByteTokenizer, HubTokenizer, load_tokenizer
from tests.unit.tasks.samples import framing_tokenizer

BYTES = ByteTokenizer()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    BYTES.save(folder)
    return folder


@pytest.fixture(scope="module")
def loaded(saved: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(saved)


@given(st.text())
def test_tokens_are_the_bytes_of_the_text(text: str) -> None:
    tokens = BYTES.encode(text)
    assert tokens.dtype == np.int32
    assert bytes(tokens.tolist()).decode() == text


def test_what_is_no_unicode_text_is_encoded_all_the_same() -> None:
    assert BYTES.encode("a\ud800b").tolist() == list(b"a?b")


@given(st.text())
@example("<|endoftext|> in a document is text")
def test_the_saved_tokenizer_gives_the_same_ids_and_text(loaded: Any, text: str) -> None:
    ids = loaded.encode(text, add_special_tokens=False)
    assert ids == BYTES.encode(text).tolist()
    assert loaded.decode(ids, clean_up_tokenization_spaces=False) == text


def test_the_saved_tokenizer_knows_every_byte_and_the_end_of_a_document(loaded: Any) -> None:
    assert len(loaded) == BYTES.vocab_size
    assert loaded.eos_token_id == BYTES.end == BYTES.vocab_size - 1
    assert len(set(loaded.convert_ids_to_tokens(list(range(257))))) == 257


@given(st.text(min_size=1, max_size=30))
def test_a_prompt_keeps_its_spaces_and_gets_no_tokens_of_its_own(loaded: Any, text: str) -> None:
    """What a user of the export does: call the tokenizer, decode what came out."""
    assert loaded(text)["input_ids"] == BYTES.encode(text).tolist()
    assert loaded.decode(loaded(text)["input_ids"]) == text


def test_a_tokenizer_is_loaded_from_a_folder(saved: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(saved))
    assert isinstance(tokenizer, HubTokenizer)
    assert (tokenizer.vocab_size, tokenizer.end) == (257, 256)
    assert tokenizer.encode("naïve ☃").tolist() == BYTES.encode("naïve ☃").tolist()
    tokenizer.save(tmp_path)
    assert load_tokenizer(str(tmp_path)).encode("x y").tolist() == [120, 32, 121]


def test_what_a_tokenizer_puts_around_a_text_is_known(saved: Path, tmp_path: Path) -> None:
    framing = load_tokenizer(str(framing_tokenizer(tmp_path)))
    assert (framing.before.tolist(), framing.after.tolist()) == ([257], [258])
    assert framing.encode("a").tolist() == [ord("a")]
    for plain in (BYTES, load_tokenizer(str(saved))):
        assert len(plain.before) == len(plain.after) == 0


def test_bytes_is_a_name_of_its_own() -> None:
    assert isinstance(load_tokenizer("bytes"), ByteTokenizer)


@pytest.mark.parametrize("name", ["nobody/has-this", "not a name", "/no/such/folder"])
def test_a_tokenizer_that_is_not_there_is_an_error_that_names_it(name: str) -> None:
    with pytest.raises(DataError, match=f"the tokenizer '{name}'") as missing:
        load_tokenizer(name)
    assert missing.value.why
    assert "local folder" in missing.value.next_step


@pytest.mark.parametrize("harm", ["damaged", "absent", "without an end"])
def test_a_tokenizer_that_can_not_be_used_is_an_error(saved: Path, tmp_path: Path, harm: str) -> None:
    config = json.loads((saved / "tokenizer_config.json").read_text())
    if harm == "without an end":
        del config["eos_token"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    if harm != "absent":
        whole = (saved / "tokenizer.json").read_text()
        (tmp_path / "tokenizer.json").write_text(whole[:100] if harm == "damaged" else whole)
    with pytest.raises(DataError) as unusable:
        load_tokenizer(str(tmp_path))
    assert ("no end-of-text token" in unusable.value.what) == (harm == "without an end")
