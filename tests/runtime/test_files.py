"""Files and pipes: the same codes and samples as in memory, exact lengths, damage answered and survived, memory that does not grow."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import pytest
import soundfile

import spectokenizer
from spectokenizer import AudioError, BitrateError, Codec, ConfigError, CorruptedError, FormatError, ModelError, TruncatedError
from spectokenizer.bitstream import Reader, Writer
from spectokenizer.disk import lock
from spectokenizer.runtime import files
from spectokenizer.runtime.audio import read

RATE = 16000


def codes_of(stk: bytes) -> tuple[np.ndarray, int]:
    reader = Reader(io.BytesIO(stk))
    parts = [packet.codes for packet in reader]
    assert reader.num_samples is not None
    return (np.concatenate(parts, 1) if parts else np.zeros((1, 0), np.int16)), reader.num_samples


def records(codec: Codec, samples: np.ndarray, packet_frames: int = 5) -> list[bytes]:
    """A .stk as a list: header, packets, end record."""
    codes = codec.encode(samples, RATE, codec.info.bitrates[-1])

    class Sink(list[bytes]):
        write = list.append

        def flush(self) -> None: ...

    sink = Sink()
    with Writer(cast(BinaryIO, sink), files.header_of(codec, codes.num_codebooks), packet_frames) as writer:
        for frame in range(codes.num_frames):
            writer.write(codes.array[:, frame : frame + 1])
        writer.close(codes.num_samples)
    return list(sink)


@pytest.fixture
def stk(codec: Codec, speech: np.ndarray, tmp_path: Path) -> Path:
    path = tmp_path / "speech.stk"
    path.write_bytes(b"".join(records(codec, speech)))
    return path


# -- the same as in memory -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "rate", "channels", "options"),
    [
        ("a.wav", RATE, 1, {}),
        ("a.wav", RATE, 1, {"subtype": "FLOAT"}),
        ("a.flac", 44100, 2, {}),
        ("a.wav", 8000, 1, {}),
        ("a.ogg", 48000, 1, {}),
        ("a.mp3", 22050, 2, {}),
        ("a.aiff", 11025, 3, {}),
    ],
)
def test_encode_file_is_encode(
    codec: Codec, speech: np.ndarray, tmp_path: Path, name: str, rate: int, channels: int, options: dict[str, Any]
) -> None:
    """More than one block long, so that block ends are crossed while resampling."""
    signal = np.stack([np.tile(speech, 12)[: 11 * rate + 7] / (1 + c) for c in range(channels)], 1)
    soundfile.write(tmp_path / name, signal, rate, **options)
    bitrate = codec.info.bitrates[1]
    report = files.encode_file(codec, tmp_path / name, tmp_path / "a.stk", bitrate)
    data = (tmp_path / "a.stk").read_bytes()
    array, num_samples = codes_of(data)
    samples, _ = soundfile.read(tmp_path / name, dtype="float32", always_2d=True)
    expected = codec.encode(samples.T, rate, bitrate)
    assert num_samples == expected.num_samples
    np.testing.assert_array_equal(array, expected.array)
    assert report.num_bytes == len(data)
    assert report.seconds == num_samples / RATE
    assert report.bitrate == pytest.approx(8 * len(data) / report.seconds)
    assert bitrate < report.bitrate < bitrate + 150
    assert report.warnings == []
    assert report.wall_seconds > 0 and report.real_time_factor == report.wall_seconds / report.seconds


def test_recorded_speech(codec: Codec, real_speech: list[Path], tmp_path: Path) -> None:
    for path in real_speech[:: max(1, len(real_speech) // 2)][:2]:
        files.encode_file(codec, path, tmp_path / "a.stk", codec.info.bitrates[-1])
        expected = codec.encode(read(path, RATE)[0], RATE, codec.info.bitrates[-1])
        array, num_samples = codes_of((tmp_path / "a.stk").read_bytes())
        np.testing.assert_array_equal(array, expected.array)
        files.decode_file(codec, tmp_path / "a.stk", tmp_path / "a.wav")
        assert soundfile.info(tmp_path / "a.wav").frames == num_samples == expected.num_samples


@pytest.mark.parametrize("suffix", ["wav", "flac", "aiff"])
def test_decode_file_is_decode(codec: Codec, speech: np.ndarray, stk: Path, suffix: str) -> None:
    output = stk.with_suffix(f".{suffix}")
    report = files.decode_file(codec, stk, output)
    samples, rate = soundfile.read(output, dtype="int16")
    expected = files.to_int16(codec.decode(codec.encode(speech, RATE, codec.info.bitrates[-1])))
    assert rate == RATE
    np.testing.assert_array_equal(samples, expected)
    assert report.seconds == len(speech) / RATE
    assert report.num_bytes == stk.stat().st_size
    assert not report.warnings


@pytest.mark.parametrize("length", [0, 1, 159, 160, 161, 319, 320, 321, 479, 480, 481, 1600, 16000, 16161])
def test_lengths_are_exact(codec: Codec, speech: np.ndarray, tmp_path: Path, length: int) -> None:
    soundfile.write(tmp_path / "a.wav", speech[:length], RATE)
    files.encode_file(codec, tmp_path / "a.wav", tmp_path / "a.stk", codec.info.bitrates[0])
    files.decode_file(codec, tmp_path / "a.stk", tmp_path / "b.wav")
    assert soundfile.info(tmp_path / "b.wav").frames == length


@pytest.mark.parametrize("suffix", ["ogg", "opus", "mp3", "oga", "aif", "WAV", ""])
def test_other_outputs(codec: Codec, speech: np.ndarray, stk: Path, suffix: str) -> None:
    output = stk.with_name(f"out.{suffix}" if suffix else "out")
    files.decode_file(codec, stk, output)
    with soundfile.SoundFile(output) as file:
        assert (file.samplerate, file.channels) == (RATE, 1)
        assert file.frames == pytest.approx(len(speech), abs=2500)
        assert file.subtype == {"opus": "OPUS", "ogg": "VORBIS", "oga": "VORBIS", "mp3": "MPEG_LAYER_III"}.get(suffix, "PCM_16")


def test_streams_instead_of_names(codec: Codec, speech: np.ndarray, stk: Path) -> None:
    source, sink, heard = io.BytesIO(), io.BytesIO(), io.BytesIO()
    soundfile.write(source, speech, RATE, "FLOAT", format="WAV")
    source.seek(0)
    files.encode_file(codec, source, sink, codec.info.bitrates[-1])
    np.testing.assert_array_equal(codes_of(sink.getvalue())[0], codes_of(stk.read_bytes())[0])
    sink.seek(0)
    files.decode_file(codec, sink, heard)
    assert not sink.closed and not heard.closed
    heard.seek(0)
    samples, rate = soundfile.read(heard, dtype="int16")  # although the header does not know the length
    assert rate == RATE
    np.testing.assert_array_equal(samples, files.to_int16(codec.decode(codec.encode(speech, RATE, codec.info.bitrates[-1]))))


def test_progress(codec: Codec, speech: np.ndarray, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.tile(speech, 10), RATE)
    seen: list[tuple[float | None, float]] = []
    files.encode_file(codec, tmp_path / "a.wav", tmp_path / "a.stk", codec.info.bitrates[-1], lambda *p: seen.append(p))
    shares, seconds = zip(*seen, strict=True)
    assert len(seen) == 3 and shares[-1] == 1 and list(seconds) == sorted(seconds)
    files.decode_file(codec, tmp_path / "a.stk", tmp_path / "b.wav", progress=lambda *p: seen.append(p))
    assert seen[-1][0] is None and seen[-1][1] > 20


def test_to_int16_clips() -> None:
    assert files.to_int16(np.float32([-2, -1, 0, 0.5, 1, 2])).tolist() == [-32768, -32768, 0, 16384, 32767, 32767]


# -- mistakes ------------------------------------------------------------------------------------------------------------------


def left_over(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name.endswith(".part")}


def test_wrong_input(codec: Codec, speech: np.ndarray, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", speech, RATE)
    (tmp_path / "text.txt").write_text("no audio\n" * 100)
    output = tmp_path / "out"
    for source in (tmp_path / "none.wav", tmp_path, tmp_path / "text.txt"):
        with pytest.raises(AudioError, match=source.name):
            files.encode_file(codec, source, output, codec.info.bitrates[-1])
    with pytest.raises(BitrateError):
        files.encode_file(codec, tmp_path / "a.wav", output, codec.info.bitrates[0] + 1)
    for source in (tmp_path / "none.stk", tmp_path):
        with pytest.raises(FormatError, match=f"{source.name}: cannot be read"):
            files.decode_file(codec, source, output)
    with pytest.raises(FormatError, match="WAV"):
        files.decode_file(codec, tmp_path / "a.wav", output)
    assert not output.exists() and not left_over(tmp_path)


def test_wrong_output(codec: Codec, speech: np.ndarray, stk: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", speech[:1000], RATE)
    (tmp_path / "folder.wav").mkdir()
    for output, message in [(tmp_path / "folder.wav", "is a folder"), (tmp_path / "no" / "a.wav", "its folder does not exist")]:
        with pytest.raises(AudioError, match=message):
            files.encode_file(codec, tmp_path / "a.wav", output, codec.info.bitrates[-1])
        with pytest.raises(AudioError, match=message):
            files.decode_file(codec, stk, output)
    with pytest.raises(AudioError, match=r"'\.xyz'; use one of aiff, flac, mp3, ogg, wav, opus"):
        files.decode_file(codec, stk, tmp_path / "a.xyz")
    assert not (tmp_path / "a.xyz").exists() and not left_over(tmp_path)


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs /dev/full")
def test_devices_are_written_to_and_not_replaced(codec: Codec, stk: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(1000), RATE)
    null = tmp_path / "null"
    null.symlink_to("/dev/null")
    files.encode_file(codec, tmp_path / "a.wav", null, codec.info.bitrates[-1])
    files.decode_file(codec, stk, null)
    assert null.is_char_device()
    full = tmp_path / "full"
    full.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        files.encode_file(codec, tmp_path / "a.wav", full, codec.info.bitrates[-1])
    assert full.is_char_device() and not left_over(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_into_a_named_pipe(codec: Codec, speech: np.ndarray, stk: Path, tmp_path: Path) -> None:
    pipe, parts = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: parts.append(pipe.read_bytes()))
    reader.start()
    files.decode_file(codec, stk, pipe)
    reader.join()
    assert len(soundfile.read(io.BytesIO(parts[0]))[0]) == len(speech)
    assert pipe.is_fifo()


def test_an_output_appears_only_when_complete(codec: Codec, speech: np.ndarray, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.tile(speech, 10), RATE)
    for action, output in [
        (
            lambda progress: files.encode_file(codec, tmp_path / "a.wav", tmp_path / "a.stk", codec.info.bitrates[-1], progress),
            tmp_path / "a.stk",
        ),
        (lambda progress: files.decode_file(codec, tmp_path / "a.stk", tmp_path / "b.wav", progress=progress), tmp_path / "b.wav"),
    ]:

        def interrupt(share: float | None, seconds: float, output: Path = output) -> None:
            assert not output.exists() or output.read_bytes() == b"old"
            if seconds > 5:
                raise KeyboardInterrupt

        for old in (None, b"old"):
            if old:
                output.write_bytes(old)
            with pytest.raises(KeyboardInterrupt):
                action(interrupt)
            assert (output.read_bytes() if output.exists() else None) == old
            assert not left_over(tmp_path)
        action(None)
        assert len(output.read_bytes()) > 3


# -- damage --------------------------------------------------------------------------------------------------------------------


def test_truncated_and_corrupt_files_leave_the_old_output_alone(codec: Codec, stk: Path, tmp_path: Path) -> None:
    good, output = stk.read_bytes(), tmp_path / "out.wav"
    output.write_bytes(b"old")
    for size in (0, 3, 10, 30, len(good) // 2, len(good) - 1):
        stk.write_bytes(good[:size])
        with pytest.raises(TruncatedError, match=rf"byte {size}\b"):
            files.decode_file(codec, stk, output)
    for at in (7, 40, len(good) // 2, len(good) - 2):
        damaged = bytearray(good)
        damaged[at] ^= 0x40
        stk.write_bytes(damaged)
        with pytest.raises(CorruptedError, match="byte"):
            files.decode_file(codec, stk, output)
    stk.write_bytes(good + b"more")
    with pytest.raises(CorruptedError, match="more data"):
        files.decode_file(codec, stk, output)
    assert output.read_bytes() == b"old"
    assert not left_over(tmp_path)


def salvaged(codec: Codec, data: bytes) -> tuple[np.ndarray, files.Report]:
    sink = io.BytesIO()
    report = files.decode_file(codec, io.BytesIO(data), sink, salvage=True)
    return np.frombuffer(sink.getvalue()[44:], "<i2"), report


@pytest.mark.parametrize("lost", [(1,), (4,), (4, 5, 9), (-2,), (-4, -3, -2)], ids=str)
def test_salvage_puts_silence_in_place_of_lost_packets(codec: Codec, speech: np.ndarray, lost: tuple[int, ...]) -> None:
    """Of header, packets, end record; packets hold five frames, the last one the rest."""
    parts = records(codec, speech)
    whole = files.to_int16(codec.decode(codec.encode(speech, RATE, codec.info.bitrates[-1])))
    for index in lost:
        damaged = bytearray(parts[index])
        damaged[-1] ^= 1
        parts[index] = bytes(damaged)
    with pytest.raises(CorruptedError):
        files.decode_file(codec, io.BytesIO(b"".join(parts)), io.BytesIO())
    samples, report = salvaged(codec, b"".join(parts))
    assert len(samples) == len(speech)
    at = sorted(index % len(parts) for index in lost)
    first, delay = (at[0] - 1) * 5 * 320, codec.info.delay_samples
    np.testing.assert_array_equal(samples[: max(0, first - delay)], whole[: max(0, first - delay)])
    for index in at:
        gap = samples[max(0, (index - 1) * 1600 - delay) : index * 1600 - delay]
        assert len(gap) and not gap.any()
    if at[-1] < len(parts) - 2:  # what follows is decoded from a fresh state
        rest = codec.decoder().push(codec.encode(speech, RATE, codec.info.bitrates[-1]).array[:, at[-1] * 5 :])
        after = samples[at[-1] * 1600 - delay :]
        np.testing.assert_array_equal(after, files.to_int16(rest[: len(after)]))
    assert any("lost at" in warning for warning in report.warnings)


def test_salvage_without_the_end_record(codec: Codec, speech: np.ndarray) -> None:
    parts = records(codec, speech)
    whole = files.to_int16(codec.decode(codec.encode(speech, RATE, codec.info.bitrates[-1])))
    samples, report = salvaged(codec, b"".join(parts[:-1]))
    assert 0 <= len(samples) - len(whole) < 320
    np.testing.assert_array_equal(samples[: len(whole)], whole)
    assert any("exact length is unknown" in warning for warning in report.warnings)
    samples, _ = salvaged(codec, b"".join(parts[:6])[:-3])  # cut inside a packet
    np.testing.assert_array_equal(samples, whole[: 4 * 1600 - codec.info.delay_samples])


def test_salvage_of_an_intact_file_changes_nothing(codec: Codec, speech: np.ndarray, stk: Path) -> None:
    samples, report = salvaged(codec, stk.read_bytes())
    np.testing.assert_array_equal(samples, files.to_int16(codec.decode(codec.encode(speech, RATE, codec.info.bitrates[-1]))))
    assert report.warnings == []


def test_a_forged_frame_number_does_not_fill_the_disk(codec: Codec) -> None:
    sink = io.BytesIO()
    with Writer(sink, files.header_of(codec, 1), 5) as writer:
        writer.write(np.zeros((1, 5), int))
        writer.num_frames = 10**9  # seven months
        writer.write(np.zeros((1, 5), int))
        writer.close(100)
    samples, report = salvaged(codec, sink.getvalue())
    assert len(samples) <= (files.GAP_SECONDS + 1) * RATE
    assert any("shortened to 600.00 s" in warning for warning in report.warnings)


def test_another_model_s_file_names_both(codec: Codec, stk: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(codec.network.folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["codec"]["name"] = "unheard-of"
    (folder / "config.json").write_text(json.dumps(config))
    other = spectokenizer.load(folder)
    with pytest.raises(ModelError, match=f"'{codec.info.name}'.*'unheard-of'.*--model"):
        files.decode_file(other, stk, tmp_path / "a.wav")
    sink = io.BytesIO()
    Writer(sink, files.header_of(other, 1)).close(0)
    sink.seek(0)
    with pytest.raises(ModelError, match=r"'unheard-of' .*give its folder with --model"):
        files.decode_file(None, sink, tmp_path / "a.wav")
    assert not (tmp_path / "a.wav").exists()


# -- memory --------------------------------------------------------------------------------------------------------------------


MEMORY = """
import resource, sys
import numpy as np, soundfile, spectokenizer
from spectokenizer.runtime import files

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

