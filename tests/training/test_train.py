"""Training runs, is killed, goes on, and ends where an uninterrupted run ends."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

torch = pytest.importorskip("torch")
pytest.importorskip("lightning_fabric")

from click.testing import CliRunner  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from spectokenizer.cli import main  # noqa: E402
from spectokenizer.codes import codebook_usage  # noqa: E402
from spectokenizer.disk import lock  # noqa: E402
from spectokenizer.errors import ConfigError, ModelError, TrainingError  # noqa: E402
from spectokenizer.training.checkpoint import load_model  # noqa: E402
from spectokenizer.training.config import TrainConfig  # noqa: E402
from spectokenizer.training.train import _refuse_collapse  # noqa: E402

RECIPE = """
batch_size = 2
segment_seconds = 0.4
warmup_steps = 2
log_every = 1
validate_every = 6
save_minutes = 0.0
init_batches = 4

[codec]
name = "tiny"
channels = [8, 8, 8, 16, 16]
num_codebooks = 3
codebook_size = 16
codebook_dim = 4

[[stage]]
name = "autoencoder"
steps = 4
quantize = false
lr = 1e-3
lr_end = 1e-3
losses = { waveform = 1.0, complex = 1.0 }

[[stage]]
name = "quantized"
steps = 8
quantize = true
lr = 1e-3
lr_end = 5e-4
losses = { waveform = 1.0, complex = 1.0, magnitude = 1.0, mel = 1.0, commitment = 0.25 }
"""

SINGLE = (  # one codebook, quantised from the first step
    RECIPE[: RECIPE.index("[[stage]]")]
    .replace("num_codebooks = 3", 'num_codebooks = 1\nquantizer = "fsq"')
    .replace("= 16\ncodebook_dim = 4", "= 64\ncodebook_dim = 3")
    + RECIPE[RECIPE.rindex("[[stage]]") :]
)


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    folder = tmp_path_factory.mktemp("training")
    rng = np.random.default_rng(0)
    (folder / "audio").mkdir()
    for i in range(4):
        t = np.arange(24000) / 16000
        tone = 0.2 * np.sin(2 * np.pi * (150 + 40 * i) * t) * (1 + np.sin(2 * np.pi * 3 * t))
        soundfile.write(folder / "audio" / f"{i}.wav", tone + 0.01 * rng.standard_normal(len(t)), 16000)
    (folder / "tiny.toml").write_text(RECIPE)
    return folder


def start(folder, out, *options):
    command = [sys.executable, "-m", "spectokenizer", "train", "--config", folder / "tiny.toml", "--data", folder / "audio"]
    command += ["--out", folder / out, "--cache", folder / "cache", "--threads", "1", *options]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def finish(process):
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return output


def test_killed_and_resumed_equals_uninterrupted(setup):
    finish(start(setup, "whole"))
    process = start(setup, "killed")
    state = setup / "killed" / "state.pt"
    deadline = time.monotonic() + 100
    while not (state.exists() and torch.load(state, weights_only=True)["step"] >= 5):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    reached = torch.load(state, weights_only=True)["step"]
    assert "going on at step" in finish(start(setup, "killed")) or reached == 12
    whole, killed = (load_file(setup / name / "weights.safetensors") for name in ("whole", "killed"))
    for name, value in whole.items():
        torch.testing.assert_close(killed[name], value, rtol=1e-5, atol=1e-6, msg=name)
    lines = [json.loads(line) for line in (setup / "killed" / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if line["kind"] == "train"]
    assert steps == list(range(1, 13))
    last = [line for line in lines if line["kind"] == "validation"][-1]
    assert {"codebook0/utilisation", "codebook2/perplexity", "0.2kbps/si_sdr", "0.6kbps/mel"} <= set(last)


def test_two_processes(setup):
    output = finish(start(setup, "two", "--devices", "2", "--max-steps", "6"))
    assert "step 6 of 12" in output
    lines = [json.loads(line) for line in (setup / "two" / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["audio_seconds"] == pytest.approx(2 * 2 * 0.4)


def test_interrupt_saves(setup):
    process = start(setup, "interrupted")
    while not (setup / "interrupted" / "state.pt").exists():
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert "saved in" in finish(process)


def test_two_processes_stop_together(setup):
    """Told to one, as a scheduler does."""
    process = start(setup, "stopped", "--devices", "2")
    while not (setup / "stopped" / "state.pt").exists():
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    output = finish(process)
    assert "saved in" in output and "Traceback" not in output


def test_folder_of_another_codec_is_refused(setup):
    finish(start(setup, "other", "--max-steps", "1"))
    other = RECIPE.replace("[8, 8, 8, 16, 16]", "[8, 8, 8, 16, 24]")
    (setup / "tiny.toml").write_text(other)
    process = start(setup, "other")
    output, _ = process.communicate(timeout=120)
    (setup / "tiny.toml").write_text(RECIPE)
    assert process.returncode == 1
    assert "another codec" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("steps = 4", "steps = 0", "autoencoder"),
        ("waveform = 1.0, complex = 1.0 }", "sharpness = 1.0 }", "sharpness"),
        ("batch_size = 2", "batch = 2", "batch"),
        ("num_codebooks = 3", "num_codebook = 3", "num_codebook"),
        ("[codec]", "[codec", "TOML"),
        ("lr = 1e-3", "lr = -1", "positive"),
        ("lr = 1e-3", 'lr = "1e-3"', "positive"),
        ("steps = 4", "steps = 3.5", "whole number from 1"),
        ("{ waveform = 1.0, complex = 1.0 }", "{ }", "a loss with a weight"),
        ("{ waveform = 1.0, complex = 1.0 }", "{ commitment = 1.0 }", "not commitment alone"),
        ("{ waveform = 1.0, complex = 1.0 }", "[1]", "losses, by name"),
        ("quantize = false", "quantize = 0", "true or false"),
        ("log_every = 1", "log_every = 0", "log_every is 0; give a whole number from 1"),
        ("batch_size = 2", "batch_size = 1.5", "batch_size is 1.5; give a whole number"),
        ("batch_size = 2", "batch_size = 2\nvalidation_share = 0", "validation_share is 0; give a number from"),
        ("batch_size = 2", "batch_size = 2\nema_decay = 1.5", "ema_decay is 1.5"),
        ("batch_size = 2", "batch_size = 2\nmuon = 1", "muon is 1; give true or false"),
        ("[codec]", "codec = 1\n[augment]", "codec is 1; make it a table"),
        ("complex = 1.0 }", "feature = 1.0 }", "needs a discriminator"),
        ("segment_seconds = 0.4", "segment_seconds = 0.04", "the losses see 480 samples; they need 512"),
    ],
)
def test_broken_recipes_are_named(tmp_path, old, new, message):
    recipe = RECIPE.replace(old, new, 1).replace("batch_size", "mpd = false\nmbms_stft = false\nbatch_size", "discriminator" in message)
    (tmp_path / "x.toml").write_text(recipe)
    with pytest.raises(ConfigError, match=message):
        TrainConfig.load(tmp_path / "x.toml")


def test_the_recipes_that_come_along():
    folder = Path(__file__).parents[2] / "configs"
    recipes = {path.stem: TrainConfig.load(path) for path in folder.glob("*.toml")}
    assert {"mini", "micro", "mini-single", "mini-single-25hz", "mini-adversarial", "quick"} == set(recipes)
    assert [name for name, recipe in recipes.items() if any(stage.adversarial for stage in recipe.stages)] == ["mini-adversarial"]


def test_export_says_when_codebooks_are_random(setup):
    finish(start(setup, "young", "--max-steps", "2"))
    done = CliRunner().invoke(main, ["export", str(setup / "young"), str(setup / "young-model")])
    assert done.exit_code == 0 and "the codebooks do not fit" in done.stderr and "codes equal" in done.stdout
    finish(start(setup, "young"))
    done = CliRunner().invoke(main, ["export", str(setup / "young"), str(setup / "grown-model")])
    assert done.exit_code == 0 and not done.stderr


def test_weights_that_were_cut_off(setup, tmp_path):
    finish(start(setup, "whole"))
    shutil.copytree(setup / "whole", tmp_path / "run")
    weights = tmp_path / "run" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match="do not fit"):
        load_model(tmp_path / "run")


def test_collapse_is_an_error(tmp_path):
    (tmp_path / "x.toml").write_text(RECIPE.replace("codebook_size = 16", "codebook_size = 1024"))
    config = TrainConfig.load(tmp_path / "x.toml")
    stage = config.stages[1]
    _refuse_collapse({"codebook1/perplexity": 300.0}, config, stage, 5000)
    with pytest.raises(TrainingError, match="codebook 1 collapsed"):
        _refuse_collapse({"codebook0/perplexity": 300.0, "codebook1/perplexity": 3.0}, config, stage, 5000)
    plain = dataclasses.replace(config, expire=False)  # who switches expiration off wants to see what becomes of it
    _refuse_collapse({"codebook0/perplexity": 300.0, "codebook1/perplexity": 3.0}, plain, stage, 5000)


def test_a_dead_table_of_a_pair_is_an_error(setup, tmp_path):
    """The other one's thousand codes would pass for use enough."""
    recipe = SINGLE.replace('"fsq"', '"pair"')
    (tmp_path / "x.toml").write_text(recipe)
    config = TrainConfig.load(tmp_path / "x.toml")
    measured = {"codebook0/perplexity": 16.0, "codebook0/tokens": 5000.0, "codebook0/coarse_perplexity": 16.0}
    _refuse_collapse({**measured, "codebook0/fine_perplexity": 2.0}, config, config.stages[0], 5000)
    with pytest.raises(TrainingError, match="fine table of the pair has one entry"):
        _refuse_collapse({**measured, "codebook0/fine_perplexity": 1.0}, config, config.stages[0], 5000)
    from spectokenizer.training import train

    train.run(config, setup / "audio", tmp_path / "out", threads=1, cache=setup / "cache", max_steps=6)
    rows = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    last = [row for row in rows if row["kind"] == "validation"][-1]
    assert 1 <= last["codebook0/coarse_perplexity"] <= 16 and 1 <= last["codebook0/fine_perplexity"] <= 4


