"""The global state is immutable, shares what did not change, and is named by its content and place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from p2ptrain.diloco.codecs import Vector
from p2ptrain.diloco.state import Fragment, GlobalState, HashedVector, StateManifest
from p2ptrain.errors import MalformedError
from p2ptrain.run import NO_DIGEST, Digest, digest_of

LAYOUT, COMMIT = digest_of(b"layout"), digest_of(b"commit")


def ramp(elements: int, start: float = 0.0) -> Vector:
    return np.arange(start, start + elements, dtype=np.float32)


def initial() -> GlobalState:
    return GlobalState.initial(LAYOUT, [ramp(5), ramp(7), ramp(3)])


def test_a_vector_is_named_by_its_bytes_in_little_endian() -> None:
    assert HashedVector(ramp(9)).digest == digest_of(ramp(9).astype("<f4").tobytes())
    assert HashedVector(ramp(9)).manifest.size == 36


def test_nobody_can_change_a_vector_that_was_named() -> None:
    vector = HashedVector(ramp(4))
    with pytest.raises(ValueError, match="read-only"):
        vector.values[0] = 1


def test_a_run_begins_at_height_0_with_zero_momentum() -> None:
    state = initial()
    assert (state.height, state.commit, state.weight) == (0, NO_DIGEST, 0)
    assert [len(part.momentum.values) for part in state.fragments] == [5, 7, 3]
    assert not any(part.momentum.values.any() for part in state.fragments)


def test_a_commit_makes_a_new_state_that_shares_every_other_fragment() -> None:
    before = initial()
    updated = Fragment(HashedVector(ramp(7, 1)), HashedVector(ramp(7, 2)))
    after = before.after(COMMIT, 1, updated, 50).after(digest_of(b"next"), 2, before.fragments[2], 7)
    assert (after.height, after.commit, after.weight) == (2, digest_of(b"next"), 57)
    assert after.fragments[1] is updated
    assert after.fragments[0] is before.fragments[0]
    assert before.digest == initial().digest


def test_a_head_is_where_the_state_stands() -> None:
    state = initial().after(COMMIT, 0, initial().fragments[0], 9)
    assert (state.head.height, state.head.commit, state.head.weight) == (1, COMMIT, 9)
    assert state.head.state == state.digest


def test_the_digest_names_everything_that_a_state_is() -> None:
    state = initial()
    fragments = state.fragments
    swapped = (Fragment(fragments[0].momentum, fragments[0].theta), *fragments[1:])
    others = [
        replace(state, height=1),
        replace(state, commit=COMMIT),
        replace(state, weight=1),
        replace(state, layout=COMMIT),
        replace(state, frozen=COMMIT),
        replace(state, fragments=fragments[:2]),
        replace(state, fragments=fragments[::-1]),
        replace(state, fragments=swapped),
        GlobalState.initial(LAYOUT, [ramp(5), ramp(7), np.nextafter(ramp(3), np.float32(9))]),
    ]
    assert len({state.digest, *(other.digest for other in others)}) == 1 + len(others)
    assert initial().digest == state.digest


def test_zero_and_minus_zero_are_different_states() -> None:
    zeros = np.zeros(3, dtype=np.float32)
    assert GlobalState.initial(LAYOUT, [zeros]).digest != GlobalState.initial(LAYOUT, [-zeros]).digest


def test_the_largest_manifest_fits_its_bound() -> None:
    vectors = ((COMMIT, COMMIT),) * 1024
    manifest = StateManifest(
        height=2**53 - 1, commit=COMMIT, weight=2**53 - 1, layout=LAYOUT, vectors=vectors, frozen=COMMIT
    )
    assert StateManifest.decode(manifest.encoded) == manifest


@pytest.mark.parametrize("vectors", [(), ((COMMIT, Digest(b"short")),), ((COMMIT, COMMIT),) * 1025])
def test_an_impossible_manifest_is_malformed(vectors: tuple[tuple[Digest, Digest], ...]) -> None:
    fields = {"height": 1, "commit": COMMIT, "weight": 1, "layout": LAYOUT, "frozen": COMMIT}
    forged = StateManifest.model_construct(**fields, vectors=vectors)
    with pytest.raises(MalformedError, match="vectors"):
        StateManifest.decode(forged.encoded)
