"""`spectok stream` between two processes over loopback, and with a microphone and a speaker that are not there."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result
from tests.live.fake_sounddevice import FakeSoundDevice

from spectokenizer import Codec
from spectokenizer.bitstream import Reader
from spectokenizer.cli import main
from spectokenizer.runtime.sinks import to_int16

RATE, FRAME = 16000, 320
EXAMPLE = Path(__file__).parents[2] / "examples" / "speech.flac"
Start = Callable[..., "subprocess.Popen[bytes]"]


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(main, ["stream", *arguments], prog_name="spectok")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def start(subprocess_environment: dict[str, str]) -> Iterator[Start]:
    """Another `spectok stream` beside this one; none outlives the test."""
    running: list[subprocess.Popen[bytes]] = []

    def begin(*arguments: str, **options: object) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "spectokenizer", "stream", *arguments]
        running.append(subprocess.Popen(command, env=subprocess_environment, stderr=subprocess.PIPE, **options))  # type: ignore[call-overload]
        return running[-1]

    yield begin
    for process in running:
        process.kill()
        process.communicate()


def listen(start: Start, *arguments: str, **options: object) -> tuple[subprocess.Popen[bytes], str]:
    """A receiver, and where it listens."""
    process = start("--from", "0", "--idle", "30", *arguments, **options)
    assert process.stderr is not None
    said = process.stderr.readline().decode()
    assert said.startswith("listening on 127.0.0.1:"), said + process.stderr.read().decode()
    return process, said.split()[-1]


def numbers(text: bytes, pattern: str) -> list[int]:
    found = re.search(pattern, text.decode())
    assert found, text.decode()
    return [int(group) for group in found.groups()]


STATISTICS = (
    r"(\d+) packets sent, (\d+) lost .* 0 late, 0 duplicate, 0 corrupted; (\d+) frames played, (\d+) recovered, (\d+) concealed, 0 "
)


def call(start: Start, model: list[str], pcm: bytes, *options: str) -> tuple[np.ndarray, list[int], int]:
    """Through two processes into a file: what is heard, the receiver's statistics, and how many packets the sender dropped."""
    receiver, where = listen(start, *model, "--output", "heard.wav", "--force")
    sender = start("--to", where, *model, "--speed", "20", *options, stdin=subprocess.PIPE)
    _, sent = sender.communicate(pcm, timeout=100)
    _, received = receiver.communicate(timeout=100)
    assert (sender.returncode, receiver.returncode) == (0, 0), sent + received
    [dropped] = numbers(sent, r"; (\d+) dropped on purpose") if "--loss" in options else [0]
    return soundfile.read("heard.wav", dtype="float32")[0], numbers(received, STATISTICS), dropped


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Mean difference of two log spectra in bands of 250 Hz, 10 ms by 10 ms: of noise above 2 kHz no single bin is ever twice the same."""
    spectra = [np.fft.rfft(np.lib.stride_tricks.sliding_window_view(x, 512)[::160] * np.hanning(512)) for x in (a, b)]
    logs = [np.log((np.abs(spectrum[:, :256]) ** 2).reshape(-1, 32, 8).mean(-1) + 1e-6) for spectrum in spectra]
    return float(np.sqrt(np.square(logs[0] - logs[1]).mean(1)).mean())


def test_two_processes_with_a_fifth_lost(codec: Codec, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The length is right, the statistics agree, and redundancy is worth its bits."""
    monkeypatch.chdir(tmp_path)
    clip = soundfile.read(EXAMPLE, 3 * RATE, dtype="float32")[0]
    model = ["-m", str(codec.network.folder), "-b", f"{codec.info.bitrates[-1] / 1000:g}"]
    codes = codec.encode(to_int16(clip), RATE, codec.info.bitrates[-1]).array
    frames, clean = codes.shape[1], codec.decoder().push(codes)
    damage = {}
    for redundancy in ("0", "2"):
        heard, (sent, lost, played, recovered, concealed), dropped = call(
            start, model, to_int16(clip).tobytes(), "--loss", "20%", "--redundancy", redundancy
        )
        assert len(heard) == frames * FRAME
        assert (sent, played) == (frames, frames)
        assert dropped == lost == recovered + concealed and 0.1 * frames < lost < 0.3 * frames
        assert (recovered > concealed) if redundancy == "2" else recovered == 0
        damage[redundancy] = distance(heard, clean)
    assert damage["2"] < 0.8 * damage["0"], damage


