"""loss: quality over the share of lost packets."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import click

from .common import bitrate_option, chosen_bitrate, load, model_option, say
from .evaluate import data_option, measuring_options, what_to_measure


@click.command()
@model_option
@data_option
@bitrate_option
@click.option(
    "--redundancy", default="0,2", show_default=True, help="Codebooks of the frame before in each packet; that much is taken from its own."
)
@click.option("--loss", "losses", default="0,5,10,20,30", show_default=True, help="Per cent of the packets, separated by commas.")
@click.option("--burst", default=2.0, show_default=True, help="Packets lost in a row, on average.")
@click.option("--trace", type=click.Path(exists=True, dir_okay=False), help="Instead: a file of 0 (arrived) and 1 (lost) per packet.")
@click.option("--opus", default="0", show_default=True, help="kbps to run Opus at beside us; 0 is that of our packets, '' leaves it out.")
@measuring_options(out="loss")
def loss(
    model: str, data: Path, bitrate: float | None, redundancy: str, losses: str, burst: float, trace: str | None, opus: str,
    metrics: str, out: Path, workers: int, limit: int | None,
) -> None:  # fmt: skip
    """Measure quality when packets are lost, with and without redundancy, beside Opus with its own.

    Writes loss.md and loss.png, and the rows behind them; after a stop, the same command goes on where it was.
    """
    clips, names = what_to_measure(data, limit, metrics)
    from ..evaluation import evaluate as run
    from ..evaluation import loss as simulation
    from ..evaluation import metrics as registry

    rates = [round(1000 * value) for value in _numbers(opus, "--opus")]
    if rates and (absence := simulation.opus_absence()):
        say(f"Warning: without Opus: {absence}")
        rates = []
    systems = simulation.lossy_systems(
        model,
        round(chosen_bitrate(load(model), bitrate)),
        [int(value) for value in _numbers(redundancy, "--redundancy", int)],
        [value / 100 for value in _numbers(losses, "--loss")],
        burst,
        simulation.read_trace(trace) if trace else (),
        rates,
    )
    outcome = run.evaluate(systems, clips, names, out, workers)
    chosen = [metric.name for metric in registry.select(names)[0]]
    click.echo(simulation.write(out, systems, clips, outcome.rows, chosen))
    if outcome.failures:
        raise click.ClickException(f"{len(outcome.failures)} of the clips could not be processed; they are listed in {outcome.report}")


def _numbers(text: str, option: str, number: Callable[[str], float] = float) -> list[float]:
    try:
        values = [number(part) for part in text.split(",") if part.strip()]
        if all(0 <= value < math.inf for value in values):
            return values
    except ValueError:
        pass
    kind = "whole numbers" if number is int else "numbers"
    raise click.BadParameter(f"'{text}'; give {kind} from 0, separated by commas", param_hint=option)