def test_few_tokens_are_no_collapse(tmp_path):
    """What 4 800 tokens can show of 32 768 entries is not what an unlimited number could."""
    (tmp_path / "x.toml").write_text(
        SINGLE.replace("codebook_size = 64", "codebook_size = 32768").replace("codebook_dim = 3", "codebook_dim = 5")
    )
    config = TrainConfig.load(tmp_path / "x.toml")
    stage = config.stages[0]
    tokens = torch.randint(32768, (4800, 1), generator=torch.Generator().manual_seed(0)) // 32  # a thousand entries in use
    use = {f"codebook0/{key}": value for key, value in codebook_usage(tokens.T.numpy(), 32768)[0]._asdict().items()}
    assert use["codebook0/tokens"] == 4800
    assert 0.02 * 4800 < use["codebook0/perplexity"] < 1024
    _refuse_collapse({**use, "codebook0/perplexity": 200.0}, config, stage, 5000)  # below 2 % of the entries
    with pytest.raises(TrainingError, match=r"perplexity 50\.0 of 4800"):
        _refuse_collapse({**use, "codebook0/perplexity": 50.0}, config, stage, 5000)


@pytest.mark.parametrize(
    ("setting", "message"), [("expire = false", "expire is off"), ("data_pool = false", "data_pool is off")], ids=["expire", "data_pool"]
)
def test_switches_that_switch_nothing_are_named(tmp_path, setting, message):
    (tmp_path / "x.toml").write_text(setting + SINGLE)
    with pytest.raises(ConfigError, match=message):
        TrainConfig.load(tmp_path / "x.toml")
    (tmp_path / "x.toml").write_text(setting + SINGLE.replace('"fsq"', '"vq"'))
    assert not all((TrainConfig.load(tmp_path / "x.toml").expire, TrainConfig.load(tmp_path / "x.toml").data_pool))


