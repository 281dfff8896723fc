"""Live packets and RTP: every bit in its place, and nothing but named errors for what the network makes of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectokenizer import CodesError, CorruptedError
from spectokenizer.bitstream.packets import Packetizer, pack_packet, unpack_packet
from spectokenizer.bitstream.rtp import RtpPacket, later

BITS = 10


def random_codes(seed: int, k: int, t: int, bits: int = BITS) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1 << bits, (k, t)).astype(np.int16)


@given(seed=st.integers(0, 2**32 - 1), k=st.integers(1, 16), t=st.integers(1, 4), r=st.integers(0, 3), bits=st.integers(1, 15))
def test_round_trip(seed: int, k: int, t: int, r: int, bits: int) -> None:
    codes, previous = random_codes(seed, k, t, bits), random_codes(seed + 1, r, t, bits)
    data = pack_packet(codes, bits, previous)
    assert len(data) == 1 + -(-(k + r) * t * bits // 8)
    found = unpack_packet(data, bits)
    assert np.array_equal(found.codes, codes) and np.array_equal(found.previous, previous)
    assert found.codes.dtype == found.previous.dtype == np.int16


def test_the_published_sizes_and_bits() -> None:
    """4 kbps is ten bytes per 20 ms and one of header; the layout is that of the module's first lines."""
    codes = np.array([[1], [1023], [0], [0], [0], [0], [0], [2]])
    data = pack_packet(codes, BITS)
    assert data.hex(" ") == "70 00 7f f0 00 00 00 00 00 00 02"
    assert pack_packet(codes, BITS, [[512]]).hex(" ") == "71 00 7f f0 00 00 00 00 00 00 02 80 00"


@given(data=st.binary(max_size=40), bits=st.integers(1, 15), k=st.integers(1, 16))
def test_any_bytes_are_a_packet_or_a_named_error(data: bytes, bits: int, k: int) -> None:
    try:
        packet = unpack_packet(data, bits, k)
    except CorruptedError:
        return
    assert len(packet.codes) <= k and len(packet.previous) <= k
    assert pack_packet(packet.codes, bits, packet.previous) == data


@pytest.mark.parametrize("shape", [(0, 1), (17, 1), (1, 0), (1, 5)])
def test_what_does_not_fit(shape: tuple[int, int]) -> None:
    with pytest.raises(CodesError, match="a packet holds"):
        pack_packet(np.zeros(shape, int), BITS)
    with pytest.raises(CodesError, match="a packet holds"):
        pack_packet(np.zeros((2, 2), int), BITS, np.zeros((1, 1), int))


@given(cuts=st.lists(st.integers(0, 7), max_size=12), frames=st.integers(1, 4), redundancy=st.integers(0, 3), seed=st.integers(0, 99))
def test_packetizer_keeps_every_frame_and_repeats_the_frames_before(cuts: list[int], frames: int, redundancy: int, seed: int) -> None:
    codes = random_codes(seed, 5, sum(cuts))
    packetizer, packets = Packetizer(BITS, frames, redundancy), []
    for part in np.split(codes, np.cumsum(cuts), 1):
        packets += packetizer.push(part)
    packets += packetizer.flush()
    found = [unpack_packet(packet, BITS) for packet in packets]
    assert np.array_equal(np.concatenate([np.zeros((5, 0), int), *(p.codes for p in found)], 1), codes)
    at = 0
    for i, packet in enumerate(found):
        count = packet.codes.shape[1]
        assert len(packet.previous) == (redundancy if i else 0)
        if i:
            assert np.array_equal(packet.previous, codes[:redundancy, at - count : at])
        at += count


def test_packetizer_when_the_bitrate_changes() -> None:
    packetizer = Packetizer(BITS, frames=2, redundancy=1)
    packets = packetizer.push(random_codes(0, 3, 3)) + packetizer.push(random_codes(1, 6, 2)) + packetizer.flush()
    shapes = [(unpack_packet(p, BITS).codes.shape, unpack_packet(p, BITS).previous.shape) for p in packets]
    assert shapes == [((3, 2), (0, 2)), ((3, 1), (1, 1)), ((6, 2), (0, 2))]
    with pytest.raises(CodesError, match="packets hold 1 to 4 frames"):
        Packetizer(BITS, frames=5)


@given(st.binary(max_size=30), st.integers(0, 65535), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.booleans())
def test_rtp_round_trip(payload: bytes, sequence: int, timestamp: int, ssrc: int, marker: bool) -> None:
    packet = RtpPacket(payload, sequence, timestamp, ssrc, marker=marker)
    assert RtpPacket.unpack(packet.pack()) == packet
    assert packet.pack()[:2] == bytes([0x80, 0x80 * marker | 96])


def test_rtp_of_others() -> None:
    """Contributing sources, a header extension and padding are legal and skipped."""
    head = bytes([0x80 | 0x20 | 0x10 | 2, 96, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3])
    data = head + bytes(8) + bytes([0xBE, 0xDE, 0, 1, 9, 9, 9, 9]) + b"payload" + bytes([0, 2])
    assert RtpPacket.unpack(data) == RtpPacket(b"payload", 1, 2, 3)


@given(st.binary(max_size=60))
def test_any_datagram_is_rtp_or_a_named_error(data: bytes) -> None:
    try:
        packet = RtpPacket.unpack(data)
    except CorruptedError:
        return
    assert len(packet.payload) <= len(data) - 12


def test_sequence_numbers_wrap() -> None:
    assert (later(2, 65534), later(65534, 2), later(7, 7)) == (4, -4, 0)
    assert later(100, 2**32 - 220, 32) == 320
