"""What people are told to do follows from the cause, however deep a library has wrapped it."""

from __future__ import annotations

import errno
import os
import socket
from types import SimpleNamespace

import pytest

from p2ptrain.causes import Cause, cause_of, is_failure

CACHES = {"HF_HOME": "/cache/huggingface", "HF_HUB_CACHE": "/big/hub"}


def wrapped(error: BaseException) -> OSError:
    """As transformers wraps everything: in an OSError without a number, twice."""
    try:
        try:
            raise error
        except BaseException as inner:
            raise RuntimeError("an error happened") from inner
    except RuntimeError as outer:
        last = OSError("we could not connect, or something else")
        last.__context__ = outer
        return last


def told(error: BaseException) -> Cause:
    direct, deep = cause_of(error, "otherwise", CACHES), cause_of(wrapped(error), "otherwise", CACHES)
    assert direct == deep
    return direct


def named(name: str, text: str = "", status: int | None = None) -> Exception:
    """An error of a library's class, known by its name alone."""
    error: Exception = type(name, (Exception,), {})(text)
    if status is not None:
        error.response = SimpleNamespace(status_code=status)  # type: ignore[attr-defined]
    return error


def of_system(number: int, path: str | None = None) -> OSError:
    return OSError(number, os.strerror(number), path) if path else OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    ("error", "why", "step"),
    [
        (of_system(errno.ENOSPC), "the disk of /cache/huggingface is full", "HF_HOME"),
        (of_system(errno.EDQUOT, "/big/hub/x"), "your quota on the disk of /big/hub/x", "HF_HUB_CACHE"),
        (of_system(errno.EROFS, "/cache/huggingface/hub"), "can't be used: Read-only", "set HF_HOME"),
        (of_system(errno.EACCES, "/cache"), "/cache can't be used", "set HF_HOME"),  # the cache's parent
        (of_system(errno.EACCES, "/big/hub/models--a"), "Permission denied", "set HF_HUB_CACHE"),
        (of_system(errno.EACCES, "/models/mine/config.json"), "/models/mine/config.json can't be used", "chmod"),
        (of_system(errno.EACCES, "/cached/mine"), "/cached/mine can't be used", "chmod"),  # a name that begins alike
        (of_system(errno.ENOENT, "/cache"), "/cache can't be used", "set HF_HOME"),
        (of_system(errno.EMFILE), "too many files", "ulimit"),
        (of_system(errno.ECONNREFUSED), "Connection refused", "HTTPS_PROXY"),
        (socket.gaierror(-2, "Name or service not known"), "looked up", "connection"),
        (TimeoutError("timed out"), "in time", "try again"),
        (named("ReadTimeout"), "in time", "try again"),
        (named("ConnectError", "[Errno 111] Connection refused"), "refused", "connection"),
        (named("ProxyError", "403 Forbidden"), "the proxy", "HTTPS_PROXY"),
        (named("OfflineModeIsEnabled"), "HF_HUB_OFFLINE is set", "unset HF_HUB_OFFLINE"),
        (named("GatedRepoError", status=403), "accepted its terms", "hf auth login"),
        (named("RepositoryNotFoundError", status=401), "no public repository", "check the name"),
        (named("RevisionNotFoundError", status=404), "revision", "check the revision"),
        (named("HfHubHTTPError", status=401), "401", "hf auth login"),
        (named("HfHubHTTPError", status=429), "too many requests", "wait"),
        (named("HfHubHTTPError", status=503), "503", "wait"),
        (named("HTTPStatusError", status=407), "proxy", "HTTPS_PROXY"),
        (MemoryError(), "not enough memory", "close other programs"),
        (ModuleNotFoundError("No module named 'sentencepiece'", name="sentencepiece"), "sentencepiece", "pip install"),
    ],
)
def test_the_next_step_follows_from_the_cause(error: BaseException, why: str, step: str) -> None:
    found = told(error)
    assert why in found.why
    assert step in found.next_step


def test_an_error_that_only_says_not_in_the_cache_gives_way_to_the_one_that_says_why() -> None:
    absent = named("LocalEntryNotFoundError", "check your connection")
    assert "can't be reached" in cause_of(absent, "otherwise").why
    absent.__cause__ = of_system(errno.ENOSPC)
    assert "full" in cause_of(absent, "otherwise").why


def test_a_name_in_the_text_counts_where_a_library_breaks_the_chain() -> None:
    offline = ConnectionError("Couldn't reach 'a/b' on the Hub (OfflineModeIsEnabled)")
    assert cause_of(offline, "otherwise").next_step == "unset HF_HUB_OFFLINE, or otherwise"
    gated = named("DatasetNotFoundError", "Dataset 'a/b' is a gated dataset on the Hub.")
    assert "hf auth login" in cause_of(gated, "otherwise").next_step


def test_an_unknown_cause_keeps_its_words_and_the_next_step_of_the_place() -> None:
    assert cause_of(ValueError("no\nyes"), "otherwise") == ("no", "otherwise")
    assert cause_of(KeyError("model_type"), "otherwise") == ("KeyError: 'model_type'", "otherwise")
    assert cause_of(StopIteration(), "otherwise") == ("StopIteration", "otherwise")
    lost = of_system(errno.ENOENT, "/cache/huggingface/hub/models--a/model.safetensors")
    assert cause_of(lost, "otherwise", CACHES).next_step == "otherwise"
    missing = named("EntryNotFoundError", "no config.json", 404)  # only whoever asked knows what that means
    assert cause_of(missing, "otherwise").next_step == "otherwise"


def test_an_error_that_another_one_replaced_on_purpose_does_not_count() -> None:
    chosen = ValueError("malformed")
    chosen.__context__, chosen.__suppress_context__ = of_system(errno.ENOSPC), True
    assert cause_of(chosen, "otherwise").why == "malformed"


def test_a_circle_of_causes_ends() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    assert cause_of(first, "otherwise").why == "first"


def test_a_panic_of_rust_is_a_failure_and_ctrl_c_is_none() -> None:
    assert is_failure(type("PanicException", (BaseException,), {})())
    assert is_failure(ValueError())
    assert not is_failure(KeyboardInterrupt())
    assert not is_failure(SystemExit())
