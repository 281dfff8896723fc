"""Streams one after the other, as `cat` makes them: whole, live, and damaged in every place."""

from __future__ import annotations

import dataclasses
import io
import os
import random
import threading
from queue import Queue
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectokenizer.bitstream import Header, Reader, Writer, streams
from spectokenizer.bitstream.records import make_record, seal
from spectokenizer.errors import CorruptedError, FormatError, TruncatedError, VersionError


def whole(data: bytes, **options: Any) -> list[tuple[np.ndarray, int | None, Reader]]:
    out = []
    for reader in streams(io.BytesIO(data), **options):
        parts = [packet.codes for packet in reader]
        out.append((np.concatenate(parts, 1) if parts else np.zeros((8, 0), np.int16), reader.num_samples, reader))
    return out


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(1, 12), st.booleans(), st.booleans()), min_size=1, max_size=5), st.data())
def test_any_chain(make: Any, header: Header, recordings: list[tuple[int, int, bool, bool]], draw: st.DataObject) -> None:
    data, expected = b"", []
    for seed, (frames, codebooks, index, titled) in enumerate(recordings):
        one = dataclasses.replace(header, num_codebooks=codebooks)
        metadata = {"title": str(seed)} if titled else {}
        made, codes = make(frames, seed, codebooks, header=one, index=index, metadata=metadata, packet_frames=draw.draw(st.integers(1, 60)))
        data += made
        expected.append((one, codes, metadata, len(data)))
    got = whole(data)
    assert len(got) == len(expected)
    for (codes, num_samples, reader), (one, wanted, metadata, _) in zip(got, expected, strict=True):
        assert (reader.header, reader.metadata, reader.num_frames) == (one, metadata, wanted.shape[1])
        assert num_samples == max(0, wanted.shape[1] * 320 - 7)
        assert codes.tolist() == wanted.tolist() or not wanted.size
    ends = [reader.num_bytes for reader in streams(io.BytesIO(data)) if list(reader.raw()) is not None]
    assert ends == [end for *_, end in expected]


def test_what_is_left_of_a_stream_is_read_over(make: Any) -> None:
    data = b"".join(make(200, seed)[0] for seed in range(3))
    first = Reader(io.BytesIO(data))
    next(iter(first))
    second = first.next()
    assert first.num_samples == 200 * 320 - 7 and second is not None and second.num_samples is None
    third = second.next()
    assert third is not None and len(list(third)) == 4
    assert third.next() is None and third.next() is None


def test_live_one_recording_after_the_other(header: Header) -> None:
    reading, writing = os.pipe()
    seen: Queue[Any] = Queue()

    def follow() -> None:
        with os.fdopen(reading, "rb", buffering=0) as source:
            for reader in streams(source):
                seen.put(reader.metadata)
                for packet in reader:
                    seen.put(packet.codes.shape[1])
                seen.put(reader.num_samples)

    threading.Thread(target=follow, daemon=True).start()
    with os.fdopen(writing, "wb") as sink:
        for title in ("one", "two"):
            with Writer(sink, header, 10, metadata={"title": title}, index=True) as writer:
                assert title == "one" or seen.get(timeout=5) == 7000
                assert seen.get(timeout=5) == {"title": title}  # at once
                for _ in range(2):
                    writer.write(np.zeros((8, 10), int))
                writer.write(np.zeros((8, 2), int))
                assert [seen.get(timeout=5), seen.get(timeout=5)] == [10, 10]
                writer.close(7000)
            assert seen.get(timeout=5) == 2
    assert seen.get(timeout=5) == 7000


def test_what_follows_must_be_a_stream(make: Any) -> None:
    data, _ = make(100)
    for more, error, message in [
        (b"RIFF", CorruptedError, f"more data after the end record, from byte {len(data)}"),
        (data[1:], CorruptedError, "more data"),
        (data[:3], TruncatedError, f"the data end at byte {len(data) + 3}, inside the header at byte {len(data)}"),
        (data[:20], TruncatedError, "inside the header"),
        (data[:4] + b"\x02" + data[5:], VersionError, "version 2"),
        (data[:9] + b"!" + data[10:], CorruptedError, rf"header \(byte {len(data)}\) is damaged"),
    ]:
        with pytest.raises(error, match=message):
            whole(data + more)


def test_a_stream_that_breaks_off_before_the_next(make: Any) -> None:
    one, codes = make(230)
    assert one[-11:-9] == b"\x01\x05"
    other, more = make(120, 1, metadata={"a": "b"})
    with pytest.raises(TruncatedError, match="a new stream begins before the end record"):
        whole(one[:-11] + other)  # between two records
    for cut in (12, 50, 400, 700):
        with pytest.raises(FormatError):
            whole(one[:-cut] + other)
    for cut in (1, 5, 11, 12, 50, 400, 700):
        (first, length, reader), (second, other_length, last) = whole(one[:-cut] + other, salvage=True)
        np.testing.assert_array_equal(first, codes[:, : first.shape[1]])
        assert first.shape[1] >= 230 - 50 - 30 and length is None and reader.problems
        np.testing.assert_array_equal(second, more)
        assert (other_length, last.metadata, last.problems) == (120 * 320 - 7, {"a": "b"}, [])


def test_one_damaged_byte_anywhere_costs_one_packet(make: Any, coder: Any) -> None:
    """Also where one stream meets the other; that is, unless the metadata or an index are hit, which cost no packet."""
    recordings = [make(23, seed, packet_frames=5, metadata={"n": str(seed)}, entropy=coder, quiet=seed == 1) for seed in range(3)]
    data = b"".join(made for made, _ in recordings)
    rng = random.Random(0)
    for at in range(len(recordings[0][0]) - 30, len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 1 << rng.randrange(8)
        with pytest.raises(FormatError):
            whole(bytes(damaged), entropy=coder)
        try:
            got = whole(bytes(damaged), salvage=True, entropy=coder)
        except VersionError:
            continue
        version = any(isinstance(problem, VersionError) for *_, reader in got for problem in reader.problems)
        assert any(reader.problems for *_, reader in got)
        if version:  # a byte of one is all it takes to be of a newer version, which is not to be interpreted
            continue
        assert len(got) == 3, at
        assert sum(codes.shape[1] for codes, *_ in got) >= 3 * 23 - 8
        for (codes, length, _), (_, wanted) in zip(got, recordings, strict=False):
            columns = {tuple(column) for column in wanted.T.tolist()}
            assert all(tuple(column) in columns for column in codes.T.tolist())
            assert length in (None, 23 * 320 - 7)


def test_what_is_no_stream_makes_no_recording(make: Any) -> None:
    """An end record or a late packet twice would otherwise be a recording of silence."""
    data, codes = make(120)
    starts = [packet.offset for packet in Reader(io.BytesIO(data)).raw()]
    end, late = data[-10:], data[starts[1] : starts[2]]
    assert end[:2] == b"\x01\x04" and len(starts) == 3
    for more in (end, late, end + late, b"\0" * 100, seal(b"\x90\x01x"), make_record(2, b"12345678")):
        got = whole(data + more, salvage=True)
        assert len(got) == 1 and len(got[0][2].problems) == 1
        (_, length, _), (second, _, _) = whole(data + more + data, salvage=True)
        assert length == 120 * 320 - 7
        np.testing.assert_array_equal(second, codes)


def test_problems_are_bounded_and_the_search_linear(make: Any) -> None:
    data, _ = make(20)
    got = whole(data + b"\x89STK" * 5000 + data, salvage=True)
    assert len(got) == 2 and sum(len(reader.problems) for *_, reader in got) < 10
