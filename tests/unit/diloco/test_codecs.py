"""Number formats against exhaustive tables, brute force over their values, and bytes from anyone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from p2ptrain.diloco.codecs import BLOCK, CODECS, PIECE, NonFiniteError, Vector
from p2ptrain.errors import MalformedError
from tests.unit.diloco import reference
from tests.unit.diloco.reference import encode

BLOCK_CODECS = ["e3m0", "int8"]
LOSSY_CODECS = ["e3m0", "int8", "bf16"]
SCALES = [2.0**-100, 2.0**-14, 0.0078125, 1.0, 1.9921875, 3.140625, 255.0, 2.0**100]  # bf16 holds each exactly


def bf16_bytes(*numbers: float) -> bytes:
    return torch.tensor(numbers).to(torch.bfloat16).view(torch.uint8).numpy().tobytes()


def scales_of(data: bytes, elements: int) -> NDArray[np.float64]:
    """The block scales of a payload, one for each element."""
    blocks = -(-elements // BLOCK)
    halves = torch.frombuffer(bytearray(data[: 2 * blocks]), dtype=torch.bfloat16)
    return np.repeat(halves.double().numpy(), BLOCK)[:elements]


def round_trip(codec: str, vector: Vector) -> tuple[bytes, Vector]:
    data = encode(codec, vector)
    return data, CODECS[codec].decode(data, len(vector))


def gaussian(elements: int, seed: int = 0) -> Vector:
    return np.random.default_rng(seed).standard_normal(elements).astype(np.float32)


def distance_to_nearest(vector: Vector, scales: NDArray[np.float64], units: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far each element is from the nearest of scale · unit, by trying them all."""
    return np.abs(vector.astype(np.float64)[:, None] - scales[:, None] * units).min(axis=1)


E3M0_UNITS = np.array([0.0, *(sign * 2.0 ** (c - 7) for sign in (1, -1) for c in range(1, 8))])
INT8_UNITS = np.arange(-127, 128, dtype=np.float64)


@pytest.mark.parametrize("scale", SCALES)
def test_every_e3m0_code_decodes_to_its_power_of_two(scale: float) -> None:
    codes = np.arange(256, dtype=np.uint8)  # every pair of codes
    decoded = CODECS["e3m0"].decode(bf16_bytes(scale, scale) + codes.tobytes(), 512)
    for byte, pair in enumerate(decoded.reshape(256, 2)):
        for code, value in zip((byte & 15, byte >> 4), pair, strict=True):  # the first element is in the low half
            magnitude = scale * 2.0 ** ((code & 7) - 7) if code & 7 else 0.0
            assert value == (-magnitude if code & 8 else magnitude)


@pytest.mark.parametrize("scale", SCALES)
def test_every_int8_code_decodes_to_one_product(scale: float) -> None:
    codes = np.arange(-127, 128, dtype=np.int8)
    decoded = CODECS["int8"].decode(bf16_bytes(scale) + codes.tobytes(), 255)
    assert np.array_equal(decoded, codes.astype(np.float32) * np.float32(scale))


@pytest.mark.parametrize("scale", [2.0**-100, 0.25, 2.0**100])
def test_e3m0_encodes_to_the_nearest_value_and_ties_away_from_zero(scale: float) -> None:
    # Around each power of two, each tie and each quarter between them: the number itself and its neighbours.
    middles = [2.0**e * quarter for e in range(-9, 0) for quarter in (1, 1.25, 1.5, 1.75)]
    ratios = np.array(middles, dtype=np.float32)
    swept = np.concatenate([ratios, np.nextafter(ratios, np.float32(0)), np.nextafter(ratios, np.float32(2))])
    signed = np.concatenate([swept, -swept, [np.float32(1)]]).astype(np.float32) * np.float32(scale)
    data, decoded = round_trip("e3m0", signed)
    assert (scales_of(data, len(signed)) == scale).all()
    for value, found in zip(signed.astype(np.float64) / scale, decoded.astype(np.float64) / scale, strict=True):
        nearest = min(np.abs(value - E3M0_UNITS))
        away = max(abs(unit) for unit in E3M0_UNITS if abs(value - unit) == nearest)
        assert found == np.copysign(away, value)


