"""Audio in: files, pipes, channels, rates, and what cannot be read."""

from __future__ import annotations

import io
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from spectokenizer import AudioError
from spectokenizer.runtime import audio

RATE = 16000


@given(
    rates=st.sampled_from([(44100, RATE), (8000, RATE), (11025, RATE), (48000, RATE), (RATE, 44100), (RATE, RATE)]),
    sizes=st.lists(st.integers(0, 3000), max_size=20),
    rest=st.integers(0, 500),
)
def test_resampling_in_blocks_is_resampling_at_once(speech: np.ndarray, rates: tuple[int, int], sizes: list[int], rest: int) -> None:
    samples = speech[: min(len(speech), sum(sizes) + rest)]
    at_once = audio.resample(samples, *rates)
    assert len(at_once) == round(len(samples) * rates[1] / rates[0])
    resampler, parts = audio.Resampler(*rates), []
    for part in np.split(samples, np.minimum(np.cumsum(sizes), len(samples)).astype(int)):
        parts.append(resampler.push(part))
    parts.append(resampler.push(samples[:0], last=True))
    assert np.array_equal(np.concatenate(parts), at_once)


def test_resampling_keeps_a_tone_where_it_is() -> None:
    """Amplitude, frequency and phase: the resampler's own delay is compensated."""
    tone = {rate: np.sin(2 * np.pi * 440 * np.arange(rate) / rate).astype(np.float32) for rate in (44100, RATE)}
    inner = slice(500, -500)
    np.testing.assert_allclose(audio.resample(tone[44100], 44100, RATE)[inner], tone[RATE][inner], atol=1e-3)


@pytest.mark.parametrize(("suffix", "tolerance"), [("wav", 1e-4), ("flac", 1e-4), ("aiff", 1e-4), ("ogg", 0.1), ("mp3", 0.1)])
def test_formats(tmp_path: Path, speech: np.ndarray, suffix: str, tolerance: float) -> None:
    path = tmp_path / f"speech.{suffix}"
    soundfile.write(path, speech, RATE)
    samples, rate = audio.read(path)
    assert (samples.dtype, rate) == (np.float32, RATE)
    assert len(samples) == pytest.approx(len(speech), abs=0 if tolerance < 0.1 else 2500)
    n = min(len(samples), len(speech))
    assert np.abs(samples[:n] - speech[:n]).max() < tolerance


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "PCM_U8", "FLOAT", "DOUBLE", "ULAW"])
def test_sample_formats(tmp_path: Path, speech: np.ndarray, subtype: str) -> None:
    soundfile.write(tmp_path / "speech.wav", speech, RATE, subtype)
    samples, _ = audio.read(tmp_path / "speech.wav")
    assert np.abs(samples - speech).max() < (0.02 if subtype in ("PCM_U8", "ULAW") else 1e-4)


def test_channels_are_mixed_and_rates_converted(tmp_path: Path, speech: np.ndarray) -> None:
    soundfile.write(tmp_path / "stereo.flac", np.stack([speech, speech / 2], 1), 44100)
    samples, rate = audio.read(tmp_path / "stereo.flac")
    assert (samples.shape, rate) == (speech.shape, 44100)
    np.testing.assert_allclose(samples, 0.75 * speech, atol=1e-4)
    converted, rate = audio.read(str(tmp_path / "stereo.flac"), RATE)
    assert rate == RATE
    np.testing.assert_array_equal(converted, audio.resample(samples, 44100, RATE))


@pytest.mark.parametrize("seconds", [0.0, 0.1, 1.0, 100.0])
def test_blocks_join_to_the_file(tmp_path: Path, speech: np.ndarray, seconds: float) -> None:
    speech = speech[:5000]
    soundfile.write(tmp_path / "speech.wav", speech, RATE, "FLOAT")
    with audio.open_audio(tmp_path / "speech.wav") as file:
        parts = list(audio.blocks(file, seconds))
    assert max(map(len, parts)) <= max(1, seconds * RATE)
    np.testing.assert_array_equal(np.concatenate(parts), speech)


def test_a_file_without_samples(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), RATE)
    samples, rate = audio.read(tmp_path / "empty.wav", 8000)
    assert (samples.shape, samples.dtype, rate) == ((0,), np.float32, 8000)


def wav(samples: np.ndarray, kind: str = "WAV", rate: int = RATE) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "AIFF"])
def test_from_a_pipe(speech: np.ndarray, kind: str) -> None:
    """soundfile seeks, a pipe cannot: it is copied to disk first."""
    data = wav(speech, kind)
    reading, writing = os.pipe()
    writer = threading.Thread(target=lambda: os.fdopen(writing, "wb").write(data))
    writer.start()
    with os.fdopen(reading, "rb") as pipe:
        samples, _ = audio.read(pipe)
    writer.join()
    np.testing.assert_array_equal(samples, audio.read(io.BytesIO(data))[0])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_from_a_named_pipe(tmp_path: Path, speech: np.ndarray) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: path.write_bytes(wav(speech)))
    writer.start()
    samples, _ = audio.read(path)
    writer.join()
    assert len(samples) == len(speech)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not audio"),
        (b"Hello, this is text.\n" * 100, "not audio"),
        (wav(np.zeros(100))[:30], "not audio"),
        (b"fLaC" + bytes(99), "not audio"),
    ],
    ids=["empty", "text", "cut header", "flac of zeros"],
)
def test_not_audio(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "file.wav").write_bytes(content)
    with pytest.raises(AudioError, match=rf"file\.wav: {message}"):
        audio.read(tmp_path / "file.wav")
    with pytest.raises(AudioError, match=f"standard input: {message}"):
        audio.read(io.BytesIO(content))


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"nothing\.wav: no such file"):
        audio.read(tmp_path / "nothing.wav")
    with pytest.raises(AudioError, match="not audio"):
        audio.read(tmp_path)


