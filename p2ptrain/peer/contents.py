"""What a peer is about to load for a run, found out without loading any of it: for the volunteer to see, and to leave.

Nothing here ends a peer but too small a disk: what can't be known now is said to be unknown, and if it can't be loaded,
loading says why.
"""

from __future__ import annotations

import contextlib
import shlex
import shutil
from dataclasses import dataclass

from p2ptrain.diloco.codecs import CODECS
from p2ptrain.errors import DataError, P2PTrainError
from p2ptrain.monitor.events import Loading, Part
from p2ptrain.peer.sources import (
    Answers,
    Question,
    Source,
    ask_hub,
    dataset_cache,
    dataset_source,
    files_source,
    hub_cache,
    model_source,
    tokenizer_source,
)
from p2ptrain.run import Genesis, RunSpec, SPSAMethod
from p2ptrain.run.needs import WEIGHT_BYTES, needs_of
from p2ptrain.run.spec import DatasetData, FilesData
from p2ptrain.state.files import nearest
from p2ptrain.tasks import LocalOptions
from p2ptrain.tasks.documents import own_files, text_data
from p2ptrain.tasks.model import count_parameters, tokenizer_name
from p2ptrain.tasks.tokenizer import ByteTokenizer, load_tokenizer
from p2ptrain.tasks.trust import is_folder
from p2ptrain.text import one_line
from p2ptrain.units import counted, size

NAME_LENGTH, DESCRIPTION_LENGTH = 80, 160
NAMED_FILES = 3


def check_own_files(spec: RunSpec, local: LocalOptions) -> None:
    """Of a run that somebody else has founded: which files of this machine are read is the volunteer's to say.

    Raises:
        DataError: the spec names some, and the volunteer has named none.
    """
    named = own_files(spec)
    if named and not local.data:
        shown = " ".join(f"--data {shlex.quote(one_line(path, NAME_LENGTH))}" for path in named[:NAMED_FILES])
        raise DataError(
            "this run trains on files of each volunteer's machine",
            "which ones, its founder has written into the spec",
            f"name those of yours that it may read; the spec's would be {shown}",
        )


