"""`spectok evaluate`: how good the codec is, over clips and bitrates, with every metric that works here."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ..errors import BitrateError, ModelError
from .common import model_option


def parse_bitrates(text: str) -> list[int] | None:
    """ "0.5,1,4" (kbps) to bits per second; None for "all"."""
    if text == "all":
        return None
    try:
        return [round(1000 * float(part)) for part in text.split(",")]
    except (ValueError, OverflowError) as error:
        raise BitrateError(f"bitrates '{text}'; give kbps separated by commas, such as 0.5,1,4, or 'all'") from error


data_option = click.option(
    "--data", required=True, type=click.Path(path_type=Path), help="Folder or manifest of clips; a .txt beside a clip is its text."
)


def measuring_options(out: str) -> Callable[[Any], Any]:
    """The options by which `evaluate` and `compare` say what is measured, how, and where the rows go."""
    options = [
        click.option("--metrics", default="all", show_default=True, help="Names separated by commas, or all that work here."),
        click.option(
            "--out",
            default=out,
            show_default=True,
            type=click.Path(path_type=Path),
            help="Folder of results; an unfinished one is continued.",
        ),
        click.option(
            "--workers",
            default=min(4, os.cpu_count() or 1),
            show_default=True,
            type=click.IntRange(1),
            help="Processes; each holds every metric in memory.",
        ),
        click.option("--limit", type=click.IntRange(1), help="Only so many clips, evenly spaced over the data."),
    ]

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def what_to_measure(data: Path, limit: int | None, metrics: str) -> tuple[list[Any], str | list[str]]:
    """The clips and the names of the metrics. Raises ModelError when a library that this needs is missing."""
    from ..evaluation import evaluate as run

    names: str | list[str] = "all" if metrics == "all" else [name.strip() for name in metrics.split(",")]
    try:
        return run.find_clips(data, limit), names
    except ImportError as error:
        missing = str(error.name).partition(".")[0]
        raise ModelError(f"{missing} is not installed; this command needs: pip install 'spectokenizer[eval]'") from error


@click.command()
@model_option
@data_option
@click.option("--bitrates", default="all", show_default=True, help="kbps, separated by commas.")
@measuring_options(out="evaluation")
@click.option("--original/--no-original", default=True, show_default=True, help="Measure the uncoded clips, too.")
def evaluate(model: str, data: Path, bitrates: str, metrics: str, out: Path, workers: int, limit: int | None, original: bool) -> None:
    """Measure quality over clips and bitrates: table, curves and report.

    Writes results.csv (a row per bitrate and clip), summary.csv, curves.png and report.md. After a stop, the same command goes
    on where it was. Metrics whose library is missing are named in the report with what to install.
    """
    from ..evaluation import evaluate as run

    systems: list[run.System] = [*run.codec_systems(model, parse_bitrates(bitrates))]
    if original:
        systems.insert(0, run.Original())
    clips, names = what_to_measure(data, limit, metrics)
    outcome = run.evaluate(systems, clips, names, out, workers)
    click.echo(f"{len(outcome.rows)} rows; {outcome.report}")
    if outcome.failures:
        for failure in outcome.failures[:5]:
            click.echo(f"failed: {failure.system} at {failure.bitrate / 1000:g} kbps on {failure.clip}: {failure.reason}", err=True)
        raise click.ClickException(f"{len(outcome.failures)} of the clips could not be processed; they are listed in the report")
