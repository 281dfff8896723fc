"""encode and decode as people call them: lengths, types, rates, batches, and every mistake answered with what to do."""

from __future__ import annotations

import json
import math
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soxr
from hypothesis import given
from hypothesis import strategies as st

import spectokenizer
from spectokenizer import AudioError, BitrateError, Codec, Codes, CodesError, ModelError
from spectokenizer.runtime import audio as audio_module

RATE = 16000
LENGTHS = [0, 1, 159, 160, 161, 319, 320, 321, 479, 480, 481, 639, 640, 641, 16000, 16321]


def copy_of(folder: Path, target: Path, **changes: Any) -> Path:
    """A model's folder with a changed configuration."""
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text())
    config["codec"] |= changes
    (target / "config.json").write_text(json.dumps(config))
    return target


# -- lengths and alignment -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", LENGTHS)
def test_length_is_exact(codec: Codec, speech: np.ndarray, length: int) -> None:
    info = codec.info
    codes = codec.encode(speech[:length], RATE, info.bitrates[-1])
    frames = math.ceil((length + info.delay_samples) / info.frame_size) if length else 0
    assert codes.array.shape == (info.num_codebooks, frames)
    assert codes.num_samples == length
    decoded = codec.decode(codes)
    assert decoded.dtype == np.float32
    assert decoded.shape == (length,)
    assert np.isfinite(decoded).all()


@pytest.mark.parametrize("length", LENGTHS)
def test_length_of_a_bare_array_of_codes(codec: Codec, speech: np.ndarray, length: int) -> None:
    """It does not know how long the audio was: all whole samples come back unless told."""
    codes = codec.encode(speech[:length], RATE, codec.info.bitrates[-1])
    everything = codec.decode(codes.array)
    assert len(everything) == max(0, codes.num_frames * codec.info.frame_size - codec.info.delay_samples)
    np.testing.assert_array_equal(everything[:length], codec.decode(codes))
    np.testing.assert_array_equal(codec.decode(codes.array, num_samples=length), codec.decode(codes))


def test_a_shorter_clip_is_a_prefix(codec: Codec, speech: np.ndarray) -> None:
    """Alignment: frame t depends on samples before (t + 1)·frame_size only, sample n on frames up to that of n + delay."""
    info, rate = codec.info, codec.info.bitrates[-1]
    long = codec.encode(speech[:8000], RATE, rate)
    short = codec.encode(speech[:5000], RATE, rate)
    whole = 5000 // info.frame_size
    np.testing.assert_array_equal(short.array[:, :whole], long.array[:, :whole])
    heard = whole * info.frame_size - info.delay_samples
    np.testing.assert_array_equal(codec.decode(short)[:heard], codec.decode(long)[:heard])


def test_a_trained_model_s_output_is_aligned_with_its_input(codec: Codec, real_speech: list[Path]) -> None:
    if codec.info.name != "mini":
        pytest.skip("random weights are aligned with nothing")
    samples, _ = audio_module.read(real_speech[0], RATE)
    samples = samples[: 4 * RATE]
    decoded = codec.decode(codec.encode(samples, RATE, codec.info.bitrates[-1]))
    lags = range(-40, 41)
    inner = slice(100, len(samples) - 100)
    match = [float(np.dot(samples[inner], np.roll(decoded, -lag)[inner])) for lag in lags]
    assert lags[int(np.argmax(match))] == 0


# -- what audio may be ---------------------------------------------------------------------------------------------------------


def test_int16_and_float64_are_the_same_audio(codec: Codec, speech: np.ndarray) -> None:
    rate = codec.info.bitrates[-1]
    pcm = np.round(speech[:8000] * 32767).astype(np.int16)
    expected = codec.encode((pcm / 32768).astype(np.float32), RATE, rate)
    for same in (pcm, pcm / 32768, list(pcm / 32768)):
        np.testing.assert_array_equal(codec.encode(same, RATE, rate).array, expected.array)


