"""What `encode`, `decode`, `repair` and `info` do with metadata, times, chains and crashes."""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from spectokenizer import Codec
from spectokenizer.bitstream import Reader
from spectokenizer.cli import codec as commands
from spectokenizer.errors import SpecTokenizerError

RATE = 16000


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, speech: np.ndarray, codec: Codec) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("spectokenizer.cli.codec.load", lambda name: codec)  # once is enough
    soundfile.write("a.wav", speech, RATE)


def run(name: str, *arguments: str) -> str:
    command: click.Command = getattr(commands, name)
    result = CliRunner().invoke(command, list(arguments))
    if isinstance(result.exception, SpecTokenizerError):
        return f"{result.output}Error: {result.exception}"
    assert result.exit_code == 0 or (result.exit_code == 2 and "Error: " in result.output), result.output
    return result.output


def kbps(codec: Codec, index: int) -> str:
    return f"{codec.info.bitrates[index] / 1000:g}"


def test_metadata(codec: Codec) -> None:
    run("encode", "a.wav", "a.stk", "-b", kbps(codec, 0), "--title", "Tea", "--meta", "created=2026-01-31", "--meta", "note=a=b\x1b[2J\nc")
    wanted = {"title": "Tea", "created": "2026-01-31", "note": "a=b\x1b[2J\nc"}
    with open("a.stk", "rb") as file:
        assert Reader(file).metadata == wanted
    assert json.loads(run("info", "a.stk", "--json"))["metadata"] == wanted
    said = run("info", "a.stk")
    assert "metadata: title = Tea\n" in said and r"note = a=b\x1b[2J\nc" in said
    assert "\x1b" not in said
    assert "give a date" in run("encode", "a.wav", "b.stk", "--meta", "created=today")
    assert "is not KEY=VALUE" in run("encode", "a.wav", "b.stk", "--meta", "created")
    assert "repeats a key" in run("encode", "a.wav", "b.stk", "--title", "a", "--meta", "title=b")
    assert not Path("b.stk").exists()


def test_times(codec: Codec, speech: np.ndarray) -> None:
    run("encode", "a.wav", "a.stk", "-b", kbps(codec, 1))
    run("decode", "a.stk", "whole.wav")
    assert "1.00 s of audio" in run("decode", "a.stk", "b.wav", "--start", "0.5", "--end", "1.5")
    whole, part = (soundfile.read(name, dtype="int16")[0] for name in ("whole.wav", "b.wav"))
    np.testing.assert_array_equal(part, whole[RATE // 2 : 3 * RATE // 2])
    for options, message in [
        (["--start", "9"], "is behind its end"),
        (["--start", "-1"], "no range"),
        (["--start", "2", "--end", "1"], "no range"),
    ]:
        assert message in run("decode", "a.stk", "c.wav", *options)
    assert not Path("c.wav").exists()


def test_append_repair_info(codec: Codec, speech: np.ndarray) -> None:
    run("encode", "a.wav", "a.stk", "-b", kbps(codec, 0), "--append")
    run("encode", "a.wav", "a.stk", "-b", kbps(codec, 1), "--append", "--title", "two")
    about = json.loads(run("info", "a.stk", "--json"))
    assert about["recordings"] == 2 and about["num_samples"] == 2 * len(speech) and about["num_bytes"] == Path("a.stk").stat().st_size
    assert [one["num_codebooks"] for one in about["streams"]] == [1, 2]
    assert "recording 2:" in run("info", "a.stk") and "metadata: title = two" in run("info", "a.stk")
    run("decode", "a.stk", "b.wav")
    assert soundfile.info("b.wav").frames == 2 * len(speech)

    data = Path("a.stk").read_bytes()
    Path("a.stk").write_bytes(data[:-20])
    wanted = "a.stk: the data end at byte"
    assert wanted in run("decode", "a.stk", "c.wav") and "'spectok repair' gives it an end" in run("decode", "a.stk", "c.wav")
    assert wanted in run("info", "a.stk") and "recording 2:" in run("info", "a.stk")
    assert "mended: " in run("repair", "a.stk")
    assert "nothing to do" in run("repair", "a.stk")
    whole = Path("a.stk").read_bytes()
    Path("a.stk").write_bytes(whole[:200] + bytes([whole[200] ^ 1]) + whole[201:])
    assert "'spectok decode --salvage' keeps what is intact" in run("repair", "a.stk")
    Path("a.stk").write_bytes(whole)
    run("decode", "a.stk", "c.wav")
    assert len(speech) < soundfile.info("c.wav").frames < 2 * len(speech)
    Path("a.stk").write_bytes(data[:-20])
    assert "Warning: a.stk: mended: " in run("encode", "a.wav", "a.stk", "--append")
    assert json.loads(run("info", "a.stk", "--json"))["recordings"] == 3


def test_what_excludes_each_other(codec: Codec) -> None:
    assert "exclude each other" in run("encode", "a.wav", "a.stk", "--append", "--resume")
    assert "only a file with a name" in run("encode", "a.wav", "-", "--append")
    if getattr(codec, "entropy", None) is None:
        assert "no tables for entropy coding" in run("encode", "a.wav", "a.stk", "--entropy")
    assert not Path("a.stk").exists()
    run("encode", "a.wav", "a.stk", "--resume")
    assert Path("a.stk").exists()
