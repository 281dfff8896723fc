"""Codes to bits and back: frame after frame, in a frame codebook after codebook, every code most significant bit first."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import CodesError, CorruptedError

MAX_BITS = 15  # codes are int16


def packed_size(num_codebooks: int, num_frames: int, bits: int) -> int:
    """Bytes that `pack` makes of codes [num_codebooks, num_frames]."""
    return (num_codebooks * num_frames * bits + 7) // 8


def check_codes(codes: npt.ArrayLike, bits: int) -> npt.NDArray[np.int16]:
    """A fresh int16 array of the codes [K, T]; CodesError unless they are integers from 0 to 2^bits - 1 in two dimensions."""
    try:
        array: npt.NDArray[Any] = np.asarray(codes)
    except ValueError as error:
        raise CodesError(f"codes are no array ({error}); give [codebooks, frames]") from error
    if array.ndim != 2 or array.dtype.kind not in "iu":
        raise CodesError(f"codes must be integers of shape [K, T], not {array.dtype} of shape {list(array.shape)}")
    if array.size and not 0 <= array.min() <= array.max() < 1 << bits:
        raise CodesError(f"codes must be 0 to {(1 << bits) - 1} ({bits} bits); these are {array.min()} to {array.max()}")
    return array.astype(np.int16)


def pack(codes: npt.ArrayLike, bits: int) -> bytes:
    """Codes [K, T] of `bits` bits each as bytes; the bits that fill up the last byte are zero. Raises CodesError."""
    return pack_flat(check_codes(codes, bits).T.reshape(-1), bits)


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
