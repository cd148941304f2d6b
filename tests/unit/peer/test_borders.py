"""What people are told when the hub, its cache or a folder is not as it should be: real libraries, a hub of our own."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import constants

from p2ptrain.data.loading import loading
from p2ptrain.errors import DataError, StorageError
from p2ptrain.tasks.tokenizer import load_tokenizer
from tests.unit.peer.hub import Hub

NAME = "somebody/model"


def refusal(name: str = NAME) -> DataError:
    with pytest.raises(DataError, match=f"can't load the tokenizer '{name}'") as refused:
        load_tokenizer(name)
    return refused.value


def test_a_gated_repository_asks_for_its_terms(hub: Hub) -> None:
    hub.repositories[f"models/{NAME}"].gated = True
    assert "accepted its terms" in refusal().why
    assert "hf auth login" in refusal().next_step


def test_a_name_that_the_hub_does_not_know_is_to_be_checked(hub: Hub) -> None:
    assert "no public repository" in refusal("somebody/else").why
    assert refusal("somebody/else").next_step.startswith("check the name")


def test_a_hub_that_is_not_asked_says_which_variable_forbids_it(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refusal().why
    assert refusal().next_step.startswith("unset HF_HUB_OFFLINE")


def test_a_cache_that_can_not_be_written_is_to_be_moved(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", "/proc/nowhere/hub")
    monkeypatch.setattr(constants, "HF_HOME", "/proc/nowhere")
    hub.repositories[f"models/{NAME}"].files["tokenizer_config.json"] = b"{}"
    assert "HF_HOME" in refusal().next_step


def test_a_folder_without_a_tokenizer_is_none(tmp_path: Path) -> None:
    assert refusal(str(tmp_path)).next_step == "check the name, or name a local folder"


def test_our_own_errors_pass_the_border_and_ctrl_c_does(monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (StorageError("a full disk"), KeyboardInterrupt()):
        with pytest.raises(type(error)), loading("model", "x", "y"):
            raise error
    panic = type("PanicException", (BaseException,), {})  # of a library in Rust
    with pytest.raises(StorageError) as told, loading("model", "x", "do that", StorageError):
        raise panic("index out of range")
    assert (told.value.what, told.value.next_step) == ("can't load the model 'x'", "do that")