def test_a_perfect_line(codec: Codec, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, speech: np.ndarray) -> None:
    monkeypatch.chdir(tmp_path)
    soundfile.write("said.wav", to_int16(speech[:RATE]), RATE)
    model = ["-m", str(codec.network.folder), "-b", f"{codec.info.bitrates[-1] / 1000:g}"]
    heard, (sent, lost, *_), _ = call(start, model, b"", "--packet-frames", "2", "--input", "said.wav")
    codes = codec.encode(to_int16(speech[:RATE]), RATE, codec.info.bitrates[-1]).array
    np.testing.assert_array_equal(to_int16(heard), to_int16(codec.decoder().push(codes)))
    assert (sent, lost) == (-(-codes.shape[1] // 2), 0)


def test_to_a_pipe_at_the_clock_and_stopped(codec: Codec, start: Start, speech: np.ndarray) -> None:
    """What is played follows the clock; the sender is stopped in mid-call, says good-bye, and both end well."""
    model = ["-m", str(codec.network.folder), "-b", f"{codec.info.bitrates[-1] / 1000:g}"]
    receiver, where = listen(start, *model, "--speed", "4", stdout=subprocess.PIPE)
    sender = start("--to", where, *model, "--speed", "4", stdin=subprocess.PIPE)
    assert sender.stdin and receiver.stdout
    sender.stdin.write(to_int16(speech[:RATE]).tobytes())
    sender.stdin.flush()
    heard = receiver.stdout.read(20 * 2 * FRAME)
    sender.terminate()
    rest, said = receiver.communicate(timeout=100)
    _, sent = sender.communicate(timeout=100)
    assert (sender.returncode, receiver.returncode) == (0, 0), sent + said
    assert np.frombuffer(heard, "<i2").any() and len(heard + rest) % (2 * FRAME) == 0
    [played] = numbers(said, r"(\d+) frames played")
    assert len(heard + rest) == played * 2 * FRAME and played >= 20


def test_microphone_to_file_to_speaker(codec: Codec, speech: np.ndarray, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    fake = FakeSoundDevice(speech[: 50 * FRAME])
    monkeypatch.setitem(sys.modules, "sounddevice", fake)
    model = ["-m", str(codec.network.folder)]
    kbps = ["-b", f"{codec.info.bitrates[-1] / 1000:g}"]
    result = run("--input", "mic", "--output", "a.stk", "--device", "3", *model, *kbps)  # the microphone ends as Ctrl+C does
    assert result.exit_code == 0, result.output
    assert fake.opened[0][:3] == ("input", RATE, 3)
    reader = Reader(io.BytesIO(Path("a.stk").read_bytes()))
    codes = np.concatenate([packet.codes for packet in reader], 1)
    expected = codec.encode(speech[: 50 * FRAME], RATE, codec.info.bitrates[-1]).array
    np.testing.assert_array_equal(codes, expected)
    assert run("--input", "mic", "--output", "a.stk", *model, *kbps).exit_code == 1  # exists

    result = run("-d", "--input", "a.stk", "--output", "speaker", "--device", "loud", *model)
    assert result.exit_code == 0, result.output
    assert fake.opened[-1][:3] == ("output", RATE, "loud")
    played = np.concatenate(fake.played)
    np.testing.assert_array_equal(played[: 50 * FRAME], codec.decode(expected)[: 50 * FRAME])
    assert run("-d", "--input", "a.stk", "--output", "a.flac", *model).exit_code == 0
    assert soundfile.info("a.flac").frames == len(played)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "127.0.0.1:5004", "-d"], "exclude each other"),
        (["--to", "127.0.0.1:5004", "--from", "5004"], "exclude each other"),
        (["-d", "--input", "mic"], "leave out --decode"),
        (["--from", "5004", "--input", "mic"], "leave out --decode and --from"),
        (["--from", "5004", "--input", "a.wav"], "--from no --input"),
        (["--to", "127.0.0.1:5004", "--output", "a.wav"], "--to has no --output"),
        (["--output", "speaker"], "add --decode or --from"),
        (["--to", "127.0.0.1:5004", "--packet-frames", "5"], "holds 1 to 4"),
        (["--to", "127.0.0.1:5004", "--loss", "101%"], "not a percentage"),
        (["--to", "127.0.0.1:5004", "--loss", "much"], "not a percentage"),
        (["--to", "127.0.0.1:5004", "--redundancy", "4"], "0<=x<=3"),
        (["--from", "5004", "--depth", "51"], "0<=x<=50"),
    ],
)
def test_what_does_not_go_together(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2 and message in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "nowhere"], "'nowhere' is no address; give HOST:PORT"),
        (["--from", "x"], "give [HOST:]PORT"),
        (["--from", "192.0.2.1:5004"], "192.0.2.1:5004 cannot be listened to"),
        (["--to", "127.0.0.1:5004", "--input", "no.wav"], "no.wav: no such file"),
        (["-d", "--input", "no.stk"], "no.stk"),
        (["--input", "mic"], "microphone and speaker need sounddevice|PortAudio|no audio input"),
    ],
)
def test_mistakes(arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: Codec) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*arguments, "-m", str(codec.network.folder), "-b", f"{codec.info.bitrates[-1] / 1000:g}")
    assert result.exit_code == 1 and result.output.startswith("Error: ") and result.output.strip().count("\n") == 0, result.output
    assert any(part in result.output for part in message.split("|"))


