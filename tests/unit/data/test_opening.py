"""Text is opened as text, however it is compressed and encoded; what is no text is refused by name."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2ptrain.data.formats import compression_of, foreign, format_of
from p2ptrain.data.opening import opened_text
from p2ptrain.data.tally import Tally
from p2ptrain.errors import DataError
from tests.unit.data.samples import COMPRESS, read, texts, zstd

WORDS = "Grüße aus Köln — 你好 😀\n" * 100
MARKS = {
    "utf-8": codecs.BOM_UTF8,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
}


def opened(path: Path, raw: bytes) -> bytes:
    path.write_bytes(raw)
    with opened_text(str(path), path.name) as file:
        return file.read()


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("a.jsonl", "jsonl"),
        ("A.JSONL.GZ", "jsonl"),
        ("a.json.xz", "json"),
        ("a.csv.zst", "csv"),
        ("a.tsv.bz2", "tsv"),
        ("a.parquet", "parquet"),
        ("a.txt.gz", "text"),
        ("a.gz", "text"),
        ("notes", "text"),
        (".jsonl", "text"),
        ("a.jsonl.bak", "text"),
    ],
)
def test_the_name_says_how_rows_are_read(name: str, form: str) -> None:
    assert format_of(name) == form


# Compressions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", COMPRESS)
@pytest.mark.parametrize("times", [0, 1, 2, 3])
def test_what_is_compressed_is_read_whole(tmp_path: Path, ending: str, times: int) -> None:
    """Also if it was compressed in several parts, or its name does not say so."""
    parts = [f"part {number}\n".encode() * 1000 for number in range(times)]
    raw = b"".join(map(COMPRESS[ending], parts)) if parts else COMPRESS[ending](b"")
    assert opened(tmp_path / f"a.txt{ending}", raw) == b"".join(parts)
    assert opened(tmp_path / "a.txt", raw) == b"".join(parts)


@given(raw=st.binary(max_size=300), level=st.integers(1, 9))
def test_every_level_is_known(raw: bytes, level: int) -> None:
    assert compression_of(bz2.compress(raw, level)) == "bz2"
    assert compression_of(gzip.compress(raw, level)) == "gzip"
    assert compression_of(lzma.compress(raw, preset=level)) == "xz"
    assert compression_of(zstd(raw)) == "zstd"


@pytest.mark.parametrize("ending", COMPRESS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_what_was_cut_is_an_error_and_not_a_shorter_text(tmp_path: Path, ending: str, share: float) -> None:
    raw = COMPRESS[ending]("".join(f"line {number**3}\n" for number in range(5000)).encode())
    with pytest.raises((EOFError, OSError)):
        opened(tmp_path / f"a.txt{ending}", raw[: int(share * len(raw))])


def test_a_name_that_says_compressed_is_not_believed(tmp_path: Path) -> None:
    assert opened(tmp_path / "a.txt.gz", b"plain words\n") == b"plain words\n"


# Encodings -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", MARKS)
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_a_text_with_a_byte_order_mark_is_read_as_utf_8(tmp_path: Path, encoding: str, ending: str) -> None:
    raw = MARKS[encoding] + WORDS.encode(encoding)
    found = opened(tmp_path / f"a.txt{ending}", COMPRESS[ending](raw) if ending else raw)
    assert found.decode() == WORDS


@given(text=st.text(), encoding=st.sampled_from(list(MARKS)))
@settings(max_examples=50)
def test_no_character_is_lost(tmp_path_factory: pytest.TempPathFactory, text: str, encoding: str) -> None:
    path = tmp_path_factory.mktemp("text") / "a.txt"
    clean = text.encode("utf-8", "ignore").decode().lstrip("\ufeff")
    if foreign(clean.encode()) is None or encoding != "utf-8":
        assert opened(path, MARKS[encoding] + clean.encode(encoding)).decode() == clean


@pytest.mark.parametrize("encoding", [each for each in MARKS if each != "utf-8"])
def test_other_encodings_without_a_mark_are_refused_and_named(tmp_path: Path, encoding: str) -> None:
    with pytest.raises(DataError, match=r"a\.txt is not text") as refused:
        opened(tmp_path / "a.txt", ("plain English words, and Grüße\n" * 50).encode(encoding))
    assert refused.value.why == "it is text in UTF-16 or UTF-32 without a byte-order mark"
    assert "UTF-8" in refused.value.next_step


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le"])
def test_bytes_that_are_no_character_are_counted_in_every_encoding(tmp_path: Path, encoding: str) -> None:
    path, tally = tmp_path / "a.txt", Tally(0.0)
    path.write_bytes(MARKS[encoding] + WORDS.encode(encoding) + b"\x41")
    assert texts(read(path, tally=tally)) == [WORDS + "\ufffd"]
    assert (tally.replaced, tally.replaced_first) == (1, "a.txt, row 1")


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "iso8859-15"])
def test_latin_1_is_refused_with_the_number_of_bad_characters(tmp_path: Path, encoding: str) -> None:
    path, tally = tmp_path / "a.txt", Tally(0.0)
    path.write_bytes(("Grüße aus Köln\n" * 100).encode(encoding))
    assert len(read(path, tally=tally)) == 1
    with pytest.raises(DataError, match=r"a\.txt is not text in UTF-8") as refused:
        tally.check()
    assert refused.value.why == "the bytes of 300 characters of 1,500 are no UTF-8"
    assert "iconv" in refused.value.next_step


@pytest.mark.parametrize("encoding", ["shift-jis", "gbk", "big5", "koi8-r", "euc-kr"])
def test_encodings_of_other_scripts_are_refused(tmp_path: Path, encoding: str) -> None:
    said = {"shift-jis": "日本語の文章", "koi8-r": "русский текст", "euc-kr": "한국어 문장"}.get(encoding, "中文句子")
    path, tally = tmp_path / "a.txt", Tally(1.0)
    path.write_bytes((said * 200).encode(encoding))
    read(path, tally=tally)
    with pytest.raises(DataError, match="is not text"):
        tally.check()


def test_a_few_bad_bytes_are_replaced_and_counted(tmp_path: Path) -> None:
    path, tally = tmp_path / "a.txt", Tally(0.0)
    path.write_bytes(b"plain words, " * 1000 + b"\xff\xfe and \xc3( a \xef\xbf\xbd that was there before")
    [text] = texts(read(path, tally=tally))
    assert text.endswith("\ufffd\ufffd and \ufffd( a \ufffd that was there before")
    tally.check()
    assert tally.told == ["3 characters of 13,035 replaced: their bytes are no UTF-8 (first: a.txt, row 1)"]


# What is no text -----------------------------------------------------------------------------------------------------


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.txt", "words " * 100)
    return file.getvalue()


NOISE = bytes(range(256)) * 20
FOREIGN = {
    "a PDF document": b"%PDF-1.7 words and words\n",
    "a ZIP archive": zipped(),
    "a PNG image": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + NOISE,
    "a JPEG image": b"\xff\xd8\xff\xe0\x00\x10JFIF" + NOISE,
    "a Parquet file": b"PAR1\x15\x04" + NOISE,
    "an SQLite database": b"SQLite format 3\x00" + NOISE,
    "a program (ELF)": b"\x7fELF\x02\x01" + NOISE,
    "a tar archive": b"name".ljust(257, b"\0") + b"ustar\x0000" + NOISE,
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 9\n",
    "compressed twice": gzip.compress(b"words " * 100),
    "binary data": NOISE,
}


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("what", FOREIGN)
def test_what_is_no_text_is_refused_by_name(tmp_path: Path, what: str, ending: str) -> None:
    if what == "compressed twice" and not ending:
        return
    with pytest.raises(DataError, match="is not text") as refused:
        opened(tmp_path / f"a.jsonl{ending}", COMPRESS[ending](FOREIGN[what]) if ending else FOREIGN[what])
    assert refused.value.why.startswith(f"it is {what}")


@pytest.mark.parametrize(
    "raw", [b"", b"PK", b"MZ is a name", b"GIF8 bit", b"Rar! said he", b"\x1b[1mbold\x1b[0m", b"a\tb\x0c"]
)
def test_words_are_not_taken_for_something_else(tmp_path: Path, raw: bytes) -> None:
    assert opened(tmp_path / "a.txt", raw) == raw


def test_zero_bytes_further_down_are_left_out_and_counted(tmp_path: Path) -> None:
    """A computer that lost its power leaves them."""
    path = tmp_path / "a.txt"
    path.write_bytes(b"words\n" * 2000 + bytes(4096) + b"\nwords\n" * 2000)
    rows = read(path, longest=1024)
    assert {row.reason for _, row in rows if not isinstance(row, dict)} == {"zero bytes, which no text has"}
    assert "\0" not in "".join(texts(rows))
    assert sum(map(len, texts(rows))) > 20_000
