"""Codes to bits and back, and the checksum."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectokenizer.bitstream import crc32c, pack, unpack
from spectokenizer.bitstream.bits import packed_size
from spectokenizer.bitstream.crc32c import RangeCrc
from spectokenizer.errors import CodesError, CorruptedError


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 32), st.integers(0, 40), st.integers(1, 15), st.integers(0, 2**32 - 1))
def test_round_trip_and_bit_order(num_codebooks: int, num_frames: int, bits: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 1 << bits, (num_codebooks, num_frames))
    data = pack(codes, bits)
    assert len(data) == packed_size(num_codebooks, num_frames, bits)
    text = "".join(f"{code:0{bits}b}" for frame in codes.T for code in frame)  # the format, said plainly
    assert data == bytes(int(text[i : i + 8].ljust(8, "0"), 2) for i in range(0, len(text), 8))
    back = unpack(data, num_codebooks, num_frames, bits)
    assert back.dtype == np.int16
    assert back.flags.c_contiguous
    np.testing.assert_array_equal(back, codes)


def test_example_of_the_documentation() -> None:
    assert pack([[1023, 0], [1, 512]], 10).hex() == "ffc0100200"
    assert pack([[5]], 3).hex() == "a0"


@pytest.mark.parametrize(
    "codes",
    [[[0.0]], [0, 1], [[1024]], [[-1]], [[[0]]], [["1"]], [[True]]],
    ids=["float", "one dimension", "too large", "negative", "three dimensions", "text", "bool"],
)
def test_bad_codes_are_named(codes: object) -> None:
    with pytest.raises(CodesError):
        pack(codes, 10)  # type: ignore[arg-type]


def test_codes_beyond_int16_are_not_wrapped() -> None:
    with pytest.raises(CodesError, match="65537"):
        pack(np.array([[65537]]), 10)


def test_padding_and_size_are_checked() -> None:
    data = pack([[1, 2, 3]], 10)  # 30 bits
    with pytest.raises(CorruptedError, match="padding"):
        unpack(data[:-1] + bytes([data[-1] | 1]), 1, 3, 10)
    for wrong in (data[:-1], data + b"\0"):
        with pytest.raises(CorruptedError, match="4 bytes"):
            unpack(wrong, 1, 3, 10)


@pytest.mark.parametrize(
    ("data", "checksum"),  # the second to fourth are of RFC 3720, B.4
    [(b"123456789", 0xE3069283), (bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43), (bytes(range(32)), 0x46DD794E), (b"", 0)],
)
def test_crc_known_values(data: bytes, checksum: int) -> None:
    assert crc32c(data) == checksum


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300), st.data())
def test_crc_of_any_range(data: bytes, draw: st.DataObject) -> None:
    cut = draw.draw(st.integers(0, len(data)))
    dropped = draw.draw(st.integers(0, cut))
    start = draw.draw(st.integers(dropped, len(data)))
    stop = draw.draw(st.integers(start, len(data)))
    running = RangeCrc()
    running.extend(data[:cut])
    running.drop(dropped)
    running.extend(data[cut:])
    assert running.crc(start - dropped, stop - dropped) == crc32c(data[start:stop])


def test_ragged_codes() -> None:
    with pytest.raises(CodesError, match="no array"):
        pack([[1], [1, 2]], 10)  # type: ignore[list-item]
