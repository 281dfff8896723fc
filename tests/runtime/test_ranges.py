"""Times of a file, files of several recordings, entropy-coded files: exactly the samples of the whole, without reading all of it."""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from spectokenizer import AudioError, Codec, CorruptedError, FormatError, ModelError, TruncatedError
from spectokenizer.bitstream import Reader, Writer, streams
from spectokenizer.bitstream.bits import pack, unpack
from spectokenizer.runtime import files

RATE = 16000
ROOT = Path(__file__).parents[2]


class Pipe(io.BytesIO):
    """What cannot seek."""

    def seekable(self) -> bool:
        return False

    def seek(self, *_: Any) -> int:
        raise OSError("a pipe")


class Counting(io.BytesIO):
    count = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.count += len(data)
        return data


def stk(codec: Codec, samples: np.ndarray, codebooks: int | None = None, packet_frames: int | None = None, **options: Any) -> bytes:
    codes = codec.encode(samples, RATE, codec.info.bitrates[-1])
    sink = io.BytesIO()
    writer = Writer(sink, files.header_of(codec, codebooks or codes.num_codebooks), packet_frames, **options)
    writer.write(codes.array[:codebooks])
    writer.close(codes.num_samples)
    return sink.getvalue()


def heard(codec: Codec | None, source: bytes | io.BytesIO, **options: Any) -> np.ndarray:
    sink = io.BytesIO()
    report = files.decode_file(codec, io.BytesIO(source) if isinstance(source, bytes) else source, sink, **options)
    samples = np.frombuffer(sink.getvalue()[44:], "<i2").astype(int)
    assert report.seconds == len(samples) / RATE
    return samples


@pytest.fixture(scope="module")
def long(codec: Codec, speech: np.ndarray) -> tuple[bytes, np.ndarray]:
    """15 s, and what they decode to."""
    data = stk(codec, np.tile(speech, 6)[: 15 * RATE - 77], packet_frames=10, index=True)
    return data, heard(codec, data)


RANGES = [(None, 3.5), (5, 5.5), (7.123, 7.124), (9.34, None), (12.5, 30), (0.01, float("inf"))]


@pytest.mark.parametrize(("start", "end"), RANGES)
def test_a_range_is_that_part_of_the_whole(codec: Codec, long: tuple[bytes, np.ndarray], start: float | None, end: float | None) -> None:
    """In number to the sample, in value to a few steps of 16 bits, whatever the way to it."""
    data, whole = long
    expected = whole[round((start or 0) * RATE) : None if end is None else round(min(end, 99) * RATE)]
    results = [
        heard(codec, source, start=start, end=end, salvage=salvage)
        for source, salvage in [
            (io.BytesIO(data), False),
            (Pipe(data), False),
            (io.BytesIO(data), True),
            (io.BytesIO(no_index(data)), False),
        ]
    ]
    for result in results:
        assert len(result) == len(expected)
        assert np.abs(result - expected).max() <= 8
        np.testing.assert_array_equal(result, results[0])
    if not start:
        np.testing.assert_array_equal(results[0], expected)


def no_index(data: bytes) -> bytes:
    """The same without the index: the end record follows the last packet."""
    packets = list(Reader(io.BytesIO(data)).raw())
    reader = Reader(io.BytesIO(data))
    end = packets[-1].offset + packets[-1].size
    list(reader.raw())
    assert reader.indexed
    size = int.from_bytes(data[end + 1 : end + 2], "little") + 6
    out = data[:end] + data[end + size :]
    assert not (bare := Reader(io.BytesIO(out))).indexed and list(bare.raw()) and not bare.indexed
    return out


def test_only_what_is_needed_is_read(codec: Codec) -> None:
    """Twenty minutes of random codes: 500 bytes per second."""
    codes = np.random.default_rng(0).integers(0, codec.info.codebook_size, (8, 60_000))
    sink = io.BytesIO()
    writer = Writer(sink, files.header_of(codec, 8), index=True)
    writer.write(codes)
    writer.close(60_000 * 320 - 160)
    source = Counting(sink.getvalue())
    assert len(heard(codec, source, start=700, end=702)) == 2 * RATE
    assert source.count < (2 + files.WARM_UP_SECONDS) * 500 + 1500


def test_ranges_that_are_none(codec: Codec, long: tuple[bytes, np.ndarray]) -> None:
    data, _ = long
    for start, end in [(-1, None), (5, 5), (5, 4), (0, 0), (float("nan"), None), (0, float("nan"))]:
        with pytest.raises(AudioError, match="is no range"):
            heard(codec, data, start=start, end=end)
    for source in (io.BytesIO(data), Pipe(data)):
        with pytest.raises(AudioError, match=r"the recording is 15.00 s long; a start at 15.5 s"):
            heard(codec, source, start=15.5)


