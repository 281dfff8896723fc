"""Streams: any cut gives what one call gives, exactly; state is a value that can be carried elsewhere."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import spectokenizer
from spectokenizer import Codec, StreamError
from spectokenizer.runtime.audio import read
from spectokenizer.runtime.streams import Snapshot

RATE = 16000
N = 13000  # neither a whole number of frames nor of anything else


def cut(x: np.ndarray, sizes: Iterable[int]) -> list[np.ndarray]:
    """Pieces of these sizes along the last axis, the rest as one."""
    return np.split(x, np.minimum(np.cumsum(list(sizes)), x.shape[-1]), -1)


def encoded(codec: Codec, pieces: Iterable[np.ndarray]) -> np.ndarray:
    encoder = codec.encoder(codec.info.bitrates[-1])
    parts = [encoder.push(piece) for piece in pieces]
    return np.concatenate([*parts, encoder.flush()], 1)


def decoded(codec: Codec, pieces: Iterable[np.ndarray]) -> np.ndarray:
    decoder = codec.decoder()
    parts = [decoder.push(piece) for piece in pieces]
    return np.concatenate([*parts, decoder.flush()])


@pytest.fixture(scope="module")
def whole(codec: Codec, speech: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes and decoded samples of one call."""
    codes = codec.encode(speech[:N], RATE, codec.info.bitrates[-1])
    return codes.array, codec.decode(codes)


