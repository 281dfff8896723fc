"""Metrics on made-up signals: a copy scores perfectly, noise costs, what is missing is said to be missing."""

import contextlib
import sys
from importlib.util import find_spec

import numpy as np
import pytest

from spectokenizer.errors import AudioError, ConfigError
from spectokenizer.evaluation import metrics
from spectokenizer.evaluation.metrics import METRICS
from spectokenizer.runtime import audio

RATE = 16000
LIBRARIES = {
    "pesq_wb": ["pesq"],
    "stoi": ["pystoi"],
    "visqol": ["visqol", "ai_edge_litert", "numba"],
    "si_sdr": [],
    "mel_distance": [],
    "coherence": [],
    "dnsmos": ["speechmos", "librosa"],
    "plcmos": ["speechmos", "librosa"],
    "distillmos": ["distillmos", "torch"],
    "speaker_similarity": ["resemblyzer", "torch"],
    "wer": ["moonshine_voice"],
    "f0": ["pyworld"],
}
IDENTITY = {  # what a copy scores
    "pesq_wb": {"pesq_wb": (4.6, 4.65)},
    "stoi": {"stoi": (0.999, 1.001)},
    "visqol": {"visqol": (4.0, 5.0)},
    "si_sdr": {"si_sdr": (100, 100)},
    "mel_distance": {"mel_l1": (0, 0)},
    "coherence": {"coherence_1k": (0.999, 1.001), "coherence_2k": (0.999, 1.001), "coherence_4k": (0.999, 1.001)},
    "speaker_similarity": {"speaker_similarity": (0.999, 1.001)},
    "f0": {"voicing_error": (0, 0), "f0_rmse": (0, 0)},
}


@pytest.fixture(scope="module")
def voice():
    """3 s of something like speech: a gliding buzz in syllables through two moving resonances, float32."""
    rng = np.random.default_rng(7)
    t = np.arange(3 * RATE) / RATE
    phase = 2 * np.pi * np.cumsum(120 + 25 * np.sin(2 * np.pi * 0.7 * t)) / RATE
    first, second = 500 + 200 * np.sin(2 * np.pi * 1.3 * t), 1500 + 500 * np.sin(2 * np.pi * 0.9 * t)
    buzz = np.zeros_like(t)
    for k in range(1, 40):
        hz = 120.0 * k
        gain = 1 / (1 + ((hz - first) / 120) ** 2) + 0.5 / (1 + ((hz - second) / 200) ** 2)
        buzz += gain * np.sin(k * phase)
    syllables = np.clip(np.sin(2 * np.pi * 3 * t) * 3, 0, 1)
    signal = buzz * syllables + 0.001 * rng.normal(size=len(t))
    return (0.3 * signal / np.abs(signal).max()).astype(np.float32)


def noisy(voice, snr_db, seed=0):
    noise = np.random.default_rng(seed).normal(size=len(voice))
    return (voice + noise * np.sqrt(np.mean(voice**2)) * 10 ** (-snr_db / 20)).astype(np.float32)


def need(name):
    for library in LIBRARIES[name]:
        if find_spec(library) is None:  # not importorskip: some import only with a stand-in beside them
            pytest.skip(f"{library} is not installed")
    assert METRICS[name].absence() == ""


def test_every_metric_is_covered_here():
    assert set(LIBRARIES) == set(METRICS)


@pytest.fixture(scope="module")
def speech():
    """10 s of a real voice, which comes with the recogniser."""
    library = pytest.importorskip("moonshine_voice")
    return audio.read(library.get_assets_path() / "beckett.wav", RATE)[0]


