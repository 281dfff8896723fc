"""Lost packets: the channel loses what it says, every system the same, and the page shows it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from spectokenizer import Codec, ConfigError

pytest.importorskip("torch")

from spectokenizer.cli.loss import loss as command
from spectokenizer.evaluation.evaluate import evaluate, find_clips
from spectokenizer.evaluation.loss import Channel, OpusOverPackets, lossy_systems, opus_absence, read_trace, write
from spectokenizer.evaluation.metrics import log_mel
from spectokenizer.training.augment import bursts

RATE = 16000


@pytest.mark.parametrize(("rate", "burst"), [(0.05, 1.0), (0.1, 2.0), (0.3, 6.0)])
def test_the_channel_loses_its_share_in_bursts(rate: float, burst: float) -> None:
    lost = bursts(2000, np.full(50, rate), np.full(50, burst), np.random.default_rng(0))
    assert lost.mean() == pytest.approx(rate, rel=0.1)
    assert lost[0].mean() == pytest.approx(rate, abs=0.2)  # from the first frame on
    starts = (lost[1:] & ~lost[:-1]).sum() + lost[0].sum()
    assert lost.sum() / starts == pytest.approx(burst, rel=0.1)


def test_no_loss_loses_nothing() -> None:
    assert not bursts(500, np.zeros(8), np.full(8, 3.0), np.random.default_rng(1)).any()


def test_a_trace_is_repeated_from_a_place_that_the_audio_decides(speech: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "trace.txt").write_text("0 0 1\n0 1 0 0\n")
    trace = read_trace(tmp_path / "trace.txt")
    assert trace == (False, False, True, False, True, False, False)
    channel = Channel(2 / 7, trace=trace)
    lost = channel.lost(70, speech)
    assert lost.sum() == 20
    np.testing.assert_array_equal(lost, channel.lost(70, speech))
    (tmp_path / "bad.txt").write_text("0, 1")
    with pytest.raises(ConfigError, match="give a 0 for each packet"):
        read_trace(tmp_path / "bad.txt")


def test_all_curves_have_one_bitrate_and_lose_the_same(codec: Codec, speech: np.ndarray) -> None:
    systems = lossy_systems("mini", 6000, (0, 2), (0.0, 0.2), opus=[] if opus_absence() else [0])
    made = [system.process(speech, RATE) for system in systems]
    assert len({system.bitrate for system in systems}) == 1
    for system, result in zip(systems, made, strict=True):
        assert result.audio.shape == speech.shape
        assert result.payload_bits / len(speech) * RATE == pytest.approx(system.bitrate, rel=0.03)
    exact = codec.decode(codec.encode(speech, RATE, 6000))
    np.testing.assert_array_equal(made[0].audio, exact)  # nothing lost, nothing changed
    assert not np.array_equal(made[1].audio, exact)


def test_redundancy_helps_when_packets_are_lost(speech: np.ndarray) -> None:
    """With every second packet lost, each frame has a coarse copy, and the output is nearer to that without loss."""
    trace = (False, True)
    plain, safe = lossy_systems("mini", 4000, (0, 2), trace=trace)
    whole = {s.redundancy: lossy_systems("mini", 4000, (s.redundancy,), (0.0,))[0].process(speech, RATE).audio for s in (plain, safe)}
    errors = [np.abs(log_mel(s.process(speech, RATE).audio) - log_mel(whole[s.redundancy])).mean() for s in (plain, safe)]
    assert errors[1] < 0.7 * errors[0], errors


def test_impossible_settings() -> None:
    for options in (
        {"redundancies": (4,)}, {"losses": (1.0,)}, {"burst": 0.5}, {"burst": math.inf}, {"burst": math.nan},
        {"bitrate": 500, "redundancies": (1,)},
    ):  # fmt: skip
        with pytest.raises(ConfigError, match="give redundancies of 0 to"):
            lossy_systems("mini", **options)  # type: ignore[arg-type]


def test_more_than_a_channel_can_lose_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"90 % of the packets cannot be lost 2 in a row on average: at most 66\.7 %"):
        lossy_systems("mini", losses=(0.1, 0.9))
    lossy_systems("mini", losses=(0.9,), burst=9.0)


def test_one_packet_more_changes_nothing_before_it(speech: np.ndarray) -> None:
    for length in range(3200, 6400, 37):
        longer, shorter = (Channel(0.3).lost(n, speech[:length]) for n in (length // 320 + 2, length // 320 + 1))
        np.testing.assert_array_equal(longer[:-1], shorter)


def test_rows_of_another_channel_are_refused(speech: np.ndarray, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "clip.wav", speech[:RATE], RATE)
    clips, traces = find_clips(tmp_path / "clip.wav"), [{"trace": (False, True)}, {"trace": (True, False)}]
    for kinds in ([{"burst": 2.0}, {"burst": 8.0}], traces):
        out = tmp_path / next(iter(kinds[0]))
        first, second = (lossy_systems("mini", redundancies=(0,), losses=(0.3,), **kind) for kind in kinds)  # type: ignore[arg-type]
        evaluate(first, clips, ["si_sdr"], out, progress=False)
        with pytest.raises(ConfigError, match="use another folder"):
            evaluate(second, clips, ["si_sdr"], out, progress=False)


@pytest.mark.skipif(bool(opus_absence()), reason="libopus or opuslib is not installed")
def test_opus_is_in_time_and_conceals(speech: np.ndarray) -> None:
    clean = OpusOverPackets(Channel(0.0), 16000).process(speech, RATE).audio
    correlation = [float(np.dot(clean[100:-100], np.roll(speech, lag)[100:-100])) for lag in range(-40, 41)]
    assert abs(int(np.argmax(correlation)) - 40) <= 2
    lossy = OpusOverPackets(Channel(0.3), 16000).process(speech, RATE).audio
    assert 0.3 < np.square(lossy).sum() / np.square(clean).sum() < 1.5


def test_the_page(speech: np.ndarray, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "clip.wav", speech, RATE)
    systems = lossy_systems("mini", 4000, (0, 1), (0.0, 0.3))
    clips = find_clips(tmp_path)
    outcome = evaluate(systems, clips, ["si_sdr"], tmp_path / "out", progress=False)
    text = write(tmp_path / "out", systems, clips, outcome.rows, ["si_sdr"]).read_text()
    header = next(line for line in text.splitlines() if line.startswith("| SI-SDR"))
    assert [cell.strip() for cell in header.split("|")[2:-1]] == ["kbps", "0 %", "30 %"]
    row = next(line for line in text.splitlines() if line.startswith("| mini 4 kbps"))
    without, with_loss = (float(cell) for cell in row.split("|")[3:5])
    assert without > with_loss


def test_the_command(speech: np.ndarray, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "clip.wav", speech, RATE)
    options = ["--data", tmp_path, "--out", tmp_path / "out", "--metrics", "si_sdr", "--workers", 1, "--loss", "0,20", "--opus", ""]
    result = CliRunner().invoke(command, [str(option) for option in options])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "loss.md").exists()
    for wrong, kind in ({"--loss": "many"}, "numbers"), ({"--redundancy": "0.5"}, "whole numbers"), ({"--opus": "nan"}, "numbers"):
        refused = CliRunner().invoke(command, ["--data", str(tmp_path), *next(iter(wrong.items()))])
        assert refused.exit_code == 2 and f"give {kind} from 0, separated by commas" in refused.output
