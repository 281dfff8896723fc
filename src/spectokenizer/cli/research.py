"""train and export: what needs torch."""

from __future__ import annotations

import click

from ..errors import ModelError
from .common import say


def _need_torch() -> None:
    try:
        import lightning_fabric  # noqa: F401
        import torch  # noqa: F401
    except ImportError as error:
        raise ModelError(f"{error.name} is not installed; this command needs: pip install 'spectokenizer[train]'") from error


@click.command()
@click.option("--config", "config_file", required=True, type=click.Path(), help="TOML file; see configs/.")
@click.option("--data", required=True, type=click.Path(), help="Folder, manifest or tar shards of audio, any format and rate.")
@click.option("--out", required=True, type=click.Path(), help="Folder of the run; goes on where it stopped.")
@click.option("--validation", type=click.Path(), help="Held-out audio, given like --data; else a share of it.")
@click.option("--noise", type=click.Path(), help="Noise to augment with, given like --data; else it is made.")
@click.option("--init", type=click.Path(), help="Folder of weights to begin with (models/mini, a run) instead of random ones.")
@click.option("--devices", type=click.IntRange(1), default=1, show_default=True, help="Processes, one per core or GPU.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads per process; default: all cores, shared out.")
@click.option("--cache", type=click.Path(), help="Where decoded audio is kept; default: the user's cache folder.")
@click.option("--max-steps", type=click.IntRange(1), help="Stop here, whatever the config says.")
def train(
    config_file: str,
    data: str,
    out: str,
    validation: str | None,
    noise: str | None,
    init: str | None,
    devices: int,
    threads: int | None,
    cache: str | None,
    max_steps: int | None,
) -> None:
    """Train a model, resumable at any moment: the same command goes on."""
    _need_torch()
    from pathlib import Path

    from ..training.config import TrainConfig
    from ..training.train import run

    folder = Path(cache) if cache else None
    run(TrainConfig.load(config_file), data, out, validation, devices, threads, folder, max_steps, noise, init)


@click.command()
@click.argument("run_folder", type=click.Path())
@click.argument("output", type=click.Path())
@click.option("--about", multiple=True, metavar="KEY=VALUE", help="Noted in the model's config.json, e.g. licence=...")
def export(run_folder: str, output: str, about: tuple[str, ...]) -> None:
    """Export the averaged weights of RUN_FOLDER to the model folder OUTPUT, checked against torch."""
    _need_torch()
    from ..export.onnx import export as write
    from ..training.checkpoint import codebooks_ready, load_about, load_model

    notes = {**load_about(run_folder), **dict(item.partition("=")[::2] for item in about)}
    if not codebooks_ready(run_folder):
        say(f"{run_folder}: no stage with quantize = true has begun since its last one without: the codebooks do not fit, codes are noise")
    parity = write(load_model(run_folder), output, notes)
    click.echo(
        f"{output}: as torch computes it; codes equal {parity.codes_equal:.2%}, "
        f"samples within {parity.samples_error:.1e}, states within {parity.states_error:.1e}"
    )
