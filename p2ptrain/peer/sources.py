"""What can be known of a model, tokenizer or dataset before it is loaded: how large it is, under which licence, and
whether it is on this machine already.

The hub is asked once and folders are walked through once, a few seconds long; that there is no answer by then is
nothing that ends a peer. What the hub says, and what a folder says of itself, is a stranger's word: it is bounded and
only shown.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from p2ptrain.errors import DataError
from p2ptrain.run.spec import DatasetData
from p2ptrain.tasks.documents import expand
from p2ptrain.tasks.trust import is_folder
from p2ptrain.text import one_line

if TYPE_CHECKING:
    from huggingface_hub import HfApi

HUB_SECONDS, DISK_SECONDS = 4.0, 2.0
NO_ANSWER = "the hub did not answer"
README_BYTES = 64 * 1024
LICENCE_LENGTH = 40

WEIGHTS = (
    r"model\.safetensors",
    r"model-\d{5}-of-\d{5}\.safetensors",
    r"pytorch_model\.bin",
    r"pytorch_model-\d{5}-of-\d{5}\.bin",
)
"""In the order in which transformers looks for them; it loads the first kind that is there."""
TOKENIZER_FILES = frozenset(
    {
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "tokenizer.model",
        "vocab.json",
        "merges.txt",
        "vocab.txt",
        "spiece.model",
        "sentencepiece.bpe.model",
        "chat_template.jinja",
    }
)

Place = Literal["hub", "cache", "folder"]
Kind = Literal["model", "dataset"]


@dataclass(frozen=True, slots=True)
class Source:
    """One model, tokenizer or dataset, as far as it is known without loading it."""

    place: Place
    """Where it would be loaded from; 'cache' is what this machine has fetched from the hub before."""
    bytes: int | None = None
    at_most: bool = False
    """`bytes` counts more than will be loaded."""
    licence: str = ""
    parameters: int | None = None
    """Where the hub says so."""
    unknown: str = ""
    """Why size and licence are not known, for people."""
    folder: Path | None = None
    """Where its files are, if they are here."""


@dataclass(frozen=True, slots=True)
class Repository:
    """What the hub says of a repository."""

    commit: str | None
    files: Mapping[str, int | None]
    """Bytes by name."""
    licence: str
    parameters: int | None
    card: Mapping[str, Any]


Question = tuple[Kind, str, str | None]
"""Kind, name and revision of a repository."""
Answers = Mapping[Question, Repository | str]
"""What the hub says of each repository that it was asked for, or why it says nothing."""
T = TypeVar("T")


def at_once(calls: Sequence[Callable[[], T]], seconds: float) -> list[T | None]:
    """What each of these calls returns; None for those that take longer than `seconds`, which nobody waits for."""
    results: list[T | None] = [None] * len(calls)

    def work(index: int) -> None:
        results[index] = calls[index]()

    # Looking up a host's name, or walking through a disk, can't be given a deadline: such a thread is left behind.
    threads = [threading.Thread(target=work, args=(index,), daemon=True) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return list(results)


# The hub -------------------------------------------------------------------------------------------------------------


def ask_hub(questions: Iterable[Question], seconds: float = HUB_SECONDS) -> Answers:
    """Ask for repositories, all at once; takes at most `seconds`."""
    asked = list(dict.fromkeys(questions))
    if not asked:
        return {}
    from huggingface_hub import HfApi  # here, so that importing it takes none of the time

    api = HfApi()
    answers = at_once([partial(_ask, api, question, seconds) for question in asked], seconds)
    return {question: answer or NO_ANSWER for question, answer in zip(asked, answers, strict=True)}


def _ask(api: HfApi, question: Question, seconds: float) -> Repository | str:
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    kind, name, revision = question
    try:
        if kind == "model":
            return repository_of(api.model_info(name, revision=revision, timeout=seconds, files_metadata=True))
        return repository_of(api.dataset_info(name, revision=revision, timeout=seconds, files_metadata=True))
    except HFValidationError:
        return "this is no name on the hub"
    except HfHubHTTPError as error:
        return f"the hub answered {error.response.status_code}"
    except Exception:  # whatever it is, loading will meet it again and say what it is
        return NO_ANSWER


def repository_of(info: Any) -> Repository:
    """What matters here of huggingface_hub's `ModelInfo` or `DatasetInfo`."""
    card = info.card_data.to_dict() if info.card_data else {}
    tensors = getattr(info, "safetensors", None)
    return Repository(
        commit=info.sha,
        files={file.rfilename: _count(file.size) for file in info.siblings or ()},
        licence=_licence(card),
        parameters=_count(tensors.total) if tensors else None,
        card=card,
    )


def _count(said: Any) -> int | None:
    return said if isinstance(said, int) and said >= 0 else None


def _licence(card: Mapping[str, Any]) -> str:
    """What a model's or dataset's card calls its licence."""
    said = card.get("license")
    if said == "other":
        said = card.get("license_name") or said
    names = said if isinstance(said, list) else [said]
    return one_line(", ".join(str(name) for name in names if name), LICENCE_LENGTH)


# Models and tokenizers -----------------------------------------------------------------------------------------------


def model_source(name: str, revision: str | None, answers: Answers) -> Source:
    """A pretrained model, by its name on the hub or its folder."""
    return _source(name, revision, answers, weights_of)


def tokenizer_source(name: str, answers: Answers) -> Source:
    """A tokenizer, by the name of a repository on the hub or its folder."""
    return _source(name, None, answers, tokenizer_of)


Chosen = Callable[[Mapping[str, int | None]], list[str]]
"""Which of a repository's files are loaded."""