def test_recordings_one_after_the_other_are_played_one_after_the_other(
    tmp_path: Path, speech: np.ndarray, python: Callable[..., subprocess.CompletedProcess[bytes]]
) -> None:
    """As `cat` makes them, one of them entropy-coded."""
    soundfile.write(tmp_path / "a.wav", speech, 16000)
    for name, options in (("a.stk", ["--entropy"]), ("b.stk", ["-b", "2"])):
        done = python("-m", "spectokenizer", "encode", "a.wav", name, *options, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    data = (tmp_path / "a.stk").read_bytes() + (tmp_path / "b.stk").read_bytes()
    done = python("-m", "spectokenizer", "stream", "-d", input=data, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    alone = [
        python("-m", "spectokenizer", "stream", "-d", input=(tmp_path / n).read_bytes(), cwd=tmp_path).stdout for n in ("a.stk", "b.stk")
    ]
    assert done.stdout == b"".join(alone) and len(alone[0]) == len(alone[1]) > 2 * len(speech)


def test_its_own_input_is_no_output(tmp_path: Path, codec: Codec) -> None:
    victim = tmp_path / "victim.flac"
    victim.write_bytes(before := EXAMPLE.read_bytes())
    result = run("-i", str(victim), "-o", str(victim), "--force")
    assert result.exit_code == 1 and "named twice" in result.output and victim.read_bytes() == before
    result = run("-d", "-i", str(victim), "-o", str(victim), "--force")
    assert result.exit_code == 1 and victim.read_bytes() == before


def test_what_was_heard_is_kept_when_the_sender_dies(tmp_path: Path, codec: Codec, start: Start) -> None:
    (tmp_path / "a.raw").write_bytes(to_int16(soundfile.read(EXAMPLE, dtype="float32")[0][: 3 * RATE]).tobytes())
    encoder = start("-m", str(codec.network.folder), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    whole, _ = encoder.communicate((tmp_path / "a.raw").read_bytes(), timeout=60)
    options = "-d", "-m", str(codec.network.folder), "-o", str(tmp_path / "a.wav")
    decoder = start(*options, stdin=subprocess.PIPE)
    _, said = decoder.communicate(whole[: len(whole) // 2], timeout=60)
    assert decoder.returncode == 1 and b"packets" in said
    assert RATE < soundfile.info(tmp_path / "a.wav").frames < 2 * RATE


def test_packets_find_their_model(start: Start) -> None:
    """Every bundled one, whatever the default."""
    encoder = start("-m", "micro", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    packets, _ = encoder.communicate(bytes(2 * RATE), timeout=60)
    decoder = start("-d", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    pcm, said = decoder.communicate(packets, timeout=60)
    assert decoder.returncode == 0 and len(pcm) >= 2 * RATE, said.decode()


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_behind_standard_output(unbuffered: str, subprocess_environment: dict[str, str]) -> None:
    """Whether Python buffers it or not: no success is told before all is written."""
    environment = {**subprocess_environment, "PYTHONUNBUFFERED": unbuffered}
    for command in (["encode", str(EXAMPLE), "-"], ["stream", "-i", str(EXAMPLE)]):
        with open("/dev/full", "wb") as full:
            words = [sys.executable, "-m", "spectokenizer", *command]
            done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, env=environment, check=False)
        assert done.returncode == 1 and "No space left" in done.stderr and "kbit/s" not in done.stderr, done.stderr