@pytest.mark.parametrize("name", IDENTITY)
def test_copy_and_noise(name, voice):
    need(name)
    metric = METRICS[name]
    same, clear, rough = (metric(voice, x) for x in (voice, noisy(voice, 40), noisy(voice, 0)))
    assert set(same.values) == set(metric.fields) and not same.reason
    for column, (low, high) in IDENTITY[name].items():
        assert low <= same.values[column] <= high
    column = metric.columns[0]
    sign = 1 if column.better == "higher" else -1
    assert sign * same.values[column.name] >= sign * clear.values[column.name] >= sign * rough.values[column.name]
    assert same.values[column.name] != rough.values[column.name]


@pytest.mark.parametrize("name", ["dnsmos", "plcmos", "distillmos"])
def test_opinion_of_a_voice_and_of_noise(name, speech):
    need(name)
    clear, rough = (METRICS[name](speech, x) for x in (speech, noisy(speech, 0)))
    for column in METRICS[name].columns:
        assert 5 >= clear.values[column.name] > rough.values[column.name] >= 1


def test_an_opinion_is_the_same_twice(speech):
    need("plcmos")
    state = np.random.get_state()[1].copy()
    assert METRICS["plcmos"](speech, speech) == METRICS["plcmos"](speech, speech)
    np.testing.assert_array_equal(np.random.get_state()[1], state)


def test_pesq_takes_no_long_clips(voice):
    need("pesq_wb")
    long = np.resize(voice, metrics.PESQ_SECONDS * RATE + 1)
    result = METRICS["pesq_wb"](long, long)
    assert np.isnan(result.values["pesq_wb"]) and "longer than 40 s" in result.reason


def test_a_metric_asked_for_twice_is_one():
    assert [metric.name for metric in metrics.select(["si_sdr", "mel_distance", "si_sdr"])[0]] == ["si_sdr", "mel_distance"]


def test_word_errors(speech):
    need("wer")
    speech = speech[: 4 * RATE]
    metric = METRICS["wer"]
    same = metric(speech, speech).values
    assert same["wer"] == 0 and same["wer_words"] > 5
    assert metric(speech, noisy(speech, -10)).values["wer"] > 20
    assert metric(speech, speech) == metric(speech, speech)  # whatever was heard in between
    assert metric(speech, speech, RATE, "xyzzy").values["wer_words"] == 1


def test_si_sdr_is_its_formula(voice):
    degraded = noisy(voice, 10)
    s, x = voice.astype(float), degraded.astype(float)
    target = np.dot(x, s) / np.dot(s, s) * s
    wanted = 10 * np.log10(np.sum(target**2) / np.sum((target - x) ** 2))
    assert METRICS["si_sdr"](voice, degraded).values["si_sdr"] == pytest.approx(wanted)
    assert METRICS["si_sdr"](voice, 0.1 * degraded).values["si_sdr"] == pytest.approx(wanted, abs=1e-4)
    assert wanted == pytest.approx(10, abs=0.3)


def test_mel_distance_of_a_gain(voice):
    loud = voice + 0.1 * np.random.default_rng(1).normal(size=len(voice)).astype(np.float32)  # far above the floor everywhere
    assert METRICS["mel_distance"](loud, 10 * loud).values["mel_l1"] == pytest.approx(2, abs=1e-3)
    assert metrics.mel_filters().shape == (64, 257) and (metrics.mel_filters().sum(1) > 0).all()


def test_coherence_tells_the_bands_apart():
    rng = np.random.default_rng(0)
    low, middle, high = (
        np.convolve(rng.normal(size=2 * RATE), band, "same") for band in _band_passes([(100, 900), (1100, 1900), (2200, 3800)])
    )
    other = np.convolve(rng.normal(size=2 * RATE), _band_passes([(1100, 1900)])[0], "same")
    values = METRICS["coherence"]((low + middle + high).astype(np.float32), (2 * low + other - high).astype(np.float32)).values
    assert values["coherence_1k"] == pytest.approx(1, abs=0.01) and values["coherence_4k"] == pytest.approx(-1, abs=0.01)
    assert abs(values["coherence_2k"]) < 0.1