def test_a_loss_that_is_no_number_rolls_back(setup, monkeypatch, capsys):
    """One poisoned step goes back to the saved state and on; poison that stays ends the run with a named error."""
    from spectokenizer.training import train

    original, calls = train.weighted, []

    def poisoned(values, weights):
        calls.append(1)
        return original(values, weights) * (float("nan") if len(calls) == 4 or len(calls) > 20 else 1.0)

    monkeypatch.setattr(train, "weighted", poisoned)
    config = TrainConfig.load(setup / "tiny.toml")
    train.run(config, setup / "audio", setup / "poisoned", threads=1, cache=setup / "cache")
    assert torch.load(setup / "poisoned" / "state.pt", weights_only=True)["rollbacks"] == [3]
    calls.extend([1] * 30)
    with pytest.raises(TrainingError, match="no number"):
        train.run(config, setup / "audio", setup / "poisoned2", threads=1, cache=setup / "cache")


def test_old_rollbacks_are_forgiven(tmp_path, monkeypatch):
    """Three in a whole run of days are no reason to end it."""
    from types import SimpleNamespace

    from spectokenizer.training import train

    monkeypatch.setattr(train.checkpoint, "load_state", lambda out: {})
    (tmp_path / "x.toml").write_text(RECIPE)
    config = TrainConfig.load(tmp_path / "x.toml")
    state = SimpleNamespace(step=5000, rollbacks=[100, 2000, 3999], optimizers=[], load=lambda saved, config: None)
    for times in (1, 2, 3):
        train._roll_back(state, tmp_path, config, config.stages[1])
        assert len(state.rollbacks) == 3 + times
    with pytest.raises(TrainingError, match="after 3 returns"):
        train._roll_back(state, tmp_path, config, config.stages[1])


