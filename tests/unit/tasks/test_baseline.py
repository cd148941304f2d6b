"""The bar of a bigram table, against entropies worked out by hand."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.tasks.baseline import byte_bigram_entropy


@pytest.mark.parametrize(
    ("documents", "entropy"),
    [
        (["ababab"], 0.0),  # the byte before tells the next one
        (["aab"], math.log(2)),  # aa, ab: after a, one of two
        (["ab", "ac"], math.log(2)),  # no pair reaches from one document into the next
        (["aab", "bb"], 2 / 3 * math.log(2)),  # aa, ab, bb: after b, only b
        (["aaab"], math.log(3) - 2 / 3 * math.log(2)),  # aa, aa, ab: 2/3 and 1/3
        (["éé"], 0.0),  # two bytes each: c3 a9 c3 a9
        (["", "x", "ab"], 0.0),
    ],
)
def test_small_texts(documents: list[str], entropy: float) -> None:
    assert byte_bigram_entropy(documents) == pytest.approx(entropy, abs=1e-12)


@given(st.lists(st.text(alphabet="abc", min_size=2), min_size=1, max_size=10))
def test_it_is_the_mean_surprise_of_the_best_table(documents: list[str]) -> None:
    pairs = [pair for text in documents for pair in pairwise(text)]
    surprise = [-math.log(pairs.count(pair) / sum(other[0] == pair[0] for other in pairs)) for pair in pairs]
    assert byte_bigram_entropy(documents) == pytest.approx(np.mean(surprise), abs=1e-9)
