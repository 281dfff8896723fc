"""spectok tokenize and detokenize, as typed."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result

from spectokenizer import Codec
from spectokenizer.cli import main
from spectokenizer.corpus import read
from spectokenizer.runtime import audio


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Mixed formats and rates, a broken file, names with spaces and letters of all kinds."""
    folder = tmp_path / "my clips"
    (folder / "ein Ort").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, samples, rate, channels in [("a.wav", 0, 16000, 1), ("ein Ort/été.flac", 9000, 8000, 2), ("z.ogg", 30000, 44100, 1)]:
        soundfile.write(folder / name, 0.1 * rng.standard_normal((samples, channels)), rate)
    (folder / "text.wav").write_text("no audio")
    return folder


def run(*words: str | Path, stdin: str | None = None) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words], input=stdin)


def options(codec: Codec) -> list[str]:
    return ["-m", str(codec.network.folder), "-b", str(codec.info.bitrates[1] / 1000), "-w", "1"]


@pytest.mark.parametrize("kind", ["parquet", "webdataset", "npy"])
def test_there_and_back(clips: Path, tmp_path: Path, codec: Codec, kind: str) -> None:
    result = run("tokenize", clips, "--out", tmp_path / "tokens", "--format", kind, *options(codec))
    assert result.exit_code == 0, result.output
    assert (
        "3 clips" in result.output and "1 could not be read; errors.jsonl says why" in result.output and "codebook   used" in result.output
    )
    (error,) = [json.loads(line) for line in (tmp_path / "tokens" / "errors.jsonl").read_text().splitlines()]
    assert error["id"] == "text" and error["path"].endswith("my clips/text.wav")

    result = run("detokenize", tmp_path / "tokens", "--out", tmp_path / "audio", "-m", codec.network.folder, "--format", "wav", "-w", "1")
    assert result.exit_code == 0, result.output
    assert sorted(str(path.relative_to(tmp_path / "audio")) for path in (tmp_path / "audio").rglob("*.wav")) == [
        "a.wav",
        "ein Ort/été.wav",
        "z.wav",
    ]
    for name, suffix in (("a", "wav"), ("ein Ort/été", "flac"), ("z", "ogg")):
        samples, rate = audio.read(clips / f"{name}.{suffix}")
        decoded = codec.decode(codec.encode(samples, rate, codec.info.bitrates[1]))
        heard, _ = soundfile.read(tmp_path / "audio" / f"{name}.wav", dtype="float32")
        np.testing.assert_allclose(heard, np.clip(decoded, -1, 1), atol=1 / 32768)


def test_one_shard_goes_back_and_keeps_what_is_there(clips: Path, tmp_path: Path, codec: Codec) -> None:
    run("tokenize", clips, "-o", tmp_path / "tokens", "--format", "webdataset", *options(codec))
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "z.flac").write_text("mine")
    (shard,) = (tmp_path / "tokens" / "data").iterdir()
    result = run("detokenize", shard, "-o", tmp_path / "audio", "-m", codec.network.folder)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "audio" / "z.flac").read_text() == "mine" and (tmp_path / "audio" / "ein Ort" / "été.flac").exists()
    assert not list((tmp_path / "audio").rglob("*.part*"))


def test_a_list_on_standard_input(clips: Path, tmp_path: Path, codec: Codec) -> None:
    lines = json.dumps({"path": str(clips / "z.ogg"), "speaker": 7, "text": "hallo", "samples": 3}) + "\n"
    result = run("tokenize", "-", "-o", tmp_path / "tokens", *options(codec), stdin=lines)
    assert result.exit_code == 0, result.output
    (row,) = read(tmp_path / "tokens")
    assert row.columns == {"path": str(clips / "z.ogg"), "speaker": 7, "text": "hallo", "manifest_samples": 3}
    assert json.loads((tmp_path / "tokens" / "dataset.json").read_text())["inputs"] == ["a list on standard input"]


def test_a_tar_shard(clips: Path, tmp_path: Path, codec: Codec) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        tar.add(clips / "z.ogg", "../../u1.ogg")
    assert run("tokenize", tmp_path / "s.tar", "-o", tmp_path / "tokens", *options(codec)).exit_code == 0
    (row,) = read(tmp_path / "tokens")
    assert row.id == "s/u1" and row.codes.shape[1] == -(-(row.samples + 160) // 320)


def test_mistakes(clips: Path, tmp_path: Path, codec: Codec) -> None:
    def error(*words: str | Path) -> str:
        result = run(*words)
        assert result.exit_code in (1, 2) and "Traceback" not in result.output
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return " ".join(result.output.split())

    out = ["-o", tmp_path / "tokens"]
    assert "no such folder or file" in error("tokenize", tmp_path / "none", *out)
    (tmp_path / "empty").mkdir()
    assert "no audio in" in error("tokenize", tmp_path / "empty", *out)
    assert "--bitrate" in error("tokenize", clips, *out, "-b", "4.2")
    assert "text.wav: not audio" in error("tokenize", clips, "-o", tmp_path / "strict", "--strict", *options(codec))
    assert "needs --engine ray" in error("tokenize", clips, *out, "--ray-address", "auto")
    assert "no model" in error("tokenize", clips, *out, "-m", "nosuch")
    assert "no shards of tokens" in error("detokenize", tmp_path / "empty", *out)
    run("tokenize", clips, *out, *options(codec))
    assert "was begun with something else" in error("tokenize", clips / "z.ogg", *out, *options(codec))


def test_long_names_that_begin_alike(tmp_path: Path, codec: Codec) -> None:
    """Several workers in one folder: no one's unfinished file has another's name."""
    from spectokenizer.corpus import decode as it

    names = [f"{'x' * 150}{i}" for i in range(2)]
    seen = set()
    real = it.soundfile.SoundFile

    def spy(path: Path, *rest: object, **options: object) -> object:
        seen.add(Path(path).name)
        return real(path, *rest, **options)

    rng = np.random.default_rng(0)
    for name in names:
        soundfile.write(tmp_path / f"{name}.wav", 0.1 * rng.standard_normal(2000), 16000)
    run("tokenize", tmp_path, "--out", tmp_path / "tokens", "-m", codec.network.folder, "-w", "1", "--format", "npy")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(it.soundfile, "SoundFile", spy)
        for path in sorted((tmp_path / "tokens" / "data").iterdir()):
            it.detokenize_shard(it.Task(path, tmp_path / "audio", str(codec.network.folder), "wav"))
    assert len(seen) == 2 and sorted(path.stem for path in (tmp_path / "audio").iterdir()) == names


def test_detokenize_from_python_and_whose_word_it_takes(tmp_path: Path, codec: Codec) -> None:
    """Any number of times; and a corpus may come from anybody."""
    from spectokenizer import corpus

    soundfile.write(tmp_path / "a.wav", 0.1 * np.random.default_rng(0).standard_normal(2000), 16000)
    run("tokenize", tmp_path / "a.wav", "--out", tmp_path / "tokens", "-m", codec.network.folder, "-w", "1", "--format", "npy")
    for out in ("one", "two"):
        assert corpus.detokenize(tmp_path / "tokens", tmp_path / out, codec.network.folder, workers=1).clips == 1
    card = tmp_path / "tokens" / "dataset.json"
    for name in ("evil/model", str(codec.network.folder), "\x1b[2J"):
        card.write_text(json.dumps({**json.loads(card.read_text()), "model": name}))
        said = run("detokenize", tmp_path / "tokens", "-o", tmp_path / "three").output.strip()
        assert "not bundled; give its folder with --model" in said and said.isprintable()