codec = spectokenizer.load(sys.argv[1])
for minutes in (0.5, 6):
    rng = np.random.default_rng(0)
    with soundfile.SoundFile("long.wav", "w", 16000, 1) as file:
        for _ in range(int(minutes * 60)):
            file.write(0.1 * rng.standard_normal(16000))
    files.encode_file(codec, "long.wav", "long.stk", codec.info.bitrates[-1])
    report = files.decode_file(codec, "long.stk", "back.wav")
    assert report.seconds == 60 * minutes
    print(peak())
"""


def test_memory_does_not_grow_with_the_file(
    tiny_folder: Path, tmp_path: Path, python: Callable[..., subprocess.CompletedProcess[bytes]]
) -> None:
    """Six minutes are 23 MB of float samples, or 12 MB of 16-bit ones."""
    pytest.importorskip("resource")
    done = python("-c", MEMORY, tiny_folder, cwd=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    short, long = map(int, done.stdout.split())
    assert long - short < 8e6


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """A full disk, played by a limit."""
    resource = pytest.importorskip("resource")
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "opus", "mp3", "aiff"])
@pytest.mark.parametrize("short", [1, 100, 3000])
def test_a_disk_that_fills_up_at_the_end(tiny_codec: Codec, speech: np.ndarray, tmp_path: Path, suffix: str, short: int) -> None:
    """libsndfile says nothing when its last bytes cannot be written."""
    wav, stk, out = tmp_path / "a.wav", tmp_path / "a.stk", tmp_path / f"out.{suffix}"
    soundfile.write(wav, speech[: 3 * 16000], 16000)
    files.encode_file(tiny_codec, wav, stk)
    files.decode_file(tiny_codec, stk, out)
    size, before = out.stat().st_size, out.read_bytes()
    with files_of_at_most(size - short), pytest.raises(AudioError, match="disk full"):
        files.decode_file(tiny_codec, stk, out)
    assert out.read_bytes() == before and len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("short", [1, 100, 400])
def test_a_disk_that_fills_up_while_appending(tiny_codec: Codec, speech: np.ndarray, tmp_path: Path, short: int) -> None:
    wav, stk = tmp_path / "a.wav", tmp_path / "a.stk"
    soundfile.write(wav, speech[: 3 * 16000], 16000)
    files.encode_file(tiny_codec, wav, stk)
    before = stk.read_bytes()
    with files_of_at_most(2 * len(before) - short), pytest.raises(OSError):
        files.encode_file(tiny_codec, wav, stk, append=True)
    assert stk.read_bytes() == before


def test_times_beyond_all_numbers(tiny_codec: Codec, speech: np.ndarray, tmp_path: Path) -> None:
    wav, stk, out = tmp_path / "a.wav", tmp_path / "a.stk", tmp_path / "b.wav"
    soundfile.write(wav, speech[:16000], 16000)
    files.encode_file(tiny_codec, wav, stk)
    files.decode_file(tiny_codec, stk, out, end=1e305)
    assert soundfile.info(out).frames == 16000
    with pytest.raises(AudioError):
        files.decode_file(tiny_codec, stk, out, start=1e305)


def test_minutes_of_silence_in_an_ogg(tiny_codec: Codec, tmp_path: Path) -> None:
    """At once they are too much for libvorbis' stack; in a process of its own, as that would end this one."""
    parts = records(tiny_codec, np.zeros(150 * RATE, np.float32), 50)
    (tmp_path / "a.stk").write_bytes(parts[0] + bytes(sum(map(len, parts[1:-3]))) + b"".join(parts[-3:]))
    model = str(tiny_codec.network.folder)
    command = [sys.executable, "-m", "spectokenizer", "decode", "--salvage", "-m", model, str(tmp_path / "a.stk"), str(tmp_path / "a.ogg")]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert soundfile.info(tmp_path / "a.ogg").duration > 60


