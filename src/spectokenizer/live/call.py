"""The two ends of a call over RTP, without sockets or clocks: samples to datagrams, datagrams to a `Receiver`.

`docs/rtp.md` is the payload format. A call is one direction; two make a conversation.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy.typing as npt

from ..bitstream.packets import Packetizer, unpack_packet
from ..bitstream.rtcp import GoodBye, is_rtcp
from ..bitstream.rtp import PAYLOAD_TYPE, RtpPacket, later
from ..errors import CorruptedError
from ..runtime.receiver import Receiver

if TYPE_CHECKING:
    from ..runtime.codec import Codec

MAX_DATAGRAM = 1472  # bytes: what Ethernet carries in one piece; ours have at most 157
MOST_MISSING = 3000  # packets: a larger jump of the sequence number is no loss (RFC 3550, appendix A.1)
PATIENCE = 2.0  # seconds of silence after which another sender may take the place of the first


class Outgoing:
    """Samples in, datagrams out; sequence number, timestamp and SSRC begin at random, as RFC 3550 wants them.

    Raises BitrateError and CodesError as `Codec.encoder` and `Packetizer` do.
    """

    def __init__(self, codec: Codec, bitrate: float | None = None, redundancy: int = 0, packet_frames: int = 1):
        self.frame_size = codec.info.frame_size
        self.encoder = codec.encoder(bitrate)
        self._packetizer = Packetizer(codec.info.bits_per_code, packet_frames, redundancy)
        self.ssrc, self._timestamp, self._sequence = secrets.randbits(32), secrets.randbits(32), secrets.randbits(16)
        self.packets, self.payload_bytes = 0, 0

    def push(self, samples: npt.ArrayLike) -> list[bytes]:
        """Mono samples [n] at the model's rate; the datagrams that are complete now."""
        return [self._datagram(payload) for payload in self._packetizer.push(self.encoder.push(samples))]

    def finish(self) -> list[bytes]:
        """The datagrams of what is left."""
        payloads = self._packetizer.push(self.encoder.flush()) + self._packetizer.flush()
        return [self._datagram(payload) for payload in payloads]

    def goodbye(self) -> bytes:
        """The datagram that ends the call."""
        name = f"{self.ssrc:08x}@spectok.invalid"  # says nothing about who it is (RFC 7022)
        return GoodBye(self.ssrc, self._timestamp, self.packets).pack(name, time.time(), self.payload_bytes)

    def _datagram(self, payload: bytes) -> bytes:
        data = RtpPacket(payload, self._sequence, self._timestamp, self.ssrc, marker=self.packets == 0).pack()
        self.packets, self.payload_bytes = self.packets + 1, self.payload_bytes + len(payload)
        self._sequence = (self._sequence + 1) % 2**16
        frames = (payload[0] >> 2 & 3) + 1
        self._timestamp = (self._timestamp + frames * self.frame_size) % 2**32
        return data


@dataclass
class Arrivals:
    """What came to the port, besides what `Receiver.statistics` counts."""

    garbage: int = 0  # datagrams that are not of this format
    foreign: int = 0  # of other senders
    expected: int = 0  # packets of the sender so far, by its numbers, of which
    distinct: int = 0  # have come, once or more often


class Incoming:
    """Datagrams in, packets for `receiver` out. Never raises for what the network brings.

    The first sender whose packet fits the model has the call, by its address and SSRC, until it was silent for two seconds.
    """

    def __init__(self, codec: Codec, depth: int = 3):
        self.codec, self.receiver = codec, Receiver(codec, depth)
        self.arrivals = Arrivals()
        self.ended = False  # the sender said good-bye
        self.heard: float | None = None  # when its last packet came
        self._sender: tuple[object, int] | None = None
        self._counted = 0  # packets of the senders before this one
        self._first = self._last = 0  # sequence numbers, unwrapped
        self._numbers: set[int] = set()  # that have come, of late

    def take(self, data: bytes, address: object, now: float) -> None:
        """A datagram from `address` at the time `now` in seconds."""
        try:
            if len(data) > MAX_DATAGRAM:
                raise CorruptedError(f"a datagram of more than {MAX_DATAGRAM} bytes")
            if is_rtcp(data):
                self._control(GoodBye.unpack(data), address)
            else:
                self._media(RtpPacket.unpack(data), address, now)
        except CorruptedError:
            self.arrivals.garbage += 1

    def _media(self, packet: RtpPacket, address: object, now: float) -> None:
        if packet.payload_type != PAYLOAD_TYPE:
            raise CorruptedError(f"payload type {packet.payload_type}")
        sender = (address, packet.ssrc)
        if sender != self._sender:
            if self._sender is not None and self.heard is not None and now - self.heard < PATIENCE and not self.ended:
                self.arrivals.foreign += 1
                return
            unpack_packet(packet.payload, self.codec.info.bits_per_code, self.codec.info.num_codebooks)
            self._sender, self._counted, self.ended = sender, self.arrivals.expected, False
            self._first = self._last = packet.sequence
            self._numbers.clear()
        self.heard = now
        ahead = later(packet.sequence, self._last & 0xFFFF)
        if abs(ahead) > MOST_MISSING:
            self._counted, self._first, self._last, ahead = self.arrivals.expected, packet.sequence, packet.sequence, 0
            self._numbers.clear()
        self._arrived(self._last + ahead)
        self._last += max(ahead, 0)
        self.arrivals.expected = self._counted + self._last - self._first + 1
        self.receiver.put(packet.timestamp, packet.payload)

    def _arrived(self, number: int) -> None:
        if number not in self._numbers:
            self._numbers.add(number)
            self.arrivals.distinct += 1
        if len(self._numbers) > 2 * MOST_MISSING:
            self._numbers = {seen for seen in self._numbers if seen >= number - MOST_MISSING}

    def _control(self, goodbye: GoodBye | None, address: object) -> None:
        if goodbye is None:
            return
        if (address, goodbye.ssrc) != self._sender:
            self.arrivals.foreign += 1
        elif not self.ended:
            self.ended = True
            now = self.arrivals.expected - self._counted
            if goodbye.packets is not None and now <= goodbye.packets <= 2 * now + 100:  # those before the first and after the last, too
                self.arrivals.expected = self._counted + goodbye.packets
            self.receiver.finish(goodbye.timestamp)

    def summary(self) -> str:
        """One line of statistics."""
        seen, arrivals = self.receiver.statistics, self.arrivals
        lost = max(0, arrivals.expected - arrivals.distinct + seen.corrupted)
        share = 100 * lost / arrivals.expected if arrivals.expected else 0.0
        return (
            f"{arrivals.expected} packets sent, {lost} lost ({share:.1f} %), {seen.late} late, {seen.duplicate} duplicate, "
            f"{seen.corrupted} corrupted; {seen.played} frames played, {seen.recovered} recovered, {seen.concealed} concealed, "
            f"{seen.restarts} restarts; ignored {arrivals.foreign} datagrams of others, {arrivals.garbage} of garbage"
        )
