"""The `.stk` container: round trips, the golden file, and what damaged, foreign, newer and hostile data lead to.

`python tests/bitstream/test_container.py` prints the golden file as in docs/format.md. The file itself was written once and
must never change: an update that reads it differently is a breaking change.
"""

from __future__ import annotations

import io
import os
import random
import re
import threading
import time
import tracemalloc
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectokenizer.bitstream import Header, Packet, Reader, Writer, crc32c
from spectokenizer.bitstream.reader import MAX_PROBLEMS
from spectokenizer.errors import (
    CodesError,
    ConfigError,
    CorruptedError,
    FormatError,
    SpecTokenizerError,
    StreamError,
    TruncatedError,
    VersionError,
)

GOLDEN = Path(__file__).parents[1] / "data" / "golden-v1.stk"
DOCUMENT = Path(__file__).parents[2] / "docs" / "format.md"
HEADER = Header("mini", "0123456789abcdef", 16000, 320, 12, 10)
Codes = npt.NDArray[np.int16]


def random_codes(num_codebooks: int, num_frames: int, seed: int = 0, bits: int = 10) -> Codes:
    return np.random.default_rng(seed).integers(0, 1 << bits, (num_codebooks, num_frames)).astype(np.int16)


def written(parts: list[Codes], num_samples: int, header: Header = HEADER, packet_frames: int | None = None) -> bytes:
    sink = io.BytesIO()
    with Writer(sink, header, packet_frames) as writer:
        for part in parts:
            writer.write(part)
        writer.close(num_samples)
    assert writer.num_bytes == len(sink.getvalue())
    return sink.getvalue()


def read(data: bytes, **options: Any) -> tuple[list[Packet], Reader]:
    reader = Reader(io.BytesIO(data), **options)
    return list(reader), reader


def same(one: Packet, other: Packet) -> bool:
    return one.first_frame == other.first_frame and np.array_equal(one.codes, other.codes)


def seal(record: bytes) -> bytes:
    return record + crc32c(record).to_bytes(4, "little")


def golden_codes() -> list[Codes]:
    codes = (np.arange(16).reshape(2, 8) * 67 % 1024).astype(np.int16)  # [2, 8]
    return [codes[:, :5], codes[:1, 5:]]  # 5 frames of two codebooks, 3 of one


def golden_bytes() -> bytes:
    return written(golden_codes(), 2400, Header("mini", "0123456789abcdef", 16000, 320, 2, 10))


def small_file() -> tuple[bytes, list[Packet], list[int]]:
    """A file of eight packets of several K, with an optional record, its packets, and the byte at which each record starts."""
    parts = [random_codes(k, 3, seed) for seed, k in enumerate([2, 12, 1, 8, 2, 3, 2, 4])]
    plain = written(parts, 24 * 320 - 7, packet_frames=3)
    packets, _ = read(plain)
    starts = [29]  # the header's size
    for packet in packets:
        starts.append(starts[-1] + 7 + -(-packet.codes.size * 10 // 8))
    extra = seal(b"\x90\x05hello")
    data = plain[: starts[4]] + extra + plain[starts[4] :]
    return data, packets, starts[:5] + [s + len(extra) for s in starts[4:]]


# -- round trips -------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_round_trip_of_any_split(data: st.DataObject) -> None:
    bits = data.draw(st.integers(1, 15))
    most = data.draw(st.integers(1, 32))
    header = Header(
        "x" * data.draw(st.integers(1, 64)), "00ff00ff00ff00ff", 24000, data.draw(st.sampled_from([1, 75, 320, 4096])), most, bits
    )
    runs = data.draw(st.lists(st.tuples(st.integers(1, most), st.lists(st.integers(0, 90), max_size=6)), max_size=4))
    packet_frames = data.draw(st.sampled_from([None, 1, 7, 50, 255]))
    parts = [random_codes(k, t, seed, bits) for seed, (k, times) in enumerate(runs) for t in times]
    frames = sum(part.shape[1] for part in parts)
    num_samples = data.draw(st.integers(0, frames * header.frame_size))

    packets, reader = read(written(parts, num_samples, header, packet_frames))

    assert reader.header == header
    assert (reader.num_samples, reader.num_frames, reader.problems) == (num_samples, frames, [])
    expected = [column for part in parts for column in part.T.tolist()]
    assert [column for packet in packets for column in packet.codes.T.tolist()] == expected
    assert all(packet.codes.dtype == np.int16 for packet in packets)
    firsts = np.cumsum([0, *(packet.codes.shape[1] for packet in packets)])
    assert [packet.first_frame for packet in packets] == firsts[:-1].tolist()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 120), max_size=12))
