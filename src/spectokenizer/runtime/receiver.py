"""The receiving end of a call: packets in any order, late, twice or never, to samples without a gap.

Packets wait in a jitter buffer of fixed depth. Playing asks for one frame at a time, always gets one, and gets, in this order: the
frame itself; its coarse second copy from the packet after it; what the decoder makes of its absence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..bitstream.packets import unpack_packet
from ..bitstream.rtp import later
from ..errors import FormatError, StreamError
from .audio import Audio
from .streams import Decoder

if TYPE_CHECKING:
    from .codec import Codec

MAX_DEPTH = 50  # frames
RESTART_AFTER = 50  # frames: a jump this far in time is a new talk, not a loss
LATE_IN_A_ROW = 10  # packets: then the network's delay has grown, and playing starts over behind it
MOST_WAITING = 25  # frames beyond the depth: then the sender's clock is faster, or the delay has shrunk


@dataclass
class Statistics:
    """Packets as they came, frames as they were played."""

    received: int = 0  # packets, of which
    late: int = 0  # their time had passed
    duplicate: int = 0
    corrupted: int = 0  # not a packet of this model
    played: int = 0  # frames, of which
    recovered: int = 0  # coarse, from the redundancy of a later packet
    concealed: int = 0  # lost
    restarts: int = 0  # jumps in time, of the sender or to follow the network's delay

    @property
    def loss(self) -> float:
        """Share of the frames that did not come in time."""
        return (self.recovered + self.concealed) / self.played if self.played else 0.0


class Receiver:
    """Jitter buffer and decoder of one incoming stream. `depth` frames are held back before playing begins.

    Frames are placed by the RTP timestamp, so packets may hold any number of frames and K may change. Raises StreamError
    for a depth that is not 0 to 50.
    """

    def __init__(self, codec: Codec, depth: int = 3):
        if not 0 <= depth <= MAX_DEPTH:
            raise StreamError(f"a jitter buffer of {depth} frames; give 0 to {MAX_DEPTH}")
        self.codec, self.depth = codec, depth
        self.decoder: Decoder = codec.decoder()
        self.statistics = Statistics()
        self._frames: dict[int, npt.NDArray[np.int16]] = {}  # codes [K] by frame number, from the one to play next
        self._coarse: dict[int, npt.NDArray[np.int16]] = {}
        self._next = 0  # frame to play next
        self._base: int | None = None  # timestamp of frame 0
        self._playing = False
        self._late = 0  # packets in a row
        self._end: int | None = None  # frame that never will be, once the sender has said so
        self._rest: list[Audio] | None = None  # of the talk before, once `drain` has been called: a recording drops nothing

    def put(self, timestamp: int, payload: bytes) -> None:
        """Take in a packet whose first sample is number `timestamp` (modulo 2^32). Never raises for what the network did to it."""
        info, seen = self.codec.info, self.statistics
        seen.received += 1
        try:
            packet = unpack_packet(payload, info.bits_per_code, info.num_codebooks)
        except FormatError:
            seen.corrupted += 1
            return
        if self._base is None:
            self._base = timestamp
        first, odd = divmod(self._after(timestamp), info.frame_size)
        first += self._next
        count = packet.codes.shape[1]
        self._late = self._late + 1 if self._playing and first + count <= self._next else 0
        behind = self._late > LATE_IN_A_ROW and self._rest is None  # a recording waits for no one's delay
        if abs(first - self._next) > RESTART_AFTER + MAX_DEPTH or behind:
            self._restart(timestamp)
            first = odd = 0
        if odd:
            seen.corrupted += 1
            return
        if not self._playing and first < self._next <= first + count + self.depth:
            self._next = first  # packets were swapped before playing began
        if first + count <= self._next:
            seen.late += 1
            return
        if first in self._frames:
            seen.duplicate += 1
            return
        earliest = self._next if self._playing else first - count  # what was played already would stay for ever
        for i in range(max(first, earliest), first + count):
            self._frames[i] = packet.codes[:, i - first]
        if len(packet.previous):
            for i in range(max(first - count, earliest), first):
                self._coarse[i] = packet.previous[:, i - first + count]

    def finish(self, timestamp: int | None = None) -> None:
        """The sender has ended: what is there is played without waiting for more. Sample number `timestamp`, if known, would be next.

        Frames lost at the end count as `buffered` then, up to a second of them: nothing says that a sender tells the truth.
        """
        if self._base is not None and timestamp is not None:
            end = self._next + self._after(timestamp) // self.codec.info.frame_size
            self._end = end if 0 < end - self._next - self.buffered <= RESTART_AFTER else None
        self._playing = True

    def _after(self, timestamp: int) -> int:
        """Samples from the frame to play next to `timestamp`: near enough that 32 bits do for a call of any length."""
        return later(timestamp, ((self._base or 0) + self._next * self.codec.info.frame_size) % 2**32, 32)

    @property
    def buffered(self) -> int:
        """Frames from the one to play next to the last one that is there."""
        return max(max(self._frames, default=self._next - 1) + 1, self._end or 0, self._next) - self._next

    def pull(self) -> Audio:
        """The next frame of samples, [frame_size], for the moment it is to be played. Silence before anything has come."""
        self._playing = self._playing or self.buffered > self.depth
        if not self._playing:
            return np.zeros(self.codec.info.frame_size, np.float32)
        if self.buffered > self.depth + MOST_WAITING:
            self._skip(self.buffered - self.depth)
        return self._play()

    def drain(self, leave: int = 0) -> Audio:
        """All frames but the last `leave`, and nothing skipped: when the sender has said good-bye, or for a recording, which has time."""
        frames = max(self.buffered - leave, 0)
        self._playing = self._playing or frames > 0
        parts = [*(self._rest or []), *(self._play() for _ in range(frames))]
        self._rest = []
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)

    def _play(self) -> Audio:
        seen, number = self.statistics, self._next
        exact, coarse = self._frames.pop(number, None), self._coarse.pop(number, None)
        self._next += 1
        seen.played += 1
        if exact is not None:
            return self.decoder.push(exact[:, None])
        if coarse is not None:
            seen.recovered += 1
            return self.decoder.push(coarse[:, None])
        seen.concealed += 1
        return self.decoder.conceal(1)

    def _skip(self, frames: int) -> None:
        """Leave out frames, to be no later than wanted."""
        self.statistics.restarts += 1
        for number in range(self._next, self._next + frames):
            self._frames.pop(number, None)
            self._coarse.pop(number, None)
        self._next += frames

    def _restart(self, timestamp: int) -> None:
        """A new talk begins: what is buffered belongs to the old one."""
        self.statistics.restarts += 1
        if self._rest is not None:
            self._rest += [self._play() for _ in range(self.buffered)]
        self._frames.clear()
        self._coarse.clear()
        self._base, self._next, self._playing, self._late, self._end = timestamp, 0, False, 0, None