@dataclass(frozen=True, slots=True)
class Contents:
    """What will be loaded, as far as it is known."""

    model: Part
    tokenizer: Part | None
    """None: the model's own."""
    data: Part
    parameters: int | None
    trained: int | None
    at_least: bool
    """There are more parameters: an embedding of a vocabulary that is not here yet."""

    def told(self, spec: RunSpec, genesis: Genesis | None) -> Loading:
        """As news for the volunteer; `genesis` is None for a run that begins here."""
        state = sent = None
        every = 1
        if self.trained is not None and not self.at_least:
            state = needs_of(spec, self.trained, self.trained, on_gpu=False).fetched
        if not isinstance(spec.method, SPSAMethod):
            every = spec.method.steps_per_round
            if state is not None and self.trained is not None:
                sent = CODECS[spec.method.codec].encoded_bytes(self.trained // spec.method.fragments)
        return Loading(
            run_name=spec.run.name,
            run=genesis.digest.hex() if genesis else "",
            founder=genesis.author if genesis else "",
            description=one_line(spec.run.description, DESCRIPTION_LENGTH),
            model=self.model,
            tokenizer=self.tokenizer,
            data=self.data,
            parameters=self.parameters,
            parameters_at_least=self.at_least,
            trained=self.trained,
            method=spec.method.name,
            state_bytes=state if genesis else 0,
            sent_bytes=sent,
            sent_every=every,
        )

    def check_room(self) -> None:
        """Look whether what has to be downloaded first, and whose size is known, fits on the disk.

        Raises:
            DataError: it does not.
        """
        downloads = [(self.model, hub_cache), (self.tokenizer, hub_cache), (self.data, dataset_cache)]
        wanted: dict[int, int] = {}
        for part, cache_of in downloads:
            if part is None or part.place != "hub" or part.bytes is None or part.streamed or part.at_most:
                continue
            cache = cache_of()
            folder = nearest(cache)
            disk = folder.stat().st_dev
            wanted[disk] = wanted.get(disk, 0) + part.bytes
            if (free := shutil.disk_usage(folder).free) < wanted[disk]:
                raise DataError(
                    f"the disk is too small for what the run downloads, e.g. {part.what}",
                    f"{size(wanted[disk])} would go to {cache}, where {size(free)} are free",
                    "make room, or set HF_HOME to a folder on another disk",
                )


def look_at(spec: RunSpec, local: LocalOptions) -> Contents:
    """Find out what would be loaded; takes a few seconds at most.

    Raises:
        SpecError: the founder's own program brings model or data.
    """
    data, name = text_data(spec), tokenizer_name(spec, local.model)
    pretrained = None if spec.model.pretrained is None else local.model or spec.model.pretrained
    questions: list[Question] = []
    if pretrained is not None and not is_folder(pretrained):
        questions.append(("model", pretrained, spec.model.revision))
    if name not in ("bytes", pretrained) and not is_folder(name):
        questions.append(("model", name, None))
    if isinstance(data, DatasetData) and not local.data and not is_folder(data.dataset):
        questions.append(("dataset", data.dataset, None))
    answers = ask_hub(questions)
    model = None if pretrained is None else model_source(pretrained, spec.model.revision, answers)
    tokenizer = None if name in ("bytes", pretrained) else tokenizer_source(name, answers)
    parameters, trained, at_least = _count(spec, model, tokenizer)
    return Contents(
        model=_model_part(spec, local, model, parameters if not at_least else None),
        tokenizer=None if name == pretrained else _tokenizer_part(name, tokenizer),
        data=_data_part(spec, local, answers),
        parameters=parameters,
        trained=trained,
        at_least=at_least,
    )


def _count(spec: RunSpec, model: Source | None, tokenizer: Source | None) -> tuple[int | None, int | None, bool]:
    """(parameters, trained ones, whether there are more)."""
    with contextlib.suppress(P2PTrainError):  # loading will meet it again
        if model is None:
            vocabulary = _vocabulary(spec, tokenizer)
            at_least = vocabulary is None
            return *count_parameters(spec, vocabulary=vocabulary or ByteTokenizer.vocab_size), at_least
        if model.folder is not None:
            return *count_parameters(spec, override=str(model.folder)), False
    return (None if model is None else model.parameters), None, False


def _vocabulary(spec: RunSpec, tokenizer: Source | None) -> int | None:
    """Tokens of the vocabulary, if they can be counted without a download."""
    if tokenizer is None:
        return ByteTokenizer.vocab_size
    if tokenizer.folder is not None:
        return load_tokenizer(str(tokenizer.folder)).vocab_size
    said = spec.model.config.get("vocab_size")
    return said if isinstance(said, int) else None


def _model_part(spec: RunSpec, local: LocalOptions, source: Source | None, parameters: int | None) -> Part:
    if source is None:
        made = None if parameters is None else WEIGHT_BYTES * parameters
        return Part(f"a new {spec.model.architecture}", "here", made)
    if local.model:
        return _part(f"--model {local.model}", source)
    return _part(f"{spec.model.pretrained}{f'@{spec.model.revision}' if spec.model.revision else ''}", source)


def _tokenizer_part(name: str, source: Source | None) -> Part:
    return Part("bytes", "here") if source is None else _part(name, source)


def _part(what: str, source: Source, streamed: bool = False) -> Part:
    return Part(
        one_line(what, NAME_LENGTH),
        source.place,
        source.bytes,
        source.at_most,
        streamed,
        source.licence,
        source.unknown,
    )


def _data_part(spec: RunSpec, local: LocalOptions, answers: Answers) -> Part:
    data = text_data(spec)
    if local.data:
        return _files_part(local.data, "--data ")
    if isinstance(data, FilesData):
        return _files_part(data.paths)
    if isinstance(data, DatasetData):
        source = dataset_source(data, answers)
        subset = f"{data.subset}, " if data.subset else ""
        streamed = data.streaming and source.place == "hub"
        return _part(f"{data.dataset} ({subset}{data.split})", source, streamed)
    return Part("the standard library of this Python", "here")


def _files_part(patterns: tuple[str, ...], given: str = "") -> Part:
    more = f" and {len(patterns) - NAMED_FILES} more" if len(patterns) > NAMED_FILES else ""
    named = one_line(given + ", ".join(patterns[:NAMED_FILES]), NAME_LENGTH) + more
    match files_source(patterns):
        case (int(count), int(total)):
            return Part(f"{named}: {counted(count, 'file')}", "files", total)
        case str(problem):
            return Part(named, "files", unknown=one_line(problem, NAME_LENGTH))
    return Part(named, "files", unknown="size unknown: there are many")