def test_the_split_of_writes_does_not_show(splits: list[int]) -> None:
    codes = random_codes(8, sum(splits))
    parts = np.split(codes, np.cumsum(splits)[:-1], axis=1) if splits else []
    assert written(list(parts), codes.shape[1] * 320) == written([codes], codes.shape[1] * 320)


def test_packets_of_one_second_and_no_tiny_last_one() -> None:
    packets, _ = read(written([random_codes(8, 151)], 48000))
    assert [packet.codes.shape for packet in packets] == [(8, 50), (8, 50), (8, 51)]
    packets, _ = read(written([random_codes(8, 111)], 0))
    assert [packet.codes.shape[1] for packet in packets] == [50, 50, 11]


@pytest.mark.parametrize(("seconds", "frames", "size"), [(1, 51, 555), (3, 151, 1571), (10, 501, 5127), (3600, 180_001, 1_833_034)])
def test_sizes_at_4_kbps_are_those_of_the_document(seconds: int, frames: int, size: int) -> None:
    sink = io.BytesIO()
    writer = Writer(sink, HEADER, index=True)
    writer.write(np.zeros((8, frames), np.int16))
    writer.close(seconds * 16000)
    assert len(sink.getvalue()) == size
    name = f"{seconds} s" if seconds < 60 else f"{seconds // 3600} h"
    assert seconds < 3 or size * 8 / seconds <= 4200
    assert f"| {name} | {frames:,} | {frames * 10:,} bytes | {size - frames * 10:,} bytes | {size:,} bytes |" in DOCUMENT.read_text("utf-8")


def test_empty() -> None:
    packets, reader = read(written([], 0))
    assert packets == []
    assert (reader.num_samples, reader.num_frames) == (0, 0)


def test_the_writer_keeps_no_reference_to_the_callers_array() -> None:
    sink, codes = io.BytesIO(), random_codes(8, 20)
    writer = Writer(sink, HEADER)
    expected = codes.copy()
    writer.write(codes)
    codes[:] = 0
    writer.close(20 * 320)
    np.testing.assert_array_equal(next(iter(Reader(io.BytesIO(sink.getvalue())))).codes, expected)


# -- the golden file ---------------------------------------------------------------------------------------------


def test_golden_file() -> None:
    packets, reader = read(GOLDEN.read_bytes())
    assert reader.header == Header("mini", "0123456789abcdef", 16000, 320, 2, 10)
    assert [packet.first_frame for packet in packets] == [0, 5]
    for packet, codes in zip(packets, golden_codes(), strict=True):
        np.testing.assert_array_equal(packet.codes, codes)
    assert (reader.num_samples, reader.num_frames) == (2400, 8)
    assert golden_bytes() == GOLDEN.read_bytes()


def test_the_document_shows_the_golden_file() -> None:
    block = re.search(r"```hex\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    columns = [line.split("  ")[1] for line in block[1].splitlines() if line.strip()]
    assert bytes.fromhex("".join(columns)) == GOLDEN.read_bytes()


# -- the writer --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"model": ""},
        {"model": "../mini"},
        {"model": "a\\b"},
        {"model": ".hidden"},
        {"model": "ü" * 33},
        {"model": "\x1b[2J"},
        {"model": "\ud800"},
        {"model_hash": "0123"},
        {"model_hash": "0123456789ABCDEF"},
        {"model_hash": "01 23 456789abcd"},
        {"sample_rate": 0},
        {"sample_rate": 1 << 21},
        {"frame_size": 0},
        {"num_codebooks": 0},
        {"num_codebooks": 33},
        {"bits_per_code": 16},
    ],
)
def test_impossible_headers_are_named(change: dict[str, Any]) -> None:
    fields = {"model": "mini", "model_hash": "0" * 16, "sample_rate": 16000, "frame_size": 320, "num_codebooks": 8, "bits_per_code": 10}
    with pytest.raises(ConfigError, match=next(iter(change))):
        Header(**{**fields, **change})


