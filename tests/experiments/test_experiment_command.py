"""`spectok experiment`: the smoke size of all three, from nothing to the report; and what is said of wrong options."""

from __future__ import annotations

import json
import os

import pytest
from click.testing import CliRunner

from spectokenizer.cli.experiment import experiment
from spectokenizer.errors import ConfigError

# In so few steps nothing expires or is drawn from a pool (test_run.py has these switches), and all stages have three directions.
ALIKE = {"single-codebook": 3, "miniaturise": 0, "ablation": 0}


def invoke(*arguments):
    return CliRunner().invoke(experiment, [str(argument) for argument in arguments])


@pytest.mark.parametrize(("name", "trials"), [("single-codebook", 9), ("miniaturise", 7), ("ablation", 10)])
def test_smoke(tmp_path_factory, name, trials):
    """All trials of all three take under two minutes together on two free cores."""
    pytest.importorskip("lightning_fabric")
    import torch

    from spectokenizer.model.spectokenizer import parameters
    from spectokenizer.training import checkpoint

    work = tmp_path_factory.getbasetemp() / "experiments"
    threads = torch.get_num_threads()
    try:
        done = invoke(name, "--smoke", "--work", work)
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(False)
    assert done.exit_code == 0, done.output
    (folder,) = work.glob("smoke-*")
    document = json.loads((folder / "report" / f"{name}.json").read_text(encoding="utf-8"))
    assert sum(len(trial["seeds"]) for trial in document["trials"]) == trials
    assert not document["missing"] and not document["failed"]
    for trial in document["trials"]:
        network = checkpoint.load_model(folder / name / f"{trial['name']}-seed0" / "run")
        assert trial["parameters"] == parameters(network)  # all two codebooks of the small size are used
        assert trial["macs_per_second"] == network.config.macs_per_second  # which tests/test_config.py counts in the network
    values = [json.dumps(seed["values"]) for trial in document["trials"] for seed in trial["seeds"]]
    assert len({*values}) == len(values) - ALIKE[name]
    assert (folder / "report" / f"{name}.md").read_text(encoding="utf-8").startswith("# ")
    results = {path: path.stat().st_mtime_ns for path in (folder / name).glob("*/result.json")}
    again = invoke(name, "--smoke", "--work", work)
    assert again.exit_code == 0 and {path: path.stat().st_mtime_ns for path in results} == results


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--validation"),
        (["--smoke", "--steps", 5], "--smoke makes its own"),
        (["--data", "x", "--validation", "y", "--steps", 5, "--budget", 9], "not both"),
        (["--data", "x", "--validation", "y", "--seeds", "a"], "whole numbers"),
    ],
)
def test_wrong_options(arguments, message):
    done = invoke("ablation", *arguments)
    assert done.exit_code == 2 and message in done.output


def test_data_that_is_not_there(tmp_path):
    pytest.importorskip("lightning_fabric")
    done = invoke("miniaturise", "--data", tmp_path / "no", "--validation", tmp_path / "no", "--work", tmp_path)
    assert isinstance(done.exception, ConfigError) and os.fspath(tmp_path / "no") in str(done.exception)
