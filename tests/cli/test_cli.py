"""`spectok` as people type it: files, pipes, exit codes, and one line instead of a traceback."""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result

import spectokenizer
from spectokenizer import Codec
from spectokenizer.bitstream import Reader, Writer
from spectokenizer.cli import COMMANDS, main
from spectokenizer.runtime.files import header_of, to_int16

RATE = 16000
Python = Callable[..., "subprocess.CompletedProcess[bytes]"]
Spectok = Callable[..., Result]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, speech: np.ndarray) -> None:
    """Every test works in its own folder, with some speech."""
    monkeypatch.chdir(tmp_path)
    soundfile.write("a.wav", speech, RATE, "FLOAT")


@pytest.fixture
def model(codec: Codec) -> list[str]:
    return ["-m", str(codec.network.folder)]


@pytest.fixture
def options(codec: Codec, model: list[str]) -> list[str]:
    return [*model, "-b", kbps(codec)]


def kbps(codec: Codec, index: int = -1) -> str:
    return f"{codec.info.bitrates[index] / 1000:g}"


def run(*arguments: str) -> Result:
    """In this process; whatever is neither success nor a named error fails the test."""
    result = CliRunner().invoke(main, list(arguments), prog_name="spectok")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def ok(*arguments: str) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


def error(*arguments: str, code: int = 1) -> str:
    """The message, which is all that is said."""
    result = run(*arguments)
    assert result.exit_code == code, result.output
    message = result.output.rpartition("Error: ")
    assert message[1] and (code == 2 or not message[0]), result.output
    assert message[2].strip().count("\n") == 0
    return message[2].strip()


def stk_codes(data: bytes) -> np.ndarray:
    return np.concatenate([packet.codes for packet in Reader(io.BytesIO(data))], 1)


# -- files ---------------------------------------------------------------------------------------------------------------------


def test_encode_info_decode(codec: Codec, speech: np.ndarray, model: list[str], options: list[str]) -> None:
    said = ok("encode", "a.wav", "a.stk", *options)
    size = Path("a.stk").stat().st_size
    assert f"{len(speech) / RATE:.2f} s of audio, {size} bytes" in said
    expected = codec.encode(speech, RATE, codec.info.bitrates[-1])
    np.testing.assert_array_equal(stk_codes(Path("a.stk").read_bytes()), expected.array)

    about = json.loads(ok("info", "a.stk", "--json"))
    assert (about["model"], about["model_hash"]) == (codec.info.name, codec.info.model_hash)
    assert (about["num_samples"], about["frames"], about["num_bytes"]) == (len(speech), expected.num_frames, size)
    assert about["payload_bitrates"] == [codec.info.bitrates[-1]]
    assert f"num_samples:{' ' * 6}{len(speech)}" in ok("info", "a.stk")

    ok("decode", "a.stk", "b.wav", *model)
    np.testing.assert_array_equal(soundfile.read("b.wav", dtype="int16")[0], to_int16(codec.decode(expected)))


@pytest.mark.parametrize("spelling", ["{}", "{}k", "{}kbps"])
def test_bitrates_as_people_write_them(codec: Codec, model: list[str], spelling: str) -> None:
    ok("encode", "a.wav", "a.stk", *model, "--bitrate", spelling.format(kbps(codec, 1)))
    assert stk_codes(Path("a.stk").read_bytes()).shape[0] == 2


def test_the_bundled_model_needs_no_naming(codec: Codec) -> None:
    if "mini" not in spectokenizer.bundled():
        pytest.skip("no bundled mini")
    ok("encode", "a.wav", "a.stk")
    ok("decode", "a.stk", "b.flac")
    assert "mini" in ok("info")
    assert stk_codes(Path("a.stk").read_bytes()).shape[0] == codec.codebooks_for(4000)


def test_info_about_a_model(codec: Codec) -> None:
    folder = str(codec.network.folder)
    about = json.loads(ok("info", folder, "--json", "--layers"))
    assert about["parameters"] == codec.info.parameters and about["bitrates"] == list(codec.info.bitrates)
    assert about["latency_ms"] == 30 and about["size_bytes"] == sum(path.stat().st_size for path in Path(folder).iterdir())
    assert about["layers"][0][0] == "encoder.complex_conv"
    said = ok("info", folder, "--layers")
    assert codec.info.model_hash in said and "MMAC/s" in said


