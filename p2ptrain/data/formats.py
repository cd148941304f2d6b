"""What a file is, by its name and by its first bytes. Pure.

The name says how a file's rows are read; the bytes say how it is compressed and encoded, or that it is no text at all.
"""

from __future__ import annotations

import codecs
import re
from pathlib import PurePath

TABLES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
COMPRESSED = (".gz", ".xz", ".zst", ".bz2")
TEXT = "text"

COMPRESSIONS = {
    "gzip": re.compile(rb"\x1f\x8b\x08"),
    "xz": re.compile(rb"\xfd7zXZ\x00"),
    "zstd": re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),
    "bz2": re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"),
}
"""The first bytes of what is decompressed."""
MAGIC_BYTES = 10
PARQUET = b"PAR1"
LFS_POINTER = b"version https://git-lfs"
"""Git LFS leaves a small text file that begins so where it has not fetched the file itself."""
_FOREIGN_TEXT = {
    b"%PDF-": "a PDF document",
    b"{\\rtf": "an RTF document",
    LFS_POINTER: "a Git LFS pointer: the file itself was not fetched (git lfs pull)",
}
_FOREIGN = {
    PARQUET: "a Parquet file",
    b"PK\x03\x04": "a ZIP archive (.zip, .docx, .xlsx, .epub, …)",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"RIFF": "a sound, image or video file (RIFF)",
    b"OggS": "a sound file (Ogg)",
    b"fLaC": "a sound file (FLAC)",
    b"ID3": "a sound file (MP3)",
    b"\x7fELF": "a program (ELF)",
    b"MZ": "a program (Windows)",
    b"SQLite format 3": "an SQLite database",
    b"ARROW1": "an Arrow file",
    b"\x93NUMPY": "a NumPy array",
    b"\x89HDF": "an HDF5 file",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a RAR archive",
    b"\x80": "a Python pickle",
    b"\xd0\xcf\x11\xe0": "an old Office document (.doc, .xls)",
}
"""First bytes of files that are binary. A text may begin with the same letters."""
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
HEAD_BYTES = 4096
_MOST_CONTROL = 0.01
_NO_TEXT = bytes(byte for byte in range(32) if byte not in b"\t\n\v\f\r\x1b\x08")


def format_of(name: str) -> str:
    """How a file with this name is read: a value of `TABLES`, or "text"."""
    path = PurePath(name)
    if path.suffix.lower() in COMPRESSED:
        path = path.with_suffix("")
    return TABLES.get(path.suffix.lower(), TEXT)


def compression_of(head: bytes) -> str | None:
    """How a file with these first bytes is compressed; None if it is not."""
    return next((name for name, magic in COMPRESSIONS.items() if magic.match(head)), None)


def encoding_of(head: bytes) -> tuple[str, int]:
    """(encoding, length of the byte-order mark) of a text with these first bytes; UTF-8 if there is no mark."""
    for mark, encoding in _BYTE_ORDER_MARKS.items():
        if head.startswith(mark):
            return encoding, len(mark)
    return "utf-8", 0


def foreign(head: bytes) -> str | None:
    """What a file with these first bytes is, if it is no text in UTF-8; None if it looks like one.

    The bytes are those after decompression.
    """
    if (what := _named(head, _FOREIGN_TEXT)) is not None:
        return what
    control = len(head) - len(head.translate(None, _NO_TEXT))
    if control <= _MOST_CONTROL * len(head) and b"\x00" not in head:
        return None
    if head[257:262] == b"ustar":
        return "a tar archive"
    if (how := compression_of(head)) is not None:
        return f"compressed twice, the second time with {how}"
    if (what := _named(head, _FOREIGN)) is not None:
        return what
    zeros = [head[start::2].count(0) / len(head[start::2]) for start in (0, 1)] if len(head) > 9 else [0.0, 0.0]
    if abs(zeros[0] - zeros[1]) > 0.3:
        return "text in UTF-16 or UTF-32 without a byte-order mark"
    return "binary data"


def _named(head: bytes, magics: dict[bytes, str]) -> str | None:
    return next((what for magic, what in magics.items() if head.startswith(magic)), None)