def test_two_writers_of_one_file(tiny_codec: Codec, speech: np.ndarray, tmp_path: Path) -> None:
    """The second one is refused, and the first one's file is as if it had been alone."""
    soundfile.write(tmp_path / "a.wav", speech, RATE)
    source, target, other = tmp_path / "a.wav", tmp_path / "a.stk", tmp_path / "b.stk"
    refused: list[str] = []

    def meanwhile(append: bool) -> Callable[[float | None, float], None]:
        def progress(share: float | None, seconds: float) -> None:
            with pytest.raises(ConfigError, match="another process is writing it") as error:
                files.encode_file(tiny_codec, source, target, append=append)
            refused.append(str(error.value))

        return progress

    files.encode_file(tiny_codec, source, target, progress=meanwhile(False))
    files.encode_file(tiny_codec, source, other)
    assert refused and target.read_bytes() == other.read_bytes()
    files.encode_file(tiny_codec, source, target, append=True, progress=meanwhile(True))
    files.encode_file(tiny_codec, source, other, append=True)
    assert len(refused) > 1 and target.read_bytes() == other.read_bytes()
    with open(target, "r+b") as held:
        lock(held, "")
        with pytest.raises(ConfigError, match="another process"):
            files.repair_file(target, tiny_codec)


def test_resumed_with_fewer_codebooks(tiny_codec: Codec, speech: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is another encoding: it begins at the start, and says so."""
    monkeypatch.setattr(files, "CHECKPOINT_SECONDS", 1)
    soundfile.write(tmp_path / "a.wav", np.tile(speech, 5), RATE)

    def stop(share: float | None, seconds: float) -> None:
        if seconds > 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.encode_file(tiny_codec, tmp_path / "a.wav", tmp_path / "a.stk", tiny_codec.info.bitrates[-1], resume=True, progress=stop)
    report = files.encode_file(tiny_codec, tmp_path / "a.wav", tmp_path / "a.stk", tiny_codec.info.bitrates[0], resume=True)
    assert any("encoded from the start" in line for line in report.warnings)
    files.encode_file(tiny_codec, tmp_path / "a.wav", tmp_path / "b.stk", tiny_codec.info.bitrates[0])
    assert (tmp_path / "a.stk").read_bytes() == (tmp_path / "b.stk").read_bytes()


@pytest.mark.parametrize("at", range(4))
def test_salvage_when_the_magic_is_damaged(codec: Codec, speech: np.ndarray, stk: Path, tmp_path: Path, at: int) -> None:
    data = bytearray(stk.read_bytes())
    data[at] ^= 0x80
    (tmp_path / "a.stk").write_bytes(data)
    files.decode_file(codec, tmp_path / "a.stk", tmp_path / "a.wav", salvage=True)
    assert soundfile.info(tmp_path / "a.wav").frames == len(speech)
    with pytest.raises(FormatError, match=r"not a \.stk"):
        files.decode_file(codec, tmp_path / "a.wav", tmp_path / "b.wav", salvage=True)


def test_a_recording_that_was_cut_off_is_told(codec: Codec, speech: np.ndarray, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", speech, RATE)
    assert not files.encode_file(codec, tmp_path / "a.wav", tmp_path / "a.stk").warnings
    (tmp_path / "a.wav").write_bytes((tmp_path / "a.wav").read_bytes()[: len(speech)])
    (warning,) = files.encode_file(codec, tmp_path / "a.wav", tmp_path / "a.stk").warnings
    assert "a.wav: 50% of what its header promises" in warning