def test_one_training_at_a_time(setup, here):
    """Two in one folder would overwrite each other's state."""
    here("alone", RECIPE, max_steps=1)
    with (setup / "alone" / "lock").open("a") as file:
        lock(file, "")
        with pytest.raises(ConfigError, match="another training"):
            here("alone", RECIPE, max_steps=2)
    here("alone", RECIPE, max_steps=2)


def test_sources_are_looked_at_before_other_processes_start(setup, tmp_path, monkeypatch):
    from spectokenizer.training import train

    monkeypatch.setattr(train.Fabric, "launch", lambda self: pytest.fail("started"))
    (tmp_path / "none").mkdir()
    for folder in ("none", "broken"):
        (tmp_path / folder).mkdir(exist_ok=True)
        if folder == "broken":
            (tmp_path / folder / "a.wav").write_bytes(b"RIFF")
        with pytest.raises(ConfigError, match=folder):
            train.run(TrainConfig.load(setup / "tiny.toml"), tmp_path / folder, tmp_path / "run", devices=2, cache=tmp_path / "cache")


def test_what_surrounds_a_short_clip_is_no_sign_of_collapse(setup, tmp_path):
    """A held-out clip of 0.4 s sits in 0.8 s of silence, whose frames have all the same code."""
    from spectokenizer.model.spectokenizer import build
    from spectokenizer.training import train
    from spectokenizer.training.data import Clips

    config = TrainConfig.load(setup / "tiny.toml")
    noise = (np.random.default_rng(0).standard_normal(6400) * 1000).astype(np.int16)
    measured = train.validate(build(config.codec), Clips(noise, np.array([0]), np.array([6400]), 16000), config, config.stages[1])
    assert 19 <= measured["codebook0/tokens"] <= 21
    _refuse_collapse(measured, config, config.stages[1], 5000)  # so few tell nothing
    silent = train.validate(build(config.codec), Clips(noise * 0, np.array([0]), np.array([6400]), 16000), config, config.stages[1])
    assert silent["codebook0/tokens"] == 0


