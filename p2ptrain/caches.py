"""Where libraries keep downloads and compiled code on a machine whose home folder can't be used, e.g. in a container
that runs as a user without one.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from p2ptrain.paths import exists, nearest
from p2ptrain.text import reason_of

log = logging.getLogger(__name__)


def provide_caches(home: Path | None = None) -> None:
    """If this user's cache can't be written, give the libraries another folder, and say so. Call it before anything
    imports them: they look once.

    Args:
        home: p2ptrain's own folder, if an option names one: the caches then go there, too, and stay.
    """
    own = own_cache(os.environ)
    if own is not None and not why_not(own):
        return
    other = place_for(home)
    if other is None:
        return  # nothing can be written: each library says so when it needs to
    try:
        if not exists(other):
            other.mkdir(mode=0o700, parents=True)
    except OSError:
        return
    os.environ.update(moved(os.environ, own, other, is_kept=own is not None and exists(own / "huggingface")))
    why = "this user has no home folder" if own is None else f"{own} can't be written"
    log.warning("%s: downloads and compiled code go to %s, if no variable like HF_HOME says otherwise", why, other)


def own_cache(environment: Mapping[str, str]) -> Path | None:
    """Where libraries keep their caches if they are not told otherwise; None if this user has no home folder."""
    if given := environment.get("XDG_CACHE_HOME"):
        return Path(given)
    try:
        return Path.home() / ".cache"
    except RuntimeError:
        return None


def why_not(folder: Path) -> str:
    """Why no file can be written in a folder, or in the one where it would be made; empty if one can be."""
    try:
        with tempfile.TemporaryFile(dir=nearest(folder)):
            return ""
    except OSError as error:
        return reason_of(error)


def place_for(home: Path | None) -> Path | None:
    """A folder for caches: in p2ptrain's own folder if the volunteer has named one (`home`, or $P2PTRAIN_HOME), else a
    temporary one; None if neither can be written. It need not exist."""
    named = home or os.environ.get("P2PTRAIN_HOME")
    if named and not why_not(cache := Path(named).absolute() / "cache"):
        return cache
    try:
        folder = Path(tempfile.gettempdir()) / f"p2ptrain-cache-{os.getuid()}"
        if exists(folder) and (folder.stat().st_uid != os.getuid() or folder.stat().st_mode & 0o077):
            return None  # others could put code into it
    except OSError:
        return None
    return None if why_not(folder) else folder


def moved(environment: Mapping[str, str], own: Path | None, other: Path, is_kept: bool) -> dict[str, str]:
    """The variables that send caches from `own` to the folder `other`. A pure function.

    Args:
        is_kept: there are models in `own`; they stay in use, although no others can be added.
    """
    settings = {"XDG_CACHE_HOME": str(other)}  # for huggingface_hub, datasets, torch, numba
    if "TRITON_CACHE_DIR" not in environment:
        settings["TRITON_CACHE_DIR"] = str(other / "triton")
    if is_kept and "HF_HOME" not in environment:
        settings["HF_HOME"] = str(own and own / "huggingface")
    return settings
