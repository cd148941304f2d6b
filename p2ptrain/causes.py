"""Why a library could not load something, and what helps: told by the cause, wherever in the program it shows itself.

Libraries wrap errors in errors, and their lists of what they raise change with each version. So this module looks at
the whole chain of an error for signs that last: the number of an operating system's error, the status of an HTTP
answer, names of classes. Classes go by their names, because importing the libraries takes seconds. A pure module.
"""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import NamedTuple

from p2ptrain.text import first_line, reason_of

LOG_IN = "log in with a token that may read it: hf auth login"
CONNECTION = "check the connection to the internet, and the proxy if HTTPS_PROXY is set"
MORE_FILES = "ulimit -n 4096"
LATER = "wait some minutes and try again"

NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
TOO_MANY_FILES = (errno.EMFILE, errno.ENFILE)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the error has come up."""

    otherwise: str
    caches: Mapping[str, str]

    def cache(self, path: str) -> tuple[str, str]:
        """(environment variable, folder) of the cache that a file belongs to; the folder is empty if it belongs to
        none. A folder above a cache belongs to it, too: that is the one that could not be made."""
        for variable, folder in self.caches.items():
            own, other = PurePath(folder), PurePath(path or folder)
            if other.is_relative_to(own) or own.is_relative_to(other):
                return variable, folder
        return next(iter(self.caches), "TMPDIR"), ""


class Cause(NamedTuple):
    """The second and the third line of an error: `raise DataError(what, *cause_of(error, otherwise)) from None`."""

    why: str
    next_step: str


def cause_of(error: BaseException, otherwise: str, caches: Mapping[str, str] | None = None) -> Cause:
    """Say why a library failed, and what to do about that.

    Args:
        error: what the library raised.
        otherwise: the next step if the error tells no other one.
        caches: the folders that the library writes to, by the environment variable that moves each; the most common
            variable first. An error that names no file is about the first one.
    """
    place = _Place(otherwise, caches or {})
    for rule in RULES:
        for each in chain_of(error):
            if found := rule(each, place):
                return found
    return Cause(_words(error), otherwise)


def writing(error: OSError, then: str) -> Cause:
    """Why one of p2ptrain's own files can't be written, and what helps.

    Args:
        then: what happens when the peer is started again.
    """
    why = reason_of(error)
    if error.errno in NOT_ALLOWED:
        return Cause(why, "let this user write there, or choose another folder with --home")
    if error.errno == errno.EIO:
        return Cause(why, "check the disk, or choose a folder on another one with --home")
    if error.errno in TOO_MANY_FILES:
        return Cause(why, MORE_FILES)
    room = "free some disk space (or choose another folder with --home) and start the peer again"
    return Cause(why, f"{room}: {then}")


def is_failure(error: BaseException) -> bool:
    """Whether a library has failed, and not somebody stopped it. A panic of a library in Rust is no `Exception`."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def chain_of(error: BaseException) -> Iterator[BaseException]:
    """The error, the one that it was raised from, and so on."""
    seen: set[int] = set()
    at: BaseException | None = error
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        yield at
        at = at.__cause__ or (None if at.__suppress_context__ else at.__context__)


def _names(error: BaseException) -> set[str]:
    """The names of an error's classes, and those in its text: some libraries break the chain and keep the name."""
    in_text = re.findall(r"\b[A-Z]\w+(?:Error|Enabled|Timeout)\b", str(error))
    return {kind.__name__ for kind in type(error).__mro__} | set(in_text)


def _words(error: BaseException) -> str:
    """What an error says; with its class, where the text alone means little."""
    if type(error).__name__ == "DatasetGenerationError" and error.__cause__ is not None:
        return _words(error.__cause__)  # itself it only says that something has failed
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    if str(error) and isinstance(error, OSError | ValueError | RuntimeError | ImportError | TypeError):
        return first_line(error)
    return f"{type(error).__name__}: {first_line(error)}" if str(error) else type(error).__name__


# The rules, the most telling first: each looks at one error of the chain ------------------------------------------


def _of_repository(error: BaseException, place: _Place) -> Cause | None:
    """The hub says what is wrong with a repository."""
    names, text = _names(error), str(error)
    if "GatedRepoError" in names or "is a gated dataset" in text:
        step = "accept them on its page of the hub, then log in here: hf auth login"
        return Cause("the hub gives it only to people who have accepted its terms", step)
    if "RevisionNotFoundError" in names or text.startswith("Revision '"):
        return Cause("the hub has it, but not this revision", "check the revision")
    if names & {"RepositoryNotFoundError", "DatasetNotFoundError"}:
        step = f"check the name; if it is private, {LOG_IN}"
        return Cause("there is no folder and no public repository of this name", step)
    if "DisabledRepoError" in names:
        return Cause("the hub has disabled this repository", "use another one")
    if names & {"HFValidationError", "HfUriError"}:
        return Cause("this is neither a folder nor a name on the hub", place.otherwise)
    return None


