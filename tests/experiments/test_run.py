"""Trials side by side with a worker that only pretends: each once, failures apart, kills and other machines."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import soundfile

pytest.importorskip("torch")
pytest.importorskip("rich")

from spectokenizer.config import PRESETS
from spectokenizer.errors import ConfigError
from spectokenizer.experiments import run as running
from spectokenizer.experiments.claims import Claim
from spectokenizer.experiments.run import BUSY, Sources, jobs, make_voices, prepare, run
from spectokenizer.experiments.trials import ABLATION, MINIATURISE

PRETENDER = """
import json, os, signal, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
json.loads(sys.argv[2])
name = folder.name
with open(folder.parent / "calls", "a") as calls:
    calls.write(name + " " + os.environ.get("CUDA_VISIBLE_DEVICES", "-") + " " + os.environ["OMP_NUM_THREADS"] + chr(10))
if name.startswith("relu"):
    sys.exit("Error: this one cannot")
if name.startswith("no-mpd") and not (folder / "second").exists():
    (folder / "second").touch()
    sys.exit(75)
if (folder.parent / "slow").exists():
    def save(*_):
        (folder / "saved").touch()
        sys.exit(130)
    signal.signal(signal.SIGTERM, save)
    (folder / "ready").touch()
    time.sleep(60)
