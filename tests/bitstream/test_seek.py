"""Parts of a file: the same packets as reading it whole, and of its bytes only what is needed."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectokenizer.bitstream import Header, Reader, Writer
from spectokenizer.bitstream.index import MAX_ENTRIES, STRIDE, Entry, Index, unpack_index
from spectokenizer.bitstream.records import INDEX, make_record, seal
from spectokenizer.bitstream.seek import Part, Parts
from spectokenizer.bitstream.window import write_varint
from spectokenizer.errors import CorruptedError, FormatError, TruncatedError, VersionError


class Counting(io.BytesIO):
    """Counts the bytes that are read, and of the source which."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.count = 0
        self.seen: set[int] = set()

    def read(self, size: int | None = -1) -> bytes:
        at = self.tell()
        data = super().read(size)
        self.count += len(data)
        self.seen.update(range(at // 500, -(-(at + len(data)) // 500)))
        return data


def frames(part: Part, first: int = 0, stop: int | None = None) -> np.ndarray:
    packets = list(part.packets(first, stop))
    assert not packets or packets[0].first_frame >= first
    firsts = np.cumsum([packets[0].first_frame if packets else 0, *(packet.codes.shape[1] for packet in packets)])
    assert [packet.first_frame for packet in packets] == firsts[:-1].tolist()
    return np.concatenate([packet.codes for packet in packets], 1) if packets else np.zeros((8, 0), np.int16)


@given(
    st.lists(st.tuples(st.integers(0, 900), st.integers(1, 9), st.booleans(), st.booleans()), min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1000), st.integers(0, 1000)), max_size=8),
    st.binary(max_size=3),
)
def test_any_part_of_any_chain(make: Any, coder: Any, recordings: list[Any], asked: list[tuple[int, int, int]], before: bytes) -> None:
    """Entropy-coded or not, with and without an index, from wherever the source stands."""
    made = [
        make(
            count,
            seed,
            packet_frames=size,
            index=index,
            metadata={"a": "b"} if coded else None,
            entropy=coder if coded else None,
            quiet=coded,
        )
        for seed, (count, size, index, coded) in enumerate(recordings)
    ]
    source = io.BytesIO(before + b"".join(data for data, _ in made))
    source.seek(len(before))
    parts = list(Parts(source, coder))
    assert len(parts) == len(made)
    for part, (_, codes) in zip(parts, made, strict=True):
        assert part.finish() == part.stop
        assert (part.num_frames, part.num_samples) == (codes.shape[1], max(0, codes.shape[1] * 320 - 7))
    for number, first, stop in asked:
        part, (_, codes) = parts[number % len(parts)], made[number % len(parts)]
        np.testing.assert_array_equal(frames(part, first, stop), codes[:, first:stop])
    for part, (_, codes) in zip(parts, made, strict=True):
        np.testing.assert_array_equal(frames(part), codes)


def test_a_sequential_reader_gives_the_same_parts(make: Any) -> None:
    data, codes = make(333)
    for first, stop in [(0, None), (0, 0), (0, 50), (49, 51), (50, 100), (120, 130), (300, 333), (333, None), (400, 500), (60, 20)]:
        expected = codes[:, first:stop]
        for reader in (Reader(io.BytesIO(data)), next(iter(Parts(io.BytesIO(data))))):
            np.testing.assert_array_equal(frames(reader, first, stop), expected)  # type: ignore[arg-type]


HOUR = 180_000  # frames


@pytest.fixture(scope="module")
def hour(make: Any) -> tuple[bytes, np.ndarray]:
    return make(HOUR, index=True)  # type: ignore[no-any-return]


