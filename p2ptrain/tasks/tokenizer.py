"""Turn text into token ids: by bytes, or by any tokenizer of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from p2ptrain.data.loading import loading
from p2ptrain.errors import DataError
from p2ptrain.tasks.reasons import fetched_by_lfs
from p2ptrain.tasks.trust import OTHER_TOKENIZER, check_tokenizer, transformers_without_code

Tokens = NDArray[np.int32]

END_OF_TEXT = "<|endoftext|>"


class Tokenizer(Protocol):
    """What a task needs of a tokenizer."""

    vocab_size: int
    library: Any
    """transformers' own tokenizer, if this is one of them; else None."""
    end: int
    """Id of the token between two documents."""
    pad: int | None
    """Id of a token that fills up rows and stands in no text; None if there is none."""
    before: Tokens
    after: Tokens
    """Tokens that the tokenizer puts before and after a text, e.g. [CLS] and [SEP]; mostly none."""

    def encode(self, text: str) -> Tokens: ...

    def save(self, folder: Path) -> None:
        """Write it so that `AutoTokenizer.from_pretrained(folder)` loads it."""


class ByteTokenizer:
    """Ids 0…255 are the bytes of UTF-8; 256 is the end of a document. It needs no download."""

    vocab_size = 257
    library = None
    end = 256
    pad: int | None = 0  # the byte NUL: text has none
    before = after = np.empty(0, dtype=np.int32)

    def encode(self, text: str) -> Tokens:
        return np.frombuffer(text.encode("utf-8", errors="replace"), dtype=np.uint8).astype(np.int32)

    def save(self, folder: Path) -> None:
        """Write a byte-level BPE without merges: it gives the same ids, even for a text with the end token's name."""
        from tokenizers import Tokenizer as FastTokenizer
        from tokenizers import decoders, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        vocabulary = {letter: byte for byte, letter in enumerate(_byte_letters())}
        fast = FastTokenizer(models.BPE(vocab=vocabulary, merges=[]))
        fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        fast.decoder = decoders.ByteLevel()
        fast.add_special_tokens([END_OF_TEXT])
        whole = PreTrainedTokenizerFast(tokenizer_object=fast, eos_token=END_OF_TEXT, split_special_tokens=True)
        whole.save_pretrained(folder)


class HubTokenizer:
    """A tokenizer of transformers: a name on the hub, or a folder."""

    def __init__(self, name: str) -> None:
        library = transformers_without_code()
        with fetched_by_lfs("tokenizer", name), loading("tokenizer", name, OTHER_TOKENIZER):
            check_tokenizer(name)
            self.library: Any = library.AutoTokenizer.from_pretrained(name, trust_remote_code=False)
            self.library.encode("a")
        self.vocab_size = len(self.library)
        ends = [end for end in (self.library.eos_token_id, self.library.sep_token_id) if end is not None]
        if not ends:
            why = "without it, nothing marks where a document ends"
            raise DataError(f"the tokenizer {name!r} has no end-of-text token", why, "use another tokenizer")
        self.end = int(ends[0])
        pad: int | None = self.library.pad_token_id
        self.pad = None if pad in ends else pad
        self.before, self.after = self._frame()

    def encode(self, text: str) -> Tokens:
        return np.asarray(self.library.encode(text, add_special_tokens=False, verbose=False), dtype=np.int32)

    def _frame(self) -> tuple[Tokens, Tokens]:
        framed, text = np.asarray(self.library.encode("a"), dtype=np.int32), self.encode("a")
        for start in range(len(framed) - len(text) + 1):
            if np.array_equal(framed[start : start + len(text)], text):
                return framed[:start], framed[start + len(text) :]
        return framed[:0], framed[:0]

    def save(self, folder: Path) -> None:
        self.library.save_pretrained(folder)


def load_tokenizer(name: str) -> Tokenizer:
    """Load the tokenizer 'bytes', or one by its name on the hub or its folder.

    Raises:
        DataError: it can't be loaded, wants code to be run, or has no end-of-text token.
    """
    return ByteTokenizer() if name == "bytes" else HubTokenizer(name)


def _byte_letters() -> list[str]:
    """The printable letter that byte-level BPE (GPT-2) writes for each byte, in the order of the bytes."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]