def test_channels_are_mixed(codec: Codec, speech: np.ndarray) -> None:
    rate = codec.info.bitrates[-1]
    left, right = speech[:8000], speech[8000:16000]
    mixed = codec.encode(np.stack([left, right]), RATE, rate)
    assert mixed.num_samples == 8000
    np.testing.assert_array_equal(mixed.array, codec.encode((left + right) / 2, RATE, rate).array)
    one = codec.encode(left[None], RATE, rate)
    np.testing.assert_array_equal(one.array, codec.encode(left, RATE, rate).array)


def test_the_input_is_left_alone(codec: Codec, speech: np.ndarray) -> None:
    samples = speech[:3000].copy()
    codes = codec.encode(samples, RATE, codec.info.bitrates[0])
    kept = codes.array.copy()
    codec.decode(codes)
    np.testing.assert_array_equal(samples, speech[:3000])
    np.testing.assert_array_equal(codes.array, kept)


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (44100, 2), (48000, 1), (11025, 1), (16000.0, 1), (np.int64(22050), 1)])
def test_other_rates_are_resampled(codec: Codec, speech: np.ndarray, rate: float, channels: int) -> None:
    samples = np.stack([speech[:9001]] * channels) if channels > 1 else speech[:9001]
    codes = codec.encode(samples, rate, codec.info.bitrates[-1])
    assert codes.sample_rate == RATE
    assert codes.num_samples == round(9001 * RATE / rate)
    expected = codec.encode(soxr.resample(speech[:9001], rate, RATE), RATE, codec.info.bitrates[-1])
    np.testing.assert_array_equal(codes.array, expected.array)
    assert len(codec.decode(codes)) == codes.num_samples


# -- batches -------------------------------------------------------------------------------------------------------------------


@given(lengths=st.lists(st.integers(0, 6000), min_size=1, max_size=6))
def test_a_batch_gives_what_single_clips_give(codec: Codec, speech: np.ndarray, lengths: list[int]) -> None:
    rate = codec.info.bitrates[1]
    clips = [speech[i * 700 : i * 700 + n] for i, n in enumerate(lengths)]
    for clip, codes in zip(clips, codec.encode_batch(clips, RATE, rate), strict=True):
        alone = codec.encode(clip, RATE, rate)
        assert np.array_equal(codes.array, alone.array)
        assert codes.num_samples == alone.num_samples == len(clip)


def test_an_empty_batch(codec: Codec) -> None:
    assert codec.encode_batch([], RATE, None) == []


def test_threads_may_share_a_codec(codec: Codec, speech: np.ndarray) -> None:
    clips = [speech[i * 1000 : i * 1000 + 8000] for i in range(8)]
    expected = [codec.decode(codec.encode(clip, RATE, codec.info.bitrates[-1])) for clip in clips]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda clip: codec.decode(codec.encode(clip, RATE, codec.info.bitrates[-1])), clips))
    assert all(np.array_equal(a, b) for a, b in zip(expected, found, strict=True))


# -- bitrates ------------------------------------------------------------------------------------------------------------------


def test_lower_bitrates_are_leading_codebooks(codec: Codec, speech: np.ndarray) -> None:
    info = codec.info
    full = codec.encode(speech[:8000], RATE, codec.info.bitrates[-1])
    assert full.num_codebooks == info.num_codebooks
    for k, rate in enumerate(info.bitrates, 1):
        assert codec.codebooks_for(rate) == codec.codebooks_for(float(rate)) == k
        assert k * info.bits_per_code * info.frame_rate == rate
        np.testing.assert_array_equal(codec.encode(speech[:8000], RATE, rate).array, full.array[:k])
        assert len(codec.decode(full.array[:k])) == full.num_frames * info.frame_size - info.delay_samples


@pytest.mark.parametrize("bitrate", [0, -500, 1, 250.5, 10**9, float("nan"), float("inf"), "4000", [600], True])
def test_other_bitrates_name_the_possible_ones(codec: Codec, bitrate: Any) -> None:
    rates = codec.info.bitrates
    for use in (codec.codebooks_for, codec.encoder, lambda b: codec.encode(np.zeros(10), RATE, b)):
        with pytest.raises(BitrateError, match=f"{rates[0]} to {rates[-1]} in steps of {rates[0]}"):
            use(bitrate)


