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
puts two codes into a byte, the first one in the low half. Only the author encodes, so the bits of an encoder may differ
between devices: on a CPU it is compiled (`kernels`), and elsewhere it is torch on the vector's device, so that a GPU
sends few bytes over its bus. Decoding is compiled, on the host, piece by piece, and gives the same bits everywhere:
e3m0 only scales by powers of two, the products of int8 have few enough bits, and blocks whose scale could lead to
denormal numbers are refused. To learn what the codec has lost, an author with a GPU decodes its own payload there, in
torch; that result stays with the author and never decides shared bits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from p2ptrain.diloco import kernels
from p2ptrain.diloco.kernels import BLOCK
from p2ptrain.errors import MalformedError
from p2ptrain.run.digest import CHUNK_BYTES, Buffer

Vector = NDArray[np.float32]
Bytes = NDArray[np.uint8]

PIECE = CHUNK_BYTES // 4
"""Elements that are worked on at a time. As float32 they are one chunk of a blob, and stay in a core's cache."""
SMALLEST_SCALE, LARGEST_SCALE = 2.0**-100, 2.0**100


class NonFiniteError(ValueError):
    """A pseudo-gradient holds NaN, infinity or numbers beyond ±2^100, so this peer must not send it."""


class Payload(ABC):
    """A payload of `elements` numbers that was checked. It is decoded piece by piece."""

    def __init__(self, elements: int) -> None:
        self.elements = elements

    @abstractmethod
    def read(self, start: int, values: Vector) -> None:
        """Decode elements into `values` (float32), from the index `start` on, which is a multiple of 256."""

    def squares(self) -> NDArray[np.float64]:
        """The sum of the squares of each block of 256 elements, in float64, in the order of the elements."""
        sums, room = np.empty(_blocks(self.elements)), np.empty(min(self.elements, PIECE), dtype=np.float32)
        for span in pieces(self.elements):
            values = room[: span.stop - span.start]
            self.read(span.start, values)
            kernels.square(values, sums[_of_span(span)])
        return sums


class Codec(ABC):
    """One number format: how many bytes n elements take, how to encode them and how to decode them."""

    name: str
    lossless = False

    @abstractmethod
    def encoded_bytes(self, elements: int) -> int:
        """The size of a payload of so many elements."""

    def encode(self, theta: torch.Tensor, local: torch.Tensor, residual: torch.Tensor | None = None) -> bytes:
        """Encode the pseudo-gradient Δ = θ − local + residual, and replace `local` by what the codec loses of Δ.

        Args:
            theta, local, residual: 1-D float32, of one length, on one device.

        Raises:
            NonFiniteError: an element of Δ is NaN, infinite or beyond ±2^100. `local` is spoilt then.
            TypeError: a tensor is not 1-D float32.
        """
        for tensor in (theta, local) if residual is None else (theta, local, residual):
            if tensor.dtype != torch.float32 or tensor.ndim != 1:
                raise TypeError(f"expected a 1-D float32 tensor, got {tensor.ndim}-D {tensor.dtype}")
        if local.device.type != "cpu":
            _subtract(theta, local, residual)
            _refuse_beyond(_largest(local))
            data = self._encode_in_torch(local)
            payload = torch.frombuffer(bytearray(data), dtype=torch.uint8).to(local.device)
            local -= self._decode_in_torch(payload, len(local))
            return data
        encoded = np.empty(self.encoded_bytes(len(local)), dtype=np.uint8)
        for span in pieces(len(local)):
            _subtract(theta[span], local[span], None if residual is None else residual[span])
            _refuse_beyond(self._encode_piece(local[span], encoded, span, len(local)))
        return encoded.tobytes()

    def open(self, data: Buffer, elements: int) -> Payload:
        """Check any peer's payload of `elements` numbers.

        Raises:
            MalformedError: the length is wrong, or a number is not finite or beyond ±2^100.
        """
        if len(data) != self.encoded_bytes(elements):
            raise MalformedError(
                f"an {self.name} payload has the wrong length",
                f"{len(data)} bytes for {elements} elements, expected {self.encoded_bytes(elements)}",
            )
        return self._open(np.frombuffer(data, dtype=np.uint8), elements)

    def decode(self, data: Buffer, elements: int) -> Vector:
        """Decode any peer's payload to `elements` float32 numbers; raises what `open` raises."""
        payload, values = self.open(data, elements), np.empty(elements, dtype=np.float32)
        for span in pieces(elements):
            payload.read(span.start, values[span])
        return values

    @abstractmethod
    def _encode_piece(self, part: torch.Tensor, data: Bytes, span: slice, elements: int) -> float:
        """Encode a piece of a vector of `elements` to its places in the payload `data`, and replace it by what is lost.
        Returns the largest magnitude in the piece; NaN if one of its numbers is NaN."""

    @abstractmethod
    def _open(self, data: Bytes, elements: int) -> Payload: ...

    @abstractmethod
    def _encode_in_torch(self, vector: torch.Tensor) -> bytes: ...

    @abstractmethod
    def _decode_in_torch(self, payload: torch.Tensor, elements: int) -> torch.Tensor:
        """From a payload (uint8, on any device) that this peer encoded, to float32 on the same device."""