def test_a_file_that_breaks_off_is_not_taken_for_whole(tmp_path: Path, speech: np.ndarray) -> None:
    data = wav(np.tile(speech, 4), "FLAC")
    (tmp_path / "cut.flac").write_bytes(data[: len(data) // 2])
    with pytest.raises(AudioError, match=r"cut\.flac: broken at sample \d+"):
        audio.read(tmp_path / "cut.flac")


def test_samples_that_are_not_numbers_in_a_file(tmp_path: Path) -> None:
    samples = np.zeros(100, np.float32)
    samples[17] = np.nan
    soundfile.write(tmp_path / "nan.wav", samples, RATE, "FLOAT")
    with pytest.raises(AudioError, match="nan at sample 17"):
        audio.read(tmp_path / "nan.wav")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 32.5, 1e300])
def test_limits(bad: Any) -> None:
    with pytest.raises(AudioError, match="at sample 1"):
        audio.to_mono([0.0, bad])
    with pytest.raises(AudioError, match="at sample 1"):
        audio.to_mono([[0.0, 0.0], [0.0, bad]])
    assert audio.to_mono([32.0, -32.0]).tolist() == [32, -32]


def test_to_mono() -> None:
    assert audio.to_mono(np.array([-32768, 0, 16384], np.int16)).tolist() == [-1, 0, 0.5]
    assert audio.to_mono([[1.0, 2.0], [3.0, 4.0]]).tolist() == [2, 3]
    assert audio.to_mono(np.zeros((2, 0))).shape == (0,)
    strided = audio.to_mono(np.arange(10.0)[::2])
    assert strided.flags.c_contiguous and strided.dtype == np.float32
    assert audio.to_mono(np.float16([0.5])).tolist() == [0.5]


@pytest.mark.parametrize("rate", [1000, 768000, 16000.0, np.float32(8000), np.int16(16000)])
def test_rates_that_will_do(rate: Any) -> None:
    assert audio.check_rate(rate) == rate
    assert type(audio.check_rate(rate)) is int


@pytest.mark.parametrize("seconds", [0.1, 10.0])
def test_an_mp3_does_not_depend_on_the_blocks(
    tmp_path: Path, speech: np.ndarray, seconds: float, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its frames lean on the ones before: seeking between two blocks would lose what they have put by."""
    soundfile.write(tmp_path / "a.mp3", np.tile(speech, 3), RATE)
    with audio.open_audio(tmp_path / "a.mp3") as file:
        parts = list(audio.blocks(file, seconds))
    np.testing.assert_array_equal(np.concatenate(parts), soundfile.read(tmp_path / "a.mp3", dtype="float32")[0])
    assert not capfd.readouterr().err


def test_a_short_flac_without_its_end(tmp_path: Path) -> None:
    """Not even its first block is whole: libsndfile opens it all the same."""
    soundfile.write(tmp_path / "a.flac", 0.1 * np.random.default_rng(0).standard_normal(3000), RATE)
    whole = (tmp_path / "a.flac").read_bytes()
    (tmp_path / "a.flac").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(AudioError, match=r"a\.flac"):
        audio.read(tmp_path / "a.flac")


@pytest.mark.skipif(os.name != "posix", reason="names are text here")
def test_a_name_that_is_no_text(tmp_path: Path, speech: np.ndarray) -> None:
    soundfile.write(tmp_path / "a.wav", speech, RATE)
    named = Path(os.fsdecode(bytes(tmp_path) + b"/caf\xe9.wav"))
    try:
        (tmp_path / "a.wav").rename(named)
    except OSError:
        pytest.skip("not on this file system")
    assert len(audio.read(named)[0]) == len(speech)
    with pytest.raises(AudioError, match="no such file") as error:
        audio.read(named.with_name(named.name + "x"))
    str(error.value).encode()


@pytest.mark.parametrize(("suffix", "told"), [("wav", True), ("aiff", True), ("mp3", True), ("ogg", False)])
def test_what_is_cut_off_is_told_where_the_format_tells(tmp_path: Path, speech: np.ndarray, suffix: str, told: bool) -> None:
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, np.tile(speech, 2), RATE)
    for share in (1.0, 0.6):
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
        with audio.open_audio(path) as file:
            missing = audio.cut_off(file, sum(map(len, audio.blocks(file))))
        assert bool(missing) == (told and share < 1), missing
    assert not told or "% of what its header promises" in missing


def test_where_a_file_holds_no_number(tmp_path: Path) -> None:
    samples = np.zeros(200_000, np.float32)
    samples[170_000] = np.nan  # in the second block
    soundfile.write(tmp_path / "a.wav", samples, RATE, "FLOAT")
    with pytest.raises(AudioError, match="at sample 170000"):
        audio.read(tmp_path / "a.wav")
