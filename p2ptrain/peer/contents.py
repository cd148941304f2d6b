"""Find out what a peer is about to load for a run, before it loads any of it: the volunteer sees it, and can leave.

Only a disk that is too small ends the peer here. What can't be found out is shown as unknown; if something can't be
loaded, loading says why.
"""

from __future__ import annotations

import contextlib
import shlex
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import constants

from p2ptrain.errors import DataError, P2PTrainError
from p2ptrain.monitor.events import Loading, Part
from p2ptrain.peer.methods import method_of
from p2ptrain.peer.sources import (
    NAME_LENGTH,
    NAMED_FILES,
    Source,
    data_source,
    known_in_time,
    pretrained_source,
    tokenizer_of,
    weights_of,
)
from p2ptrain.run import Genesis, RunSpec
from p2ptrain.run.needs import WEIGHT_BYTES, needs_of
from p2ptrain.state.files import nearest
from p2ptrain.tasks import LocalOptions
from p2ptrain.tasks.documents import own_files, text_data
from p2ptrain.tasks.model import count_parameters, tokenizer_name
from p2ptrain.tasks.tokenizer import ByteTokenizer, load_tokenizer
from p2ptrain.text import one_line
from p2ptrain.units import size

DESCRIPTION_LENGTH = 160


def check_own_files(spec: RunSpec, local: LocalOptions) -> None:
    """Check that the volunteer, and not the founder, names the files of this machine that a run reads.

    Raises:
        DataError: the spec names files, and the volunteer has named none.
    """
    named = own_files(spec)
    if named and not local.data:
        shown = " ".join(f"--data {shlex.quote(one_line(path, NAME_LENGTH))}" for path in named[:NAMED_FILES])
        raise DataError(
            "this run trains on files of each volunteer's machine",
            "its founder has written their paths into the spec, but you decide what it may read",
            f"name files of yours; with the spec's paths this is {shown}",
        )


@dataclass(frozen=True, slots=True)
class Contents:
    """What the peer will load, as far as it is known."""

    model: Part
    tokenizer: Part | None
    """None: the model's own."""
    data: Part
    parameters: int | None
    trained: int | None
    at_least: bool
    """There are more parameters: the tokenizer is not here yet, so its vocabulary can't be counted."""

    def told(self, spec: RunSpec, genesis: Genesis | None) -> Loading:
        """The event that shows this to the volunteer; `genesis` is None if this peer founds the run now."""
        known = None if self.at_least else self.trained
        state = None if known is None else needs_of(spec, known, known, on_gpu=False).fetched
        traffic = method_of(spec).traffic(spec, known)
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
            sends=traffic.words,
            sent_bytes=traffic.bytes,
            sent_every=traffic.every,
        )

    def check_room(self) -> None:
        """Check that the disk has room for all downloads whose size is known; what is streamed is not stored.

        Raises:
            DataError: it has not.
        """
        parts = [part for part in (self.model, self.tokenizer, self.data) if part is not None and part.place == "hub"]
        stored = [part for part in parts if part.bytes is not None and not part.streamed and not part.at_most]
        wanted = sum(part.bytes or 0 for part in stored)
        cache = Path(constants.HF_HUB_CACHE)
        if stored and (free := shutil.disk_usage(nearest(cache)).free) < wanted:
            largest = max(stored, key=lambda part: part.bytes or 0)
            raise DataError(
                f"the disk is too small for what the run downloads, e.g. {largest.what}",
                f"{size(wanted)} would go to {cache}, where {size(free)} are free",
                "make room, or set HF_HOME to a folder on another disk",
            )


def look_at(spec: RunSpec, local: LocalOptions) -> Contents:
    """Find out what would be loaded; takes a few seconds at most.

    Raises:
        SpecError: the founder's own program brings model and data.
    """
    looks = {"data": data_source(text_data(spec), local.data)}
    name = tokenizer_name(spec, local.model)
    pretrained = None if spec.model.pretrained is None else local.model or spec.model.pretrained
    if pretrained is not None:
        revision = f"@{spec.model.revision}" if spec.model.revision else ""
        shown = f"--model {local.model}" if local.model else f"{pretrained}{revision}"
        looks["model"] = pretrained_source(pretrained, spec.model.revision, shown, weights_of)
    if name not in ("bytes", pretrained):
        looks["tokenizer"] = pretrained_source(name, None, name, tokenizer_of)
    found = known_in_time(looks)
    model, tokenizer = found.get("model"), found.get("tokenizer")
    parameters, trained, at_least = _count(spec, model, tokenizer)
    made = None if parameters is None or at_least else WEIGHT_BYTES * parameters
    own = Part("bytes", "here") if name == "bytes" else None
    return Contents(
        model=model.part if model else Part(f"a new {spec.model.architecture}", "here", made),
        tokenizer=replace(tokenizer.part, at_most=tokenizer.part.bytes is not None) if tokenizer else own,
        data=found["data"].part,
        parameters=parameters,
        trained=trained,
        at_least=at_least,
    )


def _count(spec: RunSpec, model: Source | None, tokenizer: Source | None) -> tuple[int | None, int | None, bool]:
    """(parameters, trained parameters, whether there are more), as far as they can be counted without a download."""
    with contextlib.suppress(P2PTrainError):  # loading meets it again
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
