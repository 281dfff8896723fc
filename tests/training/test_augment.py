"""Each augmentation does what its name says, measured; a batch is a function of the generator alone; off changes nothing."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from importlib.util import find_spec

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

pytest.importorskip("rich")

from spectokenizer.cli import main
from spectokenizer.errors import ConfigError
from spectokenizer.training import augment
from spectokenizer.training.config import AugmentConfig, TrainConfig
from spectokenizer.training.data import Clips

RATE = 16000
ALL = AugmentConfig(gain=1, band_limit=1, mu_law=1, noise=1, reverberation=1)


def rng(seed=0):
    return np.random.default_rng(seed)


def voices(size=8, length=RATE):
    """Something like speech: harmonics that come and go, with a little noise."""
    t = np.arange(length) / RATE
    f0 = 100 + 15 * np.arange(size)[:, None]
    tones = sum(np.sin(2 * np.pi * k * f0 * t) / k for k in range(1, 20))
    return (0.05 * tones * (1.2 + np.sin(2 * np.pi * 4 * t)) + 0.002 * rng().standard_normal((size, length))).astype(np.float32)


def db(power):
    return 10 * np.log10(power)


def power(x):
    return np.mean(np.square(x, dtype=np.float64), -1)


def band(x, low, high):
    """Share of the power [B] between two frequencies, in dB."""
    spectrum = np.abs(np.fft.rfft(x * np.hanning(x.shape[1]))) ** 2
    f = np.fft.rfftfreq(x.shape[1], 1 / RATE)
    return db(spectrum[:, (f >= low) & (f <= high)].sum(1) / spectrum.sum(1) + 1e-30)


def test_level():
    segments = np.stack([0.5 * rng(1).standard_normal(8000), np.zeros(8000), 1e-3 * rng(2).standard_normal(8000)]).astype(np.float32)
    out = augment.set_level(segments, rng())
    level = db(power(out[[0, 2]]))
    assert (level > -33).all()
    assert (level < -13.9).all()
    assert np.abs(out).max() <= 1
    assert not out[1].any()


def test_levels_fill_the_range():
    level = db(power(augment.set_level(np.tile(voices(1), (200, 1)), rng())))
    assert -32.01 < level.min() < -31
    assert -15 < level.max() < -13.99


def test_band_limit():
    clicks = np.zeros((200, 8001), np.float32)
    clicks[:, 4000] = 1
    y = augment.band_limit(clicks, RATE, rng())
    np.testing.assert_allclose(y, y[:, ::-1], atol=1e-6)  # zero phase
    f = np.arange(0, RATE // 2, 20)
    gain = np.abs(np.fft.rfft(y, RATE))[:, f]
    telephone = gain[:, f == 100].ravel() < 0.01
    upper = np.array([f[row > 0.5].max() for row in gain])
    assert 70 < telephone.sum() < 130
    assert (np.abs(upper[telephone] - 3400) <= 20).all()
    assert 3380 <= upper[~telephone].min() < 3600
    assert 6800 < upper[~telephone].max() <= 7000
    for row, edge, low in zip(gain, upper, np.where(telephone, 300, -200), strict=True):
        assert row[(f > edge + 140) | (f < low - 140)].max() < 0.005
        np.testing.assert_allclose(row[(f > low + 140) & (f < edge - 140)], 1, atol=0.005)


@pytest.mark.parametrize("level", [-14, -32])
def test_mu_law(level):
    x = voices()
    x *= 10 ** (level / 20) / np.sqrt(power(x))[:, None]
    y = augment.mu_law(x)
    snr = db(power(x) / power(x - y))
    assert (np.abs(snr - 38) < 1).all() if level == -14 else (snr > 35).all()
    np.testing.assert_allclose(augment.mu_law(y), y, atol=1e-6)
    assert len(np.unique(augment.mu_law(np.linspace(-2, 2, 100001, dtype=np.float32)[None]))) == 255


def test_noise_ratios():
    x = np.tile(voices(1), (300, 1))
    noise = augment.coloured_noise(300, RATE, RATE, rng(1))
    snr = db(power(x) / power(augment.add_noise(x, noise, rng(2)) - x))
    assert 4.9 < snr.min() < 7
    assert 28 < snr.max() < 30.1


def test_noise_has_colours():
    noise = augment.coloured_noise(200, RATE, RATE, rng())
    assert (band(noise, 0, 40) < -25).all()
    slope = (band(noise, 800, 1600) - band(noise, 100, 200)) / np.log2(8)  # dB per octave, in octaves: white gains 3
    assert -4 < slope.min() < -2
    assert 2 < slope.max() < 4


def test_noise_from_clips():
    tone = (8000 * np.sin(2 * np.pi * 500 * np.arange(RATE) / RATE)).astype(np.int16)
    clips = Clips(tone, np.array([0]), np.array([RATE]), RATE)
    x = voices()
    y = augment.Augmentation(AugmentConfig(gain=0, noise=1), RATE, clips)(x, rng())
    assert (band(y - x, 480, 520) > -1).all()
    snr = db(power(x) / power(y - x))
    assert ((snr > 4.9) & (snr < 30.1)).all()


def test_reverberation():
    clicks = np.zeros((50, RATE), np.float32)
    clicks[:, 4000] = 0.5
    y = augment.reverberate(clicks, RATE, rng())
    np.testing.assert_allclose(db(power(y)), db(power(clicks)), atol=0.01)
    assert np.abs(y[:, :4000]).max() < 1e-6
    assert (np.abs(y).argmax(1) == 4000).all()
    direct = db(y[:, 4000] ** 2 / (y[:, 4001:] ** 2).sum(1))
    assert ((direct > 2.9) & (direct < 15.1)).all()
    left = np.cumsum((y[:, 4040:12000] ** 2)[:, ::-1], 1)[:, ::-1]  # Schroeder's curve: what is still to come
    left = db(left / left[:, :1])
    rt60 = 3 * ((left < -25).argmax(1) - (left < -5).argmax(1)) / RATE
    assert 0.08 < rt60.min() < 0.2
    assert 0.4 < rt60.max() < 0.6
    np.testing.assert_allclose(power(augment.reverberate(voices(), RATE, rng())), power(voices()), rtol=1e-4)


def test_everything_is_a_function_of_the_generator():
    x = voices()
    before = x.copy()
    chain = augment.Augmentation(AugmentConfig(0.5, 0.5, 0.5, 0.5, 0.5), RATE)
    a, b, c = (chain(x, rng(seed)) for seed in (7, 7, 8))
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(x, before)
    assert (a != c).any()
    assert (a.dtype, a.shape) == (np.float32, x.shape)
    assert np.isfinite(a).all()
    assert np.abs(a).max() <= 1


def test_silence_stays_silence():
    silence = np.zeros((4, RATE), np.float32)
    noise = Clips(np.zeros(100, np.int16), np.array([0]), np.array([100]), RATE)
    for source in (None, noise):
        np.testing.assert_array_equal(augment.Augmentation(ALL, RATE, source)(silence, rng()), silence)
    silent_noise = augment.Augmentation(AugmentConfig(gain=0, noise=1), RATE, noise)
    np.testing.assert_array_equal(silent_noise(voices(), rng()), voices())


def test_probabilities():
    x = np.tile(voices(1, 400), (1000, 1))
    changed = (augment.Augmentation(AugmentConfig(gain=0, mu_law=0.2), RATE)(x, rng()) != x).any(1).mean()
    assert changed == pytest.approx(0.2, abs=0.04)


def test_off_changes_neither_the_batch_nor_what_is_drawn_after_it():
    x, ours, theirs = voices(), rng(5), rng(5)
    np.testing.assert_array_equal(augment.Augmentation(AugmentConfig(), RATE)(x, ours), augment.set_level(x, theirs))
    assert ours.bit_generator.state == theirs.bit_generator.state
    np.testing.assert_array_equal(augment.Augmentation(AugmentConfig(gain=0), RATE)(x, ours), x)
    assert ours.bit_generator.state == theirs.bit_generator.state


STAGES = [
    {"name": "a", "steps": 1, "quantize": False, "lr": 1e-3, "lr_end": 1e-3, "losses": {"complex": 1.0}},
    {"name": "b", "steps": 1, "quantize": True, "lr": 1e-3, "lr_end": 1e-3, "losses": {"complex": 1.0, "commitment": 0.25}},
]


def test_config():
    assert TrainConfig.from_dict({"stage": STAGES}).augment == AugmentConfig(1.0, 0.0, 0.0, 0.0, 0.0)
    assert TrainConfig.from_dict({"stage": STAGES, "augment": {"gain": False, "noise": 0.5}}).augment.noise == 0.5
    for wrong in ({"noise": 1.5}, {"noise": "often"}, {"noise": float("nan")}):
        with pytest.raises(ConfigError, match=r"\[augment\] noise"):
            TrainConfig.from_dict({"stage": STAGES, "augment": wrong})
    for wrong, said in (({"echo": 0.5}, "training file"), (3, "make it a table")):
        with pytest.raises(ConfigError, match=said):
            TrainConfig.from_dict({"stage": STAGES, "augment": wrong})
    with pytest.raises(ConfigError, match="tensorboard_audio"):
        TrainConfig.from_dict({"stage": STAGES, "tensorboard_audio": -1})


TINY = {
    "batch_size": 2,
    "segment_seconds": 0.4,
    "log_every": 1,
    "init_batches": 4,
    "codec": {"name": "tiny", "channels": [8, 8, 8, 16, 16], "num_codebooks": 3, "codebook_size": 16, "codebook_dim": 4},
    "stage": STAGES,
}


@pytest.fixture
def shard(tmp_path):
    with tarfile.open(tmp_path / "speech.tar", "w") as tar:
        for i, samples in enumerate(voices(4)):
            file = io.BytesIO()
            soundfile.write(file, samples, RATE, format="FLAC")
            member = tarfile.TarInfo(f"{i}.flac")
            member.size = len(file.getvalue())
            file.seek(0)
            tar.addfile(member, file)
    return tmp_path / "speech.tar"


def test_a_run_with_everything_on(shard, tmp_path, monkeypatch):
    pytest.importorskip("lightning_fabric")
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    from spectokenizer.training import train

    (tmp_path / "noise").mkdir()
    soundfile.write(tmp_path / "noise" / "n.wav", 0.1 * rng().standard_normal(RATE), RATE)
    noise, cache = tmp_path / "noise", tmp_path / "cache"
    config = TrainConfig.from_dict({**TINY, "augment": dict.fromkeys(vars(ALL), 0.7), "tensorboard_audio": 1})
    for out in ("one", "two"):
        train.run(config, shard, tmp_path / out, shard, threads=1, cache=cache, noise=noise)
    one, two = (
        [json.loads(line) for line in (tmp_path / out / "metrics.jsonl").read_text().splitlines() if '"train"' in line]
        for out in ("one", "two")
    )
    assert len(one) == 2
    assert [x["loss"] for x in one] == [x["loss"] for x in two]
    tags = events.EventAccumulator(str(tmp_path / "one")).Reload().Tags()
    assert tags["audio"] == ["clip0/original", "clip0/0.6kbps"]
    assert tags["images"] == (["clip0/spectrograms"] if find_spec("matplotlib") else [])


def test_noise_that_nothing_would_use(shard, tmp_path):
    pytest.importorskip("lightning_fabric")
    recipe = tmp_path / "quiet.toml"
    recipe.write_text('[[stage]]\nname = "a"\nsteps = 1\nquantize = false\nlr = 1\nlr_end = 1\nlosses = { complex = 1 }')
    options = {"--config": recipe, "--data": shard, "--out": tmp_path / "out", "--noise": tmp_path}
    result = CliRunner().invoke(main, ["train", *(str(word) for pair in options.items() for word in pair)])
    assert result.exit_code == 1
    assert "probability is 0" in result.output


def test_no_matplotlib(monkeypatch):
    pytest.importorskip("lightning_fabric")
    from spectokenizer.training import samples

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert samples.picture_of({"original": voices(1)[0]}, RATE) is None
