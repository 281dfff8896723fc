"""tokenize, detokenize: whole corpora."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from .. import __version__
from .common import Meter, bitrate_option, chosen_bitrate, load, model_option, say

if TYPE_CHECKING:
    from ..corpus.job import Progress, Summary


def clock(seconds: float) -> str:
    return f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02}:{int(seconds) % 60:02}"


def described(progress: Progress) -> str:
    """Hours done, speed, errors, time left."""
    parts = [f"{progress.seconds / 3600:.2f} h", f"{progress.speed:.0f}× real time", f"{progress.errors} errors"]
    return ", ".join(parts + ([f"{clock(progress.left)} left"] if progress.left is not None else []))


workers_option = click.option("--workers", "-w", type=click.IntRange(1), help="Processes, or Ray actors. [default: one per core]")
ENGINES = ("local", "ray")
engine_option = click.option("--engine", type=click.Choice(ENGINES), default="local", show_default=True, help="Where the work is done.")
ray_option = click.option("--ray-address", help="Of a running Ray cluster; without it, one is started on this machine.")


def engine_of(name: str, address: str | None, show: Callable[[str], None] = say) -> dict[str, object]:
    """As keyword for `tokenize` and `detokenize`."""
    if name == "local":
        if address:
            raise click.BadParameter("needs --engine ray", param_hint="--ray-address")
        return {}
    from ..corpus.cluster import Ray

    return {"engine": Ray(address)}


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="IN...")
@click.option("--out", "-o", required=True, type=click.Path(), help="Folder of the tokens; an unfinished one is continued.")
@model_option
@bitrate_option
@click.option(
    "--format",
    "kind",
    type=click.Choice(["parquet", "webdataset", "npy"]),
    default="parquet",
    show_default=True,
    help="npy: as codec-bpe reads it.",
)
@workers_option
@engine_option
@ray_option
@click.option("--strict", is_flag=True, help="Stop at the first file that cannot be read, instead of noting it in errors.jsonl.")
@click.option("--root", type=click.Path(), help="Where a manifest's relative paths start. [default: its folder]")
@click.option("--path-column", help="A manifest's column of paths. [default: path, audio_filepath, file, ...]")
@click.option("--shard-clips", type=click.IntRange(1), default=1000, show_default=True, help="At most so many clips in a shard.")
def tokenize(
    inputs: tuple[str, ...],
    out: str,
    model: str,
    bitrate: float | None,
    kind: str,
    workers: int | None,
    engine: str,
    ray_address: str | None,
    strict: bool,
    root: str | None,
    path_column: str | None,
    shard_clips: int,
) -> None:
    """Turn all audio of IN… into tokens: Parquet shards in the folder --out.

    IN is a folder, a pattern, a manifest (JSONL, CSV, TSV, Parquet, a list of paths), a WebDataset tar shard, an audio file, or "-" for a
    list on standard input. After a stop, the same command goes on; finished shards are not done again.
    """
    from ..corpus.job import tokenize as run

    bitrate = chosen_bitrate(load(model), bitrate)
    extra = engine_of(engine, ray_address)
    with Meter("tokenising") as meter:
        summary = run(
            inputs,
            out,
            model,
            bitrate,
            kind,
            workers,
            strict=strict,
            root=root,
            path_column=path_column,
            stdin=sys.stdin,
            show=lambda progress: meter.show(progress.share, described(progress)),
            shard_clips=shard_clips,
            program=f"spectok {__version__}",
            **extra,  # type: ignore[arg-type]
        )
    click.echo(summarised(summary, out))


def summarised(summary: Summary, out: str) -> str:
    """Hours, tokens, errors, and how the codebooks are used."""
    report, info = summary.report, summary.info
    lines = [
        f"{out}: {report.clips} clips, {report.seconds / 3600:.3f} h, {summary.tokens} tokens in {summary.shards} shards"
        + (f", {summary.resumed} of them from before" if summary.resumed else ""),
        f"{summary.new_seconds / 3600:.3f} h in {clock(summary.wall_seconds)}, {summary.speed:.1f} × real time",
    ]
    if report.errors:
        lines.append(f"{len(report.errors)} could not be read; errors.jsonl says why. The first: {report.errors[0]['reason']}")
    if report.frames:
        lines.append(f"codebook   used     entropy (of {info.bits_per_code} bits)")
        rows = zip(report.utilisation, report.entropy, strict=True)
        lines += [f"{k:>8} {used:>7.1%} {entropy:>8.2f}" for k, (used, entropy) in enumerate(rows)]
    return "\n".join(lines)


@click.command()
@click.argument("source", metavar="IN", type=click.Path(exists=True))
@click.option("--out", "-o", required=True, type=click.Path(file_okay=False), help="Folder of the audio; existing files are kept.")
@click.option("--model", "-m", help="Model that made the tokens. [default: the bundled one that dataset.json names]")
@click.option(
    "--format",
    "suffix",
    type=click.Choice(["flac", "wav", "ogg", "opus", "mp3"]),
    default="flac",
    show_default=True,
    help="Of the audio files.",
)
@workers_option
@engine_option
@ray_option
def detokenize(source: str, out: str, model: str | None, suffix: str, workers: int | None, engine: str, ray_address: str | None) -> None:
    """Turn the tokens of IN, a folder that tokenize wrote or one shard of it, back into audio files, one per clip."""
    from ..corpus.decode import detokenize as run

    extra = engine_of(engine, ray_address)
    with Meter("detokenising") as meter:
        done = run(
            source,
            out,
            model,
            suffix,
            workers,
            show=lambda share, seconds: meter.show(share, f"{seconds / 3600:.2f} h"),
            **extra,  # type: ignore[arg-type]
        )
    click.echo(f"{out}: {done.clips} clips, {done.seconds / 3600:.3f} h, in {clock(done.wall_seconds)}")
