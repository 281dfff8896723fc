"""export: `spectok export RUN DIR` to ONNX, `spectok export hf DIR` to a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import ModelError
from .research import _need_torch
from .research import export as onnx


class Export(click.Group):
    """A group whose first word may also be the folder of a run: then it is `onnx`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and not {"-h", "--help"} & set(args[:1]):
            args = ["onnx", *args]
        return super().parse_args(ctx, args)


@click.command()
@click.argument("output", metavar="DIR", type=click.Path(file_okay=False))
@click.option("--run", "run_folder", type=click.Path(exists=True), help="Folder of a training run. [default: the bundled model's weights]")
@click.option("--results", type=click.Path(exists=True, dir_okay=False), help="For the model card: summary.csv of evaluate, or Markdown.")
@click.option("--about", multiple=True, metavar="KEY=VALUE", help="Noted in config.json and the card: licence=..., data=...")
def hf(output: str, run_folder: str | None, results: str | None, about: tuple[str, ...]) -> None:
    """Write DIR for AutoModelForAudioTokenization.from_pretrained(DIR, trust_remote_code=True) and spectokenizer.load(DIR)."""
    _need_torch()
    from ..export import huggingface
    from ..runtime.codec import load
    from ..training.checkpoint import load_about, load_model

    notes: dict[str, object] = dict(item.partition("=")[::2] for item in about)
    page = Path(results) if results else None
    if run_folder:
        notes = {**load_about(run_folder), **notes}
        huggingface.export(load_model(run_folder), output, None, notes, huggingface.measured(page) if page else "")
    else:
        weights = huggingface.PACKAGE.parents[1] / "models" / "mini"
        if not weights.is_dir():
            raise ModelError(
                "the torch weights of 'mini' are in the project's models/mini, not in the package; give that folder with --run"
            )
        runtime, notice = load("mini").network.folder, huggingface.published("NOTICE")
        huggingface.export(load_model(weights), output, runtime, notes, huggingface.measured(page), notice)
    click.echo(f"{output}: config.json, model.safetensors, ONNX graphs, code and model card; loads offline with trust_remote_code=True")


export = Export("export", {"onnx": onnx, "hf": hf}, help="A trained model to ONNX graphs (RUN DIR), or to a Hugging Face folder (hf DIR).")