def test_roundtrip(codec: Codec, speech: np.ndarray, options: list[str]) -> None:
    said = ok("roundtrip", "a.wav", *options, "--keep", "kept.stk")
    name = f"a-{kbps(codec)}kbps.wav"
    assert soundfile.info(name).frames == len(speech)
    assert Path("kept.stk").is_file()
    for part in (name, "kept.stk", f"{Path('kept.stk').stat().st_size} bytes", "30 ms algorithmic", f"{kbps(codec)} kbit/s payload"):
        assert part in said
    assert set(os.listdir()) == {"a.wav", name, "kept.stk"}
    assert "exists" in error("roundtrip", "a.wav", *options)
    assert "exists" in error("roundtrip", "a.wav", "new.wav", *options, "--keep", "kept.stk")
    ok("roundtrip", "a.wav", *options, "--keep", "kept.stk", "--force")
    for where in (["-"], ["a.wav", "-"], ["a.wav", "b.wav", "--keep", "-"]):
        assert "works on files" in error("roundtrip", *where, *options, code=2)


def test_roundtrip_with_a_picture(options: list[str]) -> None:
    pytest.importorskip("matplotlib")
    ok("roundtrip", "a.wav", "b.wav", *options, "--plot", "p.png")
    assert Path("p.png").read_bytes().startswith(b"\x89PNG")
    assert "p.xyz" in run("roundtrip", "a.wav", "b.wav", "-f", *options, "--plot", "p.xyz").output.rpartition("Error: ")[2]
    assert run("roundtrip", "a.wav", "b.wav", "-f", *options, "--plot", "no/p.png").exit_code == 1


# -- pipes ---------------------------------------------------------------------------------------------------------------------


def test_pipes(codec: Codec, speech: np.ndarray, model: list[str], options: list[str], python: Python) -> None:
    """Audio on standard input cannot be sought in; neither can what comes out."""
    expected = codec.encode(speech, RATE, codec.info.bitrates[-1])
    encoded = python("-m", "spectokenizer", "encode", "-", "-", *options, input=Path("a.wav").read_bytes())
    assert encoded.returncode == 0, encoded.stderr.decode()
    np.testing.assert_array_equal(stk_codes(encoded.stdout), expected.array)
    decoded = python("-m", "spectokenizer", "decode", "-", "-", *model, input=encoded.stdout)
    assert decoded.returncode == 0, decoded.stderr.decode()
    samples, rate = soundfile.read(io.BytesIO(decoded.stdout), dtype="int16")
    assert rate == RATE
    np.testing.assert_array_equal(samples, to_int16(codec.decode(expected)))
    again = python("-m", "spectokenizer", "encode", "-", "again.stk", *options, input=decoded.stdout)
    assert again.returncode == 0, again.stderr.decode()
    with open("a.wav", "rb") as file:
        sought = python("-m", "spectokenizer", "encode", "-", "-", *options, stdin=file)
    assert sought.stdout == encoded.stdout
    for done in (encoded, decoded, again, sought):
        assert b" s of audio, " in done.stderr and b"Traceback" not in done.stderr and b"Warning" not in done.stderr


@pytest.mark.parametrize(("command", "message"), [("encode", "not audio"), ("decode", "the data end at byte 0")])
def test_nothing_on_standard_input(python: Python, options: list[str], model: list[str], command: str, message: str) -> None:
    done = python("-m", "spectokenizer", command, "-", "-", *(options if command == "encode" else model), input=b"")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode().startswith(f"Error: standard input: {message}")


def test_a_reader_that_goes_away(python: Python, model: list[str], options: list[str], subprocess_environment: dict[str, str]) -> None:
    """`spectok decode long.stk - | head -c 100` ends quietly."""
    soundfile.write("long.wav", 0.1 * np.random.default_rng(0).standard_normal(20 * RATE), RATE)
    ok("encode", "long.wav", "long.stk", *options)
    command = [sys.executable, "-m", "spectokenizer", "decode", "long.stk", "-", *model]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=subprocess_environment) as process:
        assert process.stdout and process.stderr
        assert process.stdout.read(100).startswith(b"RIFF")
        process.stdout.close()
        said = process.stderr.read()
    assert process.returncode == 1
    assert b"Traceback" not in said and b"Exception" not in said


def test_stream_there_and_back(codec: Codec, speech: np.ndarray, model: list[str], options: list[str], python: Python) -> None:
    pcm = to_int16(speech)
    codes = codec.encode(pcm, RATE, codec.info.bitrates[-1])
    for extra in ([], ["--packet-frames", "10"]):
        live = python("-m", "spectokenizer", "stream", *options, *extra, input=pcm.tobytes())
        assert live.returncode == 0 and live.stderr == b"", live.stderr.decode()
        np.testing.assert_array_equal(stk_codes(live.stdout), codes.array)
        heard = python("-m", "spectokenizer", "stream", "--decode", *model, input=live.stdout)
        assert heard.returncode == 0 and heard.stderr == b"", heard.stderr.decode()
        samples = np.frombuffer(heard.stdout, "<i2")
        np.testing.assert_array_equal(samples[: len(pcm)], to_int16(codec.decode(codes)))
        assert len(pcm) <= len(samples) < len(pcm) + codec.info.frame_size