def test_a_gradient_that_is_no_number_is_not_taken(setup, monkeypatch):
    from spectokenizer.training import train

    original, calls = train.weighted, []

    def poisoned(values, weights):
        calls.append(1)
        loss = original(values, weights)
        if len(calls) == 4:
            loss.register_hook(lambda gradient: gradient * float("nan"))
        return loss

    monkeypatch.setattr(train, "weighted", poisoned)
    train.run(TrainConfig.load(setup / "tiny.toml"), setup / "audio", setup / "hooked", threads=1, cache=setup / "cache")
    assert torch.load(setup / "hooked" / "state.pt", weights_only=True)["rollbacks"] == [3]
    assert all(value.isfinite().all() for value in load_file(setup / "hooked" / "weights.safetensors").values())
    steps = [json.loads(x)["step"] for x in (setup / "hooked" / "metrics.jsonl").read_text().splitlines() if '"train"' in x]
    assert steps == list(range(1, 13))


def test_init_begins_with_other_weights(setup):
    finish(start(setup, "source", "--max-steps", "6"))
    finish(start(setup, "branch", "--init", str(setup / "source"), "--max-steps", "1"))
    source, branch = (load_file(setup / name / "weights.safetensors") for name in ("source", "branch"))
    for name, value in source.items():
        torch.testing.assert_close(branch[name], value, rtol=0, atol=0.02, msg=name)
    torch.testing.assert_close(branch["quantizer.codebooks"], source["quantizer.codebooks"])
    process = start(setup, "nothing", "--init", str(setup / "nowhere"))
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1 and "nowhere" in output and "Traceback" not in output


@pytest.fixture
def here(setup, monkeypatch):
    """Run a recipe in this process: here("name", text, ...) trains into the folder "name" and returns its weights."""
    from spectokenizer.training import train

    def run(name, recipe, **options):
        path = setup / f"{name}.toml"
        path.write_text(recipe)
        train.run(TrainConfig.load(path), setup / "audio", setup / name, threads=1, cache=setup / "cache", **options)
        return load_file(setup / name / "weights.safetensors")

    return run


def test_another_quantiser_begins_with_the_network_and_starts_afresh(setup, here, capsys):
    source = here("rvq", RECIPE, max_steps=5)
    for quantizer in ("fsq", "vq", "pair"):
        recipe = SINGLE.replace('"fsq"', f'"{quantizer}"')
        branch = here(f"branch-{quantizer}", recipe, init=setup / "rvq", max_steps=1)
        for name, value in source.items():
            if not name.startswith("quantizer."):
                torch.testing.assert_close(branch[name], value, rtol=0, atol=0.02, msg=name)
        said = " ".join(capsys.readouterr().out.split())
        assert "the quantiser starts afresh" in said and f"quantizer rvq instead of {quantizer}" in said
        assert not any("pool" in name for name in branch)  # of training alone
    scratch = here("scratch", SINGLE.replace("steps = 8", "steps = 1"))
    blank = here("blank", SINGLE.replace("steps = 8", "steps = 1").replace("init_batches = 4", "init_batches = 5"))
    assert not torch.equal(scratch["quantizer.project_in"], blank["quantizer.project_in"])  # the latents made the start


def test_codebooks_start_afresh_after_an_autoencoder_stage(setup, here):
    source = here("source", RECIPE, max_steps=5)
    kept = here("kept", RECIPE.split("[[stage]]")[0] + "[[stage]]" + RECIPE.split("[[stage]]")[2], init=setup / "source", max_steps=1)
    anew = here("anew", RECIPE, init=setup / "source", max_steps=5)
    torch.testing.assert_close(kept["quantizer.projection"], source["quantizer.projection"], rtol=0, atol=0.05)
    assert float((anew["quantizer.projection"] - source["quantizer.projection"]).abs().max()) > 0.1