@pytest.mark.parametrize("shape", [(13, 4), (0, 4), (4,)])
def test_codes_of_another_shape_are_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(CodesError):
        Writer(io.BytesIO(), HEADER).write(np.zeros(shape, np.int16))


def test_order_of_calls() -> None:
    for packet_frames in (0, 256):
        with pytest.raises(ConfigError):
            Writer(io.BytesIO(), HEADER, packet_frames)
    writer = Writer(io.BytesIO(), HEADER)
    writer.write(random_codes(2, 3))
    for num_samples in (-1, 3 * 320 + 1):
        with pytest.raises(CodesError, match="num_samples"):
            writer.close(num_samples)
    writer.close(3 * 320)
    with pytest.raises(StreamError):
        writer.write(random_codes(2, 3))
    with pytest.raises(StreamError):
        writer.close(0)
    with pytest.raises(StreamError, match="close"), Writer(io.BytesIO(), HEADER):
        pass


def test_a_crash_leaves_what_was_written() -> None:
    sink, codes = io.BytesIO(), random_codes(8, 130)
    with pytest.raises(KeyError), Writer(sink, HEADER) as writer:
        writer.write(codes)
        raise KeyError("crash")
    packets, reader = read(sink.getvalue(), salvage=True)
    np.testing.assert_array_equal(np.concatenate([packet.codes for packet in packets], axis=1), codes)
    assert reader.num_samples is None
    assert [type(problem) for problem in reader.problems] == [TruncatedError]


def test_nothing_follows_a_failed_write() -> None:
    class FullDisk(io.BytesIO):
        def write(self, data: Any) -> int:
            if self.tell() > 1000:
                super().write(data[:5])
                raise OSError("disk full")
            return super().write(data)

    sink = FullDisk()
    with pytest.raises(OSError, match="disk full"), Writer(sink, HEADER) as writer:
        for seed in range(10):
            writer.write(random_codes(8, 50, seed))
    assert len(read(sink.getvalue(), salvage=True)[0]) == 2


# -- live --------------------------------------------------------------------------------------------------------


def test_a_pipe_is_followed_live() -> None:
    reading, writing = os.pipe()
    seen: Queue[Any] = Queue()

    def follow() -> None:
        with os.fdopen(reading, "rb", buffering=0) as source:
            reader = Reader(source)
            seen.put(reader.header)
            for packet in reader:
                seen.put(packet)
            seen.put(reader.num_samples)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    with os.fdopen(writing, "wb") as sink, Writer(sink, HEADER, packet_frames=10) as writer:
        assert seen.get(timeout=5) == HEADER  # before there is any audio
        for seed in range(3):
            codes = random_codes(8, 12, seed)
            writer.write(codes)
            packet = seen.get(timeout=5)  # while the pipe stays open
            assert packet.codes.shape == (8, 10)
        writer.close(36 * 320 - 5)
        assert seen.get(timeout=5).first_frame == 30
    assert seen.get(timeout=5) == 36 * 320 - 5
    thread.join(timeout=5)