@pytest.mark.parametrize("size", [1, 17, 159, 320, 321, 4001, N, 2 * N])
def test_encoder_chunk_sizes(codec: Codec, speech: np.ndarray, whole: tuple[np.ndarray, np.ndarray], size: int) -> None:
    np.testing.assert_array_equal(encoded(codec, cut(speech[:N], [size] * (N // size))), whole[0])


@given(sizes=st.lists(st.integers(0, 1500), max_size=40))
def test_encoder_any_cut(codec: Codec, speech: np.ndarray, whole: tuple[np.ndarray, np.ndarray], sizes: list[int]) -> None:
    assert np.array_equal(encoded(codec, cut(speech[:N], sizes)), whole[0])


@pytest.mark.parametrize("size", [1, 2, 7, 50, 51])
def test_decoder_chunk_sizes(codec: Codec, whole: tuple[np.ndarray, np.ndarray], size: int) -> None:
    codes, audio = whole
    samples = decoded(codec, cut(codes, [size] * (codes.shape[1] // size)))
    assert len(samples) == codes.shape[1] * codec.info.frame_size
    np.testing.assert_array_equal(samples[codec.info.delay_samples :][:N], audio)


@given(sizes=st.lists(st.integers(0, 12), max_size=40))
def test_decoder_any_cut(codec: Codec, whole: tuple[np.ndarray, np.ndarray], sizes: list[int]) -> None:
    samples = decoded(codec, cut(whole[0], sizes))
    assert np.array_equal(samples[codec.info.delay_samples :][:N], whole[1])


def test_recorded_speech_in_network_packets(codec: Codec, real_speech: list[Path]) -> None:
    samples = read(real_speech[-1], RATE)[0][: 3 * RATE]
    codes = codec.encode(samples, RATE, codec.info.bitrates[-1])
    streamed = encoded(codec, cut(samples, [160] * 400))
    np.testing.assert_array_equal(streamed, codes.array)
    heard = decoded(codec, cut(streamed, [1] * 200))
    np.testing.assert_array_equal(heard[codec.info.delay_samples :][: len(samples)], codec.decode(codes))


@pytest.mark.parametrize("length", [0, 1, 159, 160, 161, 319, 320, 321, 640])
def test_flush_completes(codec: Codec, speech: np.ndarray, length: int) -> None:
    encoder = codec.encoder(codec.info.bitrates[-1])
    first = encoder.push(speech[:length])
    assert first.shape[1] == length // codec.info.frame_size  # nothing is held back longer than needed
    last = encoder.flush()
    assert (encoder.num_samples, encoder.num_frames) == (length, first.shape[1] + last.shape[1])
    np.testing.assert_array_equal(np.concatenate([first, last], 1), codec.encode(speech[:length], RATE, codec.info.bitrates[-1]).array)


def test_nothing_in_nothing_out(codec: Codec) -> None:
    encoder, decoder = codec.encoder(codec.info.bitrates[-1]), codec.decoder()
    assert encoder.push([]).shape == (codec.info.num_codebooks, 0)
    assert decoder.push(np.zeros((1, 0), np.int16)).shape == (0,)
    assert decoder.flush().shape == (0,)
    assert decoder.delay_samples == codec.info.delay_samples


def test_types(codec: Codec, speech: np.ndarray) -> None:
    codes = codec.encoder(codec.info.bitrates[-1]).push(speech[:3200])
    assert codes.dtype == np.int16
    samples = codec.decoder().push(codes)
    assert samples.dtype == np.float32
    for kind in (np.int64, np.uint16, np.int32):
        np.testing.assert_array_equal(codec.decoder().push(codes.astype(kind)), samples)
    pcm = np.round(speech[:3200] * 32767).astype(np.int16)
    np.testing.assert_array_equal(
        codec.encoder(codec.info.bitrates[-1]).push(pcm), codec.encoder(codec.info.bitrates[-1]).push(pcm / 32768)
    )


def test_use_after_flush(codec: Codec, speech: np.ndarray) -> None:
    encoder, decoder = codec.encoder(codec.info.bitrates[-1]), codec.decoder()
    encoder.push(speech[:1000])
    encoder.flush()
    decoder.flush()
    for use in (lambda: encoder.push(speech[:10]), encoder.flush, lambda: decoder.push([[0]]), decoder.flush):
        with pytest.raises(StreamError, match="was flushed; open a new one"):
            use()
    assert encoder.num_samples == 1000


def test_a_refused_push_changes_nothing(codec: Codec, speech: np.ndarray) -> None:
    encoder, decoder = codec.encoder(codec.info.bitrates[-1]), codec.decoder()
    first = encoder.push(speech[:1000])
    for bad in ([np.nan], [1e30], np.zeros((2, 2, 2)), [1]):
        with pytest.raises(spectokenizer.AudioError):
            encoder.push(bad)
    rest = np.concatenate([encoder.push(speech[1000:3000]), encoder.flush()], 1)
    np.testing.assert_array_equal(np.concatenate([first, rest], 1), codec.encode(speech[:3000], RATE, codec.info.bitrates[-1]).array)
    before = decoder.push(first)
    with pytest.raises(spectokenizer.CodesError):
        decoder.push([[-1]])
    np.testing.assert_array_equal(np.concatenate([before, decoder.push(rest)]), codec.decoder().push(np.concatenate([first, rest], 1)))


def test_the_loudest_samples_do_not_spoil_a_stream(codec: Codec) -> None:
    encoder = codec.encoder(codec.info.bitrates[-1])
    encoder.push(np.full(3200, 32.0))
    encoder.push(np.random.default_rng(0).standard_normal(3200))
    assert all(np.isfinite(value).all() for name, value in encoder.snapshot().items() if name.startswith("state."))


# -- bitrate -------------------------------------------------------------------------------------------------------------------


def test_bitrate_change_mid_stream(codec: Codec, speech: np.ndarray) -> None:
    """The network goes on: only how many of its codebooks are handed out changes."""
    rates = codec.info.bitrates
    full = codec.encode(speech[:6400], RATE, codec.info.bitrates[-1]).array
    encoder = codec.encoder(rates[0])
    parts = [encoder.push(speech[:1000])]  # 3 frames and a rest that is encoded at the next rate
    encoder.set_bitrate(rates[-1])
    parts.append(encoder.push(speech[1000:4000]))
    encoder.set_bitrate(rates[1])
    parts += [encoder.push(speech[4000:6400]), encoder.flush()]
    assert [part.shape for part in parts] == [(1, 3), (len(rates), 9), (2, 8), (2, 1)]
    at, decoder = 0, codec.decoder()
    heard = []
    for part in parts:
        np.testing.assert_array_equal(part, full[: len(part), at : at + part.shape[1]])
        at += part.shape[1]
        heard.append(decoder.push(part))
    assert len(np.concatenate(heard)) == 21 * codec.info.frame_size
    np.testing.assert_array_equal(heard[0], codec.decoder().push(full[:1, :3]))
    with pytest.raises(spectokenizer.BitrateError):
        encoder.set_bitrate(rates[0] + 1)


# -- state ---------------------------------------------------------------------------------------------------------------------


def through_a_file(snapshot: Snapshot) -> Snapshot:
    file = io.BytesIO()
    np.savez(file, **snapshot)  # type: ignore[arg-type]
    file.seek(0)
    return dict(np.load(file, allow_pickle=False))


@pytest.mark.parametrize("at", [0, 1, 1000, 6400])
def test_snapshot_restore_continues_exactly(codec: Codec, speech: np.ndarray, whole: tuple[np.ndarray, np.ndarray], at: int) -> None:
    encoder = codec.encoder(codec.info.bitrates[1])
    first = encoder.push(speech[:at])
    elsewhere = codec.encoder(codec.info.bitrates[-1]).restore(through_a_file(encoder.snapshot()))
    assert (elsewhere.num_samples, elsewhere.num_frames, elsewhere.num_codebooks) == (at, at // 320, 2)
    assert [type(n) for n in (elsewhere.num_samples, elsewhere.num_frames, elsewhere.num_codebooks)] == [int] * 3
    for stream in (elsewhere, encoder):
        rest = np.concatenate([stream.push(speech[at:N]), stream.flush()], 1)
        np.testing.assert_array_equal(np.concatenate([first, rest], 1), whole[0][:2])

    decoder, frames = codec.decoder(), at // 320
    before = decoder.push(whole[0][:, :frames])
    moved = codec.decoder().restore(through_a_file(decoder.snapshot()))
    samples = np.concatenate([before, moved.push(whole[0][:, frames:])])
    np.testing.assert_array_equal(samples[codec.info.delay_samples :][:N], whole[1])


def test_copies_are_independent(codec: Codec, speech: np.ndarray) -> None:
    encoder = codec.encoder(codec.info.bitrates[-1])
    encoder.push(speech[:1000])
    twin = encoder.copy()
    expected = encoder.copy().push(speech[1000:5000])
    twin.push(-speech[5000:9000])
    twin.flush()
    np.testing.assert_array_equal(encoder.push(speech[1000:5000]), expected)
    assert (encoder.num_samples, twin.num_samples) == (5000, 5000)
    decoder = codec.decoder()
    decoder.push(expected)
    other = decoder.copy()
    assert np.array_equal(decoder.push(expected), other.push(expected))


def test_a_snapshot_is_a_copy_and_knows_that_the_stream_is_over(codec: Codec, speech: np.ndarray) -> None:
    encoder = codec.encoder(codec.info.bitrates[-1])
    encoder.push(speech[:1000])
    snapshot = encoder.snapshot()
    kept = {name: value.copy() for name, value in snapshot.items()}
    twin = codec.encoder(codec.info.bitrates[-1]).restore(snapshot)
    expected = encoder.copy().push(speech[1000:5000])
    assert all(np.array_equal(snapshot[name], kept[name]) for name in kept)
    for value in snapshot.values():
        value[...] = np.zeros((), value.dtype)  # whoever holds it may do as they like
    np.testing.assert_array_equal(encoder.push(speech[1000:5000]), expected)
    np.testing.assert_array_equal(twin.push(speech[1000:5000]), expected)
    encoder.flush()
    with pytest.raises(StreamError):
        codec.encoder(codec.info.bitrates[-1]).restore(encoder.snapshot()).push(speech[:10])


def test_foreign_snapshots_are_refused(codec: Codec) -> None:
    encoder, decoder = codec.encoder(codec.info.bitrates[-1]), codec.decoder()
    incomplete = encoder.snapshot()
    incomplete.pop("num_samples")
    other_model = encoder.snapshot() | {"model": np.array("0123456789abcdef")}
    other_shape = encoder.snapshot()
    name = next(name for name in other_shape if name.startswith("state."))
    other_shape[name] = other_shape[name][:, :-1]
    for snapshot in (decoder.snapshot(), {}, incomplete, other_model, other_shape):
        with pytest.raises(StreamError, match=f"not of a '{codec.info.name}' encoder"):
            encoder.restore(snapshot)
    assert encoder.push(np.zeros(320)).shape[1] == 1  # still usable


def test_many_streams_step_in_one_batch(codec: Codec, speech: np.ndarray) -> None:
    """States stack along their first axis, so thousands of streams can share one call."""
    network, frame = codec.network, codec.info.frame_size
    clips = np.stack([speech[i * 2000 : i * 2000 + 4 * frame] for i in range(5)])
    warm = [network.encode(clip[None, : (i % 3 + 1) * frame], network.initial_state("encoder")) for i, clip in enumerate(clips)]
    stacked = {name: np.concatenate([state[name] for _, state in warm]) for name in warm[0][1]}
    codes, after = network.encode(clips[:, 3 * frame :], stacked)
    for row in range(5):
        alone, end = network.encode(clips[row : row + 1, 3 * frame :], warm[row][1])
        assert np.array_equal(codes[row], alone[0])
        assert all(np.array_equal(after[name][row], end[name][0]) for name in end)


MIGRATED = """
import sys
import numpy as np
import spectokenizer

codec = spectokenizer.load(sys.argv[1])
saved = {side: dict(np.load(f"{side}.npz", allow_pickle=False)) for side in ("encoder", "decoder")}
encoder, decoder = codec.encoder(codec.info.bitrates[-1]).restore(saved["encoder"]), codec.decoder().restore(saved["decoder"])
codes = encoder.push(np.load("rest.npy"))
np.savez("done.npz", codes=codes, samples=np.concatenate([decoder.conceal(2), decoder.push(codes)]))
"""


def test_a_live_call_moves_to_another_process(
    tiny_codec: Codec, tiny_folder: Path, speech: np.ndarray, tmp_path: Path, python: Callable[..., subprocess.CompletedProcess[bytes]]
) -> None:
    """In the middle of a frame, of a fade and of a loss; the state travels as plain arrays."""
    encoder, decoder = tiny_codec.encoder(tiny_codec.info.bitrates[-1]), tiny_codec.decoder()
    decoder.push(encoder.push(speech[:5000]))
    decoder.conceal(6)
    np.savez(tmp_path / "encoder.npz", **encoder.snapshot())
    np.savez(tmp_path / "decoder.npz", **decoder.snapshot())
    np.save(tmp_path / "rest.npy", speech[5000:12000])
    done = python("-c", MIGRATED, tiny_folder, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "done.npz")
    codes = encoder.push(speech[5000:12000])
    np.testing.assert_array_equal(found["codes"], codes)
    np.testing.assert_array_equal(found["samples"], np.concatenate([decoder.conceal(2), decoder.push(codes)]))