def test_stream_answers_at_once(
    codec: Codec, speech: np.ndarray, model: list[str], options: list[str], subprocess_environment: dict[str, str]
) -> None:
    """A packet is out when its frame is in, and its samples when it is: nothing waits."""
    pcm = to_int16(speech)
    pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "env": subprocess_environment}
    command = [sys.executable, "-m", "spectokenizer", "stream"]
    with subprocess.Popen([*command, *options], **pipe) as sender, subprocess.Popen([*command, "-d", *model], **pipe) as receiver:  # type: ignore[call-overload]
        watchdog = threading.Timer(60, lambda: (sender.kill(), receiver.kill()))
        watchdog.start()
        try:
            expected = codec.encode(pcm, RATE, codec.info.bitrates[-1]).array
            sender.stdin.write(pcm[:320].tobytes())
            sender.stdin.flush()
            packets = iter(Reader(sender.stdout))
            np.testing.assert_array_equal(next(packets).codes, expected[:, :1])
            sender.stdin.write(pcm[320:960].tobytes())
            sender.stdin.flush()
            np.testing.assert_array_equal(np.concatenate([next(packets).codes, next(packets).codes], 1), expected[:, 1:3])

            receiver.stdin.write(unfinished(expected[:, :3], codec))
            receiver.stdin.flush()
            assert len(receiver.stdout.read(2 * (3 * 320 - 160))) == 2 * (3 * 320 - 160)
        finally:
            watchdog.cancel()
            sender.kill()
            receiver.kill()


def unfinished(codes: np.ndarray, codec: Codec) -> bytes:
    """Frames of a stream that goes on: one packet each, no end record."""
    sink = io.BytesIO()
    writer = Writer(sink, header_of(codec, len(codes)), 1)
    for frame in range(codes.shape[1]):
        writer.write(codes[:, frame : frame + 1])
    return sink.getvalue()


def test_stream_of_odd_or_no_bytes(codec: Codec, model: list[str], options: list[str], python: Python) -> None:
    odd = python("-m", "spectokenizer", "stream", *options, input=bytes(641))
    assert odd.returncode == 0 and b"Warning: the last byte was half a sample" in odd.stderr
    assert stk_codes(odd.stdout).shape[1] == 2
    nothing = python("-m", "spectokenizer", "stream", *options, input=b"")
    assert nothing.returncode == 0
    silent = python("-m", "spectokenizer", "stream", "-d", *model, input=nothing.stdout)
    assert (silent.returncode, silent.stdout) == (0, b"")


def test_stream_that_breaks_off(codec: Codec, speech: np.ndarray, model: list[str], python: Python) -> None:
    """What came is played, then the error is named."""
    data = unfinished(codec.encode(speech, RATE, codec.info.bitrates[-1]).array, codec)
    cut = python("-m", "spectokenizer", "stream", "-d", *model, input=data[:-3])
    assert cut.returncode == 1
    assert cut.stderr.startswith(b"Error: standard input: the data end at byte") and cut.stderr.count(b"\n") == 1
    assert len(cut.stdout) >= 2 * (len(speech) - 2 * 320)
    wrong = python("-m", "spectokenizer", "stream", "-d", *model, input=b"RIFF" + bytes(100))
    assert (wrong.returncode, wrong.stdout) == (1, b"") and wrong.stderr.startswith(b"Error: standard input: not a .stk stream")


# -- mistakes ------------------------------------------------------------------------------------------------------------------


def test_wrong_inputs(model: list[str], options: list[str]) -> None:
    Path("folder").mkdir()
    Path("folder.stk").mkdir()
    Path("text.wav").write_text("This is no audio.\n" * 50)
    Path("empty.wav").touch()
    for name, message in [("no.wav", "no such file"), ("folder", "a folder"), ("text.wav", "not audio"), ("empty.wav", "not audio")]:
        assert error("encode", name, "out.stk", *options).startswith(f"{name}: {message}")
        assert error("roundtrip", name, "out.wav", *options).startswith(f"{name}: {message}")
        Path("old.stk").write_bytes(b"old")
        assert error("stream", "-i", name, "-o", "old.stk", "--force", *options).startswith(f"{name}: {message}")
        assert Path("old.stk").read_bytes() == b"old"
    for name, message in [("no.stk", "No such file"), ("folder", "Is a directory"), ("text.wav", "not a .stk"), ("empty.wav", "byte 0")]:
        assert message in error("decode", name, "out.wav", *model)
    assert "(WAV)" in error("decode", "a.wav", "out.wav", *model)
    for name in ("no.stk", "folder.stk"):
        assert error("info", name).startswith(name)
    for name in ("folder", "nonsense", "a.wav", ""):
        error("info", name)
        error("encode", "a.wav", "out.stk", "-m", name)
    assert not Path("out.stk").exists() and not Path("out.wav").exists()


