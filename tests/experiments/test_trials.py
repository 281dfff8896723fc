"""The trials as data: each differs from its reference in what its row says, all have one budget, and costs are what the network has."""

from __future__ import annotations

import pytest

from spectokenizer.config import PRESETS, CodecConfig
from spectokenizer.errors import ConfigError
from spectokenizer.experiments.trials import ABLATION, EXPERIMENTS, LADDER, MINIATURISE, SINGLE_CODEBOOK


def flat(value, name=""):
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else None
    return {name: value} if items is None else {k: v for part, inner in items for k, v in flat(inner, f"{name}/{part}").items()}


def differing(experiment, trial):
    a, b = (flat(experiment.recipe(t, 0)) for t in (experiment.trial(experiment.reference), trial))
    return {name for name in {**a, **b} if a.get(name) != b.get(name)} - {"/codec/name"}


@pytest.mark.parametrize("experiment", [*EXPERIMENTS.values(), *(e.smoke() for e in EXPERIMENTS.values())], ids=lambda e: e.title)
def test_every_trial_is_a_valid_run_of_the_same_budget(experiment):
    names = [trial.name for trial in experiment.trials]
    assert len(set(names)) == len(names) and experiment.reference in names
    configs = [experiment.config(trial) for trial in experiment.trials]
    assert {(c.steps, c.batch_size, c.segment_seconds, c.seed) for c in configs} == {
        (experiment.budget.steps, experiment.budget.batch_size, experiment.budget.segment_seconds, 0)
    }
    assert len({tuple((s.name, s.steps, s.quantize) for s in c.stages) for c in configs}) == 1


@pytest.mark.parametrize("experiment", [ABLATION, ABLATION.smoke()], ids=["whole", "smoke"])
def test_an_ablation_changes_exactly_one_setting(experiment):
    changed = [differing(experiment, trial) for trial in experiment.trials if trial.name != "full"]
    assert all(len(settings) == 1 for settings in changed)
    assert {next(iter(settings)) for settings in changed} == {
        "/codec/compression", "/codec/norm", "/codec/activation", "/codec/recurrence", "/codec/complex_stem", "/mpd", "/mbms_stft"
    }  # fmt: skip
    assert any(stage.adversarial for stage in experiment.config(experiment.trial("no-mpd")).stages)


def test_the_single_codebook_goes_one_step_at_a_time():
    assert [differing(SINGLE_CODEBOOK, SINGLE_CODEBOOK.trial(name)) for name in ("vq-expiration", "vq-pool")] == [
        {"/expire"},
        {"/expire", "/data_pool"},
    ]
    rates = {trial.name: SINGLE_CODEBOOK.codec_config(trial).bitrates for trial in SINGLE_CODEBOOK.trials}
    assert rates == {
        "rvq-1": (500,),
        "vq": (750,),
        "vq-expiration": (750,),
        "vq-pool": (750,),
        "vq-32": (750,),
        "pair": (750,),
        "fsq": (750,),
    }


def test_the_ladder_costs_what_it_should():
    for wanted, channels in LADDER.items():
        codec = CodecConfig(channels=channels, codebook_dim=16)
        assert codec.macs_per_second / 1e6 == pytest.approx(wanted, rel=0.1)
        assert not any(c % 8 for c in channels[1:])
        assert channels[0] % 2 == 0
    assert LADDER[234] == PRESETS["mini"].channels
    used = [MINIATURISE.codec_config(trial) for trial in MINIATURISE.trials]
    assert [c.macs_per_second for c in used] == sorted(c.macs_per_second for c in used)
    assert {c.bitrates[min(MINIATURISE.codebooks, c.num_codebooks) - 1] for c in used} == {4000}


@pytest.mark.parametrize("trial", ABLATION.trials, ids=lambda t: t.name)
def test_the_table_counts_the_network(trial):
    pytest.importorskip("torch")
    from spectokenizer.experiments.run import check_counted

    check_counted(ABLATION.codec_config(trial))


def test_what_a_switch_costs_by_hand():
    """Mini: channels 16, 24, 32, 64, 96 at 64, 16, 4, 1 bands and 100, 100, 100, 50 frames per second."""
    full, *_ = ABLATION.trials
    parameters, macs = (getattr(ABLATION.codec_config(full), field) for field in ("parameters", "macs_per_second"))
    change = {}
    for trial in ABLATION.trials:
        codec = ABLATION.codec_config(trial)
        change[trial.name] = codec.parameters - parameters, codec.macs_per_second - macs
    coarse = [(32, 16 * 100), (64, 4 * 100), (96, 50)]  # what "the largest scale only" leaves out, twice: (channels, positions per second)
    assert change["one-scale"] == (
        -2 * sum(7 * c * c + 8 * c for c, _ in coarse),  # GRU, 1×1 convolution, their biases, a slope
        -2 * sum(7 * c * c * positions for c, positions in coarse),
    )
    wide = 24 + 32 + 64 + 96
    assert change["relu"] == (
        -(3 * wide + wide - 96 + 16),
        0,
    )  # a slope per channel: down and both RNN2D; up, which ends at the finer level
    assert change["batchnorm"] == (2 * 2 * wide, 0)  # gain and bias in both RNN2D
    assert change["real-stem"] == (9 * 16, 0)
    assert change["no-compression"] == change["no-mpd"] == change["no-mbms-stft"] == (0, 0)


def test_budgets():
    assert ABLATION.with_steps(100).recipe(ABLATION.trials[0], 3)["seed"] == 3
    assert [stage["steps"] for stage in ABLATION.with_steps(100).recipe(ABLATION.trials[0], 0)["stage"]] == [35, 55, 10]
    assert [stage["steps"] for stage in ABLATION.with_steps(3).recipe(ABLATION.trials[0], 0)["stage"]] == [1, 1, 1]
    assert MINIATURISE.with_audio(8000).budget.steps == 1000
    begun = SINGLE_CODEBOOK.with_steps(100).recipe(SINGLE_CODEBOOK.trials[0], 0, with_autoencoder=False)["stage"]
    assert [(stage["name"], stage["steps"]) for stage in begun] == [("quantized", 100)]
    with pytest.raises(ConfigError, match="give at least 3"):
        ABLATION.with_steps(2).recipe(ABLATION.trials[0], 0)
