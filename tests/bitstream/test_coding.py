"""Entropy-coded packets, as far as the container goes: with a coder that is none."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectokenizer.bitstream import Header, Reader, Writer
from spectokenizer.bitstream.records import make_record, seal
from spectokenizer.bitstream.window import write_varint
from spectokenizer.errors import ConfigError, CorruptedError, FormatError, ModelError, TruncatedError, VersionError


def all_codes(reader: Reader) -> np.ndarray:
    return np.concatenate([packet.codes for packet in reader], 1)


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(0, 120), st.booleans()), min_size=1, max_size=5), st.sampled_from([None, 1, 30]))
def test_round_trip_in_whichever_form_is_shorter(header: Header, coder: Any, runs: list[tuple[int, int, bool]], size: int | None) -> None:
    sink, parts = io.BytesIO(), []
    writer = Writer(sink, header, size, entropy=coder)
    for seed, (codebooks, frames, quiet) in enumerate(runs):
        parts.append(np.random.default_rng(seed).integers(0, 2 if quiet else 1024, (codebooks, frames)).astype(np.int16))
        writer.write(parts[-1])
    writer.close(0)
    data = sink.getvalue()
    for find in (coder, lambda model, tables: coder if (model, tables) == (header.model_hash, coder.hash) else None):
        packets = list(Reader(io.BytesIO(data), entropy=find))
        assert [c for packet in packets for c in packet.codes.T.tolist()] == [c for part in parts for c in part.T.tolist()]
    raw = list(Reader(io.BytesIO(data)).raw())  # which needs no coder
    for packet, stored in zip(packets, raw, strict=True):
        coded = coder.encode(packet.codes)
        assert stored.coded == (len(coded) + (1 if len(coded) < 128 else 2) < -(-packet.codes.size * 10 // 8))
        assert stored.data == coded or not stored.coded


def test_the_bytes(header: Header, coder: Any) -> None:
    codes = np.zeros((3, 40), np.int16)
    sink = io.BytesIO()
    writer = Writer(sink, header, entropy=coder)
    writer.write(codes)
    writer.close(100)
    payload = coder.encode(codes)
    expected = header.pack(1) + make_record(2, b"fake-tab")
    expected += seal(bytes([0x42, 40, 0, len(payload)]) + payload) + make_record(1, b"\x28\x64")
    assert sink.getvalue() == expected
    assert sink.getvalue()[6] == 1


def test_without_the_coder(make: Any, coder: Any) -> None:
    data, _ = make(60, quiet=True, entropy=coder)
    for missing, told in [(None, "tables 66616b652d746162 of model 'mini'"), (type(coder)(b"othertab"), "not 6f74686572746162")]:
        for found in (missing, lambda model, tables, missing=missing: missing):
            for salvage in (False, True):
                reader = Reader(io.BytesIO(data), salvage, entropy=found)
                assert reader.tables == b"fake-tab"
                with pytest.raises(ModelError, match=f"{told}.*--model"):
                    list(reader)
    assert len(list(Reader(io.BytesIO(data)).raw())) == 2


def test_a_damaged_payload_costs_its_packet(make: Any, coder: Any) -> None:
    """With a checksum that matches: what the coder refuses, and what it makes of the wrong data."""
    data, codes = make(150, quiet=True, entropy=coder, packet_frames=50)
    packets = list(Reader(io.BytesIO(data)).raw())
    one = packets[1]
    assert one.coded
    for payload in (b"", b"nonsense", coder.encode(codes[:, :49]), coder.encode(codes[:, :50])[:-8]):
        broken = seal(bytes([0x47, 50, 50]) + write_varint(len(payload)) + payload)
        damaged = data[: one.offset] + broken + data[one.offset + one.size :]
        with pytest.raises(CorruptedError, match=f"byte {one.offset}, "):
            list(Reader(io.BytesIO(damaged), entropy=coder))
        reader = Reader(io.BytesIO(damaged), salvage=True, entropy=coder)
        assert [packet.first_frame for packet in reader] == [0, 100]
        assert (reader.num_frames, len(reader.problems)) == (150, 1)


@pytest.mark.parametrize(
    "answer",
    [
        np.zeros((8, 49), np.int16),
        np.zeros((9, 50), np.int16),
        np.full((8, 50), 1024),
        np.full((8, 50), -1),
        np.zeros((8, 50)),
        np.zeros(400, int),
    ],
    ids=["shape", "codebooks", "too large", "negative", "float", "one dimension"],
)
def test_a_coder_that_answers_nonsense(make: Any, coder: Any, answer: np.ndarray) -> None:
    class Bad(type(coder)):  # type: ignore[misc]
        def decode(self, data: bytes, num_codebooks: int, num_frames: int) -> np.ndarray:
            return answer

    data, _ = make(50, quiet=True, entropy=coder)
    with pytest.raises(CorruptedError, match="entropy-coded"):
        list(Reader(io.BytesIO(data), entropy=Bad()))


def test_the_hash_of_the_tables_is_where_the_header_says(make: Any, coder: Any, header: Header) -> None:
    data, codes = make(60, quiet=True, entropy=coder)
    front, tables, rest = data[:29], data[29:43], data[43:]
    assert tables == make_record(2, b"fake-tab")
    for broken, message in [
        (front + rest, "announces"),
        (front + make_record(2, b"seven b") + rest, "8 bytes, not 7"),
        (header.pack() + tables + rest, "belongs right behind a header"),
        (header.pack() + rest, "does not announce"),
        (front + tables + tables + rest, "belongs right behind a header"),
    ]:
        with pytest.raises(CorruptedError, match=message):
            list(Reader(io.BytesIO(broken), entropy=coder))
    for at in range(29, 43):  # damaged: salvage takes the coder as it is
        reader = Reader(io.BytesIO(data[:at] + bytes([data[at] ^ 8]) + data[at + 1 :]), salvage=True, entropy=coder)
        np.testing.assert_array_equal(all_codes(reader), codes)
    reader = Reader(io.BytesIO(data[:8] + b"?" + data[9:]), True, header, coder)  # and without the header
    np.testing.assert_array_equal(all_codes(reader), codes)
    for cut in range(29, 43):
        with pytest.raises(TruncatedError):
            Reader(io.BytesIO(data[:cut]), entropy=coder)
    with pytest.raises(ConfigError, match="8 bytes, not 3"):
        Writer(io.BytesIO(), header, entropy=type(coder)(b"abc"))
    with pytest.raises(VersionError):
        Reader(io.BytesIO(header.pack(9)))


def test_the_size_is_bounded_before_anything_is_read(header: Header, coder: Any) -> None:
    front = header.pack(1) + make_record(2, coder.hash)
    for size in (b"\x81\x80\x04", b"\xff\xff\xff\xff\x0f"):

        class Source(io.BytesIO):
            def read(self, count: int | None = -1) -> bytes:
                assert count is not None and 0 <= count < 300
                return super().read(count)

        with pytest.raises(CorruptedError, match="impossible length"):
            list(Reader(Source(front + b"\x47\x32\x00" + size + bytes(1000)), entropy=coder))
    for record in (b"\x4c\x01\x00\x01!", b"\x40\x00\x00\x01!", b"\x40\x01\x00\x81\x00!"):  # 13 codebooks; no frames; not the shortest form
        with pytest.raises(FormatError):
            list(Reader(io.BytesIO(front + seal(record)), entropy=coder))
    largest = seal(b"\x47\x32\x00\x80\x80\x04" + coder.encode(np.zeros((8, 50), np.int16)).ljust(1 << 16, b"\0"))
    assert len(list(Reader(io.BytesIO(front + largest + make_record(1, b"\x32\x00")), entropy=coder))) == 1
