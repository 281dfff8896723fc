"""How much audio a training step gets through: seconds of audio per second, with and without the C loops, on 1 and 2 processes.

    python benchmarks/training.py [--config configs/mini.toml] [--data DIR] [--steps 60] [--rounds 3] [--json FILE]

Runs `spectok train` itself, the variants in turn, and reports the median over rounds of each run's own reading. Without --data it trains
on noise: the arithmetic is the same. Nothing else should run beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile
from rich.console import Console
from rich.progress import track
from rich.table import Table

VARIANTS = {  # name: (processes, environment)
    "1 process, torch only": (1, {"CC": "false"}),
    "1 process": (1, {}),
    "2 processes, torch only": (2, {"CC": "false"}),
    "2 processes": (2, {}),
}


def measure(config: Path, data: Path, folder: Path, processes: int, extra: dict[str, str], steps: int) -> float:
    """Median reading of one short run of the quantised stage's length, the first readings left out."""
    command = [sys.executable, "-m", "spectokenizer", "train", "--config", config, "--data", data, "--out", folder / "run"]
    command += ["--cache", folder / "cache", "--threads", 1, "--devices", processes, "--max-steps", steps]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **extra}
    subprocess.run([str(part) for part in command], check=True, capture_output=True, env=environment)
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    return statistics.median([line["audio_seconds_per_second"] for line in lines if line["kind"] == "train"][1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/mini.toml"))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    readings: dict[str, list[float]] = {name: [] for name in VARIANTS}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = options.data
        if data is None:
            data = folder / "audio"
            data.mkdir()
            noise = np.random.default_rng(0).standard_normal((10, 160000)) * 0.1
            for i, clip in enumerate(noise):
                soundfile.write(data / f"{i}.wav", clip, 16000)
        recipe = folder / "recipe.toml"
        text = options.config.read_text()
        head, first, rest = text.partition("[[stage]]")
        stages = [
            stage for stage in (first + rest).split("[[stage]]") if "quantize = true" in stage
        ]  # the stage that a run spends its life in
        recipe.write_text(f"log_every = 10\ninit_batches = 4\n{head}[[stage]]{stages[0]}")
        work = [(name, round_) for round_ in range(options.rounds) for name in VARIANTS]
        for name, _ in track(work, description="training", console=Console(stderr=True)):
            with tempfile.TemporaryDirectory(dir=folder) as run:
                processes, extra = VARIANTS[name]
                readings[name].append(measure(recipe, data, Path(run), processes, extra, options.steps))
    table = Table("variant", "s of audio per s", "all readings", title=f"{options.config}, {os.cpu_count()} cores")
    for name, values in readings.items():
        table.add_row(name, f"{statistics.median(values):.1f}", " ".join(f"{value:.1f}" for value in sorted(values)))
    Console().print(table)
    if options.json:
        options.json.write_text(json.dumps({name: statistics.median(values) for name, values in readings.items()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
