"""The codes of a corpus are those of `codec.encode` on each file alone, whatever lies beside it."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from spectokenizer import Codec
from spectokenizer.corpus.engine import Encoded, Failed, Window, encode_clips
from spectokenizer.corpus.sources import Item
from spectokenizer.runtime import audio


def item(path: Path, **about: object) -> Item:
    return Item(path.stem, str(path), path.stat().st_size if path.exists() else 0, **about)  # type: ignore[arg-type]


def alone(codec: Codec, path: Path, bitrate: float | None = 4000) -> np.ndarray:
    return codec.encode(*audio.read(path), bitrate).array


clip = st.tuples(
    st.one_of(st.integers(0, 700), st.integers(0, 20000)),  # samples
    st.sampled_from([8000, 16000, 16000, 22050, 44100]),
    st.sampled_from([1, 1, 2]),
    st.sampled_from(["wav", "flac"]),
)


@settings(max_examples=12)
@given(corpus=st.lists(clip, min_size=1, max_size=12), lanes=st.integers(1, 5), bitrate=st.sampled_from([500, 4000, 6000, None]))
def test_codes_are_those_of_each_file_alone(
    codec: Codec, tmp_path_factory: pytest.TempPathFactory, corpus: list[tuple[int, int, int, str]], lanes: int, bitrate: float | None
) -> None:
    folder = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(len(corpus))
    items = []
    for i, (samples, rate, channels, suffix) in enumerate(corpus):
        path = folder / f"{i}.{suffix if samples else 'wav'}"  # FLAC of no samples is an empty file
        soundfile.write(path, 0.2 * rng.standard_normal((samples, channels)), rate)
        items.append(item(path))
    results = {result.item.id: result for result in encode_clips(codec, items, bitrate, lanes=lanes)}
    assert sorted(results) == sorted(i.id for i in items)
    for i, (samples, rate, _, _) in zip(items, corpus, strict=True):
        result = results[i.id]
        assert isinstance(result, Encoded)
        np.testing.assert_array_equal(result.codes, alone(codec, Path(i.path), bitrate))
        assert (result.sample_rate_in, result.samples) == (rate, round(samples * 16000 / rate))
        assert result.codes.dtype == np.int16


def test_a_long_file_beside_short_ones(codec: Codec, tmp_path: Path) -> None:
    """Longer than a block of reading, at a rate that is resampled: state is carried over both."""
    rng = np.random.default_rng(0)
    for name, seconds in [("long", 23.4), ("a", 0.3), ("b", 1.1), ("c", 0.01)]:
        soundfile.write(tmp_path / f"{name}.wav", 0.1 * rng.standard_normal(round(seconds * 22050)), 22050)
    items = [item(path) for path in sorted(tmp_path.glob("*.wav"))]
    for result in encode_clips(codec, items, 4000, lanes=2):
        assert isinstance(result, Encoded)
        np.testing.assert_array_equal(result.codes, alone(codec, Path(result.item.path)))


def test_broken_clips_spoil_no_others(codec: Codec, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    good = 0.1 * rng.standard_normal(16000)
    for name in ("a", "z"):
        soundfile.write(tmp_path / f"{name}.flac", good[: 9000 if name == "a" else None], 16000)
    late = np.tile(good, 12)
    late[170000] = np.nan  # in the second block: some codes are made already
    soundfile.write(tmp_path / "nan.wav", late, 16000, subtype="FLOAT")
    (tmp_path / "text.wav").write_text("this is no audio")
    (tmp_path / "empty.wav").write_bytes(b"")
    whole = (tmp_path / "z.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(whole[: len(whole) // 2])
    soundfile.write(tmp_path / "short.flac", good[:3000], 16000)
    whole = (tmp_path / "short.flac").read_bytes()
    (tmp_path / "short.flac").write_bytes(whole[: len(whole) // 2])
    items = [item(path) for path in sorted(tmp_path.iterdir())] + [item(tmp_path / "gone.wav"), Item("known", "x", 5, problem="is known")]
    told: list[float] = []
    results = {r.item.id: r for r in encode_clips(codec, items, 4000, lambda size, seconds: told.append(size), lanes=3)}
    reasons = {name: result.reason for name, result in results.items() if isinstance(result, Failed)}
    assert sorted(reasons) == ["cut", "empty", "gone", "known", "nan", "short", "text"]
    assert "nan" in reasons["nan"] and "from sample 160000 on" in reasons["nan"]
    assert "at sample" in reasons["cut"] and reasons["known"] == "is known"
    assert "No such file" in reasons["gone"] and "not audio" in reasons["text"]
    for name in ("a", "z"):
        result = results[name]
        assert isinstance(result, Encoded)
        np.testing.assert_array_equal(result.codes, alone(codec, tmp_path / f"{name}.flac"))
    assert sum(told) == sum(i.size for i in items)  # the bar ends at its end


def test_a_member_is_read_where_it_lies(codec: Codec, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", 0.1 * np.random.default_rng(0).standard_normal(5000), 16000)
    data = (tmp_path / "a.flac").read_bytes()
    (tmp_path / "shard").write_bytes(b"x" * 777 + data + b"y" * 999)
    inside = Item("in", str(tmp_path / "shard"), len(data), 777)
    both = list(encode_clips(codec, [inside, item(tmp_path / "a.flac")]))
    assert isinstance(both[0], Encoded) and isinstance(both[1], Encoded)
    np.testing.assert_array_equal(both[0].codes, both[1].codes)
    assert both[0].sha256 == both[1].sha256


@given(st.lists(st.tuples(st.integers(-30, 30), st.sampled_from([0, 1, 2]), st.integers(0, 40)), max_size=10))
def test_a_window_is_a_file(tmp_path_factory: pytest.TempPathFactory, moves: list[tuple[int, int, int]]) -> None:
    path = tmp_path_factory.mktemp("window") / "file"
    path.write_bytes(bytes(range(100)))
    with Window(str(path), 20, 50) as window:
        at = 0
        for offset, whence, count in moves:
            at = min(max(0, [0, at, 50][whence] + offset), 50)
            assert window.seek(offset, whence) == window.tell() == at
            assert window.read(count) == bytes(range(100))[20:70][at : at + count]
            at = min(50, at + count)


def test_memory_does_not_grow_with_the_file(codec: Codec, tmp_path: Path) -> None:
    """Numpy's memory is traced; half a minute more would take 2 MB as samples at 16 kHz."""
    peaks = []
    for seconds in (20, 50):
        path = tmp_path / f"{seconds}.wav"
        soundfile.write(path, np.zeros(seconds * 48000, np.int16), 48000)
        tracemalloc.start()
        list(encode_clips(codec, [item(path)]))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 500_000