# -- mistakes ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("samples", "remedy"),
    [
        ([0.0, 0.1, math.nan], "nan at sample 2; give finite samples"),
        ([0.0, math.inf], "inf at sample 1; give finite samples"),
        ([[0.0, 0.0, 0.0], [0.0, -math.inf, 0.0]], "-inf at sample 1; give finite samples"),
        (np.float32([0, 0, 1000]), "divide 16-bit integers by 32768"),
        ([1e300], "inf at sample 0; give finite samples"),
        ([0.0, 1e20], r"1e\+20 at sample 1; give finite samples in -1..1"),
        ([0, 1, 2], "type int64; give float samples in -1..1 or int16"),
        (np.zeros(5, np.int32), "type int32; give float samples in -1..1 or int16"),
        (np.zeros(5, np.complex64), "give float samples"),
        (np.zeros(5, bool), "give float samples"),
        ("speech.wav", "give float samples"),
        (None, "give float samples"),
        ([[0.1, 0.2], [0.3]], r"give \[samples\] or \[channels, samples\]"),
        (0.5, r"shape \[\]; give \[samples\] or \[channels, samples\]"),
        (np.zeros((1, 2, 3)), r"shape \[1, 2, 3\]; give \[samples\] or \[channels, samples\]"),
        (np.zeros((16000, 2)), r"shape \[16000, 2\].*transpose"),
        (np.zeros((0, 100)), "no channels"),
    ],
    ids=str,
)
def test_audio_that_cannot_be_used(codec: Codec, samples: Any, remedy: str) -> None:
    with pytest.raises(AudioError, match=remedy):
        codec.encode(samples, RATE, codec.info.bitrates[-1])
    with pytest.raises(AudioError, match=remedy):
        codec.encoder(codec.info.bitrates[-1]).push(samples)


@pytest.mark.parametrize("rate", [0, -16000, 1, 999, 1e7, 16000.5, math.nan, math.inf, "16000", None, 16000 + 0j, [16000]])
def test_silly_rates(codec: Codec, rate: Any) -> None:
    with pytest.raises(AudioError, match="give a whole number between 1000 and 768000"):
        codec.encode(np.zeros(100), rate, codec.info.bitrates[-1])


@pytest.mark.parametrize(
    ("codes", "remedy"),
    [
        ([1, 2, 3], r"shape \[3\]; give \[codebooks, frames\]"),
        (np.zeros((1, 2, 3), int), r"give \[codebooks, frames\]"),
        ([[1, 2], [3]], r"give \[codebooks, frames\]"),
        (np.zeros((2, 3)), "type float64; give integers"),
        ([["1"]], "give integers"),
        ([[True]], "give integers"),
        ([[-1]], "range from -1"),
        ([[1 << 20]], "this model's are 0 to"),
        (np.zeros((33, 5), int), r"33 codebooks .*; this model has 1 to"),
        (np.zeros((0, 5), int), "this model has 1 to"),
    ],
    ids=str,
)
def test_codes_that_do_not_fit(codec: Codec, codes: Any, remedy: str) -> None:
    with pytest.raises(CodesError, match=remedy):
        codec.decode(codes)
    with pytest.raises(CodesError, match=remedy):
        codec.decoder().push(codes)


def test_the_absent_code_is_the_network_s_own(codec: Codec) -> None:
    with pytest.raises(CodesError):
        codec.decode([[codec.info.codebook_size]])


@pytest.mark.parametrize("count", [-1, 481])
def test_more_samples_than_the_codes_hold(codec: Codec, count: int) -> None:
    with pytest.raises(CodesError, match="which hold 480"):
        codec.decode(np.zeros((1, 2), int), count)


# -- Codes ---------------------------------------------------------------------------------------------------------------------


