"""Number formats of pseudo-gradients on the wire.

| codec | value of an element | bits per element |
|---|---|---|
| e3m0 | ± s · 2^(c−7) for c = 1…7, or 0 | 4 + 16/256 |
| int8 | s · q for q = −127…127 | 8 + 16/256 |
| bf16 | the upper half of an fp32 | 16 |
| fp32 | itself | 32 |

e3m0 is the 4-bit float with 3 exponent bits and no mantissa of Streaming DiLoCo (arXiv 2501.18512, section 2.4);
c = 7 stands for the largest magnitude of its block. s is a bf16 scale shared by 256 elements: `docs/choices.md` has
the experiment behind 256.

A payload of a block codec holds the scales of all blocks (bf16, little endian), then the codes of all elements; e3m0
puts two codes into a byte, the first one in the low half. Encoding runs in torch on the vector's device, so that a GPU
sends few bytes over its bus. Only the author encodes, so the bits of an encoder may differ between devices. Decoding
runs in numpy on the host and gives the same bits everywhere: e3m0 only scales by powers of two, int8 rounds once per
element, and blocks whose scale could lead to denormal numbers are refused. To learn what the codec has lost, an author
with a GPU decodes its own payload there, in torch; that result stays with the author and never decides shared bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from p2ptrain.errors import MalformedError

Vector = NDArray[np.float32]

BLOCK = 256
CPU_PIECE = 1024 * BLOCK
SMALLEST_SCALE, LARGEST_SCALE = 2.0**-100, 2.0**100


class NonFiniteError(ValueError):
    """A pseudo-gradient holds NaN, infinity or numbers beyond ±2^100, so this peer must not send it."""


@dataclass(frozen=True, slots=True)
class Codec:
    """One number format: how many bytes n elements take, how to encode them and how to decode them."""

    name: str
    lossless: bool
    encoded_bytes: Callable[[int], int]
    _encode: Callable[[torch.Tensor], bytes]
    _decode: Callable[[bytes, int], Vector]
    _decode_in_torch: Callable[[torch.Tensor, int], torch.Tensor]
    """From a payload that this peer encoded (uint8, on any device) to float32 on the same device."""

    def encode(self, vector: torch.Tensor) -> bytes:
        """Encode a 1-D float32 tensor on any device.

        Raises:
            NonFiniteError: an element is NaN, infinite or beyond ±2^100.
            TypeError: the tensor is not 1-D float32.
        """
        if vector.dtype != torch.float32 or vector.ndim != 1:
            raise TypeError(f"expected a 1-D float32 tensor, got {vector.ndim}-D {vector.dtype}")
        largest = float(torch.linalg.vector_norm(vector, ord=float("inf")))
        if not largest <= LARGEST_SCALE:  # NaN compares false
            raise NonFiniteError("a pseudo-gradient is not finite")
        return self._encode(vector)

    def lost(self, vector: torch.Tensor, data: bytes) -> torch.Tensor:
        """`vector` minus what its encoding `data` decodes to: 1-D float32 on the vector's device."""
        if vector.device.type == "cpu":  # where numpy decodes the block codecs faster
            return vector - torch.from_numpy(self._decode(data, len(vector)))
        payload = torch.frombuffer(bytearray(data), dtype=torch.uint8).to(vector.device)
        return vector - self._decode_in_torch(payload, len(vector))

    def decode(self, data: bytes, elements: int) -> Vector:
        """Decode any peer's payload to `elements` float32 numbers.

        Raises:
            MalformedError: the length is wrong, or a number is not finite or beyond ±2^100.
        """
        if len(data) != self.encoded_bytes(elements):
            raise MalformedError(
                f"an {self.name} payload has the wrong length",
                f"{len(data)} bytes for {elements} elements, expected {self.encoded_bytes(elements)}",
            )
        return self._decode(data, elements)