def test_wrong_outputs(model: list[str], options: list[str]) -> None:
    ok("encode", "a.wav", "a.stk", *options)
    Path("folder.wav").mkdir()
    before = Path("a.stk").read_bytes()
    assert error("encode", "a.wav", "a.stk", *options) == "a.stk exists; give --force to replace it"
    ok("encode", "a.wav", "a.stk", *options, "--force")
    assert Path("a.stk").read_bytes() == before
    for name, message in [
        ("folder.wav", "is a folder"),
        ("no/b.wav", "its folder does not exist"),
        ("a.wav/b.wav", "its folder does not exist"),
    ]:
        assert message in error("encode", "a.wav", name, *options, "--force")
        assert message in error("decode", "a.stk", name, *model, "--force")
    assert "use one of" in error("decode", "a.stk", "b.doc", *model)
    assert sorted(os.listdir()) == ["a.stk", "a.wav", "folder.wav"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="may write everywhere")
def test_a_folder_without_permission(options: list[str]) -> None:
    Path("locked").mkdir(mode=0o500)
    assert "Permission denied" in error("encode", "a.wav", "locked/a.stk", *options)


FULL_DISK = (
    "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)); "
)


@pytest.mark.parametrize("output", ["b.wav", "b.flac", "-", "b.stk"])
def test_a_full_disk(output: str, model: list[str], options: list[str], python: Python) -> None:
    """Played by a limit on the size of files."""
    pytest.importorskip("resource")
    ok("encode", "a.wav", "a.stk", *options)
    soundfile.write("long.wav", 0.1 * np.random.default_rng(0).standard_normal(60 * RATE), RATE)
    command = ["encode", "long.wav", output, *options] if output.endswith("stk") else ["decode", "a.stk", output, *model]
    with open("standard-output", "wb") as stdout:
        done = python(
            "-c",
            FULL_DISK + f"from spectokenizer.cli import main; main({command})",
            capture_output=False,
            stdout=stdout,
            stderr=subprocess.PIPE,
        )
    assert done.returncode == 1
    assert done.stderr.startswith(b"Error: ") and done.stderr.count(b"\n") == 1, done.stderr.decode()
    assert sorted(os.listdir()) == ["a.stk", "a.wav", "long.wav", "standard-output"]


@pytest.mark.parametrize("bitrate", ["0", "-1", "0.7", "1000", "nan", "inf", "fast", "", "4,5"])
def test_wrong_bitrates(codec: Codec, model: list[str], bitrate: str) -> None:
    for command in (["encode", "a.wav", "out.stk"], ["roundtrip", "a.wav", "out.wav"], ["stream"]):
        message = error(*command, *model, "-b", bitrate, code=2)
        assert "is not a number of kbit/s" in message or f"model '{codec.info.name}' has {kbps(codec, 0)}, " in message
    assert os.listdir() == ["a.wav"]


def test_wrong_usage() -> None:
    for arguments in (
        ["nonsense"],
        ["encode"],
        ["encode", "a.wav"],
        ["decode", "a", "b", "c"],
        ["encode", "--nonsense"],
        ["stream", "--packet-frames", "0"],
    ):
        error(*arguments, code=2)


def test_errors_in_a_real_shell(python: Python, options: list[str]) -> None:
    for command in (["encode", "no.wav", "a.stk", *options], ["decode", "a.wav", "b.wav"], ["info", "no.stk"]):
        done = python("-m", "spectokenizer", *command)
        assert (done.returncode, done.stdout) == (1, b"")
        assert done.stderr.startswith(b"Error: ") and done.stderr.count(b"\n") == 1