def test_a_source_of_single_bytes() -> None:
    class Trickle(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(1)

    data = written([random_codes(8, 70)], 70 * 320)
    assert sum(packet.codes.shape[1] for packet in Reader(Trickle(data))) == 70


# -- damage ------------------------------------------------------------------------------------------------------


def test_cut_anywhere() -> None:
    data, packets, starts = small_file()
    ends = [starts[i + 1] for i in range(4)] + [starts[i + 1] for i in range(5, 9)]  # starts[4] is the optional record
    for size in range(len(data)):
        complete = sum(end <= size for end in ends)
        if size < starts[0]:
            for salvage in (False, True):
                with pytest.raises(TruncatedError, match="header"):
                    read(data[:size], salvage=salvage)
            continue
        got: list[Packet] = []
        reader = Reader(io.BytesIO(data[:size]))
        with pytest.raises(TruncatedError, match=f"end at byte {size}.* {complete} complete packets"):
            got.extend(reader)
        salvaged, reader = read(data[:size], salvage=True)
        assert [type(problem) for problem in reader.problems] == [TruncatedError]
        assert reader.num_samples is None
        assert len(salvaged) == complete
        assert all(same(a, b) for a, b in zip(salvaged, packets, strict=False))
    assert len(read(data)[0]) == len(packets)


def test_one_damaged_byte_costs_one_packet() -> None:
    data, packets, starts = small_file()
    bounds = [*starts, len(data)]
    record_of = {at: i for i in range(len(starts)) for at in range(bounds[i], bounds[i + 1])}
    rng = random.Random(1)
    for at, record in record_of.items():
        damaged = bytearray(data)
        damaged[at] ^= rng.randrange(1, 256)
        with pytest.raises((CorruptedError, TruncatedError), match=f"byte {starts[record]}\\b"):
            read(bytes(damaged))
        salvaged, reader = read(bytes(damaged), salvage=True)
        lost = record if record < 4 else record - 1 if record > 4 else None
        expected = [packet for i, packet in enumerate(packets) if i != lost]
        assert len(salvaged) == len(expected)
        assert all(same(a, b) for a, b in zip(salvaged, expected, strict=True))
        assert all(type(problem) in (CorruptedError, TruncatedError) for problem in reader.problems)
        assert reader.problems
        is_end = record == len(starts) - 1
        assert reader.num_samples == (None if is_end else 24 * 320 - 7)
        assert reader.num_frames == (None if is_end else 24)


def mutated(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 5, 20])):
        at, size = rng.randrange(len(out) + 1), rng.choice([1, 1, 2, 4, 30])
        what = rng.randrange(6)
        if what == 0:
            out[at:at] = rng.randbytes(size)
        elif what == 1:
            del out[at : at + size]
        elif what == 2:
            out[at : at + size] = rng.choice([b"\0", b"\xff", b"\x80"]) * size
        elif what == 3:
            source = rng.randrange(len(data))
            out[at:at] = data[source : source + rng.choice([8, 40, 80])]  # intact records in wrong places
        elif at < len(out):
            out[at] ^= 1 << rng.randrange(8) if what == 4 else rng.randrange(256)
        if not out:
            break
    return bytes(out)


def test_mutations_lead_to_named_errors_only() -> None:
    data, packets, _ = small_file()
    by_frame = {packet.first_frame: packet for packet in packets}
    rng = random.Random(2)
    start = time.process_time()
    for _ in range(2000):
        broken = mutated(data, rng)
        got: list[Packet] = []
        try:
            got.extend(Reader(io.BytesIO(broken)))
            complete = True
        except FormatError:
            complete = False
        assert not complete or len(got) == len(packets)
        try:
            salvaged, reader = read(broken, salvage=True, fallback=HEADER if rng.random() < 0.5 else None)
        except FormatError:
            assert broken[:29] != data[:29]
            continue
        assert all(isinstance(problem, SpecTokenizerError) for problem in reader.problems)
        assert complete or reader.problems
        for packet in [*got, *salvaged]:
            assert same(packet, by_frame[packet.first_frame])
        firsts = [packet.first_frame for packet in salvaged]
        assert firsts == sorted(set(firsts))
    assert time.process_time() - start < 60


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_behind_a_header(tail: bytes, salvage: bool) -> None:
    reader = Reader(io.BytesIO(small_file()[0][:29] + tail), salvage)
    if salvage:
        assert list(reader) == []
        assert reader.problems
    else:
        with pytest.raises(FormatError):
            list(reader)


def test_lost_moved_and_repeated_packets() -> None:
    data, packets, starts = small_file()
    first, second = data[starts[0] : starts[1]], data[starts[1] : starts[2]]
    for broken, wrong in [
        (data.replace(second, b""), "frame 6, expected was frame 3"),
        (data.replace(first, first + first), "frame 0, expected was frame 3"),
        (data.replace(first + second, second + first), "frame 3, expected was frame 0"),
        (data[: starts[8]] + data[starts[9] :], "counts 24 frames, seen were 21"),
    ]:
        with pytest.raises(CorruptedError, match=wrong):
            read(broken)
        salvaged, reader = read(broken, salvage=True)
        assert len(salvaged) >= len(packets) - 1
        assert wrong in str(reader.problems[0])
        assert reader.num_samples == 24 * 320 - 7