key = json.loads((folder / "settings.json").read_text())["key"]
(folder / "result.json").write_text(json.dumps({"key": key, "trial": name.rpartition("-")[0], "seed": int(name[-1])}))
"""


@pytest.fixture
def sources(tmp_path):
    for name in ("train", "held"):
        (tmp_path / name).mkdir()
        soundfile.write(tmp_path / name / "a.wav", np.zeros(1000), 16000)
    return Sources(str(tmp_path / "train"), str(tmp_path / "held"))


@pytest.fixture
def command(tmp_path):
    (tmp_path / "pretender.py").write_text(PRETENDER)
    return [sys.executable, "-S", str(tmp_path / "pretender.py")]


def calls(work, name="ablation"):
    path = work / name / "calls"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def test_seeds():
    sources = Sources("tests/data", "tests/data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "fingerprint", lambda source: {"files": 1, "digest": source})
        names = lambda *a: [job.folder.name for job in jobs(ABLATION, sources, *a, work=running.Path("w"))]  # noqa: E731
        few, many = names((0, 1), False), names((0, 1), True)
        assert len(few) == 9 and few[0] == "full-seed0" and few[-1] == "full-seed1"
        assert len(many) == 16
        with pytest.raises(ConfigError, match="each once"):
            names((0, 0), False)


def test_all_once_failures_apart_and_skipped_when_done(tmp_path, sources, command):
    todo = jobs(ABLATION, sources, (0, 1), False, tmp_path)
    outcome = run(todo, sources, 3, ["0", "5"], show=False, command=command)
    assert [r["trial"] for r in outcome.results] == [j.trial.name for j in todo if j.trial.name != "relu"]
    assert [(f.trial, f.reason) for f in outcome.failures] == [("relu-seed0", "Error: this one cannot")]
    made = calls(tmp_path)
    assert sorted(name for name, _, _ in made) == sorted([j.folder.name for j in todo] + ["no-mpd-seed0"])  # that one said it was busy
    assert {gpu for _, gpu, _ in made} == {"0", "5"} and {threads for _, _, threads in made} == {"1"}
    again = run(todo, sources, 3, show=False, command=command)
    assert again.results == outcome.results
    assert [name for name, _, _ in calls(tmp_path)[len(made) :]] == ["relu-seed0"]


def test_other_settings_are_refused_with_the_remedy(tmp_path, sources, command):
    todo = jobs(MINIATURISE, sources, (0,), False, tmp_path)
    run(todo, sources, 2, show=False, command=command)
    other = jobs(MINIATURISE.with_steps(50), sources, (0,), False, tmp_path)
    with pytest.raises(ConfigError, match=r"recipe\.stage\.0\.steps 4900 there, 18 here.*give another --work, or delete"):
        run(other, sources, 2, show=False, command=command)
    soundfile.write(tmp_path / "held" / "b.wav", np.zeros(1000), 16000)
    with pytest.raises(ConfigError, match=r"validation\.digest"):
        run(jobs(MINIATURISE, sources, (0,), False, tmp_path), sources, 2, show=False, command=command)


def test_a_preset_that_became_another_codec_is_another_trial(tmp_path, sources, monkeypatch):
    for job in jobs(ABLATION, sources, (0,), False, tmp_path):
        prepare(job)
    monkeypatch.setitem(PRESETS, "mini", dataclasses.replace(PRESETS["mini"], scatter=8000.0))
    with pytest.raises(ConfigError, match=r"codec\.scatter"):
        prepare(jobs(ABLATION, sources, (0,), False, tmp_path)[0])


def test_data_is_known_by_what_it_is_not_by_where(tmp_path, sources):
    moved = tmp_path / "moved"
    (tmp_path / "train").rename(moved)
    elsewhere = dataclasses.replace(sources, data=str(moved))
    moved_jobs = jobs(MINIATURISE, elsewhere, (0,), False, tmp_path)
    (tmp_path / "train").mkdir()
    soundfile.write(tmp_path / "train" / "a.wav", np.zeros(1000), 16000)
    assert [j.key for j in moved_jobs] == [j.key for j in jobs(MINIATURISE, sources, (0,), False, tmp_path)]


def test_waits_for_what_another_machine_does(tmp_path, sources, command):
    todo = jobs(MINIATURISE, sources, (0,), False, tmp_path)
    prepare(todo[0])
    claim = Claim.take(todo[0].folder)

    def finish():
        time.sleep(1)
        result = {"key": todo[0].key, "trial": todo[0].trial.name, "seed": 0}
        (todo[0].folder / "result.json").write_text(json.dumps(result))
        claim.release()

    other = threading.Thread(target=finish)
    other.start()
    outcome = run(todo, sources, 2, show=False, command=command)
    other.join()
    assert len(outcome.results) == 5 and not outcome.failures
    assert len(calls(tmp_path, "miniaturise")) == 4


def test_an_interrupt_lets_them_save(tmp_path, sources, command, monkeypatch):
    todo = jobs(MINIATURISE, sources, (0,), False, tmp_path)
    (tmp_path / "miniaturise").mkdir()
    (tmp_path / "miniaturise" / "slow").touch()
    sleep, pressed = time.sleep, []

    def interrupt(seconds):
        sleep(seconds)
        if not pressed and sum((job.folder / "ready").exists() for job in todo) == 2:
            pressed.append(True)
            raise KeyboardInterrupt

    monkeypatch.setattr(running.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(todo, sources, 2, show=False, command=command)
    monkeypatch.undo()
    assert [(job.folder / "saved").exists() for job in todo] == [True, True, False, False, False]
    (tmp_path / "miniaturise" / "slow").unlink()
    assert len(run(todo, sources, 2, show=False, command=command).results) == 5


def test_a_claimed_folder_is_left_alone(tmp_path, sources):
    job = jobs(MINIATURISE, sources, (0,), False, tmp_path)[0]
    prepare(job)
    with Claim.take(job.folder):
        assert running.attempt(job.folder, sources) == BUSY
    assert not (job.folder / "run").exists()


def test_a_worker_that_lost_its_trial_saves_nothing(tmp_path, python):
    """Another went on with it meanwhile and is further."""
    sources = make_voices(tmp_path / "audio")
    experiment = MINIATURISE.smoke().with_steps(100000)
    job = jobs(experiment, sources, (0,), False, tmp_path)[0]
    prepare(job)
    script = "import sys; from spectokenizer.experiments import claims, run; claims.BEAT = 0.1; sys.exit(run.main(sys.argv[1:]))"
    with (job.folder / "log.txt").open("wb") as log:
        arguments = [sys.executable, "-c", script, str(job.folder), json.dumps(dataclasses.asdict(sources))]
        worker = subprocess.Popen(arguments, stdout=log, stderr=log)
        deadline = time.monotonic() + 120
        while job.steps_done() < 2:
            assert worker.poll() is None and time.monotonic() < deadline, (job.folder / "log.txt").read_text()
            time.sleep(0.05)
        (job.folder / "claim-7").write_text("elsewhere\n1\n")
        assert worker.wait(60) == BUSY
    assert not (job.folder / "run" / "state.pt").exists() and (job.folder / "claim-7").exists()


def test_what_is_not_installed_is_told_before_hours_of_training(tmp_path, sources, monkeypatch):
    running.check_measurable(sources)
    monkeypatch.setattr(running.registry.Metric, "absence", lambda self: "no pesq (pip install pesq)" if self.name == "pesq_wb" else "")
    with pytest.raises(ConfigError, match=r"pesq_wb: no pesq \(pip install pesq\)"):
        running.check_measurable(sources)


def test_switches_of_the_quantiser_reach_it(tmp_path, monkeypatch):
    """That two trials come out alike would not show that they are the same."""
    from spectokenizer.experiments.trials import SINGLE_CODEBOOK
    from spectokenizer.training import train

    class Reached(Exception):  # noqa: N818
        pass

    def stop(model, config):
        raise Reached(model.quantizer.expire, model.quantizer.data_pool)

    monkeypatch.setattr(train, "make_optimizers", stop)
    sources, found = make_voices(tmp_path / "audio"), {}
    for job in jobs(SINGLE_CODEBOOK.smoke(), sources, (0,), False, tmp_path):
        prepare(job)
        with pytest.raises(Reached) as reached:
            running.perform(job.settings, job.folder, sources)
        found[job.trial.name] = reached.value.args
    assert (found["vq"], found["vq-expiration"], found["vq-pool"]) == ((False, False), (True, False), (True, True))
    assert {found[name] for name in ("rvq-1", "vq-32", "pair", "fsq")} == {(True, True)}


def test_utilisation_of_known_codes(tmp_path, monkeypatch):
    """Of the held-out clips where they have enough tokens per entry, else of training clips."""
    monkeypatch.setattr(running, "TOKENS_PER_ENTRY", 8)
    system = running.TorchSystem("run", 2, "x", 1000, "f", 8)
    where = tmp_path / "codes" / running.evaluation_report.system_folder("x", 1000)
    where.mkdir(parents=True)
    even, two = np.arange(64) % 8, np.arange(64) % 2
    np.save(where / "a.npy", np.stack([even, two])[:, :30])
    np.save(where / "b.npy", np.stack([even, two])[:, 30:])
    used = running.usage(system, tmp_path, Sources("t", "v"))
    assert used["on"] == "held-out clips" and (used["tokens"], used["entries"]) == (64, 8)
    assert used["utilisation"] == pytest.approx(100 * (1 + 0.25) / 2)
    assert used["perplexity"] == pytest.approx(5) and used["entropy"] == pytest.approx(2)
    (where / "b.npy").unlink()
    asked = []
    monkeypatch.setattr(running, "_training_codes", lambda system, tokens, sources: asked.append(tokens) or np.stack([two, two]))
    used = running.usage(system, tmp_path, Sources("t", "v"))
    assert asked == [64] and used["on"] == "training clips" and used["utilisation"] == pytest.approx(25)


def test_codes_of_training_clips_are_those_of_sound(tmp_path, monkeypatch):
    """Clips shorter than the longest of their batch are filled up with silence, which is not counted; nor is any clip twice."""
    torch = pytest.importorskip("torch")

    class Model(torch.nn.Linear):
        config = dataclasses.replace(running.CodecConfig(), num_codebooks=2)

        def encode(self, audio):
            frames = audio.unflatten(1, (-1, self.config.frame_size))
            return torch.stack([frames.abs().amin(-1) > 0, frames[..., 0] * 32768], 1).long(), {}

    lengths = [*range(700, 40700, 2000), 25 * 16000]  # the last one is cut at 20 s
    for i, length in enumerate(lengths):
        soundfile.write(tmp_path / f"{i:02}.wav", np.full(length, i + 1, np.int16), 16000)
    monkeypatch.setattr(running, "_model", lambda folder, fingerprint: Model(1, 1))
    system = running.TorchSystem("run", 2, "x", 1000, "f", 8)
    frames = [(min(length, 20 * 16000) // 320) + max(length - 20 * 16000, 0) // 320 for length in lengths]
    heard = running._training_codes(system, 10**6, Sources(str(tmp_path), "v", cache=str(tmp_path / "cache")))
    assert heard[0].all() and heard.shape == (2, sum(frames))
    assert np.bincount(heard[1])[1:].tolist() == frames
    some = running._training_codes(system, 300, Sources(str(tmp_path), "v", cache=str(tmp_path / "cache")))
    assert some[0].all() and 300 <= some.shape[1] < 300 + 1000


def test_the_code_that_trained_is_noted(tmp_path, monkeypatch):
    """Of every state that had a hand in it, and of none that only measured."""
    state = ["a"]
    monkeypatch.setattr(running, "code", lambda *parts: state[0])
    assert running._trained_by(tmp_path, 9) == "a" == running._trained_by(tmp_path, 9)
    state[0] = "b"
    assert running._trained_by(tmp_path, 9) == "a+b"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps({"training": {"steps": 9}}))
    state[0] = "c"
    assert running._trained_by(tmp_path, 9) == "a+b"
    assert running._trained_by(tmp_path, 10) == "a+b+c"


def test_with_a_network_to_begin_with_every_codebook_begins_afresh(tmp_path, sources):
    from spectokenizer.experiments.trials import SINGLE_CODEBOOK
    from spectokenizer.model.spectokenizer import build
    from spectokenizer.training.checkpoint import save_model

    config = running.CodecConfig()
    save_model(tmp_path / "mini", build(config), config, {"steps": 1, "audio_seconds": 7200.0})
    given = jobs(SINGLE_CODEBOOK, dataclasses.replace(sources, init=str(tmp_path / "mini")), (0,), False, tmp_path)
    assert all([stage.get("new_codebooks") for stage in job.settings["recipe"]["stage"]] == [True] for job in given)
    assert {job.settings["init"]["name"] for job in given} == {"mini"}
    assert all(job.settings["init"]["audio_seconds"] == 7200 for job in given)
    without = jobs(SINGLE_CODEBOOK, sources, (0,), False, tmp_path)
    assert not any(stage.get("new_codebooks") for job in without for stage in job.settings["recipe"]["stage"])


def test_code_is_part_of_the_environment(tmp_path, monkeypatch):
    assert running.environment()["code"] == running.code()
    (tmp_path / "experiments").mkdir()
    for name in ("model", "training"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.py").write_text("x = 1\n")
    (tmp_path / "config.py").write_text("x = 1\n")
    monkeypatch.setattr(running, "__file__", str(tmp_path / "experiments" / "run.py"))
    before = running.code()
    (tmp_path / "model" / "a.py").write_text("x = 2\n")
    assert running.code() != before
    before = running.code()
    (tmp_path / "config.py").write_text("x = 2\n")
    assert running.code() != before
    (tmp_path / "experiments" / "run.py").write_text("x = 1\n")
    before = running.code("experiments/run.py")
    (tmp_path / "experiments" / "run.py").write_text("x = 2\n")
    assert running.code("experiments/run.py") != before


def test_steps_are_read_from_a_log_that_is_being_written(tmp_path, sources):
    job = jobs(MINIATURISE, sources, (0,), False, tmp_path)[0]
    assert job.steps_done() == 0
    (job.folder / "run").mkdir(parents=True)
    log = job.folder / "run" / "metrics.jsonl"
    log.write_text('{"kind": "train", "step": 20}\n{"kind": "train", "step": 40}\n{"kind": "tr')
    assert job.steps_done() == 40
    log.write_text('{"kind": "tr')
    assert job.steps_done() == 0


def test_a_worker_killed_in_training_goes_on(tmp_path, python, monkeypatch):
    """The real worker: killed hard once it has saved, then started again by the command that found its claim dead; also under SLURM."""
    sources = make_voices(tmp_path / "audio")
    experiment = MINIATURISE.smoke().with_steps(16)
    experiment = dataclasses.replace(experiment, trials=experiment.trials[:1], reference="mmac20")
    experiment = dataclasses.replace(experiment, training={**experiment.training, "save_minutes": 0.0})
    (job,) = jobs(experiment, sources, (0,), False, tmp_path)
    prepare(job)
    with (job.folder / "log.txt").open("wb") as log:
        worker = subprocess.Popen([*running.WORKER, str(job.folder), json.dumps(dataclasses.asdict(sources))], stdout=log, stderr=log)
        deadline = time.monotonic() + 120
        while job.steps_done() < 2 or not (job.folder / "run" / "state.pt").exists():
            assert worker.poll() is None and time.monotonic() < deadline, (job.folder / "log.txt").read_text()
            time.sleep(0.05)
        worker.kill()
        worker.wait()
    assert job.result() is None and list(job.folder.glob("claim-*"))
    for name, value in {"SLURM_NTASKS": "2", "SLURM_NNODES": "2", "SLURM_JOB_NAME": "x", "SLURM_PROCID": "1"}.items():
        monkeypatch.setenv(name, value)
    outcome = run([job], sources, 1, show=False)
    assert not outcome.failures and "going on at step" in (job.folder / "log.txt").read_text()
    assert outcome.results[0]["steps"] == 16 and len(outcome.results[0]["clips"]) == 2
    assert not list(job.folder.glob("claim-*"))


def test_the_torch_system_is_the_model(tmp_path, tiny_model, speech):
    """Output as long as the input and in time with it; fewer codebooks are the first ones."""
    torch = pytest.importorskip("torch")
    from spectokenizer.training.checkpoint import save_model

    save_model(tmp_path, tiny_model, tiny_model.config, {})
    whole, half = (running.TorchSystem.load(tmp_path, k).process(speech, 16000) for k in (4, 2))
    assert whole.audio.shape == speech.shape
    np.testing.assert_array_equal(whole.codes[:2], half.codes)
    assert half.payload_bits == half.codes.size * 6
    frames = whole.codes.shape[1]
    padded = torch.zeros(1, frames * 320)
    padded[0, : len(speech)] = torch.from_numpy(speech.copy())
    with torch.no_grad():
        output, _, _ = tiny_model(padded)
    np.testing.assert_allclose(whole.audio, output[0, : len(speech)].numpy(), atol=1e-4)


def test_a_row_that_a_crash_cut_off_is_measured_again(tmp_path, tiny_model, speech):
    pytest.importorskip("torch")
    from spectokenizer.training.checkpoint import save_model

    save_model(tmp_path / "run", tiny_model, tiny_model.config, {})
    for name in ("a", "b"):
        soundfile.write(tmp_path / f"{name}.wav", speech, 16000)
    sources = Sources(str(tmp_path), str(tmp_path))
    whole = running.measure(tmp_path / "run", 2, sources, tmp_path)
    table = tmp_path / "results.csv"
    table.write_bytes(table.read_bytes()[:-9])
    again = running.measure(tmp_path / "run", 2, sources, tmp_path)
    assert again["clips"] == ["a.wav", "b.wav"]
    np.testing.assert_allclose(again["values"]["si_sdr"], whole["values"]["si_sdr"], rtol=1e-4)
