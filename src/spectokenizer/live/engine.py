"""Many calls through one network call per tick and direction. Knows no sockets; all of it runs in one thread.

A call's messages are those of `docs/server.md`. Each tick takes in what has come, steps every stream that has a frame waiting by that
one frame, and gives out what is to be sent: so a call that brings much is served as often as one that brings little.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ..bitstream.packets import Packetizer, unpack_packet
from ..bitstream.rtp import later
from ..errors import SpecTokenizerError, StreamError
from ..runtime.audio import Audio
from ..runtime.batch import DecoderBatch, EncoderBatch
from ..runtime.sinks import to_int16

if TYPE_CHECKING:
    from ..codes import CodeArray
    from ..runtime.codec import Codec

MODES = ("encode", "decode", "echo")
MOST_CONCEALED = 50  # frames: a longer gap is a pause of the sender, for which nothing is played

NORMAL, INVALID, POLICY, TRY_LATER = 1000, 1007, 1008, 1013  # close codes of RFC 6455 and IANA's registry


@dataclass(frozen=True)
class Settings:
    """What a client asks for; bitrate in bit/s, None for the model's default."""

    mode: str
    bitrate: float | None = None
    redundancy: int = 0
    packet_frames: int = 1


@dataclass(eq=False)
class Call:
    """One stream. Only the engine changes what is below `settings`."""

    settings: Settings
    encoder: int | None = None  # slots
    decoder: int | None = None
    packetizer: Packetizer | None = None
    sequence: int = 0  # of the next packet to send
    expected: int | None = None  # of the next packet to come
    frames_before: int = 1  # in the last packet that came
    taken: int = 0  # messages
    seconds: float = 0.0  # of audio taken
    waiting: int = 0  # frames
    ending: bool = False


# What a client asks of the engine: the call and one of these.
@dataclass(frozen=True)
class Open:
    """Find room for a new call."""


@dataclass(frozen=True)
class Leave:
    """The client is gone."""


@dataclass(frozen=True)
class End:
    """No more will come; or, from the engine: all is out. `frames` and `samples` in all."""

    frames: int = 0
    samples: int = 0


@dataclass(frozen=True)
class Bitrate:
    bitrate: float


class CallError(Exception):
    """A call cannot go on, by the client's mistake or our limits: how its connection is to be closed. `kind` is for the metrics."""

    def __init__(self, code: int, reason: str, kind: str = "refused"):
        super().__init__(reason)
        self.code, self.reason, self.kind = code, reason, kind


Request = Open | Leave | End | Bitrate | bytes
Reply = Open | End | CallError | bytes


@dataclass
class Tick:
    """What one tick did."""

    replies: list[tuple[Call, Reply]] = field(default_factory=list)
    batches: dict[str, tuple[int, float]] = field(default_factory=dict)  # encoder, decoder: streams stepped, seconds
    concealed: int = 0  # frames
    recovered: int = 0
    late: int = 0  # packets
    more: bool = False  # frames wait for the next tick


