"""The page says the budget, marks what noise could have done, and names what is missing."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("torch")  # `Clips` and the losses are on its side

from spectokenizer.experiments import report
from spectokenizer.experiments.run import Failure, Job, Outcome
from spectokenizer.experiments.trials import EXPERIMENTS

CLIPS = ["a", "b", "c", "d"]


def made(experiment, pesq, seeds=(0, 1, 2), failures=(), tmp_path=None):
    """A document with PESQ by trial name, or by (name, seed)."""
    jobs, results = [], []
    rng = np.random.default_rng(0)
    base = rng.normal(0, 0.2, len(CLIPS))
    for seed in seeds:
        for trial in experiment.trials:
            if seed != seeds[0] and trial.name != experiment.reference:
                continue
            recipe = experiment.recipe(trial, seed)
            shared = {"data": {"files": 3, "digest": "d"}, "validation": {"files": 4, "digest": "v", "limit": None}}
            settings = {"trial": trial.name, "recipe": recipe, "codebooks": 1, "noise": None, "init": None, **shared}
            jobs.append(Job(trial, seed, settings, tmp_path / f"{trial.name}-seed{seed}"))
            value = pesq.get((trial.name, seed), pesq.get(trial.name))
            if value is None:
                continue
            codec = experiment.codec_config(trial)
            results.append(
                {
                    "trial": trial.name, "seed": seed, "steps": 9, "audio_seconds": 1.0,
                    "parameters": sum(cost.parameters for cost in codec.costs(min(experiment.codebooks, codec.num_codebooks))),
                    "macs_per_second": codec.macs_per_second, "table_numbers": codec.table_numbers, "channels": list(codec.channels),
                    "bitrate": 4000, "clips": CLIPS, "seconds": 20.0, "absent": {"stoi": "no pystoi (pip install pystoi)"},
                    "failed_clips": [], "environment": {"torch": "2"},
                    "values": {"pesq_wb": [float(x) for x in value + base], "si_sdr": [None, 1.0, 2.0, 3.0]},
                    "usage": {"utilisation": 50.0, "perplexity": 9.0, "entropy": 3.0, "entries": 32768, "tokens": 32768, "on": "training"},
                }
            )  # fmt: skip
    return jobs, Outcome(results, [*failures])


def test_what_noise_could_have_done_is_marked(tmp_path):
    experiment = EXPERIMENTS["ablation"]
    pesq = {("full", 0): 2.0, ("full", 1): 2.02, ("full", 2): 2.04, "no-compression": 1.95, "batchnorm": 1.5, "relu": 2.2, "one-scale": 2.0}
    pesq |= {"real-stem": 2.05, "no-mpd": 1.879, "no-mbms-stft": 1.877}  # 0.02 times Student's 4.303 for 2 degrees, times √2, is 0.1217
    jobs, outcome = made(experiment, pesq, tmp_path=tmp_path)
    document = report.collect(experiment, jobs, outcome)
    entries = {trial["name"]: trial["difference"].get("pesq_wb") for trial in document["trials"]}
    assert document["spread"]["pesq_wb"] == pytest.approx(0.02)
    assert entries["relu"]["seeds_ci95"] == pytest.approx(0.1217, abs=1e-4)
    assert {name for name, entry in entries.items() if entry and entry["distinguishable"]} == {"batchnorm", "relu", "no-mbms-stft"}
    assert entries["batchnorm"]["difference"] == pytest.approx(-0.5)  # to the same seed, not to the mean
    page = report.markdown(document)
    assert "± 0.020" in page and "(−0.500)" in page and "(≈ −0.050)" in page and "(+0.200)" in page
    opening = page[: page.index("|")]
    assert "4000 steps" in opening and "8.89 h of audio" in opening and "4 held-out clips" in opening
    assert "seeds 0, 1, 2 for the reference (full), 0 for the others" in opening
    assert "475 850 | 234.2" in page
    assert "stoi: absent, no pystoi" in page and "STOI ↑" not in page
    assert "3.15 (−0.32)" in page  # the paper's


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_seeds_alone_pass_for_a_difference_one_time_in_twenty(seeds):
    rng = np.random.default_rng(0)
    runs = rng.normal(size=(20000, seeds + 1))  # the reference's, and one that differs in nothing
    noise = [report._seed_noise(report._spread(run[:-1]), seeds, 1) for run in runs]
    assert np.mean(np.abs(runs[:, -1] - runs[:, 0]) > noise) < 0.05  # of the same seed
    other = np.abs(runs[:, -1] - runs[:, :-1].mean(1)) > noise
    assert np.mean(other) < 0.05


def test_seeds_as_they_were(tmp_path):
    experiment = EXPERIMENTS["ablation"]
    pesq = {trial.name: 2.0 for trial in experiment.trials}
    jobs, outcome = made(experiment, pesq, (1, 0), tmp_path=tmp_path)
    assert "seeds 1, 0 for the reference (full), 1 for the others" in report.markdown(report.collect(experiment, jobs, outcome))
    kept = [result for result in outcome.results if result["seed"] == 1]
    page = report.markdown(report.collect(experiment, jobs, Outcome(kept, [])))
    assert "seeds 1 for every trial" in page and "One seed alone" in page and "not done: full-seed0" in page


def test_trials_of_different_code_are_told(tmp_path):
    experiment = EXPERIMENTS["ablation"]
    jobs, outcome = made(experiment, {trial.name: 2.0 for trial in experiment.trials}, tmp_path=tmp_path)
    assert "made by different code" not in report.markdown(report.collect(experiment, jobs, outcome))
    outcome.results[3]["environment"] = {"torch": "2", "code": "b"}
    assert "**made by different code** (2 states" in report.markdown(report.collect(experiment, jobs, outcome))
    outcome.results[3]["environment"] = {"torch": "2", "measured_by": "b"}
    page = report.markdown(report.collect(experiment, jobs, outcome))
    assert "**measured by different code** (2 states" in page and "made by different code" not in page


def test_one_seed_tells_nothing_from_noise(tmp_path):
    experiment = EXPERIMENTS["miniaturise"]
    jobs, outcome = made(experiment, {trial.name: 1.0 + i for i, trial in enumerate(experiment.trials)}, (0,), tmp_path=tmp_path)
    document = report.collect(experiment, jobs, outcome)
    assert not any(entry["distinguishable"] for trial in document["trials"] for entry in trial["difference"].values())
    assert "One seed alone" in report.markdown(document)


def test_clips_that_disagree_are_noise_too(tmp_path):
    experiment = EXPERIMENTS["ablation"]
    jobs, outcome = made(experiment, {trial.name: 2.0 for trial in experiment.trials}, tmp_path=tmp_path)
    relu = next(result for result in outcome.results if result["trial"] == "relu")
    relu["values"]["pesq_wb"] = [v + d for v, d in zip(relu["values"]["pesq_wb"], (1.0, -0.5, 0.5, -0.6), strict=True)]
    document = report.collect(experiment, jobs, outcome)
    entry = next(trial for trial in document["trials"] if trial["name"] == "relu")["difference"]["pesq_wb"]
    assert entry["seeds_ci95"] == 0 and entry["clips_ci95"] > abs(entry["difference"]) > 0.05 and not entry["distinguishable"]


def test_seeds_that_could_measure_other_clips(tmp_path):
    """The difference is over the clips that all pairs of seeds have."""
    experiment = EXPERIMENTS["ablation"]
    jobs, outcome = made(experiment, {"full": 2.0, "relu": 1.5}, tmp_path=tmp_path)
    relu = next(result for result in outcome.results if result["trial"] == "relu")
    cut = {name: values[1:] for name, values in relu["values"].items()}
    cut["pesq_wb"] = [value + 0.2 for value in cut["pesq_wb"]]
    document = report.collect(experiment, jobs, Outcome([*outcome.results, {**relu, "seed": 1, "clips": CLIPS[1:], "values": cut}], []))
    entry = next(trial for trial in document["trials"] if trial["name"] == "relu")["difference"]["pesq_wb"]
    assert entry["difference"] == pytest.approx(-0.4)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_nothing_that_could_be_measured(tmp_path, name):
    """Silent clips, for instance."""
    experiment = EXPERIMENTS[name]
    jobs, outcome = made(experiment, {trial.name: 2.0 for trial in experiment.trials}, tmp_path=tmp_path)
    for result in outcome.results:
        result["values"] = {column: [None] * len(CLIPS) for column in result["values"]}
    page = report.write(experiment, jobs, outcome, tmp_path).read_text(encoding="utf-8")
    assert name == "single-codebook" or "none of the metrics could be measured" in page


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_three_files_for_each(tmp_path, name):
    experiment = EXPERIMENTS[name]
    pesq = {trial.name: 2.0 + 0.1 * i for i, trial in enumerate(experiment.trials)}
    dropped = next(trial.name for trial in experiment.trials if trial.name != experiment.reference)
    del pesq[dropped]
    failure = Failure(f"{dropped}-seed0", "codebook 0 collapsed", tmp_path / "log.txt")
    jobs, outcome = made(experiment, pesq, failures=[failure], tmp_path=tmp_path)
    page = report.write(experiment, jobs, outcome, tmp_path / "out")
    text = page.read_text(encoding="utf-8")
    document = json.loads((tmp_path / "out" / f"{name}.json").read_text(encoding="utf-8"))
    assert f"**failed**: {dropped}-seed0: codebook 0 collapsed" in text
    assert str(tmp_path) not in json.dumps(document) + text
    assert document["settings"]["recipe"]["stage"]
    if pytest.importorskip("matplotlib"):
        assert (tmp_path / "out" / f"{name}.png").stat().st_size > 10000
    before = text
    assert report.render(document, tmp_path / "again").read_text(encoding="utf-8") == before  # from the JSON alone
    if name == "miniaturise":
        assert "Lyra v2" in text and "other clips than ours" in text
    if name == "single-codebook":
        assert "62.0" in text and "**too few**, an even use would show 63 %" in text


def test_without_matplotlib_and_without_results(tmp_path, monkeypatch):
    experiment = EXPERIMENTS["ablation"]
    jobs, outcome = made(experiment, {"relu": 2.0}, tmp_path=tmp_path)
    assert "nothing to compare with" in report.write(experiment, jobs, outcome, tmp_path).read_text(encoding="utf-8")
    jobs, outcome = made(experiment, {}, tmp_path=tmp_path)
    assert "No trial has ended yet" in report.write(experiment, jobs, outcome, tmp_path).read_text(encoding="utf-8")
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    assert "No picture was drawn" in report.write(experiment, jobs, outcome, tmp_path).read_text(encoding="utf-8")
