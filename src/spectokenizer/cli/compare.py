"""`spectok compare`: our models and the codecs people use, on the same clips, in the same table."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import BitrateError
from .common import say
from .evaluate import data_option, measuring_options, parse_bitrates, what_to_measure


def command_line(data: Path, models: tuple[str, ...], lyra: Path | None, results: Path | None, **others: str | int | None) -> str:
    """What to type to get the page again; of folders the last name only, as where they lie is nobody's business."""
    words = ["spectok compare", f"--data {data.resolve().name}", *(f"--model {Path(model).name}" for model in models)]
    words += [f"--{name} {value}" for name, value in others.items() if value not in ("all", None)]
    if lyra:
        words.append(f"--lyra {lyra.resolve().name}")
    if results:
        words.append(f"--results {results.name if results.is_absolute() else results.as_posix()}")
    return " ".join(words)


@click.command()
@data_option
@click.option(
    "--model", "-m", "models", multiple=True, default=["mini"], show_default=True, help="Bundled model or folder; may be repeated."
)
@click.option("--bitrates", default="all", show_default=True, help="Of our models: kbps, separated by commas.")
@click.option(
    "--peers", default="all", show_default=True, help="Names separated by commas: opus, codec2, amr-wb, speex, lyra-v2, …; or none."
)
@click.option(
    "--lyra", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Folder with the three .tflite files of Lyra v2 (1.3.2)."
)
@measuring_options(out="comparison")
@click.option(
    "--results",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The page to write, pictures in img/ beside it. [default: OUT/results.md]",
)
def compare(
    data: Path,
    models: tuple[str, ...],
    bitrates: str,
    peers: str,
    lyra: Path | None,
    metrics: str,
    out: Path,
    workers: int,
    limit: int | None,
    results: Path | None,
) -> None:
    """Measure our models beside other codecs: bits, size, computation, latency, speed and quality in one table.

    Programs and libraries that are not here are no error: they are named, here and on the page, with what to install. After a
    stop, the same command goes on where it was.
    """
    from ..evaluation import baselines, comparison
    from ..evaluation import evaluate as run

    systems: list[run.System] = [run.Original()]
    rates = parse_bitrates(bitrates)
    if rates is not None:  # each model runs at those that it has
        had = {model: run.bitrates(model) for model in models}
        if unknown := [rate for rate in rates if not any(rate in of for of in had.values())]:
            every = ", ".join(f"{rate / 1000:g}" for rate in sorted({rate for of in had.values() for rate in of}))
            raise BitrateError(f"no model has {', '.join(f'{rate / 1000:g}' for rate in unknown)} kbps; there are {every}")
    for model in models:
        systems += run.codec_systems(model, rates and [rate for rate in rates if rate in had[model]])
    wanted: str | list[str] = "all" if peers == "all" else [] if peers == "none" else [name.strip() for name in peers.split(",")]
    found, absent = baselines.peers(wanted, lyra)
    for name, reason in absent.items():
        say(f"without {name}: {reason}")
    clips, names = what_to_measure(data, limit, metrics)
    command = command_line(data, models, lyra, results, bitrates=bitrates, peers=peers, metrics=metrics, limit=limit)
    outcome, page = comparison.compare([*systems, *found], clips, names, out, results, absent, command, workers)
    click.echo(f"{len(outcome.rows)} rows; {page}")
    if outcome.failures:
        for failure in outcome.failures[:5]:
            say(f"failed: {failure.system} at {failure.bitrate / 1000:g} kbps on {failure.clip}: {failure.reason}")
        raise click.ClickException(f"{len(outcome.failures)} of the clips could not be processed; they are listed in {page}")
