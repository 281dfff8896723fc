"""Packets for live transport: one or a few frames each, one byte of header, every code in exactly its bits.

    byte 0    K − 1 (4 bits) | frames − 1 (2 bits) | redundancy (2 bits)
    bits      the frames' codes, frame after frame, codebook 0 first; then, for as many frames before them, the first
              `redundancy` codebooks again; zeros fill up the last byte

At 4 kbps and 10 bits per code that is 11 bytes per 20 ms. A packet says nothing about its place: RTP numbers it (rtp.py).
The second copy is for the receiver that lost the packet before: 0.5 kbit/s per codebook buys a coarse version of it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..codes import check_codes
from ..errors import CodesError, CorruptedError
from . import bits

MAX_CODEBOOKS, MAX_FRAMES, MAX_REDUNDANCY = 16, 4, 3


class LivePacket(NamedTuple):
    """What one packet carries."""

    codes: npt.NDArray[np.int16]  # [K, t]
    previous: npt.NDArray[np.int16]  # [r, t], the coarsest codebooks of the t frames before; r = 0 without redundancy


def pack_packet(codes: npt.ArrayLike, bits_per_code: int, previous: npt.ArrayLike | None = None) -> bytes:
    """Codes [K, t] and perhaps `previous` [r, t] as one packet. Raises CodesError for what does not fit into one."""
    own = check_codes(codes, None, 1 << bits_per_code)
    return _pack(own, None if previous is None else check_codes(previous, None, 1 << bits_per_code), bits_per_code)


def _pack(own: npt.NDArray[np.int16], again: npt.NDArray[np.int16] | None, bits_per_code: int) -> bytes:
    """The packet of codes that are checked but for their shapes."""
    again = own[:0] if again is None else again
    (k, t), r = own.shape, len(again)
    if not (1 <= k <= MAX_CODEBOOKS and 1 <= t <= MAX_FRAMES and r <= MAX_REDUNDANCY and again.shape[1] == t):
        raise CodesError(
            f"a packet holds 1 to {MAX_CODEBOOKS} codebooks of 1 to {MAX_FRAMES} frames and up to {MAX_REDUNDANCY} codebooks of as many "
            f"frames before; not [{k}, {t}] and {list(again.shape)}"
        )
    flat = np.concatenate([own.T.reshape(-1), again.T.reshape(-1)])
    return bytes([(k - 1) << 4 | (t - 1) << 2 | r]) + bits.pack_flat(flat, bits_per_code)


def unpack_packet(data: bytes, bits_per_code: int, num_codebooks: int = MAX_CODEBOOKS) -> LivePacket:
    """What `pack_packet` packed. Raises CorruptedError for anything else, or for more codebooks than the model has."""
    if not data:
        raise CorruptedError("the packet is empty")
    k, t, r = (data[0] >> 4) + 1, (data[0] >> 2 & 3) + 1, data[0] & 3
    if max(k, r) > num_codebooks:
        raise CorruptedError(f"the packet says {k} codebooks and {r} again; the model has {num_codebooks}")
    flat = bits.unpack(data[1:], 1, (k + r) * t, bits_per_code)[0]
    return LivePacket(flat[: k * t].reshape(t, k).T, flat[k * t :].reshape(t, r).T)


class Packetizer:
    """Codes as they come from an encoder to packets of `frames` frames, with `redundancy` codebooks of the frames before."""

    def __init__(self, bits_per_code: int, frames: int = 1, redundancy: int = 0):
        if not (1 <= frames <= MAX_FRAMES and 0 <= redundancy <= MAX_REDUNDANCY):
            raise CodesError(
                f"packets hold 1 to {MAX_FRAMES} frames and 0 to {MAX_REDUNDANCY} redundant codebooks, not {frames} and {redundancy}"
            )
        self.bits_per_code, self.frames, self.redundancy = bits_per_code, frames, redundancy
        self._waiting: npt.NDArray[np.int16] = np.zeros((0, 0), np.int16)  # [K, < frames]
        self._before: npt.NDArray[np.int16] | None = None  # [K, frames], of the last packet

    def push(self, codes: npt.ArrayLike) -> list[bytes]:
        """Codes [K, t], any t, to all packets that are now complete. When K changes, a packet that is not full goes out as it is."""
        array = check_codes(codes, None, 1 << self.bits_per_code)
        out = self.flush() if self._waiting.size and len(self._waiting) != len(array) else []
        array = np.concatenate([self._waiting, array], 1) if self._waiting.size else array
        whole = array.shape[1] // self.frames * self.frames
        out += [self._pack(array[:, i : i + self.frames]) for i in range(0, whole, self.frames)]
        self._waiting = array[:, whole:]
        return out

    def flush(self) -> list[bytes]:
        """The packet that is not full, if there is one."""
        rest, self._waiting = self._waiting, self._waiting[:, :0]
        return [self._pack(rest)] if rest.size else []

    def _pack(self, codes: npt.NDArray[np.int16]) -> bytes:
        before, self._before = self._before, codes
        previous = None if before is None else before[: self.redundancy, before.shape[1] - codes.shape[1] :]
        if previous is not None and previous.shape[1] < codes.shape[1]:
            previous = None  # the packet before was shorter
        return _pack(codes, previous, self.bits_per_code)
