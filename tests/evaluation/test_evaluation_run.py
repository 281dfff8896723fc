"""The run over systems and clips: rows, alignment, resuming, failures, codes, and what the report says."""

import csv
import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from spectokenizer.codes import codebook_usage
from spectokenizer.errors import AudioError, ConfigError, SpecTokenizerError, StreamError
from spectokenizer.evaluation import evaluate as ev
from spectokenizer.evaluation import report

METRICS = ["si_sdr", "mel_distance"]


@dataclasses.dataclass
class MuLaw:
    """μ-law with `bits` bits per sample: a codec small enough for a test."""

    bits: int = 8
    name: str = "mulaw"
    fingerprint: str = "a"
    delay: int = 0
    aligned: bool = False
    broken: bool = False
    calls: int = 0

    @property
    def bitrate(self):
        return self.bits * 16000

    @property
    def codebook_size(self):
        return 2**self.bits

    def process(self, audio, sample_rate):
        assert sample_rate == 16000
        self.calls += 1
        if self.broken:
            raise StreamError("out of order")
        levels = 2**self.bits - 1
        compressed = np.sign(audio) * np.log1p(255 * np.minimum(np.abs(audio), 1)) / np.log(256)
        codes = np.round((compressed + 1) / 2 * levels).astype(np.int16)
        back = codes / levels * 2 - 1
        out = (np.sign(back) * (256 ** np.abs(back) - 1) / 255).astype(np.float32)
        return np.concatenate([np.zeros(self.delay, np.float32), out])[: len(audio)], self.bits * len(audio), codes[None]


