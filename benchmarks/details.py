"""Details that the paper leaves open or draws otherwise, each changed alone in the same short training: a curve each.

    python benchmarks/details.py --data DIR [--validation DIR] [--steps 800] [--work runs/details] [--picture docs/img/details.png]

Trains mini as a plain autoencoder (the first stage of configs/mini.toml) with the same batches, one variant after the other on one
thread, and goes on where it was stopped. Validation, every 100 steps: SI-SDR and the mel error of held-out speech.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

from spectokenizer.config import CodecConfig
from spectokenizer.model import layers, spectrum
from spectokenizer.training import train
from spectokenizer.training.config import TrainConfig

EVERY = 100  # steps


def no_residual() -> None:
    """RNN2D as the paper draws it: its input is not added to its output."""
    forward = layers.RNN2D.forward

    def without(self: layers.RNN2D, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        y, state = forward(self, x, state)
        return y - x, state

    layers.RNN2D.forward = without


def no_band_bias() -> None:
    """One bias for all bands in the first level: nothing says which frequency a band has."""
    begin = layers.Stem.__init__

    def shared(self: layers.Stem, *sizes, **others) -> None:
        begin(self, *sizes, **others)
        self.bias = nn.Parameter(self.bias.detach()[:1])

    def initial_state(self: layers.Stem, batch: int) -> Tensor:
        return self.bias.new_zeros(batch, self.bands, (self.taps + 1) * 2 * (self.stride + 2))

    layers.Stem.__init__, layers.Stem.initial_state = shared, initial_state


def phase_of_first_sample() -> None:
    """Phases as a plain FFT of the window gives them, counted from its first sample and not from its centre."""
    matrices = spectrum.dft_matrices

    def turned(config: CodecConfig) -> tuple[np.ndarray, np.ndarray]:
        turn = np.exp(-2j * np.pi * np.arange(config.num_bins) * (config.window_length / 2) / config.n_fft)
        analysis, synthesis = matrices(config)
        analysis = (analysis.view(complex) * turn).view(float)
        synthesis = (np.ascontiguousarray(synthesis.T).view(complex) * turn).view(float).T
        return analysis, np.ascontiguousarray(synthesis)

    spectrum.dft_matrices = turned


VARIANTS: dict[str, Callable[[], None]] = {
    "as it is": lambda: None,
    "RNN2D without residual": no_residual,
    "one bias for all bands": no_band_bias,
    "phase of the first sample": phase_of_first_sample,
}


def config(recipe: Path, steps: int, seed: int) -> TrainConfig:
    settings = tomllib.loads(recipe.read_text())
    stage = {**settings["stage"][0], "steps": steps}
    return TrainConfig.from_dict({**settings, "stage": [stage], "validate_every": EVERY, "tensorboard_audio": 0, "seed": seed})


def curve(folder: Path) -> dict[int, dict[str, float]]:
    """Step: what validation said."""
    if not (folder / "metrics.jsonl").exists():
        return {}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        line["step"]: {key.rpartition("/")[2]: value for key, value in line.items() if "/" in key}
        for line in lines
        if line["kind"] == "validation"
    }


def draw(curves: dict[str, dict[int, dict[str, float]]], picture: Path) -> None:
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, (key, name) in zip(figure.subplots(1, 2), {"si_sdr": "SI-SDR, dB", "mel": "mel error"}.items(), strict=True):
        for variant, points in curves.items():
            axes.plot(list(points), [point[key] for point in points.values()], ".-", label=variant)
        axes.set(xlabel="steps of 8 s", ylabel=name)
        axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(picture, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--validation")
    parser.add_argument("--recipe", type=Path, default=Path("configs/mini.toml"))
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("runs/details"))
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--only", choices=VARIANTS, help="train this one, in this process")
    options = parser.parse_args()

    def folder(variant: str) -> Path:
        return options.work / f"{variant.replace(' ', '-')}-{options.steps}-seed{options.seed}"

    if options.only:
        VARIANTS[options.only]()
        wanted = config(options.recipe, options.steps, options.seed)
        train.run(wanted, options.data, folder(options.only), options.validation, threads=1)
        return
    for variant in track(VARIANTS, description="training", console=Console(stderr=True)):
        if options.steps not in curve(folder(variant)):
            subprocess.run([sys.executable, *sys.argv, "--only", variant], check=True, stdout=subprocess.DEVNULL)
    curves = {variant: curve(folder(variant)) for variant in VARIANTS}
    steps = sorted(set.intersection(*map(set, curves.values())))
    table = Table("SI-SDR, dB / mel error at step", *map(str, steps))
    for variant, points in curves.items():
        table.add_row(variant, *(f"{points[step]['si_sdr']:.1f} / {points[step]['mel']:.3f}" for step in steps))
    Console(width=200).print(table)
    if options.picture:
        draw(curves, options.picture)


if __name__ == "__main__":
    main()
