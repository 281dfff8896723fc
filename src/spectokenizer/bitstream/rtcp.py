"""The good-bye of an RTP stream: a compound RTCP packet of sender report, source description and BYE (RFC 3550, section 6).

Its report says where the stream ended and how many packets it had, so that the receiver knows of those lost at the very end. It comes
on the RTP port (RFC 5761). No other reports are sent or read.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from ..errors import CorruptedError
from .rtp import VERSION

SENDER_REPORT, RECEIVER_REPORT, SOURCE_DESCRIPTION, BYE = 200, 201, 202, 203
HEAD = struct.Struct("!BBH")  # version, padding and count | type | 32-bit words after the first
REPORT = struct.Struct("!IQIII")  # SSRC, NTP time, RTP timestamp, packets, bytes of payload
NTP_EPOCH = 2208988800  # 1970 in seconds since 1900


@dataclass(frozen=True)
class GoodBye:
    """A sender has ended. `timestamp` is that of the sample after its last one; it and `packets` are None when it did not say."""

    ssrc: int
    timestamp: int | None = None
    packets: int | None = None

    def pack(self, name: str, seconds: float, num_bytes: int = 0) -> bytes:
        """The compound packet: `name` is the sender's CNAME, `seconds` the time since 1970."""
        ntp = round((seconds + NTP_EPOCH) * 2**32) & 0xFFFFFFFFFFFFFFFF
        report = REPORT.pack(self.ssrc, ntp, (self.timestamp or 0) & 0xFFFFFFFF, (self.packets or 0) & 0xFFFFFFFF, num_bytes & 0xFFFFFFFF)
        text = name.encode()[:255]
        item = self.ssrc.to_bytes(4) + bytes([1, len(text)]) + text + b"\0"
        item += bytes(-len(item) % 4)
        parts = ((SENDER_REPORT, 0, report), (SOURCE_DESCRIPTION, 1, item), (BYE, 1, self.ssrc.to_bytes(4)))
        return b"".join(HEAD.pack(VERSION << 6 | count, kind, len(body) // 4) + body for kind, count, body in parts)

    @classmethod
    def unpack(cls, data: bytes) -> GoodBye | None:
        """The good-bye in an RTCP packet; None for one without. Raises CorruptedError for what is not RTCP."""
        reports: dict[int, tuple[int, int]] = {}
        leaving: int | None = None
        at = 0
        while at < len(data):
            if at + HEAD.size > len(data):
                raise CorruptedError(f"the RTCP packet is cut off at byte {at}")
            first, kind, words = HEAD.unpack_from(data, at)
            body = data[at + HEAD.size : at + HEAD.size + 4 * words]
            if first >> 6 != VERSION or not is_rtcp(data[at:]) or len(body) < 4 * words:
                raise CorruptedError(f"no RTCP packet at byte {at}: {data[at : at + HEAD.size].hex(' ')}")
            if kind == SENDER_REPORT and len(body) >= REPORT.size:
                ssrc, _, timestamp, packets, _ = REPORT.unpack_from(body)
                reports[ssrc] = (timestamp, packets)
            elif kind == BYE and first & 0x1F and len(body) >= 4:
                leaving = int.from_bytes(body[:4])
            at += HEAD.size + 4 * words
        return None if leaving is None else cls(leaving, *reports.get(leaving, (None, None)))


def is_rtcp(data: bytes) -> bool:
    """Whether a datagram on a port shared with RTP is RTCP: RTP's payload types leave these out (RFC 5761, section 4)."""
    return len(data) > 1 and 192 <= data[1] <= 223