@pytest.fixture
def data(tmp_path):
    """Three clips of filtered noise in two folders, one at another rate."""
    rng = np.random.default_rng(3)
    for name, rate in (("a/1.wav", 16000), ("a/2.wav", 48000), ("b/1.wav", 16000)):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.convolve(rng.normal(size=rate // 2), np.ones(8) / 8, "same")
        soundfile.write(path, 0.2 * noise, rate)
    (tmp_path / "data/a/1.txt").write_text("hello")
    return tmp_path / "data"


def run(systems, data, out, metrics=METRICS, **kwargs):
    return ev.evaluate(systems, ev.find_clips(data), metrics, out, progress=False, **kwargs)


def test_rows_and_report(data, tmp_path):
    out = tmp_path / "out"
    result = run([ev.Original(), MuLaw(8), MuLaw(4)], data, out)
    assert len(result.rows) == 9 and not result.failures
    row = next(r for r in result.rows if r["bitrate"] == 64000 and r["clip"] == "a/2.wav")
    assert row["seconds"] == pytest.approx(0.5) and row["kbps"] == pytest.approx(64)
    assert row["lag_ms"] == 0 and row["correlation"] > 0.9 and abs(row["gain_db"]) < 1
    assert {row["si_sdr"] for row in result.rows if row["system"] == "original"} == {100.0}
    read = report.read_rows(out / "results.csv")
    assert [r["clip"] for r in read] == [r["clip"] for r in result.rows]
    assert [r["mel_l1"] for r in read] == pytest.approx([r["mel_l1"] for r in result.rows], rel=1e-5)
    summary = {(r["system"], int(r["bitrate"])): r for r in csv.DictReader((out / "summary.csv").open())}
    assert float(summary["mulaw", 128000]["si_sdr"]) > float(summary["mulaw", 64000]["si_sdr"])
    text = result.report.read_text()
    assert "| original | 256.00 |" in text and "| mulaw | 64.00 |" in text and "SI-SDR dB ↑" in text
    assert "1 × 256 codes" in text and "utilisation" in text and "Too few frames" not in text  # the highest bitrate's codebook
    assert "Not measured" not in text


def test_outputs_are_as_loud_as_their_originals(data, tmp_path):
    """The gain is told; what hears levels does not hear it."""

    @dataclasses.dataclass
    class Quiet(MuLaw):
        name: str = "quiet"
        gain: float = 0.25

        def process(self, audio, sample_rate):
            out, *rest = super().process(audio, sample_rate)
            return np.float32(self.gain) * out, *rest

    loud, quiet, silent = (run([Quiet(gain=gain)], data, tmp_path / str(gain)).rows for gain in (1.0, 0.25, 0.0))
    for a, b in zip(loud, quiet, strict=True):
        assert b["gain_db"] - a["gain_db"] == pytest.approx(-12.04, abs=0.01)
        assert a["mel_l1"] == pytest.approx(b["mel_l1"], abs=1e-5) and a["si_sdr"] == pytest.approx(b["si_sdr"], abs=1e-3)
    assert all(np.isnan(row["gain_db"]) for row in silent)


def test_curves_are_drawn(data, tmp_path):
    pytest.importorskip("matplotlib")
    run([ev.Original(), MuLaw(8), MuLaw(4)], data, tmp_path)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "![Quality over rate](curves.png)" in (tmp_path / "report.md").read_text()


def test_resume_after_a_kill(data, tmp_path):
    first = MuLaw()
    whole = run([first], data, tmp_path)
    table = tmp_path / "results.csv"
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join(lines[:2]) + lines[2][:25])  # killed while the second row was being written
    second = MuLaw()
    again = run([second], data, tmp_path)
    assert (first.calls, second.calls) == (3, 2)
    assert table.read_text() == "".join(lines) and len(again.rows) == len(whole.rows) == 3
    third = MuLaw()
    assert len(run([third], data, tmp_path).rows) == 3 and third.calls == 0
    table.write_text(lines[0][:10])  # killed while the header was being written
    assert len(run([MuLaw()], data, tmp_path).rows) == 3 and table.read_text() == "".join(lines)


def test_more_systems_can_join_a_folder(data, tmp_path):
    run([MuLaw(8)], data, tmp_path)
    result = run([MuLaw(4)], data, tmp_path)
    assert {row["bitrate"] for row in result.rows} == {64000, 128000}
    assert len(json.loads((tmp_path / "run.json").read_text())["systems"]) == 2


def test_what_does_not_belong_in_a_folder(data, tmp_path):
    run([MuLaw()], data, tmp_path)
    with pytest.raises(ConfigError, match="another 'mulaw'"):
        run([MuLaw(fingerprint="b")], data, tmp_path)
    with pytest.raises(ConfigError, match="other columns"):
        run([MuLaw()], data, tmp_path, metrics=["si_sdr"])


def test_a_model_of_the_same_name_is_refused_at_other_bitrates_too(data, tmp_path):
    run([MuLaw(8)], data, tmp_path)
    with pytest.raises(ConfigError, match=r"another 'mulaw' \(a, not b\)"):
        run([MuLaw(4, fingerprint="b")], data, tmp_path)


def test_other_audio_of_the_same_name_is_refused(data, tmp_path):
    run([MuLaw()], data, tmp_path / "out")
    soundfile.write(data / "a/2.wav", np.full(8000, 0.1), 16000)
    with pytest.raises(ConfigError, match=r"results\.csv holds rows of another 'a/2\.wav' .*another folder"):
        run([MuLaw(4)], data, tmp_path / "out")
    first = ev.find_clips(data)[:1]
    assert len(ev.evaluate([MuLaw(4)], first, METRICS, tmp_path / "out", progress=False).rows) == 4


@pytest.mark.parametrize("content", [b"name,score\nx,1\ny", b"\xff\xfe\x00"])
def test_files_that_are_no_table_are_left_alone(data, tmp_path, content):
    table = tmp_path / "results.csv"
    table.write_bytes(content)
    with pytest.raises(ConfigError, match=r"results\.csv is no table of results.*another folder"):
        run([MuLaw()], data, tmp_path)
    assert table.read_bytes() == content


def test_a_table_with_other_columns_keeps_its_last_line(data, tmp_path):
    run([MuLaw()], data, tmp_path)
    table = tmp_path / "results.csv"
    table.write_bytes(table.read_bytes()[:-5])
    before = table.read_bytes()
    with pytest.raises(ConfigError, match="other columns"):
        run([MuLaw()], data, tmp_path, metrics=["si_sdr"])
    assert table.read_bytes() == before


def test_one_evaluation_at_a_time(data, tmp_path):
    pytest.importorskip("fcntl")
    run([MuLaw()], data, tmp_path)
    before = (tmp_path / "results.csv").read_bytes()
    with ev.Table(tmp_path / "results.csv", ["si_sdr", "mel_l1"]), pytest.raises(ConfigError, match="another evaluation is writing"):
        run([MuLaw(4)], data, tmp_path)
    assert (tmp_path / "results.csv").read_bytes() == before
    assert len(run([MuLaw(4)], data, tmp_path).rows) == 6


def test_nothing_or_the_same_twice(data, tmp_path):
    with pytest.raises(ConfigError, match="nothing to evaluate"):
        run([], data, tmp_path)
    with pytest.raises(ConfigError, match="once only"):
        run([MuLaw(), MuLaw()], data, tmp_path)


def test_failures_are_listed_and_tried_again(data, tmp_path):
    (data / "a/3.wav").write_bytes(b"no audio")
    result = run([MuLaw(8), MuLaw(4, broken=True)], data, tmp_path)
    assert len(result.rows) == 3 and len(result.failures) == 5
    assert "**failed**: mulaw at 64 kbps on a/1.wav: out of order" in result.report.read_text()
    assert any("not audio" in failure.reason for failure in result.failures)
    (data / "a/3.wav").unlink()
    result = run([MuLaw(8), MuLaw(4)], data, tmp_path)
    assert len(result.rows) == 6 and not result.failures and "failed" not in result.report.read_text()


def test_output_must_fit_the_input(data):
    @dataclasses.dataclass
    class Short(MuLaw):
        def process(self, audio, sample_rate):
            return audio[:-1], 0

    failure = ev.measure(ev.find_clips(data)[0], Short(), METRICS)
    assert isinstance(failure, ev.Failure) and "shape" in failure.reason


@pytest.mark.parametrize("lag", [-300, -1, 0, 1, 640])
def test_lag_is_found_and_undone(lag):
    clip = np.random.default_rng(0).normal(size=4000).astype(np.float32)
    late = ev.shift(clip, -lag)
    assert ev.find_lag(clip, late)[0] == lag
    back = ev.shift(late, lag)
    inner = slice(max(0, -lag), len(clip) - max(0, lag))
    np.testing.assert_array_equal(back[inner], clip[inner])
    assert len(back) == len(clip)


def test_peers_are_aligned_and_ours_only_checked(data):
    clip = ev.find_clips(data)[0]
    peer, ours = (ev.measure(clip, MuLaw(delay=80, aligned=aligned), METRICS) for aligned in (False, True))
    assert peer["lag_ms"] == ours["lag_ms"] == 5 and (peer["shifted"], ours["shifted"]) == (1, 0)
    assert peer["si_sdr"] > 15 > ours["si_sdr"]


def test_silent_output_is_recorded_not_averaged(data, tmp_path):
    @dataclasses.dataclass
    class Mute(MuLaw):
        def process(self, audio, sample_rate):
            return np.zeros_like(audio), 0

    result = run([Mute()], data, tmp_path)
    assert all(np.isnan(row["si_sdr"]) and "silent" in row["notes"] for row in result.rows)
    text = result.report.read_text()
    assert "minus infinity (3 clips)" in text and "| mulaw | 0.00 | – |" in text


def test_clips_of_a_folder(data):
    clips = ev.find_clips(data)
    assert [clip.name for clip in clips] == ["a/1.wav", "a/2.wav", "b/1.wav"]
    assert [clip.transcript for clip in clips] == ["hello", None, None]
    assert [clip.name for clip in ev.find_clips(data, 2)] == ["a/1.wav", "a/2.wav"]
    assert len(ev.find_clips(data, 9)) == 3
    with pytest.raises(ConfigError):
        ev.find_clips(data, 0)


def test_processes_give_the_same_rows(data, tmp_path):
    one, two = (run([ev.Original()], data, tmp_path / str(n), workers=n).rows for n in (1, 2))
    assert sorted(map(str, one)) == sorted(map(str, two))


class Deadly(type(Path())):
    """Ends the process that takes it from another."""

    def __reduce__(self):
        return os._exit, (3,)


def test_a_worker_that_dies_is_named(data, tmp_path):
    run([ev.Original()], data / "b", tmp_path)
    clips = [clip._replace(path=Deadly(clip.path)) for clip in ev.find_clips(data / "a")]
    clips[0] = clips[0]._replace(name="deadly.wav")
    with pytest.raises(SpecTokenizerError, match=r"a worker process died at one of .*deadly\.wav.*--workers 1"):
        ev.evaluate([ev.Original()], clips[:1], METRICS, tmp_path, workers=2, progress=False)
    assert len(report.read_rows(tmp_path / "results.csv")) == 1


def test_a_transcript_must_be_utf8_where_it_is_read(data, tmp_path, monkeypatch):
    (data / "a/1.txt").write_bytes("Grüße".encode("latin-1"))
    assert not run([MuLaw()], data, tmp_path / "1").failures  # no metric reads it
    heard = dataclasses.replace(ev.registry.METRICS["wer"], distribution=None)
    monkeypatch.setitem(ev.registry.METRICS, "wer", heard)
    monkeypatch.setattr(ev.registry, "scorer", lambda name: lambda *_: {"wer": 0, "wer_words": 1})
    result = run([MuLaw()], data, tmp_path / "2", metrics=["wer"])
    assert [f.clip for f in result.failures] == ["a/1.wav"] and len(result.rows) == 2
    assert "1.txt: not UTF-8" in result.failures[0].reason and "1 of the 3 clips" in result.report.read_text()


def test_file_names_may_be_no_utf8(data, tmp_path):
    try:
        (data / os.fsdecode(b"caf\xe9.wav")).write_bytes(b"no audio")
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    result = run([MuLaw()], data, tmp_path / "out")
    assert [failure.clip for failure in result.failures] == [r"caf\udce9.wav"]
    assert r"on caf\udce9.wav" in result.report.read_text(encoding="utf-8")


def test_every_clip_and_system_has_its_own_codes(tmp_path):
    clips, systems = ["a/b.wav", "a__b.wav", "a_b.wav", "a b.wav"], ["x y", "x_y", "x/y"]
    assert len(set(map(report.codes_file, clips))) == 4 and len({report.system_folder(name, 1) for name in systems}) == 3
    assert report.system_folder("mini", 6000) == "mini-6000" and report.codes_file("1.wav") == "1.wav.npy"


def test_the_report_is_of_the_last_runs_clips(data, tmp_path):
    run([MuLaw(8)], data, tmp_path)
    rows = ev.evaluate([MuLaw(8)], ev.find_clips(data, 1), METRICS, tmp_path, progress=False).rows
    (summary,) = csv.DictReader((tmp_path / "summary.csv").open())
    assert len(rows) == 3 and float(summary["si_sdr_clips"]) == 1
    assert "1 × 256 codes, 8000 frames" in (tmp_path / "report.md").read_text()


def test_estimates():
    value = report.estimate([1, 2, 3, float("nan")])
    assert (value.mean, value.clips) == (2, 3)
    assert value.ci == pytest.approx(4.30265 / np.sqrt(3), rel=1e-5)  # Student's t, 2 degrees of freedom
    assert report.student_t(1) == pytest.approx(12.7062, rel=1e-5) and report.student_t(3) == pytest.approx(3.1824, rel=0.01)
    assert report.student_t(9) == pytest.approx(2.2622, rel=1e-3) and report.student_t(1000) == pytest.approx(1.9623, rel=1e-4)
    ratio = report.estimate([100, 0], [1, 9])  # one error in ten words
    assert ratio.mean == pytest.approx(10)
    rng = np.random.default_rng(0)
    words = rng.integers(5, 30, 4000)
    rates = rng.binomial(words, 0.1) / words
    assert report.estimate(rates, words).ci == pytest.approx(1.96 * np.sqrt(0.09 / words.sum()), rel=0.1)
    assert report.estimate([float("nan")]).clips == 0 and np.isnan(report.estimate([5.0]).ci)


def test_codebook_usage():
    rng = np.random.default_rng(0)
    codes = np.stack([rng.integers(0, 16, 20000), np.zeros(20000, int)])
    full, dead = codebook_usage(codes, 16)
    assert full.utilisation == 1 and full.entropy == pytest.approx(4, abs=0.01) and full.perplexity == pytest.approx(16, rel=0.01)
    assert dead == (1 / 16, 1, 0, 20000)
    assert codebook_usage([np.array([16, 3, 16])], 16)[0] == (1 / 16, 1, 0, 1)  # absent codes are none


def test_too_few_frames_for_entropy(data, tmp_path):
    assert "Too few frames" in run([MuLaw(12)], data, tmp_path).report.read_text()


def test_report_without_matplotlib(data, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "pip install matplotlib" in run([MuLaw()], data, tmp_path).report.read_text()


def test_report_warns_of_uneven_clips(data, tmp_path):
    ev.evaluate([MuLaw(8)], ev.find_clips(data, 1), METRICS, tmp_path, progress=False)
    result = run([MuLaw(4)], data, tmp_path)
    assert "Not all systems have run on all clips" in result.report.read_text()


def test_unreadable_input_is_a_failure(tmp_path):
    clip = ev.Clip("x.wav", Path(tmp_path / "x.wav"))
    failure = ev.measure(clip, MuLaw(), METRICS)
    assert isinstance(failure, ev.Failure) and "no such file" in failure.reason
    soundfile.write(clip.path, np.zeros(0), 16000)
    assert "no samples" in ev.measure(clip, MuLaw(), METRICS).reason
    assert issubclass(AudioError, Exception)