def _of_disk(error: BaseException, place: _Place) -> Cause | None:
    """The disk is full, or broken."""
    number, path = _number(error)
    if number in NO_SPACE:
        variable, folder = place.cache(path)
        where = path or folder
        why = f"the disk{f' of {where}' if where else ''} is full"
        if number == errno.EDQUOT:
            why = f"your quota{f' on the disk of {where}' if where else ''} is used up"
        return Cause(why, f"free disk space, or set {variable} to a folder on another disk")
    if number == errno.EIO:
        return Cause(f"{path or 'a disk'} can't be read or written: {os.strerror(errno.EIO)}", "check the disk")
    return None


def _of_permission(error: BaseException, place: _Place) -> Cause | None:
    """A file may not be read, or a folder not be written or made."""
    number, path = _number(error)
    if number is None:
        return None
    variable, folder = place.cache(path)
    no_cache = number in (errno.ENOENT, errno.ENOTDIR) and path and PurePath(folder).is_relative_to(path)
    if number not in NOT_ALLOWED and not no_cache:
        return None
    why = f"{path or folder or 'a file'} can't be used: {os.strerror(number)}"
    if number == errno.EROFS or folder:
        return Cause(why, f"set {variable} to a folder that you can write")
    return Cause(why, "let this user read it, and the folders above it: chmod, chown")


def _of_answer(error: BaseException, _: _Place) -> Cause | None:
    """An HTTP server has refused a request. That a single file is missing says little: whoever asked for it knows."""
    status = _status(error)
    if status is None:
        return None
    answered = f"the hub answered {status}"
    if status in (401, 403):
        return Cause(f"{answered}: it does not let you read this", LOG_IN)
    if status == 407:
        return Cause("the proxy asks for a password", "put it into HTTPS_PROXY: http://NAME:PASSWORD@HOST:PORT")
    if status == 429:
        return Cause(f"{answered}: too many requests", f"{LATER}; people who log in (hf auth login) may ask more often")
    if status == 408 or status >= 500:
        return Cause(f"{answered}: it has a problem of its own", LATER)
    return None


def _of_connection(error: BaseException, place: _Place) -> Cause | None:
    """No connection, for a reason that is known."""
    names, text = _names(error), str(error)
    if "OfflineModeIsEnabled" in names or "outgoing traffic has been disabled" in text:
        return Cause(
            "HF_HUB_OFFLINE is set, and the hub's cache does not have all files",
            f"unset HF_HUB_OFFLINE, or {place.otherwise}",
        )
    if "ProxyError" in names:
        return Cause(f"the proxy does not answer: {first_line(error)}", "correct HTTPS_PROXY, or unset it")
    if "CERTIFICATE_VERIFY_FAILED" in text:
        step = "check this machine's clock; behind a proxy, set SSL_CERT_FILE to the proxy's certificates"
        return Cause("the hub's certificate can't be verified", step)
    if isinstance(error, socket.gaierror) or "Name or service not known" in text or "name resolution" in text:
        return Cause("the address of the hub can't be looked up", f"{CONNECTION}, or {place.otherwise}")
    if isinstance(error, TimeoutError) or names & {"TimeoutException", "Timeout", "ConnectTimeout", "ReadTimeout"}:
        return Cause("the hub did not answer in time", f"try again; {CONNECTION}")
    if (isinstance(error, ConnectionError) and error.errno) or names & {"ConnectError", "TransportError"}:
        return Cause(f"the hub can't be reached: {first_line(error)}", f"{CONNECTION}, or {place.otherwise}")
    return None


def _of_machine(error: BaseException, _: _Place) -> Cause | None:
    """This machine, or this installation, lacks something."""
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return Cause("there is not enough memory", "close other programs, or choose something smaller")
    if _number(error)[0] in TOO_MANY_FILES:
        return Cause("too many files are open", MORE_FILES)
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("p2ptrain"):
        package = error.name.partition(".")[0]
        return Cause(f"it needs the package {package}, which is not installed", f"pip install {package}")
    return None


def _unreachable(error: BaseException, place: _Place) -> Cause | None:
    """The hub can't be reached, and no other error of the chain knows why."""
    names = _names(error)
    if names & {"LocalEntryNotFoundError", "ConnectionError"}:
        return Cause(
            "the hub can't be reached, and its cache here does not have all files",
            f"{CONNECTION}, or {place.otherwise}",
        )
    return None


def _number(error: BaseException) -> tuple[int | None, str]:
    """(the operating system's number of an error, the file that it is about)."""
    if not isinstance(error, OSError):
        return None, ""
    path = error.filename
    return error.errno, os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""


def _status(error: BaseException) -> int | None:
    """The status of an HTTP answer: of huggingface_hub, httpx and requests; of aiohttp; of urllib."""
    response = getattr(error, "response", None)
    found = [getattr(response, "status_code", None), getattr(error, "status", None), getattr(error, "code", None)]
    return next((status for status in found if isinstance(status, int) and 400 <= status < 600), None)


RULES: tuple[Callable[[BaseException, _Place], Cause | None], ...] = (
    _of_repository,
    _of_disk,
    _of_permission,
    _of_answer,
    _of_connection,
    _of_machine,
    _unreachable,
)
"""A rule is tried on the whole chain before the next one is."""
