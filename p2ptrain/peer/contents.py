"""Find out what a peer is about to load for a run, before it loads any of it: the volunteer sees it, and can leave.

Only a disk that is too small ends the peer here. What can't be found out is shown as unknown; if something can't be
loaded, loading says why.
"""

from __future__ import annotations

import contextlib
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

from huggingface_hub import constants

from p2ptrain.errors import DataError, P2PTrainError
from p2ptrain.monitor.events import Loading, Part
from p2ptrain.paths import nearest
from p2ptrain.peer import sources
from p2ptrain.peer.methods import method_of
from p2ptrain.peer.sources import Source
from p2ptrain.run import Genesis, RunSpec
from p2ptrain.run.needs import WEIGHT_BYTES, needs_of
from p2ptrain.tasks import LocalOptions
from p2ptrain.tasks.documents import own_files, text_data
from p2ptrain.tasks.model import count_parameters, tokenizer_name
from p2ptrain.tasks.tokenizer import load_tokenizer
from p2ptrain.text import one_line
from p2ptrain.units import size

DESCRIPTION_LENGTH = 160


def check_own_files(spec: RunSpec, local: LocalOptions) -> None:
    """Check that the volunteer, and not the founder, names the files of this machine that a run reads.

    Raises:
        DataError: the spec names files, and the volunteer has named none.
    """
    named = [shlex.quote(one_line(path, sources.NAME_LENGTH)) for path in own_files(spec)]
    if named and not local.data:
        shown = " ".join(f"--data {path}" for path in named[: sources.NAMED_FILES])
        raise DataError(
            "this run trains on files of each volunteer's machine",
            "its founder has written their paths into the spec, but you decide what it may read",
            f"name files of yours; with the spec's paths this is {shown}",
        )


def check_room(loading: Loading) -> None:
    """Check that the disk has room for all downloads whose size is known; what is streamed is not stored.

    Raises:
        DataError: it has not.
    """
    parts = [part for part in (loading.model, loading.tokenizer, loading.data) if part and part.place == "hub"]
    stored = [(part.bytes, part.what) for part in parts if part.bytes and not part.streamed and not part.at_most]
    wanted = sum(count for count, _ in stored)
    cache = Path(constants.HF_HUB_CACHE)
    if stored and (free := shutil.disk_usage(nearest(cache)).free) < wanted:
        raise DataError(
            f"the disk is too small for what the run downloads, e.g. {max(stored)[1]}",
            f"{size(wanted)} would go to {cache}, where {size(free)} are free",
            "make room, or set HF_HOME to a folder on another disk",
        )


def look_at(spec: RunSpec, local: LocalOptions, genesis: Genesis | None) -> Loading:
    """Find out what would be loaded; takes a few seconds at most.

    Args:
        genesis: None if this peer founds the run now.

    Raises:
        SpecError: the founder's own program brings model and data.
    """
    looks = {"data": sources.data_source(text_data(spec), local.data)}
    name, revision = tokenizer_name(spec, local.model), spec.model.revision
    pretrained = spec.model.pretrained and (local.model or spec.model.pretrained)
    if pretrained is not None:
        shown = f"--model {local.model}" if local.model else pretrained + (f"@{revision}" if revision else "")
        looks["model"] = sources.pretrained_source(pretrained, revision, shown, sources.weights_of)
    if name not in ("bytes", pretrained):
        looks["tokenizer"] = sources.pretrained_source(name, None, name, sources.tokenizer_of)
    found = sources.known_in_time(looks)
    model, tokenizer = found.get("model"), found.get("tokenizer")
    parameters, trained, at_least = _count(spec, model, tokenizer)
    made = None if parameters is None or at_least else WEIGHT_BYTES * parameters
    exchanged = None if at_least else trained
    traffic = method_of(spec).traffic(spec, exchanged)
    fetched = None if exchanged is None else needs_of(spec, exchanged, exchanged, on_gpu=False).fetched
    own = Part("bytes", "here") if name == "bytes" else None
    return Loading(
        run_name=spec.run.name,
        run=genesis.digest.hex() if genesis else "",
        founder=genesis.author if genesis else "",
        description=one_line(spec.run.description, DESCRIPTION_LENGTH),
        model=model.part if model else Part(f"a new {spec.model.architecture}", "here", made),
        tokenizer=replace(tokenizer.part, at_most=tokenizer.part.bytes is not None) if tokenizer else own,
        data=found["data"].part,
        parameters=parameters,
        parameters_at_least=at_least,
        trained=trained,
        method=spec.method.name,
        state_bytes=fetched if genesis else 0,
        sends=traffic.words,
        sent_bytes=traffic.bytes,
        sent_every=traffic.every,
    )


def _count(spec: RunSpec, model: Source | None, tokenizer: Source | None) -> tuple[int | None, int | None, bool]:
    """(parameters, trained parameters, whether there are more), as far as they can be counted without a download.

    There are more if the tokenizer is not here yet: nobody knows the size of its vocabulary, unless the spec says it.
    """
    with contextlib.suppress(P2PTrainError):  # loading meets it again
        if model is None:
            folder = tokenizer and tokenizer.folder
            unknown = tokenizer is not None and folder is None
            vocabulary = load_tokenizer(str(folder or "bytes")).vocab_size
            at_least = unknown and not isinstance(spec.model.config.get("vocab_size"), int)
            return *count_parameters(spec, vocabulary=vocabulary), at_least
        if model.folder is not None:
            return *count_parameters(spec, override=str(model.folder)), False
    return (model.parameters if model else None), None, False
