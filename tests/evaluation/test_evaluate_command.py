"""`spectok evaluate` around a stand-in for the codec."""

import dataclasses

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from spectokenizer.cli import main
from spectokenizer.cli.evaluate import parse_bitrates
from spectokenizer.errors import BitrateError
from spectokenizer.evaluation import evaluate as ev


@dataclasses.dataclass(frozen=True)
class Fake:
    bitrate: int
    name: str = "fake"

    def process(self, audio, sample_rate):
        return audio * 0.5, self.bitrate


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "data" / "x.wav"
    path.parent.mkdir()
    soundfile.write(path, 0.1 * np.random.default_rng(0).normal(size=8000), 16000)
    return path


def invoke(monkeypatch, *arguments):
    monkeypatch.setattr(ev, "codec_systems", lambda model, bitrates: [Fake(b) for b in bitrates or (500, 1000)])
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments)])


def test_evaluates(clip, tmp_path, monkeypatch):
    out = tmp_path / "out"
    options = ["--data", clip.parent, "--out", out, "--workers", 1, "--metrics", "si_sdr,mel_distance"]
    result = invoke(monkeypatch, *options, "--bitrates", "0.5,1,6")
    assert result.exit_code == 0, result.output
    assert "4 rows" in result.output and (out / "report.md").is_file()


def test_failures_end_with_an_error(clip, tmp_path, monkeypatch):
    (clip.parent / "y.wav").write_bytes(b"nothing")
    result = invoke(monkeypatch, "--data", clip.parent, "--out", tmp_path / "out", "--workers", 1, "--metrics", "si_sdr")
    assert result.exit_code == 1 and "y.wav" in result.output and "could not be processed" in result.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--metrics", "pesk"], "unknown metrics"),
        (["--bitrates", "1,x"], "kbps separated"),
        (["--data", "no/such"], "no such folder or file"),
    ],
)
def test_mistakes_are_named(clip, tmp_path, monkeypatch, options, message):
    result = invoke(monkeypatch, "--data", clip.parent, "--out", tmp_path / "out", *options)
    assert result.exit_code == 1 and message in result.output and "Traceback" not in result.output


def test_bitrates():
    assert parse_bitrates("all") is None and parse_bitrates("0.5, 6") == [500, 6000]
    for text in ("", "x", "inf"):
        with pytest.raises(BitrateError):
            parse_bitrates(text)