def pieces(elements: int) -> Iterator[slice]:
    """The pieces of a vector, from its beginning to its end."""
    for start in range(0, elements, PIECE):
        yield slice(start, min(start + PIECE, elements))


def _subtract(theta: torch.Tensor, local: torch.Tensor, residual: torch.Tensor | None) -> None:
    """Replace `local` by θ − local + residual."""
    torch.sub(theta, local, out=local)
    if residual is not None:
        local += residual


def _largest(vector: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(vector, ord=float("inf")))


def _refuse_beyond(largest: float) -> None:
    if not largest <= LARGEST_SCALE:  # NaN compares false
        raise NonFiniteError("a pseudo-gradient is not finite")


def _bytes_of(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).cpu().numpy().tobytes()


def _blocks(elements: int) -> int:
    return -(-elements // BLOCK)


def _of_span(span: slice) -> slice:
    """The blocks of a piece."""
    return slice(span.start // BLOCK, _blocks(span.stop))


# Block codecs --------------------------------------------------------------------------------------------------------


class _E3m0Payload(Payload):
    def __init__(self, elements: int, scales: Vector, codes: Bytes) -> None:
        super().__init__(elements)
        self._scales, self._codes = scales, codes

    def read(self, start: int, values: Vector) -> None:
        stop = start + len(values)
        kernels.decode_e3m0(self._codes[start // 2 : -(-stop // 2)], self._scales[_of_span(slice(start, stop))], values)

    def squares(self) -> NDArray[np.float64]:
        """Without decoding: all sums are exact, so their order does not matter."""
        sums = np.empty(_blocks(self.elements))
        kernels.square_e3m0(self._codes, self._scales, self.elements, sums)
        return sums


class _Int8Payload(Payload):
    def __init__(self, elements: int, scales: Vector, codes: Bytes) -> None:
        super().__init__(elements)
        self._scales, self._codes = scales, codes.view(np.int8)

    def read(self, start: int, values: Vector) -> None:
        span = slice(start, start + len(values))
        kernels.decode_int8(self._codes[span], self._scales[_of_span(span)], values)


class _BlockCodec(Codec):
    """Scales of all blocks, then the codes of all elements."""

    _largest_code: int
    _payload: type[_E3m0Payload | _Int8Payload]

    def _split(self, data: Bytes, elements: int) -> tuple[NDArray[np.uint16], Bytes]:
        border = 2 * _blocks(elements)
        return data[:border].view("<u2"), data[border:]

    def _open(self, data: Bytes, elements: int) -> Payload:
        halves, codes = self._split(data, elements)
        scales = (halves.astype(np.uint32) << 16).view(np.float32)
        in_range = (scales == 0) | ((scales >= SMALLEST_SCALE) & (scales <= LARGEST_SCALE))  # False for NaN
        if not in_range.all():
            raise MalformedError("a payload holds a block scale that is not a usable number")
        return self._payload(elements, scales, codes)

    def _encode_in_torch(self, vector: torch.Tensor) -> bytes:
        blocks = torch.nn.functional.pad(vector, (0, _blocks(len(vector)) * BLOCK - len(vector))).view(-1, BLOCK)
        scales = (blocks.abs().amax(dim=1) / self._largest_code).to(torch.bfloat16)
        scales = torch.where(scales.float() < SMALLEST_SCALE, torch.zeros_like(scales), scales)
        divisor = scales.float().unsqueeze(1)
        codes = self._codes_in_torch(torch.where(divisor > 0, blocks / divisor, torch.zeros_like(blocks)))
        used = self.encoded_bytes(len(vector)) - 2 * len(blocks)
        return _bytes_of(scales) + _bytes_of(codes.flatten()[:used])

    def _decode_in_torch(self, payload: torch.Tensor, elements: int) -> torch.Tensor:
        border = 2 * _blocks(elements)
        values = self._values_in_torch(payload[border:])
        padded = torch.nn.functional.pad(values, (0, border // 2 * BLOCK - len(values))).view(-1, BLOCK)
        return padded.mul_(payload[:border].view(torch.bfloat16).float().unsqueeze(1)).view(-1)[:elements]

    @abstractmethod
    def _codes_in_torch(self, ratios: torch.Tensor) -> torch.Tensor:
        """Turn blocks (n, 256), divided by their scales, into uint8 codes (n, bytes of a block)."""

    @abstractmethod
    def _values_in_torch(self, codes: torch.Tensor) -> torch.Tensor:
        """The values of uint8 codes before they are scaled, 1-D float32."""


class _E3m0(_BlockCodec):
    name, _largest_code, _payload = "e3m0", 1, _E3m0Payload

    def encoded_bytes(self, elements: int) -> int:
        return 2 * _blocks(elements) + -(-elements // 2)

    def _encode_piece(self, part: torch.Tensor, data: Bytes, span: slice, elements: int) -> float:
        scales, codes = self._split(data, elements)
        pairs = codes[span.start // 2 : -(-span.stop // 2)]
        return float(kernels.encode_e3m0(part.numpy(), scales[_of_span(span)], pairs))

    def _codes_in_torch(self, ratios: torch.Tensor) -> torch.Tensor:
        magnitude = ratios.abs()
        exponent = ((magnitude * (4 / 3)).view(torch.int32) >> 23) - 127  # `kernels.encode_e3m0` says why
        code = exponent.clamp(-6, 0) + 7
        code = torch.where(magnitude < 2.0**-7, torch.zeros_like(code), code)
        halves = (code | (ratios < 0).to(torch.int32) << 3).to(torch.uint8)
        return halves[:, 0::2] | (halves[:, 1::2] << 4)

    def _values_in_torch(self, codes: torch.Tensor) -> torch.Tensor:
        table = torch.tensor([0.0, *(2.0 ** (c - 7) for c in range(1, 8))], device=codes.device)
        halves = torch.stack([codes & 15, codes >> 4], dim=1).view(-1).int()
        return torch.where(halves < 8, table[halves & 7], 0.0 - table[halves & 7])


class _Int8(_BlockCodec):
    name, _largest_code, _payload = "int8", 127, _Int8Payload

    def encoded_bytes(self, elements: int) -> int:
        return 2 * _blocks(elements) + elements

    def _encode_piece(self, part: torch.Tensor, data: Bytes, span: slice, elements: int) -> float:
        scales, codes = self._split(data, elements)
        return float(kernels.encode_int8(part.numpy(), scales[_of_span(span)], codes[span].view(np.int8)))

    def _codes_in_torch(self, ratios: torch.Tensor) -> torch.Tensor:
        return ratios.round().clamp(-127, 127).to(torch.int8).view(torch.uint8)

    def _values_in_torch(self, codes: torch.Tensor) -> torch.Tensor:
        return codes.view(torch.int8).float()


# Floats --------------------------------------------------------------------------------------------------------------


class _Bf16Payload(Payload):
    def __init__(self, elements: int, data: Bytes) -> None:
        super().__init__(elements)
        self._halves = data.view("<u2")

    def read(self, start: int, values: Vector) -> None:
        halves = self._halves[start : start + len(values)]
        np.left_shift(halves, 16, out=values.view(np.uint32), dtype=np.uint32)


class _Fp32Payload(Payload):
    def __init__(self, elements: int, data: Bytes) -> None:
        super().__init__(elements)
        self._numbers = data.view("<f4")

    def read(self, start: int, values: Vector) -> None:
        values[:] = self._numbers[start : start + len(values)]


class _Bf16(Codec):
    name = "bf16"

    def encoded_bytes(self, elements: int) -> int:
        return 2 * elements

    def _encode_piece(self, part: torch.Tensor, data: Bytes, span: slice, elements: int) -> float:
        largest = _largest(part)
        rounded = torch.from_numpy(data.view(np.int16)[span]).view(torch.bfloat16)
        rounded.copy_(part)
        part -= rounded.float()
        return largest

    def _open(self, data: Bytes, elements: int) -> Payload:
        return _checked(_Bf16Payload(elements, data))

    def _encode_in_torch(self, vector: torch.Tensor) -> bytes:
        return _bytes_of(vector.to(torch.bfloat16))

    def _decode_in_torch(self, payload: torch.Tensor, elements: int) -> torch.Tensor:
        return payload.view(torch.bfloat16).float()


class _Fp32(Codec):
    name, lossless = "fp32", True

    def encoded_bytes(self, elements: int) -> int:
        return 4 * elements

    def _encode_piece(self, part: torch.Tensor, data: Bytes, span: slice, elements: int) -> float:
        largest = _largest(part)
        data.view("<f4")[span] = part.numpy()
        part.zero_()
        return largest

    def _open(self, data: Bytes, elements: int) -> Payload:
        return _checked(_Fp32Payload(elements, data))

    def _encode_in_torch(self, vector: torch.Tensor) -> bytes:
        return _bytes_of(vector)

    def _decode_in_torch(self, payload: torch.Tensor, elements: int) -> torch.Tensor:
        return payload.view(torch.float32)


def _checked(payload: Payload) -> Payload:
    """Look at all numbers of a payload. Raises MalformedError."""
    room = np.empty(min(payload.elements, PIECE), dtype=np.float32)
    for span in pieces(payload.elements):
        values = room[: span.stop - span.start]
        payload.read(span.start, values)
        if not max(values.max(), -values.min()) <= LARGEST_SCALE:  # NaN compares false
            raise MalformedError("a payload holds numbers that are not finite")
    return payload


CODECS: dict[str, Codec] = {codec.name: codec for codec in (_E3m0(), _Int8(), _Bf16(), _Fp32())}