@pytest.mark.parametrize(("codec", "units"), [("e3m0", E3M0_UNITS), ("int8", INT8_UNITS)])
def test_block_codecs_encode_to_the_nearest_value(codec: str, units: NDArray[np.float64]) -> None:
    sweep = np.concatenate([np.geomspace(1e-4, 1, 2000), np.linspace(-1, 1, 2001)]).astype(np.float32)
    for largest in (1.0, 0.7310586, 3e-20, 1e20):  # most scales are rounded to bf16, up and down
        vector = np.concatenate([sweep, gaussian(3000)]) * np.float32(largest)
        data, decoded = round_trip(codec, vector)
        nearest = distance_to_nearest(vector, scales_of(data, len(vector)), units)
        slack = 1e-6 * np.abs(vector)  # the quotient by the scale is rounded: both neighbours of a tie may do
        assert (np.abs(vector.astype(np.float64) - decoded) <= nearest + slack).all()


def test_bf16_and_fp32_carry_what_torch_would() -> None:
    vector = np.concatenate([gaussian(500), gaussian(500) * np.float32(1e-42), [np.float32(2.0**100)]])
    assert np.array_equal(round_trip("fp32", vector)[1], vector)
    as_torch = torch.from_numpy(vector).to(torch.bfloat16).float().numpy()
    assert np.array_equal(round_trip("bf16", vector)[1], as_torch)


@pytest.mark.parametrize("codec", CODECS)
def test_a_payload_is_as_long_as_promised(codec: str) -> None:
    vector = gaussian(600)
    for elements in range(1, 601):
        data, decoded = round_trip(codec, vector[:elements])
        assert len(data) == CODECS[codec].encoded_bytes(elements)
        assert decoded.shape == (elements,)


@pytest.mark.parametrize(("codec", "bits"), [("e3m0", 4.0625), ("int8", 8.0625), ("bf16", 16.0), ("fp32", 32.0)])
def test_an_element_takes_the_bits_of_the_table(codec: str, bits: float) -> None:
    assert CODECS[codec].encoded_bytes(1024 * BLOCK) == bits / 8 * 1024 * BLOCK


@pytest.mark.parametrize("codec", BLOCK_CODECS)
def test_a_long_vector_is_encoded_block_by_block(codec: str) -> None:
    """Cutting the work into pieces leaves no trace in the payload: all scales first, then all codes."""
    vector = gaussian(2 * PIECE + 301) * np.repeat(np.float32([1, 1e-3, 50]), PIECE)[: 2 * PIECE + 301]
    data, decoded = round_trip(codec, vector)
    scales = scales_of(data, len(vector))[::BLOCK]
    for start in (0, PIECE - BLOCK, PIECE, 2 * PIECE, 2 * PIECE + BLOCK):
        alone, expected = round_trip(codec, vector[start : start + BLOCK])
        assert np.array_equal(decoded[start : start + BLOCK], expected)
        assert scales[start // BLOCK] == scales_of(alone, 1)[0]


@pytest.mark.parametrize("codec", CODECS)
def test_zeros_stay_zeros(codec: str) -> None:
    assert not round_trip(codec, np.zeros(300, dtype=np.float32))[1].any()


@pytest.mark.parametrize("codec", BLOCK_CODECS)
def test_a_block_of_denormal_numbers_becomes_zero_and_leaves_its_neighbours_alone(codec: str) -> None:
    vector = gaussian(3 * BLOCK)
    vector[BLOCK : 2 * BLOCK] *= np.float32(1e-41)
    _, decoded = round_trip(codec, vector)
    assert not decoded[BLOCK : 2 * BLOCK].any()
    assert decoded[:BLOCK].any()
    assert decoded[2 * BLOCK :].any()


@pytest.mark.parametrize("codec", CODECS)
def test_the_largest_numbers_survive(codec: str) -> None:
    vector = np.full(BLOCK + 3, 2.0**100, dtype=np.float32)
    np.testing.assert_allclose(round_trip(codec, vector)[1], vector, rtol=2.0**-8)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, 1.01 * 2.0**100, -3e38])
