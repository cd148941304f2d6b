"""The loss that counting pairs of bytes achieves on a text. A trained byte model must do better."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


def byte_bigram_entropy(documents: Iterable[str]) -> float:
    """H(byte | byte before) in nats, from the documents' own frequencies. No bigram table can do better on them."""
    counts = np.zeros((256, 256), dtype=np.int64)
    for document in documents:
        text = np.frombuffer(document.encode("utf-8", errors="replace"), dtype=np.uint8).astype(np.int64)
        counts += np.bincount(text[:-1] * 256 + text[1:], minlength=65536).reshape(256, 256)
    total = counts.sum()
    pair = counts / total
    given = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return float(-np.sum(pair[pair > 0] * np.log(given[pair > 0])))