# -- damaged files -------------------------------------------------------------------------------------------------------------


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Different from `data`: flipped bits, cuts, insertions, repetitions, swaps."""
    out = bytearray(data)
    while bytes(out) == data:
        at, size = rng.randrange(len(out)), rng.randrange(1, 40)
        kind = rng.randrange(6)
        if kind == 0:
            for _ in range(rng.randrange(1, 6)):
                out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del out[at:]
        elif kind == 2:
            del out[at : at + size]
        elif kind == 3:
            out[at:at] = rng.randbytes(size)
        elif kind == 4:
            out[at:at] = out[at : at + size]
        else:
            out[at : at + size] = rng.randbytes(len(out[at : at + size]))
    return bytes(out)


def test_300_damaged_files(codec: Codec, model: list[str], options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile.write("short.wav", soundfile.read("a.wav")[0][: RATE // 2], RATE)
    ok("encode", "short.wav", "good.stk", *options)
    good, rng = Path("good.stk").read_bytes(), random.Random(0)
    Path("out.wav").write_bytes(b"old")
    monkeypatch.setattr("spectokenizer.cli.codec.load", lambda name: codec)  # once is enough
    for index in range(300):
        bad = mutated(good, rng)
        Path("bad.stk").write_bytes(bad)
        assert error("decode", "bad.stk", "out.wav", "--force", *model), bad.hex()
        told = run("info", "bad.stk")  # what is intact, before
        assert (told.exit_code, told.output.count("Error: bad.stk: ")) == (1, 1), bad.hex()
        if index % 5 == 0:
            result = run("decode", "bad.stk", "salvaged.wav", "--force", "--salvage", *model)
            assert result.exit_code in (0, 1), bad.hex()
            assert result.output.startswith("Error: " if result.exit_code else "Warning: "), bad.hex()
    assert Path("out.wav").read_bytes() == b"old"
    assert not [name for name in os.listdir() if name.endswith(".part")]


def test_salvage(codec: Codec, speech: np.ndarray, model: list[str], options: list[str]) -> None:
    ok("encode", "a.wav", "a.stk", *options)
    data = bytearray(Path("a.stk").read_bytes())
    data[len(data) // 2] ^= 1
    Path("a.stk").write_bytes(data)
    assert "checksum" in error("decode", "a.stk", "b.wav", *model)
    said = ok("decode", "a.stk", "b.wav", "--salvage", *model)
    assert "Warning: 1.00 s lost at 1.00 s" in said
    assert soundfile.info("b.wav").frames == len(speech)


# -- help ----------------------------------------------------------------------------------------------------------------------


def test_help_and_version() -> None:
    assert spectokenizer.__version__ in ok("--version")
    said = ok("--help")
    for name, (_, text) in COMMANDS.items():
        assert name in said and text in said
        assert f"Usage: spectok {name}" in ok(name, "-h")


def test_every_command_and_option_is_explained() -> None:
    for name in COMMANDS:
        command = main.get_command(click.Context(main), name)
        assert command is not None and command.help
        for option in command.params:
            assert not isinstance(option, click.Option) or option.help, f"{name} --{option.name}"


def test_the_input_is_never_overwritten(codec: Codec, speech: np.ndarray, options: list[str], tmp_path: Path, python: Python) -> None:
    clip = tmp_path / "a.wav"
    soundfile.write(clip, speech, RATE)
    before = clip.read_bytes()
    for command in (["encode", clip, clip], ["roundtrip", clip, clip], ["roundtrip", clip, tmp_path / "b.wav", "--keep", clip]):
        done = python("-m", "spectokenizer", command[0], *options, *map(str, command[1:]), "--force")
        assert done.returncode == 1 and b"named twice" in done.stderr
    assert clip.read_bytes() == before


def test_a_damaged_header_is_no_loss_when_the_model_is_named(
    codec: Codec, speech: np.ndarray, model: list[str], tmp_path: Path, python: Python
) -> None:
    sink = io.BytesIO()
    codes = codec.encode(speech, RATE, codec.info.bitrates[-1])
    with Writer(sink, header_of(codec, codes.num_codebooks)) as writer:
        writer.write(codes.array)
        writer.close(len(speech))
    damaged = bytearray(sink.getvalue())
    damaged[8] ^= 1
    (tmp_path / "a.stk").write_bytes(damaged)
    named = model or ["--model", "mini"]
    assert python("-m", "spectokenizer", "decode", *named, str(tmp_path / "a.stk"), str(tmp_path / "heard.wav")).returncode == 1
    done = python("-m", "spectokenizer", "decode", *named, "--salvage", str(tmp_path / "a.stk"), str(tmp_path / "heard.wav"))
    assert done.returncode == 0, done.stderr.decode()
    np.testing.assert_array_equal(soundfile.read(tmp_path / "heard.wav", dtype="int16")[0], to_int16(codec.decode(codes)))