def test_nothing_that_is_not_finite_leaves_this_peer(codec: str, number: float) -> None:
    vector = torch.zeros(700)
    vector[600] = number
    with pytest.raises(NonFiniteError):
        CODECS[codec].encode(vector, torch.zeros(700))


@pytest.mark.parametrize("vector", [torch.zeros(3, dtype=torch.float64), torch.zeros(3, 3), torch.tensor(1.0)])
def test_encode_takes_flat_float32_only(vector: torch.Tensor) -> None:
    with pytest.raises(TypeError, match="1-D float32"):
        CODECS["e3m0"].encode(vector, torch.zeros(3))


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("change", [-1, 1, 400])
def test_a_payload_of_the_wrong_length_is_malformed(codec: str, change: int) -> None:
    size = CODECS[codec].encoded_bytes(301)
    with pytest.raises(MalformedError, match="wrong length"):
        CODECS[codec].decode(bytes(size + change), 301)


@pytest.mark.parametrize("codec", BLOCK_CODECS)
@pytest.mark.parametrize("scale", [np.nan, np.inf, -np.inf, -1.0, 1e-39, 2.0**-101, 2.0**101])
def test_a_scale_out_of_range_is_malformed_wherever_it_stands(codec: str, scale: float) -> None:
    codes = bytes(CODECS[codec].encoded_bytes(600) - 6)
    for position in range(3):
        scales = [1.0, 1.0, 1.0]
        scales[position] = scale
        with pytest.raises(MalformedError, match="scale"):
            CODECS[codec].decode(bf16_bytes(*scales) + codes, 600)


@pytest.mark.parametrize("codec", ["bf16", "fp32"])
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, 2.0**101, -(2.0**101)])
def test_a_number_that_is_not_finite_is_malformed(codec: str, number: float) -> None:
    vector = torch.ones(9)
    vector[7] = number
    wire = vector.to(torch.bfloat16) if codec == "bf16" else vector
    with pytest.raises(MalformedError, match="not finite"):
        CODECS[codec].decode(wire.view(torch.uint8).numpy().tobytes(), 9)


