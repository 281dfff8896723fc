from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile

pytest.importorskip("rich")

from spectokenizer.errors import ConfigError
from spectokenizer.training import data


@pytest.fixture
def folder(tmp_path):
    source = tmp_path / "audio"
    (source / "deep").mkdir(parents=True)
    rng = np.random.default_rng(0)
    soundfile.write(source / "a.wav", 0.1 * rng.standard_normal(16000), 16000)
    soundfile.write(source / "deep" / "b.flac", 0.1 * rng.standard_normal((44100, 2)), 44100)
    soundfile.write(source / "short.wav", 0.1 * rng.standard_normal(800), 16000)
    (source / "broken.wav").write_bytes(b"RIFF nothing")
    (source / "notes.txt").write_text("no audio")
    return source


def test_folder_is_decoded_once_and_broken_files_are_skipped(folder, tmp_path, capsys):
    clips = data.Clips.open(folder, 16000, tmp_path / "cache")
    assert len(clips) == 3
    assert "broken.wav" in capsys.readouterr().out
    assert clips.seconds == pytest.approx(1 + 1 + 0.05, abs=0.001)
    stamp = next((tmp_path / "cache").glob("*.i16")).stat().st_mtime_ns
    data.Clips.open(folder, 16000, tmp_path / "cache")
    assert next((tmp_path / "cache").glob("*.i16")).stat().st_mtime_ns == stamp


def test_manifests(folder, tmp_path):
    lines = [json.dumps({"path": "audio/a.wav"}), "", "audio/deep/b.flac"]
    manifest = tmp_path / "list.jsonl"
    manifest.write_text("\n".join(lines))
    assert [p.name for p in data.find_audio(manifest)] == ["a.wav", "b.flac"]
    manifest.write_text('{"file": "audio/a.wav"}')
    with pytest.raises(ConfigError, match="line 1"):
        data.find_audio(manifest)


def test_nothing_found(tmp_path):
    with pytest.raises(ConfigError, match="no audio found"):
        data.find_audio(tmp_path)
    with pytest.raises(ConfigError, match="neither"):
        data.find_audio(tmp_path / "nowhere")


def test_batches_are_a_function_of_the_seed(folder, tmp_path):
    clips = data.Clips.open(folder, 16000, tmp_path / "cache")
    a, b = (clips.batch(16, 3200, np.random.default_rng([1, 2, 3])) for _ in range(2))
    assert a.shape == (16, 3200)
    assert a.dtype == np.float32
    np.testing.assert_array_equal(a, b)
    assert np.abs(a - clips.batch(16, 3200, np.random.default_rng([1, 2, 4]))).max() > 0


def test_short_clips_sit_in_silence(tmp_path):
    clips = data.Clips(np.full(800, 1000, np.int16), np.array([0]), np.array([800]), 16000)
    batch = clips.batch(4, 3200, np.random.default_rng(0))
    assert ((batch != 0).sum(1) == 800).all()


def test_split_is_disjoint_and_covers(tmp_path):
    clips = data.Clips(np.zeros(1000, np.int16), np.arange(100) * 10, np.arange(100) * 10 + 10, 16000)
    rest, held = clips.split(0.05)
    assert (len(rest), len(held)) == (95, 5)
    assert sorted([*rest.starts, *held.starts]) == list(clips.starts)


def test_level():
    rng = np.random.default_rng(0)
    segments = np.stack([0.5 * rng.standard_normal(8000), np.zeros(8000), 1e-3 * rng.standard_normal(8000)]).astype(np.float32)
    out = data.set_level(segments, rng)
    rms = 20 * np.log10(np.sqrt((out[[0, 2]] ** 2).mean(1)))
    assert (rms > -33).all()
    assert (rms < -13.9).all()
    assert np.abs(out).max() <= 1
    assert not out[1].any()