AUTOENCODER, QUANTIZED = ("[[stage]]" + stage for stage in RECIPE.split("[[stage]]")[1:])


@pytest.mark.parametrize(("then", "steps"), [(RECIPE.replace("steps = 4", "steps = 2"), 6), (RECIPE + AUTOENCODER + QUANTIZED, 20)])
def test_codebooks_start_afresh_whenever_the_latents_were_others(setup, here, monkeypatch, then, steps):
    """Also when the autoencoder stage is cut short in the file, and after a second one."""
    from spectokenizer.training import train

    begun = []
    original = train._initialize_codebooks
    monkeypatch.setattr(train, "_initialize_codebooks", lambda state, *rest: (begun.append(state.step), original(state, *rest)))
    name = f"afresh-{steps}"
    here(name, RECIPE, max_steps=3)
    here(name, then, max_steps=steps)
    assert begun == ([3] if steps == 6 else [4, 16])


def test_a_stage_begins_with_new_codebooks_once(setup, here, monkeypatch):
    """Only where it is asked for, not again when the run goes on, and before the first of its steps."""
    from spectokenizer.training import train

    begun = []
    original = train._initialize_codebooks
    monkeypatch.setattr(train, "_initialize_codebooks", lambda state, *rest: (begun.append(state.step), original(state, *rest)))
    recipe = RECIPE + QUANTIZED.replace("quantize = true", "quantize = true\nnew_codebooks = true\nfreeze_encoder = true")
    before = here("new-codebooks", recipe, max_steps=12)
    after = here("new-codebooks", recipe, max_steps=14)
    again = here("new-codebooks", recipe, max_steps=15)
    assert begun == [4, 12]
    assert not torch.equal(after["quantizer.codebooks"], before["quantizer.codebooks"])
    torch.testing.assert_close(again["quantizer.codebooks"], after["quantizer.codebooks"], rtol=0, atol=0)  # frozen after that
    with pytest.raises(ConfigError, match="quantize = true where new_codebooks is"):
        here("never", RECIPE.replace("quantize = false", "quantize = false\nnew_codebooks = true"))
    with pytest.raises(ConfigError, match="new_codebooks true or false"):
        here("never", RECIPE.replace("quantize = true", "quantize = true\nnew_codebooks = 1"))


def test_a_codec_that_differs_in_no_shape_is_refused(setup, here):
    here("plain", RECIPE, max_steps=1)
    with pytest.raises(ConfigError, match=r"compression 2\.0 instead of 1\.0"):
        here("plain", RECIPE.replace('name = "tiny"', 'name = "tiny"\ncompression = 1.0'), max_steps=2)
    here("plain", RECIPE.replace('name = "tiny"', 'name = "other"'), max_steps=2)  # a name is free


def test_a_resumed_run_logs_means_over_the_steps_that_it_made(setup, here):
    recipe = RECIPE.replace("log_every = 1", "log_every = 4")
    here("rows", recipe, max_steps=3)
    here("rows", recipe, max_steps=4)
    here("each", RECIPE, max_steps=4)
    (row,), each = ([x for x in map(json.loads, (setup / run / "metrics.jsonl").read_text().splitlines()) if x["kind"] == "train"]
                    for run in ("rows", "each"))  # fmt: skip
    assert row["waveform"] == pytest.approx(each[-1]["waveform"], rel=1e-4)


def test_a_time_stride_more_begins_with_the_same_weights(setup, here):
    source = here("fifty", SINGLE, max_steps=1)
    strides = "strides = [[1, 4], [1, 4], [2, 4], [2, 4]]\nnum_codebooks"
    halved = here("halved", SINGLE.replace("num_codebooks", strides), init=setup / "fifty", max_steps=1)
    torch.testing.assert_close(halved["encoder.down2.weight"], source["encoder.down2.weight"], rtol=0, atol=0.02)