@pytest.mark.parametrize("codec", CODECS)
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_bytes_are_refused_or_decode_to_finite_numbers(codec: str, data: st.DataObject) -> None:
    elements = data.draw(st.integers(1, 2 * BLOCK + 50), label="elements")
    wrong = data.draw(st.sampled_from([0, 0, 0, 0, -1, 1]), label="wrong length by")
    random = np.random.default_rng(data.draw(st.integers(0, 2**32), label="seed"))
    payload = bytearray(random.bytes(CODECS[codec].encoded_bytes(elements) + wrong))
    if data.draw(st.booleans(), label="tame"):  # else almost every payload would be refused
        scales = bf16_bytes(*random.choice(SCALES, -(-elements // BLOCK)))
        if codec in BLOCK_CODECS:
            payload[: len(scales)] = scales
        else:
            payload[:] = bytes(byte & 0x3F for byte in payload)
    try:
        decoded = CODECS[codec].decode(bytes(payload), elements)
    except MalformedError:
        return
    assert not wrong
    assert decoded.shape == (elements,)
    assert decoded.dtype == np.float32
    assert np.isfinite(decoded).all()


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32), elements=st.integers(1, 3 * BLOCK), power=st.integers(-60, 60))
def test_the_error_of_one_element_is_bounded(seed: int, elements: int, power: int) -> None:
    vector = gaussian(elements, seed) * np.float32(2.0**power)
    error = {codec: np.abs(round_trip(codec, vector)[1].astype(np.float64) - vector) for codec in CODECS}
    scales = scales_of(encode("e3m0", vector), elements)
    magnitude = np.abs(vector.astype(np.float64))
    assert not error["fp32"].any()
    assert (error["bf16"] <= magnitude * 2.0**-8).all()
    assert (error["int8"] <= scales * (1 + 2.0**-7) / 254).all()
    in_range = magnitude >= scales * 2.0**-6
    assert (error["e3m0"][in_range] <= magnitude[in_range] * (1 / 3 + 1e-6)).all()
    assert (error["e3m0"][~in_range] <= scales[~in_range] * 2.0**-7 * (1 + 1e-6)).all()


def of_all_kinds(elements: int, seed: int = 0) -> Vector:
    """Numbers of very different magnitudes, among them zeros of both signs, denormal ones, ties and whole blocks of
    zeros."""
    random = np.random.default_rng(seed)
    vector = (gaussian(elements, seed) * 10.0 ** random.uniform(-45, 10, elements)).astype(np.float32)
    ties = np.float32([0.0, -0.0, 1.5, -1.5, 0.75, 2.0**-7, -(2.0**-7), 127.5, 1e-41])
    chosen = random.random(elements) < 0.2
    vector[chosen] = random.choice(ties, chosen.sum())
    vector[random.integers(0, -(-elements // BLOCK)) * BLOCK :][: random.choice([0, BLOCK])] = 0
    return vector


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("elements", [1, 2, 255, 256, 257, 1001, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE + 303])
def test_every_device_and_the_reference_have_the_same_bits(codec: str, elements: int) -> None:
    """A GPU encodes and decodes with torch, which here runs on the CPU."""
    vector = of_all_kinds(elements, elements)
    data, decoded = round_trip(codec, vector)
    assert decoded.tobytes() == reference.decode(codec, data, elements).tobytes()
    in_torch = CODECS[codec]._encode_in_torch(torch.from_numpy(vector))
    assert reference.decode(codec, in_torch, elements).tolist() == decoded.tolist()  # a code for −0 is one for 0, too
    payload = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    assert CODECS[codec]._decode_in_torch(payload, elements).numpy().tobytes() == decoded.tobytes()


@pytest.mark.parametrize("codec", CODECS)
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), elements=st.integers(1, 3 * BLOCK))
def test_any_payload_decodes_as_the_table_says(codec: str, seed: int, elements: int) -> None:
    payload = np.random.default_rng(seed).bytes(CODECS[codec].encoded_bytes(elements))
    try:
        decoded = CODECS[codec].decode(payload, elements)
    except MalformedError:
        scales = bf16_bytes(*[0.37] * -(-elements // BLOCK))
        payload = scales + payload[len(scales) :] if codec in BLOCK_CODECS else bytes(len(payload))
        decoded = CODECS[codec].decode(payload, elements)
    assert decoded.tobytes() == reference.decode(codec, payload, elements).tobytes()


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("with_residual", [True, False])
@pytest.mark.parametrize("elements", [1, 300, PIECE + 700])
def test_the_difference_is_encoded_and_what_was_lost_takes_its_place(
    codec: str, with_residual: bool, elements: int
) -> None:
    theta, local, residual = (gaussian(elements, seed) * np.float32(10.0 ** (-seed)) for seed in range(3))
    delta = theta - local + residual if with_residual else theta - local
    lost = torch.from_numpy(local.copy())
    added = torch.from_numpy(residual) if with_residual else None
    data = CODECS[codec].encode(torch.from_numpy(theta), lost, added)
    assert data == encode(codec, delta)
    assert np.array_equal(lost.numpy(), delta - CODECS[codec].decode(data, elements))
    assert CODECS[codec].lossless == (not lost.any())
    assert np.array_equal(residual, gaussian(elements, 2) * np.float32(0.01))


@pytest.mark.parametrize("codec", LOSSY_CODECS)
def test_error_feedback_makes_the_mean_converge(codec: str) -> None:
    """What the codec loses in one round it sends in a later one, also for elements below its smallest code."""
    vector = gaussian(2 * BLOCK) * np.float32(1e-3)
    vector[5:50] *= np.float32(1e-3)
    residual, total, rounds = np.zeros_like(vector), np.zeros(len(vector)), 200
    for _ in range(rounds):
        delta = vector + residual
        _, decoded = round_trip(codec, delta)
        residual = delta - decoded
        total += decoded
    once = np.abs(round_trip(codec, vector)[1] - vector).max()
    off = np.abs(total / rounds - vector).max()
    assert off <= np.abs(residual).max() / rounds + 1e-9
    assert off <= 3 * once / rounds