def test_codes_are_an_array(codec: Codec, speech: np.ndarray) -> None:
    codes = codec.encode(speech[:16000], RATE, codec.info.bitrates[1])
    assert codes.array.dtype == np.int16 and codes.array.flags.c_contiguous
    assert np.asarray(codes).shape == (2, codes.num_frames) == (codes.num_codebooks, codes.num_frames)
    assert np.asarray(codes, np.int64).dtype == np.int64
    copy = np.array(codes)
    copy[:] = 0
    assert codes.array.any()
    assert (codes.model, codes.model_hash, codes.frame_size) == (codec.info.name, codec.info.model_hash, codec.info.frame_size)
    assert repr(codes) == f"Codes(2 codebooks × 51 frames, 1.00 s, model '{codec.info.name}')"


# -- models --------------------------------------------------------------------------------------------------------------------


def test_codes_of_another_model_are_refused(codec: Codec, speech: np.ndarray, tmp_path: Path) -> None:
    other = spectokenizer.load(copy_of(codec.network.folder, tmp_path / "other", name="other"))
    assert other.info.model_hash != codec.info.model_hash
    codes = codec.encode(speech[:3000], RATE, codec.info.bitrates[-1])
    with pytest.raises(ModelError, match=f"'{codec.info.name}'.*'other'"):
        other.decode(codes)
    assert len(other.decode(codes.array)) >= 3000  # a bare array is taken at its word


@pytest.mark.parametrize("file", ["weights.bin", "encoder_step.onnx", "encoder_chunk.onnx", "decoder_step.onnx", "decoder_chunk.onnx"])
def test_the_hash_covers_every_file(tiny_folder: Path, tmp_path: Path, file: str) -> None:
    """Small weights, biases and slopes for instance, are inside the graphs."""
    folder = shutil.copytree(tiny_folder, tmp_path / "other")
    before = spectokenizer.load(folder).info.model_hash
    data = bytearray((folder / file).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / file).write_bytes(data)
    assert spectokenizer.load(folder).info.model_hash != before
    (folder / file).unlink()
    with pytest.raises(ModelError, match=f"{file}.*not complete"):
        spectokenizer.load(folder)


def test_the_hash_does_not_know_where_the_model_lies(tiny_codec: Codec, tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "moved")
    about = json.loads((folder / "config.json").read_text())
    about["about"] = {"licence": "changed"}
    (folder / "config.json").write_text(json.dumps(about))
    assert spectokenizer.load(folder).info.model_hash == tiny_codec.info.model_hash


def test_no_such_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model 'nonsense': neither bundled"):
        spectokenizer.load("nonsense")
    with pytest.raises(ModelError, match="give the folder that 'spectok export' wrote"):
        spectokenizer.load(tmp_path)
    (tmp_path / "file").write_text("")
    for load in (spectokenizer.load, Codec):
        with pytest.raises(ModelError):
            load(tmp_path / "file")


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "null", '{"codec": 1}', '{"codec": {"colour": 1}}', '{"codec": {"num_codebooks": 99}}', "\0"]
)
def test_broken_configuration(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match="not a model configuration"):
        spectokenizer.load(tmp_path)


@pytest.mark.parametrize("broken", ["encoder_chunk.onnx", "decoder_step.onnx", "weights.bin"])
def test_broken_graph_or_weights(tiny_folder: Path, tmp_path: Path, speech: np.ndarray, broken: str) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "broken")
    (folder / broken).write_bytes((folder / broken).read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot be loaded"):
        codec = spectokenizer.load(folder)
        codec.decode(codec.encode(speech[:3000], RATE, codec.info.bitrates[-1]))


def test_info(codec: Codec) -> None:
    info = codec.info
    assert (info.sample_rate, info.frame_size, info.frame_rate, info.delay_samples, info.latency_samples) == (16000, 320, 50.0, 160, 480)
    assert info.bitrates == tuple(round(k * info.bits_per_code * 50) for k in range(1, info.num_codebooks + 1))
    assert len(info.model_hash) == 16 and int(info.model_hash, 16) >= 0
    assert info.name in repr(codec) and info.model_hash in repr(codec)


def test_public_names() -> None:
    assert all(hasattr(spectokenizer, name) for name in spectokenizer.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        spectokenizer.nonsense  # noqa: B018
    assert Codes is spectokenizer.Codes
