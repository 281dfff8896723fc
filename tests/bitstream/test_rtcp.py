"""The good-bye on the RTP port: RFC 3550's bits, and nothing but named errors for anything else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectokenizer import CorruptedError
from spectokenizer.bitstream.rtcp import GoodBye, is_rtcp
from spectokenizer.bitstream.rtp import RtpPacket

words = st.integers(0, 2**32 - 1)


@given(ssrc=words, timestamp=words, packets=words, name=st.text(max_size=80), seconds=st.floats(0, 4e9, allow_subnormal=False), count=words)
def test_round_trip(ssrc: int, timestamp: int, packets: int, name: str, seconds: float, count: int) -> None:
    goodbye = GoodBye(ssrc, timestamp, packets)
    data = goodbye.pack(name, seconds, count)
    assert len(data) % 4 == 0 and is_rtcp(data)
    assert GoodBye.unpack(data) == goodbye


def test_the_bits() -> None:
    data = GoodBye(0x01020304, 0x0A0B0C0D, 150).pack("ab", 0.5, 1650)
    assert data.hex(" ") == (
        "80 c8 00 06 01 02 03 04 83 aa 7e 80 80 00 00 00 0a 0b 0c 0d 00 00 00 96 00 00 06 72 "  # sender report, 1970 in NTP time
        "81 ca 00 03 01 02 03 04 01 02 61 62 00 00 00 00 "  # CNAME "ab"
        "81 cb 00 01 01 02 03 04"  # BYE
    )


def test_what_others_send() -> None:
    receiver_report, bye_with_reason = bytes.fromhex("80c9000100000007"), bytes.fromhex("81cb000200000009") + b"\x03off"
    assert GoodBye.unpack(receiver_report) is None
    assert GoodBye.unpack(receiver_report + bye_with_reason) == GoodBye(9)
    assert GoodBye.unpack(bytes.fromhex("80cb0000")) is None  # of nobody
    with pytest.raises(CorruptedError, match="cut off at byte 8"):
        GoodBye.unpack(receiver_report + b"\x81")


@given(st.binary(max_size=80), st.sampled_from([b"", b"\x80\xc8\x00\x06", b"\x81\xcb\x00\x01"]))
def test_any_bytes_are_rtcp_or_a_named_error(data: bytes, start: bytes) -> None:
    try:
        goodbye = GoodBye.unpack(start + data)
    except CorruptedError:
        return
    assert goodbye is None or 0 <= goodbye.ssrc < 2**32


@given(kind=st.integers(0, 127).filter(lambda kind: not 64 <= kind <= 95), marker=st.booleans())
def test_our_rtp_is_never_taken_for_rtcp(kind: int, marker: bool) -> None:
    assert not is_rtcp(RtpPacket(b"", 0, 0, 0, kind, marker).pack())
    assert not is_rtcp(b"") and not is_rtcp(b"\x80")