def test_data_after_the_end() -> None:
    data, packets, starts = small_file()
    for more in (b"\0", b"\x89STX", data[starts[0] :], data[1:]):
        with pytest.raises(CorruptedError, match=f"after the end record, from byte {len(data)}"):
            read(data + more)
        salvaged, reader = read(data + more, salvage=True)
        assert len(salvaged) == len(packets)
        assert len(reader.problems) == 1
        assert reader.num_samples == 24 * 320 - 7
    assert len(read(data + data)[0]) == len(packets)  # another stream is not damage: test_chain.py


def test_a_fallback_takes_the_place_of_a_damaged_header() -> None:
    data, packets, starts = small_file()
    for at in range(5, starts[0]):
        broken = data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]
        with pytest.raises((CorruptedError, TruncatedError), match="header"):
            Reader(io.BytesIO(broken), salvage=True)
        with pytest.raises((CorruptedError, TruncatedError), match="header"):
            Reader(io.BytesIO(broken), fallback=HEADER)
        salvaged, reader = read(broken, salvage=True, fallback=HEADER)
        assert len(salvaged) == len(packets)
        assert reader.header == HEADER
        assert len(reader.problems) == 1


@pytest.mark.parametrize(
    "record",
    [
        b"\x20\x00\x00",  # no frames
        b"\x2c\x01\x00" + bytes(17),  # 13 codebooks, the header says at most 12
        b"\x20\x01\x80\x00" + bytes(2),  # first frame not in the shortest form
        b"\x20\x01\xff\xff\xff\xff\xff\xff\xff\x01" + bytes(2),  # first frame of more than 49 bits
        b"\x20\x01\x00\x00\x01",  # padding bits set
        b"\x20\x01\x05\x00\x00",  # not the first frame
        b"\x01\x02\x00\x01",  # no frames but a sample
        b"\x01\x03\x00\x00\x00",  # a byte too many in the end record
        b"\x01\x01\x00",  # and one too few
        b"\x01\x02\x01\x00",  # frames that were not there
        b"\x85\x80\x80\x80\x80\x10",  # an optional record of 4 GiB
        b"\x85\x81\x80\x04",  # and one of 65,537 bytes
    ],
)
def test_impossible_fields_with_a_valid_checksum(record: bytes) -> None:
    with pytest.raises(CorruptedError, match="byte 29"):
        read(small_file()[0][:29] + seal(record))


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (15, b"\0"),  # sample rate 0, and everything moved
        (15, b"\xff\xff\xff"),  # sample rate of five bytes
        (17, b"\xff\xff\xff"),  # frame size likewise
        (19, b"\x00"),  # bits
        (19, b"\x10"),
        (20, b"\x00"),  # codebooks
        (20, b"\x21"),
        (21, b"../."),  # name
        (21, b"\xff"),
        (21, b"\x1b[0m"),
    ],
)
def test_impossible_header_with_a_valid_checksum(at: int, value: bytes) -> None:
    header = small_file()[0][:25]
    with pytest.raises(CorruptedError, match="header"):
        read(seal(header[:at] + value + header[at + len(value) :]))


def test_short_headers_with_a_valid_checksum() -> None:
    header = small_file()[0][:25]
    for size in range(16):
        with pytest.raises(CorruptedError, match="header"):
            read(seal(header[:5] + bytes([size]) + header[6 : 6 + size]))


# -- foreign and newer -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"RIFF\x24\0\0\0WAVEfmt ", b"OggS" + bytes(50), b"fLaC", b"\x89PNG\r\n", b"S", b"text, long", bytes(100)])
@pytest.mark.parametrize("salvage", [False, True])
def test_foreign_files_are_named(data: bytes, salvage: bool) -> None:
    with pytest.raises(FormatError, match=r"not a \.stk stream") as caught:
        Reader(io.BytesIO(data), salvage, HEADER)
    assert type(caught.value) is FormatError
    assert repr(data[:4]) in str(caught.value)


