"""Tables from speech: what is learnt is near the entropy, saves on what was held out, and rounds without harm."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from spectokenizer import AudioError, Codec
from spectokenizer.bitstream.entropy import MAX_SOURCES, Entropy
from spectokenizer.cli.tables import tables
from spectokenizer.export.entropy import fit, make_tables, measure, sources_of

SIZE = 16


def chain(frames: int, stay: float, seed: int) -> np.ndarray:
    """Codes [2, T]: the first moves on by one with probability `stay`, else anywhere; the second repeats the first half of the time."""
    rng = np.random.default_rng(seed)
    first = np.zeros(frames, np.int64)
    for t in range(1, frames):
        first[t] = (first[t - 1] + 1) % SIZE if rng.random() < stay else rng.integers(SIZE)
    second = np.where(rng.random(frames) < 0.5, first, rng.integers(0, SIZE, frames))
    return np.stack([first, second]).astype(np.int16)


def test_contexts_are_learnt_nearly_to_the_entropy() -> None:
    clips = [chain(500, 0.9, seed) for seed in range(12)]
    entropy = fit(clips, SIZE)
    savings = measure(entropy, [chain(500, 0.9, 100)])
    move = 0.9 + 0.1 / SIZE
    ideal = -(move * np.log2(move) + (SIZE - 1) * 0.1 / SIZE * np.log2(0.1 / SIZE))  # bits of the first code, of 4
    again = 0.5 + 0.5 / SIZE
    second = -(again * np.log2(again) + (SIZE - 1) * 0.5 / SIZE * np.log2(0.5 / SIZE))
    assert 4 * (1 - savings[0].share) < ideal + 0.35  # each packet's first frame knows nothing, and its last byte is not full
    assert 8 * (1 - savings[1].share) < ideal + second + 0.6


def test_noise_is_not_made_longer_than_a_little() -> None:
    rng = np.random.default_rng(0)
    clips = [rng.integers(0, SIZE, (3, 400)).astype(np.int16) for _ in range(6)]
    saving = measure(fit(clips, SIZE), [rng.integers(0, SIZE, (3, 400)).astype(np.int16)])[-1]
    assert saving.coded < 1.05 * saving.plain


def test_sources_are_known_when_they_are_needed() -> None:
    for k in range(32):
        assert len(sources_of(k)) <= MAX_SOURCES
        assert all((lag == 0 and 0 <= j < k) or (lag == 1 and 0 <= j <= k) for lag, j in sources_of(k))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, speech: np.ndarray) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for i in range(8):
        soundfile.write(folder / f"{i}.wav", np.roll(speech, 997 * i), 16000)
    (folder / "broken.wav").write_text("not audio")
    return folder


def test_a_model_s_tables_by_one_command(tiny_codec: Codec, tiny_folder: Path, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "entropy.bin"
    result = CliRunner().invoke(tables, [str(tiny_folder), "--data", str(corpus), "--hours", "0.01", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "held out, packets of one second" in result.output
    entropy = Entropy.load(out)
    codes = tiny_codec.encode(soundfile.read(corpus / "3.wav", dtype="float32")[0], 16000, tiny_codec.info.bitrates[-1]).array
    for k in range(1, len(codes) + 1):
        part = codes[:k, :50]
        data = entropy.encode(part)
        assert len(data) < 1.1 * np.ceil(part.size * tiny_codec.info.bits_per_code / 8) + 2
        np.testing.assert_array_equal(entropy.decode(data, *part.shape), part)
    again = CliRunner().invoke(tables, [str(tiny_folder), "--data", str(corpus), "--out", str(out)])
    assert again.exit_code == 1 and "--force" in again.output


def test_no_audio_is_a_named_error(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "only.wav").write_text("not audio")
    (tmp_path / "other.wav").write_text("not audio")
    with pytest.raises(AudioError, match="too little audio for tables"):
        make_tables(tiny_folder, tmp_path, tmp_path / "out.bin")