def test_of_an_hour_only_what_is_needed_is_read(hour: tuple[bytes, np.ndarray], make: Any) -> None:
    """1.8 MB: the end, the index of 900 bytes, at most 16 heads of packets, the packets asked for."""
    data, codes = hour
    other, more = make(50 * STRIDE * 3, 1, index=True)
    for source in (Counting(data), Counting(data + other)):
        part = next(iter(Parts(source)))
        assert part.num_samples == HOUR * 320 - 7
        np.testing.assert_array_equal(frames(part, 100_010, 100_200), codes[:, 100_010:100_200])
        assert source.count < 6000
        assert part.num_bytes == source.count
        assert max(source.seen - set(range(len(data) // 500 - 3, len(source.getvalue())))) < 2100
    source = Counting(data + other)
    last = list(Parts(source))[1]
    np.testing.assert_array_equal(frames(last, 100, 120), more[:, 100:120])
    assert source.count < 6000


def test_without_an_index_heads_are_read_and_no_codes(make: Any) -> None:
    data, codes = make(20_000)
    source = Counting(data)
    part = next(iter(Parts(source)))
    assert part.num_samples is None  # not asked for
    np.testing.assert_array_equal(frames(part, 10_000, 10_050), codes[:, 10_000:10_050])
    assert source.count < 200 * 12 + 2 * 520 + 200  # of 203,000 bytes
    assert part.num_samples is None
    before = source.count
    np.testing.assert_array_equal(frames(part, 9_000, 9_050), codes[:, 9_000:9_050])
    assert source.count - before < STRIDE * 12 + 2 * 520 + 200  # what was walked through once is known
    assert part.finish() == len(data) and part.num_samples == 20_000 * 320 - 7


def test_after_a_crash_what_is_there_can_be_read(hour: tuple[bytes, np.ndarray]) -> None:
    data, codes = hour
    source = Counting(data[:900_000])
    part = next(iter(Parts(source)))
    np.testing.assert_array_equal(frames(part, 50_000, 50_100), codes[:, 50_000:50_100])
    assert source.count < 1000 * 12 + 3000
    with pytest.raises(TruncatedError, match="the data end at byte 900000"):
        frames(part, 88_000, 90_000)
    with pytest.raises(TruncatedError):
        part.finish()


@pytest.mark.parametrize("cut", [0, 3, 20, 28])
def test_no_header(make: Any, cut: int) -> None:
    with pytest.raises(TruncatedError, match="header"):
        next(iter(Parts(io.BytesIO(make(10)[0][:cut]))))
    with pytest.raises(FormatError, match="WAV"):
        next(iter(Parts(io.BytesIO(b"RIFF" + bytes(100)))))


def test_what_follows_must_be_a_stream(make: Any) -> None:
    data, _ = make(100)
    for more, error in [(b"RIFF", CorruptedError), (data[:20], TruncatedError), (data[:4] + b"\x09" + data[5:], VersionError)]:
        parts = iter(Parts(io.BytesIO(data + more)))
        next(parts)
        with pytest.raises(error):
            next(parts)


def test_damage_is_named_where_it_is_met(make: Any, coder: Any) -> None:
    data, codes = make(2000, index=True, packet_frames=10)
    packets = list(Reader(io.BytesIO(data)).raw())
    at = packets[100].offset
    for offset, value in [(0, 0x28), (1, 9), (2, 0), (20, 1), (packets[100].size - 1, 1)]:  # type, frames, first frame, codes, checksum
        damaged = bytearray(data)
        damaged[at + offset] = value if offset < 3 else damaged[at + offset] ^ value
        part = next(iter(Parts(io.BytesIO(damaged))))
        np.testing.assert_array_equal(frames(part, 500, 600), codes[:, 500:600])
        np.testing.assert_array_equal(frames(part, 1300, 1500), codes[:, 1300:1500])
        with pytest.raises(FormatError, match=f"byte {at}|byte {packets[101].offset}|data end at byte"):
            frames(part, 950, 1050)
    coded, _ = make(200, entropy=coder, quiet=True)
    with pytest.raises(CorruptedError, match="which the header announces"):
        next(iter(Parts(io.BytesIO(coded[:29] + coded[43:]))))


# -- the index -------------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 30 * MAX_ENTRIES), st.integers(1, 9))
def test_an_index_stays_small(packets: int, size: int) -> None:
    index = Index()
    for number in range(packets):
        index.add(size * number, 29 + 17 * number)
    assert len(index.entries) <= MAX_ENTRIES
    assert index.stride == STRIDE or len(index.entries) > MAX_ENTRIES // 2
    assert index.entries == [Entry(size * n, 29 + 17 * n) for n in range(0, packets, index.stride)]
    record = index.pack(29 + 17 * packets)
    if packets <= STRIDE:
        assert record == b""
    else:
        assert len(record) < 1 << 16
        assert unpack_index(record) == (29 + 17 * packets, index.entries)


def test_the_largest_index_fits() -> None:
    index = Index()
    index.entries = [Entry(0, 30), *(Entry(n << 48, n << 48) for n in range(1, MAX_ENTRIES))]  # as far apart as a varint goes
    record = index.pack(1 << 48)[:]
    assert len(record) < 1 << 16


def test_memory_does_not_grow_with_the_recording(header: Header) -> None:
    """Ten hours of single frames: 1.8 million packets, of which every thousandth is written and the others only counted."""

    class Nowhere(io.RawIOBase):
        def write(self, data: Any) -> int:
            return len(data)

    def run(packets: int, step: int) -> tuple[int, int]:
        writer = Writer(Nowhere(), header, 1, index=True)  # type: ignore[arg-type]
        assert writer._index
        one = np.zeros((1, 1), np.int16)
        tracemalloc.start()
        try:
            for number in range(0, packets, step):
                writer.num_frames, writer._index.packets = number, number
                writer.write(one)
            return len(writer._index.entries), tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert run(16 * 5000, 16)[0] <= MAX_ENTRIES
    assert run(1_800_000, 1024)[1] < 1_000_000


def indexed(entries: list[tuple[int, int]], position: int, tail: int | None = None, count: int | None = None) -> bytes:
    body = write_varint(position) + write_varint(len(entries) if count is None else count)
    for frame, offset in entries:
        body += write_varint(frame) + write_varint(offset)
    size = 6 + len(body) + 3
    return make_record(INDEX, body + (size if tail is None else tail).to_bytes(3, "little"))


STEP = 13 * 107 + 3 * 108  # bytes of the first 16 packets of ten frames


def forged(make: Any) -> Iterator[bytes]:
    """Indexes with a right checksum that lie."""
    data, _ = make(2000, packet_frames=10)
    position = len(data) - 11
    places = [(0, 29), (160, STEP), (160, STEP)]
    yield indexed(places, position, tail=0)
    yield indexed(places, position, tail=8)
    yield indexed(places, position, tail=(1 << 24) - 1)
    yield indexed(places, position + 10**9)
    yield indexed(places, 0)
    yield indexed([], position)
    yield indexed(places, position, count=2)
    yield indexed(places, position, count=4)
    yield indexed(places, position, count=1 << 40)
    yield indexed([(0, 29), (0, 50)], position)
    yield indexed([(0, 29), (50, 0)], position)
    yield indexed([(1, 29), (50, 50)], position)
    yield indexed([(0, 29), (50, position)], position)
    yield make_record(INDEX, b"")
    yield make_record(INDEX, b"\xff" * 30)
    yield seal(b"\x81\x80\x80\x04" + bytes(1 << 16))


def test_an_index_that_cannot_be_is_not_used(make: Any) -> None:
    data, codes = make(2000, packet_frames=10)
    end = data[-11:]
    for index in forged(make):
        part = next(iter(Parts(io.BytesIO(data[: -len(end)] + index + end))))
        np.testing.assert_array_equal(frames(part, 1000, 1010), codes[:, 1000:1010])
        assert len(list(Reader(io.BytesIO(data[: -len(end)] + index + end)))) == 200


def test_an_index_that_leads_astray_is_found_out(make: Any) -> None:
    data, codes = make(2000, packet_frames=10)
    end = data[-11:]
    position = len(data) - len(end)
    for places in ([(0, 29), (160, STEP + 1)], [(0, 29), (150, STEP)], [(0, 29), (160, 100)], [(0, 29), (160, STEP - 108)]):
        part = next(iter(Parts(io.BytesIO(data[:position] + indexed(places, position) + end))))
        np.testing.assert_array_equal(frames(part, 100, 150), codes[:, 100:150])
        with pytest.raises(FormatError):
            frames(part, 1000, 1010)


@given(st.data())
def test_mutated_files_lead_to_named_errors(make: Any, draw: st.DataObject) -> None:
    data = bytearray(
        make(300, packet_frames=5, index=True)[0] + make(40, 1, packet_frames=5)[0] + make(200, 2, packet_frames=5, index=True)[0]
    )
    for _ in range(draw.draw(st.integers(1, 4))):
        near_an_end = draw.draw(st.sampled_from([0, len(data)])) + draw.draw(st.integers(-60, 60))
        at = draw.draw(st.sampled_from([near_an_end % len(data), draw.draw(st.integers(0, len(data) - 1))]))
        size = draw.draw(st.integers(0, 30))
        data[at : at + size] = draw.draw(st.binary(max_size=30))
    try:
        for part in Parts(io.BytesIO(data)):
            frames(part, draw.draw(st.integers(0, 400)), draw.draw(st.integers(0, 400) | st.none()))
    except FormatError:
        pass