def _source(name: str, revision: str | None, answers: Answers, chosen: Chosen) -> Source:
    if is_folder(name):
        return _in_folder("folder", Path(name), chosen)
    told = answers.get(("model", name, revision), NO_ANSWER)
    if isinstance(told, str):
        if (folder := _cached(name, revision, chosen)) is not None:
            return _in_folder("cache", folder, chosen)
        return Source("hub", unknown=told)
    folder = _cached(name, told.commit, chosen)
    count = _bytes(told.files, chosen(told.files))
    return Source("cache" if folder else "hub", count, licence=told.licence, parameters=told.parameters, folder=folder)


def weights_of(files: Mapping[str, int | None]) -> list[str]:
    """The files of weights that transformers loads; none, if one of the parts is missing."""
    for pattern in WEIGHTS:
        found = sorted(name for name in files if re.fullmatch(pattern, name))
        if found:
            parts = re.search(r"-of-(\d{5})\.", found[0])
            return found if parts is None or len(found) == int(parts[1]) else []
    return []


def tokenizer_of(files: Mapping[str, int | None]) -> list[str]:
    return sorted(TOKENIZER_FILES & set(files))


def _bytes(files: Mapping[str, int | None], names: list[str]) -> int | None:
    sizes = [size for name in names if (size := files[name]) is not None]
    return sum(sizes) if names and len(sizes) == len(names) else None


def _cached(name: str, revision: str | None, chosen: Chosen) -> Path | None:
    """Where the files of a repository are that was fetched before, if all of them are there."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        paths = [try_to_load_from_cache(name, file, revision=revision) for file in ("config.json", "tokenizer.json")]
    except HFValidationError:
        return None
    for path in paths:
        if isinstance(path, str) and chosen(_files_in(Path(path).parent)):
            return Path(path).parent
    return None


def _files_in(folder: Path) -> dict[str, int | None]:
    """Bytes of the files in a folder, not in those below it."""
    try:
        return {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()}
    except OSError:
        return {}


def _in_folder(place: Place, folder: Path, chosen: Chosen) -> Source:
    files = _files_in(folder)
    return Source(place, _bytes(files, chosen(files)), licence=licence_in(folder), folder=folder)


def licence_in(folder: Path) -> str:
    """What a folder's README.md or LICENSE says; empty if nothing."""
    front = re.match(r"---\n(.*?)\n---", _beginning(folder / "README.md"), re.DOTALL)
    said = dict(re.findall(r"^(license|license_name):[ \t]*(\S.*)$", front[1], re.MULTILINE)) if front else {}
    name = _licence({key: value.strip("'\" ") for key, value in said.items()})
    if name:
        return name
    for file in ("LICENSE", "LICENSE.txt", "LICENSE.md"):
        lines = [line.strip("# ") for line in _beginning(folder / file).splitlines()]
        if first := next(filter(None, lines), ""):
            return one_line(first, LICENCE_LENGTH)
    return ""


def _beginning(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(README_BYTES)
    except OSError:
        return ""


# Data ----------------------------------------------------------------------------------------------------------------


def dataset_source(data: DatasetData, answers: Answers) -> Source:
    """A dataset of the hub, or a folder."""
    if is_folder(data.dataset):
        folder = Path(data.dataset)
        (count,) = at_once([partial(_bytes_below, folder)], DISK_SECONDS)
        return Source("folder", count, at_most=True, licence=licence_in(folder), folder=folder)
    place: Place = "cache" if not data.streaming and _is_prepared(data) else "hub"
    told = answers.get(("dataset", data.dataset, None), NO_ANSWER)
    if isinstance(told, str):
        return Source(place, unknown=told)
    count = download_of(told.card, data.subset)
    if count is not None:
        return Source(place, count, licence=told.licence)
    return Source(place, _bytes(told.files, list(told.files)), at_most=True, licence=told.licence)


def download_of(card: Mapping[str, Any], subset: str | None) -> int | None:
    """Bytes of one subset, if the dataset's card says how many are downloaded for it."""
    told = card.get("dataset_info")
    for part in told if isinstance(told, list) else [told]:
        if isinstance(part, dict) and part.get("config_name", "default") == (subset or "default"):
            return _count(part.get("download_size"))
    return None


def _is_prepared(data: DatasetData) -> bool:
    """Whether the datasets library has it in its cache."""
    from datasets.naming import camelcase_to_snakecase

    owner, _, name = data.dataset.rpartition("/")
    folder = dataset_cache() / "___".join(filter(None, [owner, camelcase_to_snakecase(name)]))
    subset = folder / (data.subset or "default")
    return any(path.is_dir() for path in subset.glob("*/*"))


def _bytes_below(folder: Path) -> int | None:
    try:
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    except OSError:
        return None


def files_source(patterns: Sequence[str]) -> tuple[int, int] | str | None:
    """(files, bytes) of the files behind paths and patterns, or why there are none; None if it takes long to say."""
    (found,) = at_once([partial(_measure, patterns)], DISK_SECONDS)
    return found


def _measure(patterns: Sequence[str]) -> tuple[int, int] | str:
    try:
        files = expand(patterns)
        return len(files), sum(file.stat().st_size for file in files)
    except DataError as error:
        return error.what
    except (OSError, ValueError) as error:
        return str(error)


def hub_cache() -> Path:
    """Where models and tokenizers of the hub are kept on this machine."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def dataset_cache() -> Path:
    """Where datasets of the hub are kept on this machine."""
    from datasets import config

    return Path(config.HF_DATASETS_CACHE)
