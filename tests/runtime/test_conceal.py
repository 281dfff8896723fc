"""Lost frames: the stream stays in step, fades to the background, comes back without a click."""

from __future__ import annotations

import numpy as np
import pytest

from spectokenizer import Codec, StreamError
from spectokenizer.runtime.conceal import Concealment

FRAME, RATE = 320, 16000


@pytest.fixture(scope="module")
def noisy(speech: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(5)
    hum = 0.003 * np.sin(2 * np.pi * 100 * np.arange(len(speech)) / RATE)
    return np.tile(speech + hum + 0.002 * rng.standard_normal(len(speech)), 2).astype(np.float32)


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


def test_a_concealed_stream_stays_in_step(codec: Codec, noisy: np.ndarray) -> None:
    codes = codec.encode(noisy, RATE, 4000).array
    decoder = codec.decoder()
    parts = [decoder.push(codes[:, :60]), decoder.conceal(3), decoder.push(codes[:, 63:])]
    assert len(np.concatenate(parts)) == codes.shape[1] * FRAME == decoder.num_frames * FRAME
    whole = codec.decoder().push(codes)
    np.testing.assert_array_equal(parts[0], whole[: 60 * FRAME])
    error = parts[2] - whole[63 * FRAME :]
    assert rms(error[-20 * FRAME :]) < 0.2 * rms(whole[-20 * FRAME :])  # what was lost is forgotten in time


def test_long_losses_become_background_noise_of_the_right_level(codec: Codec, noisy: np.ndarray) -> None:
    codes = codec.encode(noisy, RATE, codec.info.bitrates[-1]).array
    decoder = codec.decoder()
    heard = decoder.push(codes)
    quiet = np.square(heard.reshape(-1, FRAME)).mean(1)
    lost = decoder.conceal(100)
    late = rms(lost[20 * FRAME :])
    assert 0.3 * np.sqrt(np.quantile(quiet, 0.02)) < late < 3 * np.sqrt(np.quantile(quiet, 0.1))
    assert late < 0.3 * rms(heard)


def test_silence_stays_silent(codec: Codec) -> None:
    codes = codec.encode(np.zeros(RATE, np.float32), RATE, 4000).array
    decoder = codec.decoder()
    before = rms(decoder.push(codes)[-FRAME:])
    assert rms(decoder.conceal(50)[20 * FRAME :]) <= 2 * before + 1e-6


def test_no_click_where_loss_begins_and_ends(codec: Codec, noisy: np.ndarray) -> None:
    """The steepest step of the output is no steeper than speech's own."""
    codes = codec.encode(noisy, RATE, 4000).array
    whole = codec.decoder().push(codes)
    decoder = codec.decoder()
    parts = []
    for start in range(0, 240, 30):
        parts += [decoder.push(codes[:, start : start + 18]), decoder.conceal(12)]
    heard = np.concatenate(parts)
    assert np.abs(np.diff(heard)).max() < 1.5 * np.abs(np.diff(whole)).max()


@pytest.mark.parametrize("cuts", [[1] * 40, [7, 1, 20, 12], [40]])
def test_any_cut_of_losses_sounds_the_same(codec: Codec, noisy: np.ndarray, cuts: list[int]) -> None:
    codes = codec.encode(noisy, RATE, 4000).array[:, :80]
    whole = codec.decoder()
    expected = np.concatenate([whole.push(codes), whole.conceal(40), whole.push(codes)])
    decoder = codec.decoder()
    parts = [decoder.push(codes)] + [decoder.conceal(n) for n in cuts] + [decoder.push(codes[:, i : i + 1]) for i in range(80)]
    np.testing.assert_array_equal(np.concatenate(parts), expected)


def test_state_is_carried_in_the_middle_of_a_loss(codec: Codec, noisy: np.ndarray) -> None:
    codes = codec.encode(noisy, RATE, 4000).array
    decoder = codec.decoder()
    decoder.push(codes[:, :50])
    decoder.conceal(7)
    elsewhere = codec.decoder().restore(decoder.snapshot())
    for stream in (decoder, elsewhere):
        stream.conceal(3)
    np.testing.assert_array_equal(elsewhere.push(codes[:, 60:90]), decoder.push(codes[:, 60:90]))


def test_mistakes(codec: Codec) -> None:
    decoder = codec.decoder()
    assert decoder.conceal(0).shape == (0,)
    for frames in (-1, 1.5):
        with pytest.raises(StreamError, match="give a whole number from 0"):
            decoder.conceal(frames)  # type: ignore[arg-type]
    decoder.flush()
    with pytest.raises(StreamError, match="flushed"):
        decoder.conceal(1)


def test_the_background_is_followed_down_at_once_and_up_slowly() -> None:
    rng = np.random.default_rng(0)
    heard = Concealment(FRAME, 50.0)
    for level in (0.1, 0.01):
        for _ in range(50):
            heard._listen((level * rng.standard_normal((1, FRAME))).astype(np.float32))
    assert heard.background / FRAME == pytest.approx(1e-4, rel=0.3)
    for _ in range(25):
        heard._listen(np.full((1, FRAME), 0.5, np.float32))
    assert heard.background / FRAME < 1.3e-4
