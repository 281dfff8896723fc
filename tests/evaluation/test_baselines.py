"""Peers: what their files hold, what is missing, and `spectok compare` with made-up ones. Real ones run where they are installed."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from spectokenizer.cli import main
from spectokenizer.errors import AudioError, ConfigError, FormatError
from spectokenizer.evaluation import baselines, comparison, report
from spectokenizer.evaluation import evaluate as ev

METRICS = ["si_sdr", "mel_distance"]


# -- payload -----------------------------------------------------------------------------------------------------------


def ogg_page(lacing, body):
    return b"OggS" + bytes(22) + bytes([len(lacing)]) + bytes(lacing) + body


def test_ogg_packets():
    long = bytes(600)  # 255 + 255 + 90, and 255 exactly needs a closing 0
    data = (
        ogg_page([8], b"OpusHead") + ogg_page([8], b"OpusTags") + ogg_page([255, 255], long[:510]) + ogg_page([90, 3], long[510:] + b"abc")
    )
    data += ogg_page([255, 0, 0], bytes(255))
    assert [len(p) for p in baselines.ogg_packets(data)] == [8, 8, 600, 3, 255, 0]
    assert baselines.ogg_payload(data, "") == 8 * (600 + 3 + 255)
    for broken in (data[:-1], data[:-256], data[:20], b"RIFF" + data, ogg_page([255], bytes(255))):
        with pytest.raises(FormatError):
            baselines.ogg_packets(broken)


def test_amr_payload():
    frames = bytes([0 << 3 | 4]) + bytes(17) + bytes([2 << 3 | 4]) + bytes(32) + bytes([15 << 3 | 4]) + bytes([9 << 3]) + bytes(5)
    assert baselines.amr_payload(b"#!AMR-WB\n" + frames, "0") == 132 + 253 + 40
    for broken in (b"#!AMR\n" + frames, b"#!AMR-WB\n" + frames[:-1]):
        with pytest.raises(FormatError):
            baselines.amr_payload(broken, "0")


def test_codec2_payload():
    assert baselines.codec2_payload(bytes(4 * 25), "700C") == 700  # 28 bits in 4 bytes, 25 frames a second
    assert baselines.codec2_payload(bytes(8 * 50), "3200") == 3200
    with pytest.raises(FormatError):
        baselines.codec2_payload(bytes(7), "3200")


def test_modes_agree_with_their_rates():
    for bitrate, (argument, frame, _) in baselines.CODECS["codec2"].modes.items():
        assert baselines.CODEC2_BITS[argument] * 8000 / frame == bitrate
    for bitrate, (argument, frame, _) in baselines.CODECS["amr-wb"].modes.items():
        assert baselines.AMR_WB_BITS[int(argument)] * 16000 / frame == bitrate


# -- a program, made up --------------------------------------------------------------------------------------------------


@pytest.fixture
def program(tmp_path, monkeypatch):
    """A codec whose encoder copies 16-bit samples and whose decoder puts 100 samples of silence before them."""
    for name, body in {
        "fakeenc": "import sys, shutil\nif '--version' in sys.argv: print('fakeenc (of the tests) version 1.2.3 (compiled long ago)')\n"
        "else: shutil.copy(sys.argv[1], sys.argv[2])",
        "fakedec": "import sys\ndata = open(sys.argv[1], 'rb').read()\nopen(sys.argv[2], 'wb').write(bytes(200) + data[:-200])",
    }.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!{sys.executable} -S\n{body}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    route = baselines.Route(("fakeenc", "fakedec"), "fake", "fakeenc in.raw coded", "fakedec coded out.raw")
    codec = baselines.Codec(8000, {64000: baselines.Mode("", 160, 100)}, lambda data, mode: 4 * len(data), (route,))
    monkeypatch.setitem(baselines.CODECS, "fake", codec)
    baselines._output.cache_clear()
    return route


@pytest.mark.skipif(os.name == "nt", reason="scripts with a #! line")
def test_a_program_is_run_and_its_delay_undone(program):
    (system,), absence = baselines._programs("fake")
    assert absence == "" and system.fingerprint == "fakeenc 1.2.3" and system.cost.latency_ms == 32.5
    tone = (0.3 * np.sin(2 * np.pi * 440 * np.arange(16001) / 16000)).astype(np.float32)
    out, bits, _ = pickle.loads(pickle.dumps(system)).process(tone, 16000)
    assert out.shape == tone.shape and out.dtype == np.float32
    assert bits == 8 * 8160  # 8001 samples and the delay, in whole frames
    assert np.abs(out - tone)[200:-200].max() < 1e-3
    with pytest.raises(AudioError, match=r"fakedec ended with 1: .*No such file"):
        dataclasses.replace(system, route=dataclasses.replace(program, decode="fakedec none out.raw")).process(tone, 16000)


def test_what_is_missing_is_a_line(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    systems, absent = baselines.peers(["opus", "amr-wb"])
    assert systems == []
    assert absent["opus"] == "opusenc and opusdec not found (apt install opus-tools); or ffmpeg not found (apt install ffmpeg)"
    assert absent["amr-wb"] == "ffmpeg not found (apt install ffmpeg libavcodec-extra)"


def test_an_ffmpeg_may_lack_an_encoder(monkeypatch):
    monkeypatch.setattr(baselines.shutil, "which", lambda program: program)
    monkeypatch.setattr(baselines, "ffmpeg_encoders", lambda: frozenset({"libopus"}))
    assert baselines.peers("amr-wb") == ([], {"amr-wb": "this ffmpeg lacks libvo_amrwbenc (apt install ffmpeg libavcodec-extra)"})


def test_lyra_without_weights_or_library(monkeypatch, tmp_path):
    assert "--lyra" in baselines.peers("lyra-v2")[1]["lyra-v2"]
    (tmp_path / "quantizer.tflite").write_bytes(b"")
    assert "lacks soundstream_encoder.tflite, lyragan.tflite" in baselines.peers("lyra-v2", tmp_path)[1]["lyra-v2"]
    for name in baselines.LYRA_FILES:
        (tmp_path / name).write_bytes(b"")
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    assert "pip install ai-edge-litert" in baselines.peers("lyra-v2", tmp_path)[1]["lyra-v2"]


def test_hub_codecs_without_library_or_weights(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert "pip install torch transformers" in baselines.peers("mimi")[1]["mimi"]
    monkeypatch.undo()
    pytest.importorskip("transformers")
    monkeypatch.setattr(baselines, "hub_answers", lambda: False)
    monkeypatch.setitem(baselines.HUB_CODECS, "mimi", baselines.HUB_CODECS["mimi"]._replace(weights="no/such-codec"))
    assert baselines.peers("mimi") == ([], {"mimi": "weights no/such-codec are not cached and the hub cannot be reached"})


def test_unknown_peers():
    with pytest.raises(ConfigError, match="unknown peers mp3; known are opus, "):
        baselines.peers(["opus", "mp3"])


# -- real ones, where they are ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "route"), [pytest.param(n, r, id=f"{n}-{r.programs[0]}") for n, c in baselines.CODECS.items() for r in c.routes]
)
def test_real_programs(name, route, speech):
    if absence := route.absence():
        pytest.skip(absence)
    clip = speech[:24001]
    for bitrate in baselines.CODECS[name].modes:
        out, bits, _ = baselines.ProgramSystem(name, bitrate, route, route.version()).process(clip, 16000)
        assert out.shape == clip.shape and np.isfinite(out).all() and out.std() > 0.1 * clip.std()
        assert bits / (len(clip) / 16000) == pytest.approx(bitrate, rel=0.35)  # variable rate, and a frame or two beyond the clip
        lag, correlation = ev.find_lag(clip, out)
        assert correlation < report.TRUSTED_CORRELATION or abs(lag) <= 2
        assert abs(contour_lag(clip, out)) <= 8, bitrate  # a vocoder of 20 ms keeps no waveform, but when it is loud


def contour_lag(reference, degraded):
    """By how many milliseconds the level is late."""

    def contour(x):
        power = np.convolve(x.astype(np.float64) ** 2, np.hanning(480), "same")[::16]
        level = np.log(power + 1e-6 * power.max())
        return level - level.mean()

    a, b, lags = contour(reference), contour(degraded), range(-40, 41)
    return lags[int(np.argmax([np.sum(a[40:-40] * np.roll(b, -lag)[40:-40]) for lag in lags]))]


def test_lyra():
    folder = Path(os.environ.get("SPECTOKENIZER_LYRA", Path(__file__).parents[3] / "shared" / "peers" / "lyra"))
    systems, absence = baselines._lyras(folder)
    if absence:
        pytest.skip(absence)
    clip = (0.1 * np.random.default_rng(0).standard_normal(3201)).astype(np.float32)
    for system in systems[:2]:
        out, bits, _ = system.process(clip, 16000)
        assert out.shape == clip.shape and bits == 11 * system.bitrate // 50
        np.testing.assert_array_equal(out, system.process(clip, 16000)[0])  # nothing is left of the clip before


@pytest.mark.parametrize("name", list(baselines.HUB_CODECS))
def test_hub_codecs_with_small_weights(name, monkeypatch, tmp_path):
    """The real classes, random weights."""
    transformers = pytest.importorskip("transformers")
    config = {
        "encodec": lambda: transformers.EncodecConfig(num_filters=4, hidden_size=8, codebook_dim=8, num_lstm_layers=1),
        "dac": lambda: transformers.DacConfig(
            encoder_hidden_size=4,
            decoder_hidden_size=64,
            downsampling_ratios=[2, 4, 5, 8],
            upsampling_ratios=[8, 5, 4, 2],
            n_codebooks=12,
        ),
        "mimi": lambda: transformers.MimiConfig(
            num_filters=4,
            hidden_size=16,
            codebook_dim=8,
            vector_quantization_hidden_dimension=8,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=8,
            upsample_groups=16,
        ),
    }[name]()
    codec = baselines.HUB_CODECS[name]._replace(weights=str(tmp_path))
    monkeypatch.setitem(baselines.HUB_CODECS, name, codec)
    getattr(transformers, codec.model)(config).save_pretrained(tmp_path)
    systems, absent = baselines.peers(name)
    assert not absent and [system.bitrate for system in systems] == list(codec.rates)
    clip = (0.1 * np.random.default_rng(0).standard_normal(16000)).astype(np.float32)
    out, bits, _ = systems[0].process(clip, 16000)
    assert out.shape == clip.shape and out.dtype == np.float32
    assert systems[0].bitrate <= bits <= 1.05 * systems[0].bitrate  # one second, in whole frames
    assert systems[0].cost.parameters > 1000 and systems[0].cost.macs_per_second > 1e6


def test_multiply_accumulates_of_a_hub_codec(monkeypatch):
    """Per second, products and the recurrent part; what is there once does not count."""
    torch = pytest.importorskip("torch")

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.config = type("Config", (), {"sampling_rate": 100})
            self.lstm = torch.nn.LSTM(8, 4, batch_first=True)

    model = Model()
    monkeypatch.setattr(baselines, "_hub_model", lambda weights, name: model)
    system = baselines.HubSystem("made-up", 1000, baselines.HUB_CODECS["dac"])

    def run(self, samples):
        x = torch.from_numpy(samples).expand(8, -1).T @ torch.ones(8, 8)
        model.lstm(x[None] + (torch.ones(8, 50) @ torch.ones(50, 8)).mean())

    monkeypatch.setattr(baselines.HubSystem, "run", run)
    assert baselines._hub_macs(system) == 100 * (8 * 8 + 4 * 4 * (8 + 4))


# -- compare -----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Fake:
    """Rounds samples to `bits` bits."""

    name: str
    bits: int = 4
    cost: baselines.Cost = baselines.Cost()  # noqa: RUF009 - a tuple
    fingerprint: str = "1.0"
    broken: bool = False

    @property
    def bitrate(self):
        return 16000 * self.bits

    def process(self, audio, sample_rate):
        if self.broken:
            raise AudioError("out of order")
        return np.round(audio * 2**self.bits) / np.float32(2**self.bits), self.bits * len(audio)


@pytest.fixture
def data(tmp_path):
    rng = np.random.default_rng(3)
    for name in ("a/1.wav", "b/1.wav"):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True)
        soundfile.write(path, 0.2 * rng.normal(size=4000), 16000)
    return tmp_path / "data"


@pytest.fixture
def invoke(data, tmp_path, monkeypatch):
    """`spectok compare` where ours and the only peer are made up."""

    def run(*options, ours=(4, 6), **peer):
        monkeypatch.setattr(
            ev, "codec_systems", lambda model, bitrates: [Fake(model, b, baselines.Cost(450000, 234000000, 30)) for b in ours]
        )
        monkeypatch.setattr(
            baselines, "peers", lambda names, lyra: ([Fake("peer", 5, **peer)], {"opus": "opusenc not found (apt install x)"})
        )
        fixed = ["--data", data, "--out", tmp_path / "out", "--workers", 1, "--metrics", ",".join(METRICS)]
        return CliRunner().invoke(main, ["compare", *map(str, [*fixed, *options])])

    return run


def test_compare_writes_its_page(invoke, tmp_path):
    page = tmp_path / "docs" / "results.md"
    done = invoke("--results", page)
    assert done.exit_code == 0, done.output
    assert "without opus: opusenc not found (apt install x)" in done.output and str(page) in done.output
    text = page.read_text()
    assert "2 clips" in text and "- opus: opusenc not found (apt install x)" in text
    table = text.partition("## All in one table\n\n")[2].partition("\n\n")[0].splitlines()[2:]
    rows = {(cells[0], cells[1]): cells[2:] for cells in (line.split(" | ") for line in table)}
    assert rows["| mini", "64.00"][:3] == ["0.45 M", "–", "234"] and float(rows["| mini", "64.00"][4]) >= 0
    assert rows["| peer", "80.00"][:4] == ["–"] * 4 and rows["| original", "256.00"][:5] == ["–"] * 5
    assert list(rows) == [("| original", "256.00"), ("| mini", "64.00"), ("| mini", "96.00"), ("| peer", "80.00")]
    assert float(rows["| mini", "96.00"][5]) > float(rows["| peer", "80.00"][5]) > float(rows["| mini", "64.00"][5])
    assert "`spectok compare --data data --model mini --metrics si_sdr,mel_distance --results results.md`" in text
    assert "2 (1 from a, 1 from b)" in text and "- peer: 1.0" in text
    assert str(tmp_path) not in text


def test_a_mean_over_fewer_clips_says_so(invoke, data, tmp_path):
    soundfile.write(data / "a/1.wav", np.zeros(4000), 16000)  # silent: nothing to measure
    assert invoke().exit_code == 0
    line = next(line for line in (tmp_path / "out/results.md").read_text().splitlines() if line.startswith("| mini | 64.00"))
    assert line.split(" | ")[7].endswith(" (1)")


def test_models_of_one_preset_and_with_other_bitrates(tiny_folder, data, tmp_path):
    """A run's export has the preset's name: folders go by theirs. Each model runs at the bitrates that it has."""
    other = shutil.copytree(tiny_folder, tmp_path / "other")
    fixed = ["compare", "--data", data, "--out", tmp_path / "out", "--workers", 1, "--metrics", "si_sdr", "--peers", "none"]
    both = ["--model", tiny_folder, "--model", other, "--model", "mini-single"]
    done = CliRunner().invoke(main, [str(word) for word in [*fixed, *both, "--bitrates", "0.6,0.75"]])
    assert done.exit_code == 0, done.output
    table = (tmp_path / "out/results.md").read_text().partition("## All in one table\n\n")[2].partition("\n\n")[0].splitlines()[2:]
    assert [line.split(" | ")[0] for line in table] == ["| original", f"| {tiny_folder.name}", "| other", "| mini-single"]
    done = CliRunner().invoke(main, [str(word) for word in [*fixed, *both, "--bitrates", "0.6,5"]])
    assert done.exit_code == 1 and "no model has 5 kbps; there are 0.3, 0.6" in done.output


def test_compare_draws(invoke, tmp_path):
    pytest.importorskip("matplotlib")
    old = tmp_path / "out" / "img" / "results-opinion.png"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"of another run")
    assert invoke().exit_code == 0
    assert (tmp_path / "out/img/results-signal.png").read_bytes().startswith(b"\x89PNG") and not old.exists()
    assert "](img/results-signal.png)" in (tmp_path / "out/results.md").read_text()


def test_the_page_is_of_this_run_alone(invoke, tmp_path):
    invoke()
    done = invoke("--limit", 1, ours=(4,))
    text = (tmp_path / "out/results.md").read_text()
    assert done.exit_code == 0 and "1 clips" in text and "--limit 1" in text
    assert "| mini | 96.00" not in text and "Not all systems" not in text
    assert len(json.loads((tmp_path / "out/run.json").read_text())["systems"]) == 4


def test_a_failing_peer_is_listed(invoke, tmp_path):
    done = invoke(broken=True)
    assert done.exit_code == 1 and "2 of the clips could not be processed" in done.output
    text = (tmp_path / "out/results.md").read_text()
    assert "**failed**: peer at 80 kbps on a/1.wav: out of order" in text and "| mini | 64.00" in text


def test_one_unreadable_clip_costs_no_speeds(invoke, data, tmp_path):
    (data / "a/0.wav").write_bytes(b"no audio")
    assert invoke().exit_code == 1
    table = (tmp_path / "out/results.md").read_text().partition("## All in one table\n\n")[2].partition("\n\n")[0].splitlines()[3:]
    assert len(table) == 3 and all(float(line.split(" | ")[6]) >= 0 for line in table)


def test_ours_cost_what_the_model_says(codec):
    (system, *_) = ev.codec_systems(codec.network.folder)
    cost = comparison.cost_of(system)
    assert cost == (codec.info.parameters, codec.info.macs_per_second, 1000 * codec.info.latency_samples / 16000, codec.info.table_numbers)


def test_speed_is_what_more_audio_costs(monkeypatch):
    class Slow:
        name, bitrate = "slow", 1
        now = 0.0

        def process(self, audio, sample_rate):
            self.now += 5 + 0.02 * len(audio) / sample_rate  # five seconds to start
            return audio, 0

    slow = Slow()
    monkeypatch.setattr(comparison, "processor_seconds", lambda: slow.now)
    assert comparison.real_time_factor(slow, np.ones(1000, np.float32)) == pytest.approx(0.02)
    monkeypatch.undo()
    before = comparison.processor_seconds()
    assert comparison.processor_seconds() >= before
