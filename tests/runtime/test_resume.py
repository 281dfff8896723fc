"""Encodings that are killed, gone on with, mended and appended to. The killing is real: SIGKILL, at any moment."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import spectokenizer
from spectokenizer import Codec, ConfigError, CorruptedError, FormatError, ModelError, TruncatedError
from spectokenizer.bitstream import Writer, streams
from spectokenizer.runtime import checkpoint as checkpoints
from spectokenizer.runtime import files

RATE = 16000
needs_sigkill = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")

ENCODE = """
import sys, spectokenizer
from spectokenizer.runtime import audio, files
audio.blocks.__defaults__ = (0.5,)  # as if everything were twenty times as long
files.CHECKPOINT_SECONDS = 1.0
codec = spectokenizer.load(sys.argv[1])
rate = codec.info.bitrates[-1]
report = files.encode_file(codec, sys.argv[2], sys.argv[3], rate, metadata={"title": "x"}, **{name: True for name in sys.argv[4:]})
print(report.warnings)
"""

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start(codec: Codec, tmp_path: Path, subprocess_environment: dict[str, str]) -> Start:
    def run(*arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", ENCODE, str(codec.network.folder), *arguments]
        return subprocess.Popen(command, cwd=tmp_path, env=subprocess_environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    return run


def finish(process: subprocess.Popen[bytes]) -> str:
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors.decode()
    return out.decode()


def kill_when(process: subprocess.Popen[bytes], ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not ready():
        assert process.poll() is None, process.communicate()[1].decode()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def recordings(path: Path) -> list[tuple[np.ndarray, int | None]]:
    out = []
    with path.open("rb") as file:
        for reader in streams(file):
            out.append((np.concatenate([packet.codes for packet in reader], 1), reader.num_samples))
    return out


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@needs_sigkill
@pytest.mark.parametrize("rate", [RATE, 44100])
def test_killed_and_resumed_is_as_if_nothing_had_been(start: Start, tmp_path: Path, speech: np.ndarray, rate: int) -> None:
    soundfile.write(tmp_path / "a.wav", np.tile(speech, 1 + 20 * rate // len(speech))[: 20 * rate], rate)
    part, state = tmp_path / ".a.stk.part", tmp_path / ".a.stk.part.npz"
    assert finish(start("a.wav", "whole.stk")) == "[]\n"
    kill_when(start("a.wav", "a.stk"), lambda: state.exists() and size_of(part) > 3000)
    assert part.exists() and not (tmp_path / "a.stk").exists()
    before = size_of(part)
    kill_when(start("a.wav", "a.stk", "resume"), lambda: size_of(part) > before + 3000)  # and once more
    assert finish(start("a.wav", "a.stk", "resume")) == "[]\n"
    assert (tmp_path / "a.stk").read_bytes() == (tmp_path / "whole.stk").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.stk", "a.wav", "whole.stk"]


@needs_sigkill
def test_killed_while_appending_loses_at_most_the_last_packet(start: Start, codec: Codec, tmp_path: Path, speech: np.ndarray) -> None:
    soundfile.write(tmp_path / "short.wav", speech, RATE)
    soundfile.write(tmp_path / "long.wav", np.tile(speech, 6), RATE)
    output = tmp_path / "a.stk"
    finish(start("short.wav", "a.stk", "append"))
    whole, first = output.read_bytes(), recordings(output)
    kill_when(start("long.wav", "a.stk", "append"), lambda: size_of(output) > len(whole) + 2500)
    assert output.read_bytes()[: len(whole)] == whole
    killed = size_of(output)
    with pytest.raises(FormatError):
        recordings(output)
    assert "mended" in finish(start("short.wav", "a.stk", "append"))
    one, middle, last = recordings(output)
    for got in (one, last):
        np.testing.assert_array_equal(got[0], first[0][0])
        assert got[1] == len(speech)
    expected = codec.encode(soundfile.read(tmp_path / "long.wav", dtype="float32")[0], RATE, codec.info.bitrates[-1]).array
    frames = middle[0].shape[1]
    np.testing.assert_array_equal(middle[0], expected[:, :frames])
    assert middle[1] == frames * 320 - codec.info.delay_samples
    packet = 50 * codec.info.num_codebooks * codec.info.bits_per_code // 8 + 10
    assert (killed - len(whole) - 200) // packet * 50 <= frames  # every packet that was there
    report = files.decode_file(codec, output, tmp_path / "a.wav")
    assert report.seconds == (2 * len(speech) + middle[1]) / RATE


# -- the same without killing, where the moment can be chosen ----------------------------------------------------------------------


class Killed(BaseException):
    """Not even `finally` would run; what it would tidy is put back below."""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "CHECKPOINT_SECONDS", 1.0)
    monkeypatch.setattr("spectokenizer.runtime.audio.blocks.__defaults__", (0.5,))


def broken_off(codec: Codec, folder: Path, at: float, **options: Any) -> None:
    """An encoding of a.wav to a.stk that --resume may go on with."""

    def stop(share: float | None, seconds: float) -> None:
        if seconds >= at:
            raise Killed

    with pytest.raises(Killed):
        files.encode_file(codec, folder / "a.wav", folder / "a.stk", codec.info.bitrates[-1], stop, resume=True, **options)
    assert not (folder / "a.stk").exists()


def encoded(codec: Codec, folder: Path, name: str = "whole.stk", **options: Any) -> bytes:
    files.encode_file(codec, folder / "a.wav", folder / name, codec.info.bitrates[-1], **options)
    return (folder / name).read_bytes()


def test_any_number_of_times(codec: Codec, speech: np.ndarray, tmp_path: Path, quick: None) -> None:
    soundfile.write(tmp_path / "a.wav", np.tile(speech, 3), 22050)
    whole = encoded(codec, tmp_path, metadata={"a": "b"})
    seconds: list[float] = []
    for at in (0.1, 1.1, 1.6, 3, 4.4, 4.9, 5.4):
        broken_off(codec, tmp_path, at, metadata={"a": "b"})
    report = files.encode_file(
        codec,
        tmp_path / "a.wav",
        tmp_path / "a.stk",
        codec.info.bitrates[-1],
        lambda _, done: seconds.append(done),
        metadata={"a": "b"},
        resume=True,
    )
    assert (tmp_path / "a.stk").read_bytes() == whole
    assert seconds[0] > 4 and report.warnings == []  # what was done was not done again
    assert report.num_bytes == len(whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.stk", "a.wav", "whole.stk"]


def damage(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: soundfile.write(folder / "a.wav", 0.1 * np.random.default_rng(0).standard_normal(6 * RATE), RATE),
        lambda folder: soundfile.write(folder / "a.wav", np.zeros(RATE), RATE),
        lambda folder: damage(folder / ".a.stk.part", 200),
        lambda folder: os.truncate(folder / ".a.stk.part", 400),
        lambda folder: (folder / ".a.stk.part").write_bytes(b"nonsense" * 1000),
        lambda folder: damage(folder / ".a.stk.part.npz", 100),
        lambda folder: (folder / ".a.stk.part.npz").write_bytes(b""),
        lambda folder: (folder / ".a.stk.part.npz").write_bytes(b"PK\x03\x04nonsense"),
        lambda folder: np.savez((folder / ".a.stk.part.npz").open("wb"), **{"encoder/x": np.zeros(3), "writer/y": np.zeros(3)}),
        lambda folder: (folder / ".a.stk.part.npz").unlink(),
        lambda folder: None,
    ],
    ids=["audio", "shorter", "damaged", "cut", "nonsense", "state", "empty", "zip", "foreign", "none", "options"],
)
def test_what_does_not_belong_together_is_encoded_from_the_start(
    codec: Codec, speech: np.ndarray, tmp_path: Path, quick: None, change: Callable[[Path], Any], request: pytest.FixtureRequest
) -> None:
    soundfile.write(tmp_path / "a.wav", np.tile(speech, 2), RATE)
    broken_off(codec, tmp_path, 3)
    change(tmp_path)
    options: dict[str, Any] = {"metadata": {"a": "b"}} if "options" in request.node.name else {}
    report = files.encode_file(codec, tmp_path / "a.wav", tmp_path / "a.stk", codec.info.bitrates[-1], resume=True, **options)
    assert any("encoded from the start" in warning for warning in report.warnings)
    assert (tmp_path / "a.stk").read_bytes() == encoded(codec, tmp_path, **options)


def test_nothing_to_resume(codec: Codec, speech: np.ndarray, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", speech, RATE)
    assert files.encode_file(codec, tmp_path / "a.wav", tmp_path / "a.stk", codec.info.bitrates[-1], resume=True).warnings == []
    assert (tmp_path / "a.stk").read_bytes() == encoded(codec, tmp_path)
    for options in ({"append": True, "resume": True}, {"sink": io.BytesIO(), "append": True}, {"sink": io.BytesIO(), "resume": True}):
        sink = options.pop("sink", tmp_path / "b.stk")
        with pytest.raises(ConfigError):
            files.encode_file(codec, tmp_path / "a.wav", sink, codec.info.bitrates[-1], **options)  # type: ignore[arg-type]


def test_a_checkpoint_that_cannot_be_written_is_no_reason_to_stop(
    codec: Codec, speech: np.ndarray, tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("disk full")

    soundfile.write(tmp_path / "a.wav", np.tile(speech, 2), RATE)
    monkeypatch.setattr(checkpoints.np, "savez", full)
    encoded(codec, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.wav", "whole.stk"]


# -- append and repair -------------------------------------------------------------------------------------------------------------


def test_append(codec: Codec, speech: np.ndarray, tmp_path: Path) -> None:
    for name, samples in (("a", speech), ("b", speech[:3000])):
        soundfile.write(tmp_path / f"{name}.wav", samples, RATE)
    rates = codec.info.bitrates
    for name, rate in (("a", rates[-1]), ("b", rates[0]), ("a", rates[1])):
        report = files.encode_file(codec, tmp_path / f"{name}.wav", tmp_path / "all.stk", rate, append=True, metadata={"title": name})
        assert report.warnings == []
    alone = b""
    for name, rate in (("a", rates[-1]), ("b", rates[0]), ("a", rates[1])):
        files.encode_file(codec, tmp_path / f"{name}.wav", tmp_path / "one.stk", rate, metadata={"title": name})
        alone += (tmp_path / "one.stk").read_bytes()
    assert (tmp_path / "all.stk").read_bytes() == alone  # as `cat` would
    assert [length for _, length in recordings(tmp_path / "all.stk")] == [len(speech), 3000, len(speech)]


def test_an_append_that_fails_changes_nothing(codec: Codec, speech: np.ndarray, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.tile(speech, 5), RATE)
    before = encoded(codec, tmp_path, "a.stk")

    def stop(share: float | None, seconds: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.encode_file(codec, tmp_path / "a.wav", tmp_path / "a.stk", codec.info.bitrates[-1], stop, append=True)
    assert (tmp_path / "a.stk").read_bytes() == before
    other, sink = tmp_path / "other.stk", io.BytesIO()
    header = files.header_of(codec, 1)
    Writer(sink, type(header)("other", "0" * 16, 16000, 320, 1, header.bits_per_code)).close(0)
    damaged = bytearray(before)
    damaged[100] ^= 1
    for data, error in [
        (sink.getvalue(), ModelError),
        (sink.getvalue()[:-1], ModelError),
        (b"no such thing", FormatError),
        (bytes(damaged[:-1]), CorruptedError),
    ]:
        other.write_bytes(data)
        with pytest.raises(error):
            files.encode_file(codec, tmp_path / "a.wav", other, codec.info.bitrates[-1], append=True)
        assert other.read_bytes() == data


@pytest.mark.parametrize("size", [0, 3, 20])
def test_append_to_almost_nothing(codec: Codec, speech: np.ndarray, tmp_path: Path, size: int) -> None:
    soundfile.write(tmp_path / "a.wav", speech, RATE)
    whole = encoded(codec, tmp_path)
    (tmp_path / "a.stk").write_bytes(whole[:size])
    files.encode_file(codec, tmp_path / "a.wav", tmp_path / "a.stk", codec.info.bitrates[-1], append=True)
    assert (tmp_path / "a.stk").read_bytes() == whole


def test_repair_file(codec: Codec, speech: np.ndarray, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", speech, RATE)
    whole = encoded(codec, tmp_path, "a.stk")
    assert files.repair_file(tmp_path / "a.stk", codec) is None
    (tmp_path / "a.stk").write_bytes(whole[:-20])
    with pytest.raises(TruncatedError):
        files.decode_file(codec, tmp_path / "a.stk", tmp_path / "b.wav")
    mended = files.repair_file(tmp_path / "a.stk", codec)
    assert mended is not None and mended.num_frames == 100
    assert files.decode_file(codec, tmp_path / "a.stk", tmp_path / "b.wav").seconds == (100 * 320 - codec.info.delay_samples) / RATE
    with pytest.raises(FormatError, match="cannot be read"):
        files.repair_file(tmp_path / "none.stk")
    if codec.info.name not in spectokenizer.bundled():
        with pytest.raises(ModelError):
            files.repair_file(tmp_path / "a.stk")
