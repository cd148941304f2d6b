"""The border to the libraries that load models, tokenizers and datasets, from the hub or from a folder."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from p2ptrain.causes import cause_of, is_failure
from p2ptrain.errors import DataError, P2PTrainError


@contextlib.contextmanager
def loading(kind: str, name: str, instead: str, raising: type[P2PTrainError] = DataError) -> Iterator[None]:
    """Turn whatever a library raises, while it loads a model, a tokenizer or a dataset, into one of our errors. Keep
    our own work out of the block: its bugs must not look like bad files.

    Args:
        instead: what people can do if the cause tells nothing better.
        raising: the kind of error.
    """
    try:
        yield
    except P2PTrainError:
        raise
    except BaseException as error:
        if not is_failure(error):
            raise
        raise raising(f"can't load the {kind} {name!r}", *cause_of(error, instead, hub_caches())) from None


def hub_caches() -> dict[str, str]:
    """The folders where the libraries of the hub keep files, by the environment variable that moves each."""
    from huggingface_hub import constants

    moved = {name: os.environ[name] for name in ("HF_HUB_CACHE", "HF_DATASETS_CACHE") if os.environ.get(name)}
    return {"HF_HOME": constants.HF_HOME, **moved}