def test_another_network_is_refused(setup, here):
    here("narrow", SINGLE, max_steps=1)
    for old, new, named in [
        ("8, 16, 16]", "8, 16, 24]", r"channels .*encoder.down3.weight is \(192, 16\) instead of \(192, 24\)"),
        (
            "num_codebooks",
            'activation = "relu"\nnum_codebooks',
            "activation snake instead of relu; encoder.down0.snake.alpha is .* instead of none",
        ),
    ]:
        with pytest.raises(ConfigError, match=named):
            here("wide", SINGLE.replace(old, new), init=setup / "narrow", max_steps=1)


def test_the_pool_is_saved_with_a_run(setup, here):
    recipe = SINGLE.replace('"fsq"', '"vq"')
    whole = here("vq-whole", recipe)
    here("vq-parts", recipe, max_steps=3)
    memory = torch.load(setup / "vq-parts" / "state.pt", weights_only=True)["quantizer_memory"]
    assert memory["pool"].shape == (32768, 3)
    assert memory["pooled"] > 3 * 2 * 20  # and what k-means saw
    parts = here("vq-parts", recipe)
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize(
    "switch", ['norm = "batch"', 'activation = "relu"', 'recurrence = "finest"', "complex_stem = false", "compression = 1"]
)
def test_ablations_train(here, switch):
    weights = here(f"ablation-{switch.split()[0]}", RECIPE.replace("num_codebooks", f"{switch}\nnum_codebooks"), max_steps=6)
    assert all(torch.isfinite(value).all() for value in weights.values())
    if "norm" in switch:
        assert weights["encoder.rnn0.norm.running_mean"].any()  # the averaged weights have the statistics, too


def test_optimisers_go_by_role_not_by_size():
    from spectokenizer.model.spectokenizer import build
    from spectokenizer.training.train import make_optimizers

    for channels, quantizer in (([8, 8, 8, 16, 16], "rvq"), ([16, 24, 32, 64, 96], "fsq")):
        recipe = {"codec": {"channels": channels, "quantizer": quantizer, "num_codebooks": 1, "codebook_dim": 5}, "stage": [STAGE]}
        config = TrainConfig.from_dict(recipe)
        model = build(config.codec)
        names = {parameter: name for name, parameter in model.named_parameters()}
        adam, muon = ({names[p] for p in optimizer.param_groups[0]["params"]} for optimizer in make_optimizers(model, config))
        assert {"encoder.rnn0.gru.weight_ih_l0", "encoder.down1.weight", "decoder.up0.weight"} <= muon
        assert all(name.startswith("quantizer.") or model.get_parameter(name).ndim != 2 for name in adam)
        assert any(name.startswith("quantizer.") for name in adam) and adam | muon == set(names.values())


def test_a_run_leaves_signals_as_they_were_and_rows_count_what_they_hold(setup, tmp_path):
    """A stage may begin between two rows, and its losses with it."""
    from spectokenizer.training import train

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    for out, every in (("each", 1), ("some", 3)):
        config = dataclasses.replace(TrainConfig.load(setup / "tiny.toml"), log_every=every)
        train.run(config, setup / "audio", tmp_path / out, threads=1, cache=setup / "cache", max_steps=6)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    each, some = (
        [row for row in map(json.loads, (tmp_path / out / "metrics.jsonl").read_text().splitlines()) if row["kind"] == "train"]
        for out in ("each", "some")
    )
    assert [row["step"] for row in some] == [3, 6] and "commitment" not in some[0]
    assert some[1]["commitment"] == pytest.approx(np.mean([row["commitment"] for row in each if "commitment" in row]), rel=1e-3)


def test_disturbance_is_for_16_khz():
    stage = {**STAGE, "losses": {"disturbance": 1.0}}
    with pytest.raises(ConfigError, match="made for 16 kHz, the codec has 24000 Hz"):
        TrainConfig.from_dict({"codec": {"sample_rate": 24000}, "stage": [stage]})


STAGE = {"name": "one", "steps": 1, "quantize": True, "lr": 1e-3, "lr_end": 1e-3, "losses": {"waveform": 1.0}}
