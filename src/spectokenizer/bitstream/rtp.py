"""RTP (RFC 3550, section 5.1) around live packets; `docs/rtp.md` is the payload format. Header only; `rtcp.py` says good-bye."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from ..errors import CorruptedError

VERSION = 2
PAYLOAD_TYPE = 96  # the first dynamic one
HEADER = struct.Struct("!BBHII")


@dataclass(frozen=True)
class RtpPacket:
    """One datagram. `sequence` counts packets modulo 2^16, `timestamp` samples modulo 2^32."""

    payload: bytes
    sequence: int
    timestamp: int
    ssrc: int
    payload_type: int = PAYLOAD_TYPE
    marker: bool = False  # the first packet after a pause

    def pack(self) -> bytes:
        second = self.marker << 7 | self.payload_type
        return HEADER.pack(VERSION << 6, second, self.sequence & 0xFFFF, self.timestamp & 0xFFFFFFFF, self.ssrc) + self.payload

    @classmethod
    def unpack(cls, data: bytes) -> RtpPacket:
        """Raises CorruptedError for what is not RTP; contributors, extension and padding are skipped."""
        if len(data) < HEADER.size:
            raise CorruptedError(f"{len(data)} bytes are no RTP packet: its header has {HEADER.size}")
        first, second, sequence, timestamp, ssrc = HEADER.unpack_from(data)
        if first >> 6 != VERSION:
            raise CorruptedError(f"RTP version {first >> 6}, expected was {VERSION}")
        start, end = HEADER.size + 4 * (first & 0x0F), len(data)
        if first & 0x10:
            if start + 4 > end:
                raise CorruptedError("the RTP header is cut off")
            start += 4 + 4 * int.from_bytes(data[start + 2 : start + 4])
        if first & 0x20:
            end -= data[-1] or len(data)
        if start > end:
            raise CorruptedError("the RTP header or padding is longer than the packet")
        return cls(data[start:end], sequence, timestamp, ssrc, second & 0x7F, bool(second >> 7))


def later(sequence: int, reference: int, bits: int = 16) -> int:
    """How much later `sequence` is than `reference`, across the wrap-around; negative when earlier."""
    half = 1 << bits - 1
    return (sequence - reference + half) % (1 << bits) - half