def test_nothing_at_all() -> None:
    with pytest.raises(TruncatedError, match="byte 0"):
        Reader(io.BytesIO(b""))


def test_newer_versions_and_flags_are_named() -> None:
    data = GOLDEN.read_bytes()
    for newer in (2, 255):
        with pytest.raises(VersionError, match=f"version {newer}.*upgrade"):
            Reader(io.BytesIO(data[:4] + bytes([newer])))
    for flags in (8, 128, 9):
        with pytest.raises(VersionError, match=f"0x{flags:02x}.*upgrade"):
            Reader(io.BytesIO(seal(data[:6] + bytes([flags]) + data[7:25]) + data[29:]))
    for flags in (2, 4, 6):  # an index or metadata may be skipped
        assert len(read(seal(data[:6] + bytes([flags]) + data[7:25]) + data[29:])[0]) == 2
    with pytest.raises(CorruptedError):
        Reader(io.BytesIO(data[:4] + b"\0" + data[5:]))


def test_unknown_records() -> None:
    data, packets, starts = small_file()
    long = seal(b"\xff\x80\x80\x04" + bytes(1 << 16))  # the longest that there can be
    got, reader = read(data[: starts[2]] + long + seal(b"\x80\0") + data[starts[2] :])
    assert len(got) == len(packets)
    assert reader.problems == []
    needed = data[: starts[2]] + seal(b"\x03\x01!") + data[starts[2] :]
    with pytest.raises(VersionError, match=r"0x03.*upgrade"):
        read(needed)
    got, reader = read(needed, salvage=True)
    assert len(got) == len(packets)
    assert [type(problem) for problem in reader.problems] == [VersionError]


# -- hostile -----------------------------------------------------------------------------------------------------


class Endless:
    """Gives the prefix, then as many bytes of the pattern as are asked for, up to a limit; remembers the greediest request."""

    def __init__(self, prefix: bytes, pattern: bytes, limit: int) -> None:
        self._stream = io.BytesIO(prefix + (pattern * (limit // len(pattern) + 1))[:limit])
        self.greediest = 0

    def read(self, size: int) -> bytes:
        self.greediest = max(self.greediest, size)
        return self._stream.read(size)


@pytest.mark.parametrize(
    "pattern",
    [b"\x85\xff\xff\xff\xff\x0f", b"\x01\xff\xff\xff\xff\xff\xff\x7f", b"\x85\x80\x80\x04", b"\x3f\xff\x00", b"\0"],
    ids=["optional 4 GiB", "end 49 bits", "optional 64 KiB", "largest packet", "zeros"],
)
def test_memory_is_bounded(pattern: bytes) -> None:
    sink = io.BytesIO()
    Writer(sink, Header("mini", "0" * 16, 16000, 320, 32, 15))
    tracemalloc.start()
    try:
        with pytest.raises(FormatError):
            list(Reader(Endless(sink.getvalue(), pattern, 100_000)))  # type: ignore[arg-type]
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
    source = Endless(sink.getvalue(), pattern, 100_000)
    reader = Reader(source, salvage=True)  # type: ignore[arg-type]
    assert list(reader) == []
    assert source.greediest < 70_000
    assert len(reader._window._data) < 70_000  # of 100,000 bytes; tracing all of them would take long


def test_the_list_of_problems_is_bounded() -> None:
    data, _, starts = small_file()
    unknown = seal(b"\x03\0")
    _, reader = read(data[: starts[0]] + unknown * (MAX_PROBLEMS + 10) + data[starts[0] :], salvage=True)
    assert len(reader.problems) == MAX_PROBLEMS
    assert reader.num_frames == 24


def test_the_search_takes_linear_time() -> None:
    sink = io.BytesIO()
    Writer(sink, Header("mini", "0" * 16, 16000, 320, 32, 15))
    start = time.process_time()
    read(sink.getvalue() + b"\x3f\xff" * 15_000, salvage=True)  # every second byte begins a packet of 15 kB: 0.2 GB of checksums
    assert time.process_time() - start < 5


if __name__ == "__main__":
    print(golden_bytes().hex(" "))