class Engine:
    """`slots` streams per direction at most. Raises StreamError for none."""

    def __init__(self, codec: Codec, slots: int = 64):
        self.codec = codec
        self.encoders, self.decoders = EncoderBatch(codec, slots), DecoderBatch(codec, slots)
        self._encoding: dict[int, Call] = {}  # by slot
        self._decoding: dict[int, Call] = {}
        self._ending: list[Call] = []

    def tick(self, requests: Iterable[tuple[Call, Request]] = ()) -> Tick:
        """Requests in the order they came, then one frame of every stream. A call's own mistakes end that call only."""
        tick = Tick()
        for call, request in requests:
            try:
                self._take(call, request, tick)
            except SpecTokenizerError as error:
                self._refuse(call, CallError(INVALID, str(error)), tick)
            except CallError as error:
                self._refuse(call, error, tick)
        self._step(tick)
        for call in list(self._ending):
            if not self._left(call):
                try:
                    self._finish(call, tick)
                except SpecTokenizerError as error:
                    self._refuse(call, CallError(POLICY, str(error)), tick)
        for call in (*self._encoding.values(), *self._decoding.values()):
            call.waiting = self._left(call)
        tick.more = bool(self.encoders.ready or self.decoders.ready)
        return tick

    # -- what comes in ---------------------------------------------------------------------------------------------------------

    def _take(self, call: Call, request: Request, tick: Tick) -> None:
        if isinstance(request, Open):
            self._open(call)
            tick.replies.append((call, Open()))
        elif isinstance(request, Leave):
            self._leave(call)
        elif (call.encoder is None and call.decoder is None) or call.ending:
            return  # over; this was still on its way
        elif isinstance(request, bytes):
            call.taken += 1
            if call.encoder is not None:
                self._samples(call, call.encoder, request)
            elif call.decoder is not None:
                self._packet(call, call.decoder, request, tick)
        elif isinstance(request, Bitrate):
            call.taken += 1
            if call.encoder is None:
                raise CallError(POLICY, "a bitrate is for encode and echo; a decoder follows its packets")
            self.encoders[call.encoder].set_bitrate(request.bitrate)
        else:
            call.taken += 1
            call.ending = True
            self._ending.append(call)
            if call.encoder is not None:
                self.encoders.flush(call.encoder)

    def _open(self, call: Call) -> None:
        wants, settings = call.settings.mode, call.settings
        if wants != "decode":
            packetizer = Packetizer(self.codec.info.bits_per_code, settings.packet_frames, settings.redundancy)
            self.codec.codebooks_for(settings.bitrate)
            call.packetizer = packetizer if wants == "encode" else None
        try:
            if wants != "decode":
                call.encoder = self.encoders.join(settings.bitrate)
                self._encoding[call.encoder] = call
            if wants != "encode":
                call.decoder = self.decoders.join()
                self._decoding[call.decoder] = call
        except StreamError as error:
            raise CallError(TRY_LATER, f"all {self.encoders.slots} streams are taken; try later", "full") from error

    def _leave(self, call: Call) -> None:
        if call.encoder is not None:
            self.encoders.leave(call.encoder)
            del self._encoding[call.encoder]
        if call.decoder is not None:
            self.decoders.leave(call.decoder)
            del self._decoding[call.decoder]
        if call.ending:
            self._ending.remove(call)
        call.encoder = call.decoder = None
        call.ending, call.waiting = False, 0

    def _refuse(self, call: Call, error: CallError, tick: Tick) -> None:
        self._leave(call)
        tick.replies.append((call, error))

    def _samples(self, call: Call, slot: int, data: bytes) -> None:
        if len(data) % 2:
            raise CallError(INVALID, f"{len(data)} bytes of PCM are not whole 16-bit samples")
        self.encoders.push(slot, np.frombuffer(data, "<i2").astype(np.int16))
        call.seconds += len(data) / 2 / self.codec.info.sample_rate

    def _packet(self, call: Call, slot: int, data: bytes, tick: Tick) -> None:
        """Two bytes of sequence number and a packet, or nothing in place of a lost one."""
        if len(data) < 2:
            raise CallError(INVALID, f"a message of {len(data)} bytes; two of sequence number and a packet are wanted")
        sequence, payload, info = int.from_bytes(data[:2]), data[2:], self.codec.info
        packet = unpack_packet(payload, info.bits_per_code, info.num_codebooks) if payload else None
        gap = 0 if call.expected is None else later(sequence, call.expected)
        if gap < 0:
            tick.late += 1
            return
        call.expected = (sequence + 1) % 2**16
        before, frames = call.frames_before, packet.codes.shape[1] if packet else 0
        missing = gap * max(before, frames) + (0 if packet else before)  # a last packet may be short, those lost were not
        call.frames_before = frames or before
        missing = missing if missing <= MOST_CONCEALED else 0
        coarse = frames if packet and missing and len(packet.previous) else 0
        self.decoders.conceal(slot, missing - coarse)
        if packet:
            if coarse:
                self.decoders.push(slot, packet.previous)
            self.decoders.push(slot, packet.codes)
        tick.concealed += missing - coarse
        tick.recovered += coarse
        call.seconds += (missing + (frames if packet else 0)) / info.frame_rate

    # -- what goes out ---------------------------------------------------------------------------------------------------------

    def _step(self, tick: Tick) -> None:
        start = time.perf_counter()
        codes = self.encoders.step()
        tick.batches["encoder"] = len(codes), time.perf_counter() - start
        for slot, frame in codes.items():
            call = self._encoding[slot]
            try:
                if call.decoder is not None:
                    self.decoders.push(call.decoder, frame)
                else:
                    self._send(call, frame, tick)
            except SpecTokenizerError as error:  # more codebooks than a packet has room for
                self._refuse(call, CallError(POLICY, str(error)), tick)
        start = time.perf_counter()
        sounds: dict[int, Audio] = self.decoders.step()
        tick.batches["decoder"] = len(sounds), time.perf_counter() - start
        tick.replies += [(self._decoding[slot], to_int16(samples).tobytes()) for slot, samples in sounds.items()]

    def _send(self, call: Call, codes: CodeArray | None, tick: Tick) -> None:
        if call.packetizer is not None:
            for payload in call.packetizer.flush() if codes is None else call.packetizer.push(codes):
                tick.replies.append((call, call.sequence.to_bytes(2) + payload))
                call.sequence = (call.sequence + 1) % 2**16

    def _left(self, call: Call) -> int:
        """Frames of a call that are still to be stepped."""
        left = 0 if call.encoder is None else self.encoders[call.encoder].ready
        return left + (0 if call.decoder is None else self.decoders[call.decoder].ready)

    def _finish(self, call: Call, tick: Tick) -> None:
        self._send(call, None, tick)
        if call.encoder is not None:
            encoder = self.encoders[call.encoder]
            end = End(encoder.num_frames, encoder.num_samples)
        else:
            frames = self.decoders[call.decoder].num_frames if call.decoder is not None else 0
            end = End(frames, frames * self.codec.info.frame_size)
        self._leave(call)
        tick.replies.append((call, end))
