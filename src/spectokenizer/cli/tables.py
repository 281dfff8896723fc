"""`spectok tables`: entropy tables for a model, from speech."""

from __future__ import annotations

from pathlib import Path

import click

from .common import Meter, load, say


@click.command()
@click.argument("model", default="mini")
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Folder or manifest of speech, any format and rate.")
@click.option("--held-out", type=click.Path(path_type=Path), help="What to measure on, given like --data; else a share of it.")
@click.option("--hours", default=2.0, show_default=True, type=click.FloatRange(0, min_open=True), help="Of speech to learn from, at most.")
@click.option("--out", "-o", type=click.Path(dir_okay=False, path_type=Path), help="Where to; default: entropy.bin in the model's folder.")
@click.option("--seed", default=0, show_default=True, help="Which files, when there are more than --hours.")
@click.option("--force", "-f", is_flag=True, help="Replace tables; what was coded with them needs them to be decoded.")
def tables(model: str, data: Path, held_out: Path | None, hours: float, out: Path | None, seed: int, force: bool) -> None:
    """Make the tables by which MODEL's codes can be entropy-coded, and say how many bytes that saves.

    Encodes the speech, learns which codes follow which, and writes one file into the model's folder. Takes some minutes, no PyTorch.
    """
    from ..bitstream.entropy import FILE

    target = out or load(model).network.folder / FILE
    if target.exists() and not force:
        raise click.ClickException(
            f"{target} exists; give --force to replace it: files that were coded with it cannot be decoded without it"
        )
    if not target.parent.is_dir():
        raise click.ClickException(f"{target.parent}: no such folder")

    from ..export.entropy import make_tables

    with Phases() as update:
        report = make_tables(model, data, target, hours=hours, held_out=held_out, seed=seed, progress=update)
    for reason in report.skipped[:10]:
        say(f"Warning: skipped {reason}")
    if len(report.skipped) > 10:
        say(f"Warning: skipped {len(report.skipped) - 10} more")
    if report.seconds < 1800:
        say(f"Warning: {report.seconds / 60:.1f} minutes are little to learn from; an hour or more makes better tables")
    rates = load(model).info.bitrates
    click.echo(f"{'kbit/s':>8}{'coded':>8}{'saved':>8}   {report.held_out_seconds / 60:.1f} minutes held out, packets of one second")
    for saving, rate in zip(report.savings, rates, strict=True):
        click.echo(f"{rate / 1000:8.1f}{rate / 1000 * (1 - saving.share):8.2f}{100 * saving.share:7.1f} %")
    click.echo(f"{report.path}: {report.num_bytes} bytes, from {report.seconds / 3600:.2f} hours")


class Phases:
    """A meter for each thing that is done, one after the other."""

    def __init__(self) -> None:
        self._meter: Meter | None = None

    def __enter__(self) -> Phases:
        return self

    def __call__(self, what: str, share: float) -> None:
        if self._meter is None or self._meter.label != what:
            self.__exit__()
            self._meter = Meter(what).__enter__()
        self._meter.show(share, "")

    def __exit__(self, *_: object) -> None:
        if self._meter is not None:
            self._meter.__exit__()
            self._meter = None
