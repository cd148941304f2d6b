"""From text to the bytes of a file: encodings, compressions, and damage."""

from __future__ import annotations

import bz2
import codecs
import gzip
import lzma
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

MARKED = {
    "utf-8-sig": ("utf-8", codecs.BOM_UTF8),
    "utf-16-le": ("utf-16-le", codecs.BOM_UTF16_LE),
    "utf-16-be": ("utf-16-be", codecs.BOM_UTF16_BE),
    "utf-32-le": ("utf-32-le", codecs.BOM_UTF32_LE),
    "utf-32-be": ("utf-32-be", codecs.BOM_UTF32_BE),
}
"""Encodings that a byte-order mark tells."""
UNMARKED = ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "gz": lambda raw: gzip.compress(raw, 1 + len(raw) % 9),
    "xz": lzma.compress,
    "bz2": lambda raw: bz2.compress(raw, 1 + len(raw) % 9),
    "zst": lambda raw: bytes(_zstd().compress(raw, asbytes=True)),
}


UNPACK: dict[str, Callable[[bytes], bytes]] = {"gz": gzip.decompress, "xz": lzma.decompress, "bz2": bz2.decompress}
"""Those that have a checksum. zstd has none by default: nobody can find a changed byte."""
DAMAGED = (EOFError, OSError, ValueError, lzma.LZMAError, zlib.error)
"""What they raise if the bytes are not those that were written."""


@dataclass(frozen=True)
class Encoded:
    """A text as bytes."""

    raw: bytes
    read: str
    """The text that a reader of UTF-8 must see."""
    replaced: int
    """Characters that it must replace."""
    is_foreign: bool = False
    """No reader can know that this is text."""


def _zstd() -> object:
    import pyarrow

    return pyarrow.Codec("zstd")


class _Counting:
    """An error handler of Python's codecs that replaces and counts."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, error: UnicodeError) -> tuple[str, int]:
        assert isinstance(error, UnicodeDecodeError)
        self.count += 1
        return "\ufffd", error.end


def decoded(raw: bytes) -> tuple[str, int]:
    """Bytes as UTF-8: the text, and how many characters were replaced."""
    counting = _Counting()
    codecs.register_error("counting", counting)
    return raw.decode("utf-8", "counting"), counting.count


def choose_encoding(random: Random, dirt: float) -> str:
    """An encoding's name; "+mark" if a byte-order mark tells it."""
    luck = random.random()
    if luck < 0.6:
        return "utf-8"
    if luck < 0.85 or random.random() > dirt:
        return random.choice(tuple(MARKED)) + "+mark"
    return random.choice((*UNMARKED, "latin-1", "latin-1"))


def fitted(text: str, encoding: str) -> str:
    """The text without what the encoding can't write."""
    if encoding == "latin-1":
        return text.encode("latin-1", "ignore").decode("latin-1")
    return text if encoding == "utf-8" else text.encode("utf-8", "ignore").decode()


def seen(text: str, encoding: str) -> str:
    """What a reader of UTF-8 must see of a part of a file that stands between ASCII characters."""
    return decoded(_bytes_of(text, encoding))[0] if encoding in ("utf-8", "latin-1") else text


def _bytes_of(text: str, encoding: str) -> bytes:
    return text.encode(encoding, "surrogateescape" if encoding == "utf-8" else "strict")


def encode(text: str, encoding: str) -> Encoded:
    """Write a text."""
    if encoding.endswith("+mark"):
        codec, mark = MARKED[encoding.removesuffix("+mark")]
        return Encoded(mark + text.encode(codec), text, 0)
    raw = _bytes_of(text, encoding)
    if encoding in UNMARKED:
        return Encoded(raw, "", 0, is_foreign=bool(text))
    read, replaced = decoded(raw)
    return Encoded(raw, read.removeprefix("\ufeff"), replaced)


def compress(random: Random, raw: bytes, how: str) -> bytes:
    """Compress; sometimes as several members, as `cat a.gz b.gz` makes them."""
    parts = [raw]
    if random.random() < 0.3:
        cuts = sorted(random.randint(0, len(raw)) for _ in range(random.randint(1, 3)))
        parts = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    return b"".join(map(COMPRESSIONS[how], parts))


def unpacks(how: str, raw: bytes) -> bool:
    """Whether the decompressor finds nothing wrong."""
    try:
        UNPACK[how](raw)
    except DAMAGED:
        return False
    return True


def damage(random: Random, raw: bytes, how: str) -> bytes:
    """A compressed file whose end is missing, or whose middle has changed."""
    whole = COMPRESSIONS[how](raw)
    if how in UNPACK and random.random() < 0.5:
        at = max(10, len(whole) // 3) + random.randrange(max(1, len(whole) // 3))  # gzip checks no header
        changed = whole[:at] + bytes([whole[at] ^ random.randint(1, 255)]) + whole[at + 1 :]
        if not unpacks(how, changed):  # in texts that repeat themselves, a change may change nothing
            return changed
    return whole[: random.randint(max(6, len(whole) // 2), len(whole) - 1)]
