"""Open a file as bytes of UTF-8 text, wherever it lies, however it is compressed, whichever Unicode encoding it has."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

from p2ptrain.data.formats import HEAD_BYTES, MAGIC_BYTES, compression_of, encoding_of, foreign
from p2ptrain.errors import DataError

_BAD = "p2ptrain.bad"
codecs.register_error(_BAD, lambda error: ("\udcff", getattr(error, "end", 0)))  # as UTF-8: a byte that is none


@contextmanager
def opened(place: str) -> Iterator[BinaryIO]:
    """Open a path, or a URL that fsspec knows (hf://, zip://…::hf://…), as it is."""
    if "://" not in place:
        with open(place, "rb") as file:  # noqa: PTH123  (a place may be no path)
            yield file
        return
    import fsspec

    with fsspec.open(place, "rb") as remote:
        yield cast(BinaryIO, remote)


@contextmanager
def opened_text(place: str, name: str) -> Iterator[io.BufferedReader]:
    """Open a text as UTF-8 without a byte-order mark. Bytes that are no UTF-8 stay as they are.

    Args:
        name: of the file, for messages.

    Raises:
        DataError: the file is no text.
    """
    with opened(place) as raw:
        file = _peekable(_decompressed(_peekable(raw)))
        head = file.peek(HEAD_BYTES)[:HEAD_BYTES]
        encoding, mark = encoding_of(head)
        if encoding != "utf-8":
            yield io.BufferedReader(_Recoded(file, encoding, mark), 2**16)
            return
        if (what := foreign(head[mark:])) is not None:
            step = "name files of text, or convert it to UTF-8 text first"
            raise DataError(f"{name} is not text", f"it is {what}", step)
        file.read(mark)
        yield file


def _peekable(raw: Any) -> io.BufferedReader:
    return raw if isinstance(raw, io.BufferedReader) else io.BufferedReader(raw, 2**16)


def _decompressed(file: io.BufferedReader) -> Any:
    match compression_of(file.peek(MAGIC_BYTES)):
        case "gzip":
            return gzip.GzipFile(fileobj=file)
        case "xz":
            return lzma.LZMAFile(file)
        case "bz2":
            return bz2.BZ2File(file)
        case "zstd":
            import pyarrow

            return pyarrow.CompressedInputStream(file, "zstd")
    return file


class _Recoded(io.RawIOBase):
    """A text in UTF-16 or UTF-32 as UTF-8. What is no character becomes a byte that is no UTF-8."""

    def __init__(self, file: io.BufferedReader, encoding: str, mark: int) -> None:
        file.read(mark)
        self._file, self._decoder = file, codecs.getincrementaldecoder(encoding)(_BAD)
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            raw = self._file.read(2**16)
            self._ready = self._decoder.decode(raw, final=not raw).encode("utf-8", "surrogateescape")
            if not raw and not self._ready:
                return 0
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count
