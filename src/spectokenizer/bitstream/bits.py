"""Codes to bits and back: frame after frame, in a frame codebook after codebook, every code most significant bit first."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..codes import check_codes
from ..errors import CorruptedError

MAX_BITS = 15  # codes are int16


def packed_size(num_codebooks: int, num_frames: int, bits: int) -> int:
    """Bytes that `pack` makes of codes [num_codebooks, num_frames]."""
    return (num_codebooks * num_frames * bits + 7) // 8


def pack(codes: npt.ArrayLike, bits: int) -> bytes:
    """Codes [K, T] of `bits` bits each as bytes; the bits that fill up the last byte are zero. Raises CodesError."""
    return pack_flat(check_codes(codes, None, 1 << bits).T.reshape(-1), bits)


def pack_flat(codes: npt.NDArray[np.int16], bits: int) -> bytes:
    """The same of codes [N] that are known to be good, in the order in which they stand."""
    return np.packbits(codes[:, None] >> np.arange(bits - 1, -1, -1, dtype=np.int16) & 1).tobytes()  # [N, bits] before packing


def unpack(data: bytes, num_codebooks: int, num_frames: int, bits: int) -> npt.NDArray[np.int16]:
    """Codes [num_codebooks, num_frames] from what `pack` made of them. CorruptedError if the size or the padding is not pack's."""
    size = packed_size(num_codebooks, num_frames, bits)
    if len(data) != size:
        raise CorruptedError(f"{num_frames} frames of {num_codebooks} codes of {bits} bits take {size} bytes, not {len(data)}")
    count = num_codebooks * num_frames
    stream = np.unpackbits(np.frombuffer(data, np.uint8))
    if stream[count * bits :].any():
        raise CorruptedError("the padding bits after the last code are not zero")
    values = stream[: count * bits].reshape(count, bits) @ (1 << np.arange(bits - 1, -1, -1, dtype=np.int16))  # [T * K]
    return np.ascontiguousarray(values.reshape(num_frames, num_codebooks).T, dtype=np.int16)