def test_a_range_before_the_damage(codec: Codec, long: tuple[bytes, np.ndarray]) -> None:
    """Of a file that was cut off, what is there can be heard; of a damaged one, what is whole."""
    data, whole = long
    cut = data[: len(data) // 2]
    np.testing.assert_array_equal(heard(codec, cut, start=0, end=4), whole[: 4 * RATE])
    assert len(heard(codec, cut, start=5, end=6)) == RATE
    with pytest.raises(TruncatedError):
        heard(codec, cut, start=6, end=8)
    packets = list(Reader(io.BytesIO(data)).raw())
    at = packets[30].offset + 20  # 6 s
    damaged = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    for start, end in [(1, 5), (14.5, 14.9)]:
        assert np.abs(heard(codec, damaged, start=start, end=end) - whole[round(start * RATE) : round(end * RATE)]).max() <= 8
    with pytest.raises(CorruptedError):
        heard(codec, damaged, start=5, end=7)
    rescued = heard(codec, damaged, start=5, end=7, salvage=True)
    assert len(rescued) == 2 * RATE and np.abs(rescued[: RATE - 160] - whole[5 * RATE : 6 * RATE - 160]).max() <= 8
    assert not rescued[RATE : RATE + 3000].any()


@pytest.mark.skipif(not (ROOT / "examples/speech.flac").exists(), reason="no example here")
def test_how_close_the_document_says_it_is(codec: Codec, tmp_path: Path) -> None:
    files.encode_file(codec, ROOT / "examples/speech.flac", tmp_path / "a.stk", codec.info.bitrates[-1])
    data = (tmp_path / "a.stk").read_bytes()
    whole = heard(codec, data)
    for start in (3, 5.55, 8.1):
        part = heard(codec, data, start=start, end=start + 1)
        assert np.abs(part - whole[round(start * RATE) :][:RATE]).max() <= 1


# -- chains ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chain(codec: Codec, speech: np.ndarray) -> tuple[bytes, np.ndarray]:
    """Three recordings of several lengths and numbers of codebooks, and one of no samples; and what they decode to."""
    clips = [
        (speech[:20_000], 2, {"index": True, "packet_frames": 2}),
        (speech[:0], 1, {}),
        (speech[5000:35_000], 4, {"metadata": {"a": "b"}}),
    ]
    clips.append((np.tile(speech, 2), 3, {"index": True, "packet_frames": 3}))
    parts = [stk(codec, samples, codebooks, **options) for samples, codebooks, options in clips]
    alone = [heard(codec, part) for part in parts]
    assert [len(samples) for samples in alone] == [len(samples) for samples, *_ in clips]
    return b"".join(parts), np.concatenate(alone)


def test_a_chain_is_heard_one_after_the_other(codec: Codec, chain: tuple[bytes, np.ndarray]) -> None:
    data, whole = chain
    for source, options in [
        (io.BytesIO(data), {}),
        (Pipe(data), {}),
        (io.BytesIO(data), {"salvage": True}),
        (io.BytesIO(data), {"start": 0}),
    ]:
        np.testing.assert_array_equal(heard(codec, source, **options), whole)


@pytest.mark.parametrize(("start", "end"), [(0.5, 1), (1.2, 1.3), (1.24, 3.4), (3.125, 3.5), (1, 7), (4.9, None), (3, 100)])
def test_ranges_of_a_chain(codec: Codec, chain: tuple[bytes, np.ndarray], start: float, end: float | None) -> None:
    """Over the ends of recordings, too, each with the state that it has of its own."""
    data, whole = chain
    expected = whole[round(start * RATE) : None if end is None else round(end * RATE)]
    for source, salvage in [(io.BytesIO(data), False), (Pipe(data), False), (io.BytesIO(data), True)]:
        result = heard(codec, source, start=start, end=end, salvage=salvage)
        assert len(result) == len(expected) and np.abs(result - expected).max() <= 8


def test_salvage_of_a_chain(codec: Codec, chain: tuple[bytes, np.ndarray]) -> None:
    data, whole = chain
    ends = [reader.num_bytes for reader in streams(io.BytesIO(data)) if list(reader.raw()) is not None]
    damaged = data[: ends[0] - 5] + data[ends[0] :]  # the first end record
    with pytest.raises(FormatError):
        heard(codec, damaged)
    sink = io.BytesIO()
    report = files.decode_file(codec, io.BytesIO(damaged), sink, salvage=True)
    samples = np.frombuffer(sink.getvalue()[44:], "<i2")
    rest = len(whole) - 20_000
    np.testing.assert_array_equal(samples[-rest:], whole[-rest:])
    assert 0 <= len(samples) - len(whole) < 320 and any("length is unknown" in warning for warning in report.warnings)
    broken = data[: ends[1] + 8] + b"?" + data[ends[1] + 9 :]  # the header of the third
    np.testing.assert_array_equal(heard(codec, broken, salvage=True), whole)


def test_silence_in_place_of_what_is_lost_is_bounded_over_the_whole_chain(codec: Codec) -> None:
    sink = io.BytesIO()
    writer = Writer(sink, files.header_of(codec, 1), 5)
    writer.num_frames = 20_000  # 400 s
    writer.write(np.zeros((1, 5), int))
    writer.close(20_005 * 320)
    samples = heard(codec, sink.getvalue() * 3, salvage=True)
    assert len(samples) <= (files.GAP_SECONDS + 1) * RATE


def test_another_model_in_the_chain_is_named(codec: Codec, speech: np.ndarray, tmp_path: Path) -> None:
    sink = io.BytesIO()
    header = files.header_of(codec, 1)
    Writer(sink, type(header)("other", "0" * 16, 16000, 320, 1, header.bits_per_code)).close(0)
    for salvage in (False, True):
        with pytest.raises(ModelError, match="model 'other'"):
            files.decode_file(codec, io.BytesIO(stk(codec, speech[:2000]) + sink.getvalue()), tmp_path / "a.wav", salvage)
    assert not list(tmp_path.iterdir())


def test_more_frames_than_samples_is_damage(codec: Codec, speech: np.ndarray) -> None:
    """A length that would cut off whole packets cannot be kept without having seen the end."""
    codes = codec.encode(speech, RATE, codec.info.bitrates[-1])
    sink = io.BytesIO()
    writer = Writer(sink, files.header_of(codec, codes.num_codebooks), 5)
    writer.write(codes.array)
    writer.close(1000)
    with pytest.raises(CorruptedError, match="the end record counts 1000 samples"):
        heard(codec, sink.getvalue())


# -- entropy-coded ---------------------------------------------------------------------------------------------------------------


class Deflate:
    hash = b"fake-tab"

    def __init__(self, bits: int) -> None:
        self.bits = bits

    def encode(self, codes: np.ndarray) -> bytes:
        return zlib.compress(pack(codes, self.bits), 9)

    def decode(self, data: bytes, num_codebooks: int, num_frames: int) -> np.ndarray:
        return unpack(zlib.decompress(data), num_codebooks, num_frames, self.bits)


def test_entropy_coded_files(codec: Codec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence, which deflate makes shorter; then a little noise, which it does not."""
    monkeypatch.setattr(codec, "entropy", None, raising=False)
    rng = np.random.default_rng(0)
    audio = np.concatenate([np.zeros(8 * RATE), 0.1 * rng.standard_normal(2 * RATE)])
    soundfile.write(tmp_path / "a.wav", audio, RATE, "FLOAT")
    with pytest.raises(ModelError, match="no tables for entropy coding; encode without it"):
        files.encode_file(codec, tmp_path / "a.wav", tmp_path / "a.stk", codec.info.bitrates[-1], entropy=True)
    assert not (tmp_path / "a.stk").exists()
    files.encode_file(codec, tmp_path / "a.wav", tmp_path / "plain.stk", codec.info.bitrates[-1])
    monkeypatch.setattr(codec, "entropy", Deflate(codec.info.bits_per_code), raising=False)
    files.encode_file(codec, tmp_path / "a.wav", tmp_path / "a.stk", codec.info.bitrates[-1], entropy=True)
    data, plain = (tmp_path / "a.stk").read_bytes(), (tmp_path / "plain.stk").read_bytes()
    assert len(data) < 0.8 * len(plain)
    assert {packet.coded for packet in Reader(io.BytesIO(data)).raw()} == {False, True}
    whole = heard(codec, plain)
    for source, salvage in [(io.BytesIO(data), False), (Pipe(data), False), (io.BytesIO(data), True)]:
        np.testing.assert_array_equal(heard(codec, source, salvage=salvage), whole)
    assert np.abs(heard(codec, data, start=5, end=9) - whole[5 * RATE : 9 * RATE]).max() <= 8
    monkeypatch.setattr(codec, "entropy", None)
    for options in ({}, {"start": 1.0}, {"salvage": True}):
        with pytest.raises(ModelError, match="tables 66616b652d746162"):
            heard(codec, data, **options)
