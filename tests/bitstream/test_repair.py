"""After a crash: cut anywhere, mended, and at most one packet is missing."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

from spectokenizer.bitstream import Reader, streams
from spectokenizer.bitstream.repair import Repair, repair
from spectokenizer.bitstream.seek import Parts
from spectokenizer.errors import CorruptedError, FormatError


def whole(data: bytes, **options: Any) -> list[tuple[np.ndarray, int | None]]:
    out = []
    for reader in streams(io.BytesIO(data), **options):
        parts = [packet.codes for packet in reader]
        out.append((np.concatenate(parts, 1) if parts else np.zeros((8, 0), np.int16), reader.num_samples))
    return out


@pytest.mark.parametrize("before", [False, True], ids=["one", "chained"])
@pytest.mark.parametrize(
    "options", [{}, {"index": True}, {"metadata": {"a": "b"}, "entropy": True, "quiet": True}], ids=["plain", "index", "all"]
)
def test_cut_anywhere(make: Any, coder: Any, before: bool, options: dict[str, Any]) -> None:
    options = {**options, "entropy": coder if "entropy" in options else None}
    head = make(60, 7)[0] if before else b""
    data, codes = make(205, packet_frames=5, codebooks=2, **options)
    packets = list(Reader(io.BytesIO(data), entropy=coder).raw())
    ends = [packet.offset + packet.size for packet in packets]
    front = packets[0].offset
    for cut in [*range(front + 30), *range(ends[9] - 3, ends[10] + 3), *range(ends[-1], len(data))]:
        file = io.BytesIO(head + data[:cut])
        done = repair(file, delay=160)
        mended = file.getvalue()
        complete = sum(end <= cut for end in ends)
        if cut < front:
            assert done == (Repair(cut, None, 0) if cut else None)
            assert mended == head
            continue
        frames = 5 * complete
        samples = max(0, frames * 320 - 160)
        assert done == Repair(cut - max([front, *(end for end in ends if end <= cut)]), frames, samples)
        recordings = whole(mended, entropy=coder)
        assert len(recordings) == 1 + before
        np.testing.assert_array_equal(recordings[-1][0], codes[:, :frames] if frames else np.zeros((8, 0)))
        assert recordings[-1][1] == samples
        if options.get("index") and complete > 16:
            part = list(Parts(io.BytesIO(mended)))[-1]
            assert part.num_samples == samples  # from the end of the file
        assert repair(file, delay=160) is None and file.getvalue() == mended


def test_zeros_behind_a_power_cut(make: Any) -> None:
    data, codes = make(120)
    for junk in (bytes(5000), b"\xff" * 300, b"\x89STK" + bytes(100)):
        file = io.BytesIO(data[:700] + junk)
        assert repair(file) == Repair(700 - 29 - 507 + len(junk), 50, 50 * 320)
        np.testing.assert_array_equal(whole(file.getvalue())[0][0], codes[:, :50])


def test_junk_behind_a_whole_stream(make: Any) -> None:
    """A crash while another one was appended, of which nothing good came to the disk."""
    data, _ = make(120)
    for junk in (bytes(512), b"x", b"\xff" * 300):
        file = io.BytesIO(data + junk)
        assert repair(file) == Repair(len(junk), None, 0)
        assert file.getvalue() == data


def test_damage_that_is_no_crash_is_left_alone(make: Any) -> None:
    """A cut would lose what is behind: packets, an end, another stream."""
    data, _ = make(205, packet_frames=5)
    other, _ = make(10, 1)
    packets = list(Reader(io.BytesIO(data)).raw())
    early, last = packets[3].offset + 9, packets[-1].offset + 9
    for at, tail in [(early, b"x"), (early, other[:-1]), (last, b"x"), (last, other[:-3]), (len(data) - 1, other[:-3])]:
        broken = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] + tail
        file = io.BytesIO(broken)
        with pytest.raises(CorruptedError, match=r"intact data follow.*--salvage"):
            repair(file)
        assert file.getvalue() == broken


def test_what_is_no_stream_is_left_alone(make: Any) -> None:
    data, _ = make(20)
    for other in (b"RIFF" + bytes(50), b"text", data[:8] + b"?" + data[9:-1], data[:4] + b"\x02" + data[5:-1]):
        file = io.BytesIO(other)
        with pytest.raises(FormatError):
            repair(file)
        assert file.getvalue() == other
    for good in (b"", data, data + data):
        file = io.BytesIO(good)
        assert repair(file) is None and file.getvalue() == good


def test_rest_that_only_looks_like_a_beginning_goes(make: Any) -> None:
    data, _ = make(20)
    for size in range(1, 29):
        file = io.BytesIO(data + data[:size])
        assert repair(file) == Repair(size, None, 0) and file.getvalue() == data