def _blocks(elements: int) -> int:
    return -(-elements // BLOCK)


def _bytes_of(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).cpu().numpy().tobytes()


def _encode_blocks(vector: torch.Tensor, largest_code: int, codes_of: Callable[[torch.Tensor], torch.Tensor]) -> bytes:
    """Scales of all blocks, then the codes of all elements.

    `codes_of` turns blocks (n, 256), divided by their scales, into uint8 codes (n, bytes of a block). On a CPU the
    vector is cut into pieces, so that one piece's intermediate results stay in the cache.
    """
    piece = CPU_PIECE if vector.device.type == "cpu" else max(len(vector), 1)
    scales_bytes, codes_bytes = [], []
    for part in torch.split(vector, piece):
        blocks = torch.nn.functional.pad(part, (0, _blocks(len(part)) * BLOCK - len(part))).view(-1, BLOCK)
        scales = (blocks.abs().amax(dim=1) / largest_code).to(torch.bfloat16)
        scales = torch.where(scales.float() < SMALLEST_SCALE, torch.zeros_like(scales), scales)
        divisor = scales.float().unsqueeze(1)
        codes = codes_of(torch.where(divisor > 0, blocks / divisor, torch.zeros_like(blocks)))
        scales_bytes.append(_bytes_of(scales))
        codes_bytes.append(_bytes_of(codes.flatten()[: -(-len(part) * codes.shape[1] // BLOCK)]))
    return b"".join(scales_bytes + codes_bytes)


def _e3m0_codes(ratio: torch.Tensor) -> torch.Tensor:
    magnitude = ratio.abs()
    # Between 2^e and 2^(e+1) the nearest power changes at 1.5·2^e, so 4/3 of a magnitude has the exponent of its
    # nearest power of two. The smallest one is 2^−6; magnitudes below 2^−7 are nearer to 0.
    exponent = ((magnitude * (4 / 3)).view(torch.int32) >> 23) - 127
    code = exponent.clamp(-6, 0) + 7
    code = torch.where(magnitude < 2.0**-7, torch.zeros_like(code), code)
    halves = (code | (ratio < 0).to(torch.int32) << 3).to(torch.uint8)
    return halves[:, 0::2] | (halves[:, 1::2] << 4)


def _int8_codes(ratio: torch.Tensor) -> torch.Tensor:
    return ratio.round().clamp(-127, 127).to(torch.int8).view(torch.uint8)


_encode_e3m0 = partial(_encode_blocks, largest_code=1, codes_of=_e3m0_codes)
_encode_int8 = partial(_encode_blocks, largest_code=127, codes_of=_int8_codes)


_E3M0_VALUES = np.array([0.0] + [2.0 ** (c - 7) for c in range(1, 8)], dtype=np.float32)
_E3M0_VALUES = np.concatenate([_E3M0_VALUES, 0.0 - _E3M0_VALUES])
# One 8-byte entry for each byte: the values of both its elements.
_E3M0_PAIRS = np.stack([np.tile(_E3M0_VALUES, 16), np.repeat(_E3M0_VALUES, 16)], axis=1).view(np.uint64).ravel()


def _scaled(blocks: Vector, data: bytes) -> Vector:
    """Multiply blocks (n, 256) in place by the n bf16 scales at the start of a payload."""
    scales = (np.frombuffer(data, dtype="<u2", count=len(blocks)).astype(np.uint32) << 16).view(np.float32)
    in_range = (scales == 0) | ((scales >= SMALLEST_SCALE) & (scales <= LARGEST_SCALE))  # False for NaN
    if not in_range.all():
        raise MalformedError("a payload holds a block scale that is not a usable number")
    blocks *= scales[:, None]
    return blocks


def _decode_e3m0(data: bytes, elements: int) -> Vector:
    codes = np.frombuffer(data, dtype=np.uint8, offset=2 * _blocks(elements))
    blocks = np.zeros((_blocks(elements), BLOCK), dtype=np.float32)
    pairs = blocks.reshape(-1).view(np.uint64)[: len(codes)]
    np.take(_E3M0_PAIRS, codes, out=pairs, mode="clip")  # a byte can't exceed the table; mode="raise" would copy
    return _scaled(blocks, data).reshape(-1)[:elements]


def _decode_int8(data: bytes, elements: int) -> Vector:
    blocks = np.zeros((_blocks(elements), BLOCK), dtype=np.float32)
    blocks.reshape(-1)[:elements] = np.frombuffer(data, dtype=np.int8, offset=2 * _blocks(elements))
    return _scaled(blocks, data).reshape(-1)[:elements]


def _scaled_in_torch(values: torch.Tensor, payload: torch.Tensor, elements: int) -> torch.Tensor:
    scales = payload[: 2 * _blocks(elements)].view(torch.bfloat16).float()
    padded = torch.nn.functional.pad(values, (0, _blocks(elements) * BLOCK - len(values))).view(-1, BLOCK)
    return padded.mul_(scales.unsqueeze(1)).view(-1)[:elements]


def _decode_e3m0_in_torch(payload: torch.Tensor, elements: int) -> torch.Tensor:
    pairs = torch.from_numpy(_E3M0_PAIRS.view(np.float32).reshape(256, 2)).to(payload.device)
    codes = payload[2 * _blocks(elements) :]
    return _scaled_in_torch(pairs.index_select(0, codes.int()).view(-1), payload, elements)


def _decode_int8_in_torch(payload: torch.Tensor, elements: int) -> torch.Tensor:
    return _scaled_in_torch(payload[2 * _blocks(elements) :].view(torch.int8).float(), payload, elements)


def _finite(vector: Vector) -> Vector:
    if not max(vector.max(initial=0.0), -vector.min(initial=0.0)) <= LARGEST_SCALE:  # NaN compares false
        raise MalformedError("a payload holds numbers that are not finite")
    return vector


def _encode_bf16(vector: torch.Tensor) -> bytes:
    return _bytes_of(vector.to(torch.bfloat16))


def _decode_bf16(data: bytes, elements: int) -> Vector:
    return _finite((np.frombuffer(data, dtype="<u2", count=elements).astype(np.uint32) << 16).view(np.float32))


def _decode_fp32(data: bytes, elements: int) -> Vector:
    return _finite(np.frombuffer(data, dtype="<f4", count=elements).astype(np.float32))


_ALL = [
    Codec("e3m0", False, lambda n: 2 * _blocks(n) + -(-n // 2), _encode_e3m0, _decode_e3m0, _decode_e3m0_in_torch),
    Codec("int8", False, lambda n: 2 * _blocks(n) + n, _encode_int8, _decode_int8, _decode_int8_in_torch),
    Codec("bf16", False, lambda n: 2 * n, _encode_bf16, _decode_bf16, lambda raw, _: raw.view(torch.bfloat16).float()),
    Codec("fp32", True, lambda n: 4 * n, _bytes_of, _decode_fp32, lambda raw, _: raw.view(torch.float32)),
]
CODECS = {codec.name: codec for codec in _ALL}