def _band_passes(bands):
    """Windowed-sinc filters of 401 taps."""
    n = np.arange(-200, 201)
    low_passes = [[2 * edge / RATE * np.sinc(2 * edge / RATE * n) for edge in band] for band in bands]
    return [(upper - lower) * np.hanning(401) for lower, upper in low_passes]


@pytest.mark.parametrize("name", METRICS)
def test_silence_has_no_score(name, voice):
    need(name)
    values, reason = METRICS[name](np.zeros_like(voice), voice)
    assert np.isnan(list(values.values())).all() and "silent" in reason


@pytest.mark.parametrize("name", ["pesq_wb", "stoi", "si_sdr"])
def test_a_click_of_a_clip_has_a_reason(name, voice):
    need(name)
    values, reason = METRICS[name](voice[1000:1100], np.zeros(100, np.float32))
    assert np.isnan(values[METRICS[name].columns[0].name]) and reason


def test_f0_of_a_known_shift(voice):
    need("f0")
    t = np.arange(2 * RATE) / RATE
    tone = lambda hz: sum(np.sin(2 * np.pi * hz * k * t) / k for k in range(1, 9)).astype(np.float32) * 0.1  # noqa: E731
    values, _ = METRICS["f0"](tone(150), tone(150 * 2 ** (1 / 12)))
    assert values["f0_rmse"] == pytest.approx(100, abs=5)
    values, reason = METRICS["f0"](tone(150), noisy(np.full_like(t, 1e-3), 0).astype(np.float32))
    assert np.isnan(values["f0_rmse"]) == ("f0_rmse" in reason)


def test_words_and_their_distance():
    assert metrics.words("Don’t — stop, SHE said: 'now'!") == ["don't", "stop", "she", "said", "now"]
    assert metrics.edit_distance(list("abc"), list("axcd")) == 2
    assert metrics.edit_distance([], ["a"]) == 1 and metrics.edit_distance(["a"], []) == 1


@pytest.mark.parametrize(("name", "library"), [(name, libraries[0]) for name, libraries in LIBRARIES.items() if libraries])
def test_absent_library_is_absent(name, library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    metrics.scorer.cache_clear()
    try:
        assert "Error" in METRICS[name].absence() and "pip install" in METRICS[name].absence()
        with pytest.raises(ConfigError, match=name):
            metrics.select([name])
        monkeypatch.setattr(metrics, "METRICS", {key: METRICS[key] for key in (name, "si_sdr")})
        chosen, absent = metrics.select("all")
        assert [metric.name for metric in chosen] == ["si_sdr"] and list(absent) == [name]
    finally:
        metrics.scorer.cache_clear()


def test_stand_in_is_gone_afterwards():
    with metrics.stand_in("no_such_module", answer=42):
        import no_such_module

        assert no_such_module.answer == 42
    assert "no_such_module" not in sys.modules
    with metrics.stand_in("json"):  # what exists is left alone
        assert sys.modules["json"].loads("1") == 1


def test_wrong_input(voice):
    with pytest.raises(ConfigError, match="known are"):
        metrics.select(["pesk"])
    metric = METRICS["si_sdr"]
    for reference, degraded, rate in (
        (voice, voice[:-1], RATE),
        (voice[None], voice[None], RATE),
        (voice, voice, 8000),
        (voice, voice * np.float32("nan"), RATE),
    ):
        with pytest.raises(AudioError):
            metric(reference, degraded, rate)


def test_a_library_that_stumbles_does_not_end_the_run(voice, monkeypatch):
    def loader():
        def score(*_):
            raise ZeroDivisionError("what\nnow")

        return score

    monkeypatch.setitem(
        METRICS, "broken", metrics.Metric("broken", (metrics.Column("b", "B", "signal", "higher"),), (), "", None, "", loader)
    )
    with contextlib.suppress(KeyError):
        metrics.scorer.cache_clear()
    assert METRICS["broken"](voice, voice).reason == "ZeroDivisionError: what now"
