"""Both ends of a call over RTP without a network between them: numbers, strangers, garbage, good-byes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectokenizer import BitrateError, Codec
from spectokenizer.bitstream.packets import unpack_packet
from spectokenizer.bitstream.rtcp import GoodBye
from spectokenizer.bitstream.rtp import RtpPacket, later
from spectokenizer.live.call import MAX_DATAGRAM, PATIENCE, Incoming, Outgoing
from spectokenizer.runtime.receiver import MAX_DEPTH

FRAME, US, THEM = 320, ("192.0.2.1", 5004), ("192.0.2.2", 5004)


def call(codec: Codec, speech: np.ndarray, redundancy: int = 0, frames: int = 1) -> tuple[Outgoing, list[bytes]]:
    """Half a second in datagrams, the good-bye last."""
    outgoing = Outgoing(codec, None, redundancy, frames)
    datagrams = outgoing.push(speech[:5000]) + outgoing.push(speech[5000:8000]) + outgoing.finish()
    return outgoing, [*datagrams, outgoing.goodbye()]


@pytest.mark.parametrize("frames", [1, 3, 4])
def test_numbers_and_payloads(tiny_codec: Codec, speech: np.ndarray, frames: int) -> None:
    outgoing, (*datagrams, last) = call(tiny_codec, speech, 1, frames)
    packets = [RtpPacket.unpack(data) for data in datagrams]
    codes = tiny_codec.encode(speech[:8000], 16000, tiny_codec.info.bitrates[-1]).array
    payloads = [unpack_packet(packet.payload, tiny_codec.info.bits_per_code) for packet in packets]
    assert np.array_equal(np.concatenate([payload.codes for payload in payloads], 1), codes)
    first = packets[0]
    assert [later(packet.sequence, first.sequence) for packet in packets] == list(range(len(packets)))
    assert [later(packet.timestamp, first.timestamp, 32) for packet in packets] == [i * frames * FRAME for i in range(len(packets))]
    assert [packet.marker for packet in packets] == [True] + [False] * (len(packets) - 1)
    assert {(packet.ssrc, packet.payload_type) for packet in packets} == {(outgoing.ssrc, 96)}
    goodbye = GoodBye.unpack(last)
    assert goodbye and (goodbye.ssrc, goodbye.packets) == (outgoing.ssrc, len(packets))
    assert goodbye.timestamp is not None and later(goodbye.timestamp, first.timestamp, 32) == codes.shape[1] * FRAME


def test_calls_begin_at_random(tiny_codec: Codec) -> None:
    assert len({Outgoing(tiny_codec, None).ssrc for _ in range(8)}) == 8
    with pytest.raises(BitrateError):
        Outgoing(tiny_codec, 1)


@given(lost=st.sets(st.integers(1, 25)), redundancy=st.integers(0, 1), start=st.integers(0, 2**16 - 1))
def test_every_frame_is_in_its_place_whatever_is_lost_behind_the_first(
    tiny_codec: Codec, speech: np.ndarray, lost: set[int], redundancy: int, start: int
) -> None:
    outgoing = Outgoing(tiny_codec, None, redundancy)
    outgoing._sequence = start  # it wraps around
    datagrams = [*outgoing.push(speech[:8000]), *outgoing.finish()]
    incoming = Incoming(tiny_codec, depth=2)
    for i, data in enumerate([*datagrams, outgoing.goodbye()]):
        if i not in lost:
            incoming.take(data, US, i / 50)
    assert incoming.ended
    seen = incoming.receiver.statistics
    audio = incoming.receiver.drain()
    codes = tiny_codec.encode(speech[:8000], 16000, tiny_codec.info.bitrates[-1]).array
    decoder = tiny_codec.decoder()
    expected = [
        decoder.push(codes[:, i : i + 1])
        if i not in lost
        else decoder.push(codes[:1, i : i + 1])
        if redundancy and i + 1 not in lost and i + 1 < len(datagrams)
        else decoder.conceal(1)
        for i in range(len(datagrams))
    ]
    np.testing.assert_array_equal(audio, np.concatenate(expected))
    assert (incoming.arrivals.expected, seen.recovered + seen.concealed) == (len(datagrams), len(lost))
    assert f"{len(datagrams)} packets sent, {len(lost)} lost ({100 * len(lost) / len(datagrams):.1f} %)" in incoming.summary()


def test_the_first_sender_has_the_call_until_it_is_silent(tiny_codec: Codec, speech: np.ndarray) -> None:
    _, ours = call(tiny_codec, speech)
    _, theirs = call(tiny_codec, -speech)
    incoming = Incoming(tiny_codec, depth=0)
    for i in range(10):
        incoming.take(ours[i], US, i / 50)
        incoming.take(theirs[i], THEM, i / 50)  # another sender
        incoming.take(ours[i], THEM, i / 50)  # our SSRC from elsewhere
    incoming.take(theirs[-1], THEM, 0.2)
    incoming.take(ours[-1], THEM, 0.2)  # a good-bye in our name
    assert (incoming.receiver.statistics.received, incoming.arrivals.foreign, incoming.ended) == (10, 22, False)
    late = 9 / 50 + PATIENCE
    incoming.take(theirs[10], THEM, late + 0.1)
    incoming.take(ours[11], US, late + 0.11)
    assert (incoming.receiver.statistics.received, incoming.arrivals.foreign, incoming.arrivals.expected) == (11, 23, 11)
    incoming.take(theirs[-1], THEM, late + 0.2)
    assert incoming.ended
    incoming.take(ours[12], US, late + 0.3)  # after a good-bye the next one may call at once
    assert not incoming.ended and incoming.receiver.statistics.received == 12


def test_who_sends_something_else_does_not_get_the_call(tiny_codec: Codec, speech: np.ndarray) -> None:
    _, ours = call(tiny_codec, speech)
    incoming = Incoming(tiny_codec)
    for data in (
        b"",
        b"hello",
        RtpPacket(b"", 0, 0, 1).pack(),
        RtpPacket(b"\xf0\1", 0, 0, 1).pack(),
        RtpPacket(b"\0\0", 0, 0, 1, 0).pack(),
    ):
        incoming.take(data, THEM, 0.0)
    incoming.take(ours[0] + bytes(MAX_DATAGRAM), THEM, 0.0)
    assert incoming.heard is None and incoming.arrivals.garbage == 6
    incoming.take(ours[0], US, 0.0)
    incoming.take(RtpPacket(b"junk", 7, 7, RtpPacket.unpack(ours[0]).ssrc).pack(), US, 0.1)
    assert incoming.receiver.statistics.corrupted == 1


@given(
    st.lists(st.tuples(st.binary(max_size=60), st.sampled_from([b"", b"\x80\x60", b"\x80\xc8\x00\x06", b"\x81\xcb\x00\x01"])), max_size=30)
)
def test_anything_may_come(tiny_codec: Codec, speech: np.ndarray, datagrams: list[tuple[bytes, bytes]]) -> None:
    _, ours = call(tiny_codec, speech)
    incoming = Incoming(tiny_codec, depth=1)
    for i, (data, start) in enumerate(datagrams):
        incoming.take(ours[i % len(ours)], US, i / 50)
        incoming.take(start + data, US if i % 2 else THEM, i / 50)
        assert np.isfinite(incoming.receiver.pull()).all()


def test_a_sender_cannot_make_us_play_for_ever(tiny_codec: Codec, speech: np.ndarray) -> None:
    outgoing, ours = call(tiny_codec, speech)
    incoming = Incoming(tiny_codec)
    incoming.take(ours[0], US, 0.0)
    incoming.take(GoodBye(outgoing.ssrc, (RtpPacket.unpack(ours[0]).timestamp + 2**30) % 2**32, 2**31).pack("x", 0.0), US, 0.1)
    assert incoming.ended and incoming.receiver.buffered == 1 and incoming.arrivals.expected == 1


def test_a_sender_that_numbers_anew_has_not_lost_thousands(tiny_codec: Codec, speech: np.ndarray) -> None:
    _, ours = call(tiny_codec, speech)
    packets = [RtpPacket.unpack(data) for data in ours[:6]]
    incoming = Incoming(tiny_codec)
    for i, packet in enumerate(packets):
        sequence = 65534 + i if i < 3 else 20000 + 2 * i  # across the wrap; then anew, every other one lost
        incoming.take(replace(packet, sequence=sequence % 65536).pack(), US, i / 50)
    assert incoming.arrivals.expected == 3 + 5


def test_loss_is_counted_by_numbers_not_by_copies(tiny_codec: Codec, speech: np.ndarray) -> None:
    """Every second packet is lost, and the others come again when they have been played."""
    _, (*datagrams, goodbye) = call(tiny_codec, speech)
    incoming = Incoming(tiny_codec, depth=2)
    for i in range(len(datagrams) + 12):
        if i < len(datagrams) and i % 2 == 0:
            incoming.take(datagrams[i], US, i / 50)
        if i >= 12 and i % 2 == 0:
            incoming.take(datagrams[i - 12], US, i / 50)
        incoming.receiver.pull()
    incoming.take(goodbye, US, 2)
    assert incoming.summary().startswith(f"{len(datagrams)} packets sent, {len(datagrams) // 2} lost")


@pytest.mark.parametrize("order", [[*range(10), *range(22, 41), *range(10, 22)], [*range(10), *range(15, 20), *range(10, 15)]], ids=len)
def test_a_recording_waits_for_what_was_overtaken(tiny_codec: Codec, speech: np.ndarray, order: list[int]) -> None:
    """Every frame in its place, however late; a recording has time."""
    outgoing = Outgoing(tiny_codec, None)
    datagrams = [*outgoing.push(speech[: 60 * FRAME]), *outgoing.finish()]
    incoming, heard = Incoming(tiny_codec), []
    for i in [*order, *range(len(order), len(datagrams))]:
        incoming.take(datagrams[i], US, i / 50)
        heard.append(incoming.receiver.drain(MAX_DEPTH))
    heard.append(incoming.receiver.drain())
    codes = tiny_codec.encode(speech[: 60 * FRAME], 16000, tiny_codec.info.bitrates[-1]).array
    np.testing.assert_array_equal(np.concatenate(heard), tiny_codec.decoder().push(codes))
    assert incoming.receiver.statistics.restarts == 0


def test_a_recording_does_not_start_over_for_who_is_late(tiny_codec: Codec, speech: np.ndarray) -> None:
    outgoing = Outgoing(tiny_codec, None)
    datagrams = [*outgoing.push(np.resize(speech, 150 * FRAME)), *outgoing.finish()]
    incoming, heard = Incoming(tiny_codec), []
    for i in [*range(10), *range(40, 130), *range(10, 40), *range(130, len(datagrams))]:  # thirty come more than a second late
        incoming.take(datagrams[i], US, i / 50)
        heard.append(incoming.receiver.drain(MAX_DEPTH))
    heard.append(incoming.receiver.drain())
    assert len(np.concatenate(heard)) == len(datagrams) * FRAME and incoming.receiver.statistics.restarts == 0
