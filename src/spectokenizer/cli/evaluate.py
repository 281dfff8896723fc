"""`spectok evaluate`: how good the codec is, over clips and bitrates, with every metric that works here."""

from __future__ import annotations

import os
from pathlib import Path

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


@click.command()
@model_option
@click.option(
    "--data", required=True, type=click.Path(path_type=Path), help="Folder or manifest of clips; a .txt beside a clip is its text."
)
@click.option("--bitrates", default="all", show_default=True, help="kbps, separated by commas.")
@click.option("--metrics", default="all", show_default=True, help="Names separated by commas, or all that work here.")
@click.option(
    "--out",
    default="evaluation",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder of results; an unfinished one is continued.",
)
@click.option(
    "--workers",
    default=min(4, os.cpu_count() or 1),
    show_default=True,
    type=click.IntRange(1),
    help="Processes; each holds every metric in memory.",
)
@click.option("--limit", type=click.IntRange(1), help="Only so many clips, evenly spaced over the data.")
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
    names: str | list[str] = "all" if metrics == "all" else [name.strip() for name in metrics.split(",")]
    try:
        clips = run.find_clips(data, limit)
    except ImportError as error:
        raise ModelError(
            f"{str(error.name).partition('.')[0]} is not installed; this command needs: pip install 'spectokenizer[eval]'"
        ) from error
    outcome = run.evaluate(systems, clips, names, out, workers)
    click.echo(f"{len(outcome.rows)} rows; {outcome.report}")
    if outcome.failures:
        for failure in outcome.failures[:5]:
            click.echo(f"failed: {failure.system} at {failure.bitrate / 1000:g} kbps on {failure.clip}: {failure.reason}", err=True)
        raise click.ClickException(f"{len(outcome.failures)} of the clips could not be processed; they are listed in the report")
