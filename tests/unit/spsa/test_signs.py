"""Philox against the published vectors, and every implementation of the signs against every other."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from p2ptrain.run import Digest, PeerId
from p2ptrain.spsa.signs import LANES, TILE, philox, seed_key, signs
from tests.unit.diloco.samples import PEERS

KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
"""From Random123's kat_vectors: counter, key, output."""


@pytest.mark.parametrize(("counter", "key", "output"), KNOWN_ANSWERS)
def test_the_published_vectors(counter: tuple[int, ...], key: tuple[int, int], output: tuple[int, ...]) -> None:
    words = philox(tuple(torch.tensor([word]) for word in counter), key)
    assert tuple(int(word) for word in words) == output


def test_a_sign_is_the_bit_that_the_layout_says() -> None:
    key, tile = 0x299F31D0A4093822, 2**31  # its blocks need more than 32 bits
    found = signs(key, tile, 1)[0]
    generator = np.random.default_rng(0)
    for parameter in generator.integers(0, TILE, 50):
        lane, bit = int(parameter) % LANES, int(parameter) // LANES
        block = 32 * tile + lane % 32
        counter = tuple(torch.tensor([word]) for word in (block & 0xFFFFFFFF, block >> 32, 0, 0))
        word = int(philox(counter, (key & 0xFFFFFFFF, key >> 32))[lane // 32])
        assert int(found[parameter]) == 1 - 2 * (word >> bit & 1)


def test_tiles_can_be_asked_for_in_any_parts() -> None:
    whole = signs(7, 3, 5)
    assert torch.equal(whole, torch.cat([signs(7, 3, 2), signs(7, 5, 3)]))


def test_half_of_the_signs_are_negative_and_neighbours_know_nothing_of_each_other() -> None:
    values = signs(12345, 0, 256).double()
    count = values.numel()
    assert abs(values.mean()) < 5 / count**0.5
    flat = values.flatten()
    for distance in (1, 32, 128, TILE):
        assert abs((flat[distance:] * flat[:-distance]).mean()) < 5 / count**0.5


def test_a_key_is_one_records_alone() -> None:
    run, other = Digest(bytes(32)), Digest(b"\1" * 32)
    names = [
        (run, PEERS[0], b"s" * 8, 0),
        (other, PEERS[0], b"s" * 8, 0),
        (run, PEERS[1], b"s" * 8, 0),
        (run, PEERS[0], b"t" * 8, 0),
        (run, PEERS[0], b"s" * 8, 1),
    ]
    keys = {seed_key(run, PeerId(author), session, index) for run, author, session, index in names}
    assert len(keys) == len(names)
    assert all(0 <= key < 2**64 for key in keys)
