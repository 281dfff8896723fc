"""experiment: the same training for many variants of the codec, and a table of what came out."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ..errors import ConfigError
from .research import _need_torch


class Seeds(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """Whole numbers separated by commas."""

    name = "seeds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return tuple(int(part) for part in str(value).split(",")) if isinstance(value, str) else value
        except ValueError:
            self.fail(f"'{value}'; give whole numbers separated by commas, such as 0,1", param, ctx)


OPTIONS = [
    click.option("--data", type=click.Path(), help="Folder, manifest or tar shards of audio to train on."),
    click.option("--validation", type=click.Path(), help="Folder or manifest of held-out clips to measure on."),
    click.option("--noise", type=click.Path(), help="Noise for a tenth of the training segments."),
    click.option("--work", default="runs/experiments", show_default=True, type=click.Path(path_type=Path), help="Folder of the trials."),
    click.option("--out", type=click.Path(path_type=Path), help="Folder of the report; default: docs/experiments, or below --work."),
    click.option("--steps", type=click.IntRange(1), help="Training steps of each trial, all stages together."),
    click.option("--budget", type=click.FloatRange(min=1), help="Instead: seconds of audio that each trial sees."),
    click.option("--workers", type=click.IntRange(1), help="Trials at a time; default: one per GPU, else one per core."),
    click.option("--seeds", default="0,1,2", show_default=True, type=Seeds(), help="Of the reference; the others have the first."),
    click.option("--every-seed", is_flag=True, help="All seeds for all trials."),
    click.option("--limit", type=click.IntRange(1), help="Measure on so many clips only, evenly spaced."),
    click.option("--cache", type=click.Path(), help="Where decoded audio is kept; default: the user's cache folder."),
    click.option("--smoke", is_flag=True, help="Next to no steps on made-up voices: does it run? Needs no data."),
]


def _options(command: Any) -> Any:
    for option in reversed(OPTIONS):
        command = option(command)
    return command


@click.group()
def experiment() -> None:
    """Train variants of the codec with the same budget, measure them, and report.

    The same command goes on after a stop and skips what is done; given on several machines with the same --work, they share the trials.
    Writes NAME.json, NAME.md and NAME.png.
    """


@experiment.command("single-codebook")
@_options
@click.option("--init", type=click.Path(), help="Folder of weights whose network all begin with (models/mini), instead of random ones.")
def single_codebook(**options: Any) -> None:
    """One codebook of 32768: plain, + expiration, + data pool; two small tables; FSQ; one stage of RVQ."""
    _run("single-codebook", **options)


@experiment.command()
@_options
def miniaturise(**options: Any) -> None:
    """Quality against cost: five widths from 22 to 234 MMAC/s at 4 kbit/s."""
    _run("miniaturise", **options)


@experiment.command()
@_options
def ablation(**options: Any) -> None:
    """The full model against seven with one part changed, at 6 kbit/s."""
    _run("ablation", **options)


def _run(
    name: str, data: str | None, validation: str | None, noise: str | None, work: Path, out: Path | None, steps: int | None,
    budget: float | None, workers: int | None, seeds: tuple[int, ...], every_seed: bool, limit: int | None, cache: str | None, smoke: bool,
    init: str | None = None,
) -> None:  # fmt: skip
    if steps and budget:
        raise click.UsageError("give --steps or --budget, not both")
    if budget and not math.isfinite(budget):
        raise click.BadParameter(f"{budget} s of audio; give a number", param_hint="--budget")
    if smoke and (data or validation or noise or init or steps or budget):
        raise click.UsageError("--smoke makes its own data and budget: no --data, --validation, --noise, --init, --steps, --budget")
    if not smoke and not (data and validation):
        raise click.UsageError("give --data and --validation, or --smoke")
    _need_torch()
    from ..experiments import report, run, trials

    chosen = trials.EXPERIMENTS[name]
    gpus: list[str] = []
    if smoke:
        state = "".join(run.environment()[part][:4] for part in ("code", "measured_by"))  # other code runs again
        chosen, work = chosen.smoke(), work / f"smoke-{state}"
        sources, workers = run.make_voices(work / "audio"), workers or 0
    else:
        chosen = chosen.with_steps(steps) if steps else chosen.with_audio(budget) if budget else chosen
        sources = run.Sources(str(data), str(validation), noise, init, cache, limit)
        run.check_measurable(sources)
        gpus = run.devices()
        workers = workers or len(gpus) or _cores()
    jobs = run.jobs(chosen, sources, seeds, every_seed, work)
    outcome = run.run(jobs, sources, workers, gpus)
    if not outcome.results:
        raise ConfigError(f"no trial of {len(jobs)} ended: {_listed(outcome.failures)}")
    click.echo(report.write(chosen, jobs, outcome, out or (work / "report" if smoke else Path("docs/experiments"))))
    if outcome.failures:
        raise click.ClickException(f"{len(outcome.failures)} of {len(jobs)} trials failed: {_listed(outcome.failures)}")


def _listed(failures: Any) -> str:
    return "; ".join(f"{failure.trial}: {failure.reason} ({failure.log})" for failure in failures)


def _cores() -> int:
    """Those that this process may use."""
    affinity: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
