"""How much audio `spectok tokenize` gets through: hours per core-hour, where the time goes, 1 to N workers, and what others do today.

    python benchmarks/corpus.py [--data DIR] [--workers 1,2] [--minutes 10] [--rate 16000] [--rounds 1] [--json FILE]

Tokenises FLAC copies of the audio in --data (noise without it) at --rate, as many minutes as asked, with `spectok tokenize` itself.
"Today" is the torch model in a loop over the files, reading with soundfile, where torch and the weights (models/mini) are here.
Core-hours are CPU time of all processes, imports included, so that they say something on a busy machine, too; wall times do not.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np
import soundfile

import spectokenizer
from spectokenizer.corpus import engine, sources
from spectokenizer.runtime import audio

ROOT = Path(__file__).parents[1]


def prepare(data: Path | None, folder: Path, minutes: float, rate: int) -> float:
    """FLAC clips of `minutes` in all; returns the seconds there are."""
    seconds, rng = 0.0, np.random.default_rng(0)
    paths = [item.path for item in sources.find([str(data)])] if data else []
    while seconds < 60 * minutes:
        for i, path in enumerate(paths or [""] * 6):
            if path:
                samples, _ = audio.read(path, rate)
            else:
                samples = (0.1 * rng.standard_normal(10 * rate)).astype(np.float32)
            soundfile.write(folder / f"{round(seconds * 1000):09d}-{i}.flac", samples, rate)
            seconds += len(samples) / rate
            if seconds >= 60 * minutes:
                break
    return seconds


def tokenise(folder: Path, model: str, workers: int) -> tuple[float, float]:
    """(wall, CPU) seconds of the command."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-c", "from spectokenizer.cli.corpus import tokenize; tokenize()", str(folder), "--out", out]
        return timed(lambda: subprocess.run([*command, "-m", model, "-w", str(workers)], check=True, capture_output=True))


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """(wall, CPU) seconds, children included."""
    start, before = time.perf_counter(), cpu()
    work()
    return time.perf_counter() - start, cpu() - before


def cpu() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def parts(folder: Path, model: str) -> dict[str, float]:
    """CPU seconds of each part of the work, in this process, one after another."""
    codec, paths = spectokenizer.load(model), sorted(folder.iterdir())
    codec.encode(np.zeros(16000, np.float32), 16000)  # loads the graphs
    out: dict[str, float] = {}

    @contextlib.contextmanager
    def clock(name: str) -> Iterator[None]:
        start = time.process_time()
        yield
        out[name] = time.process_time() - start

    with clock("sha256"):
        for path in paths:
            with open(path, "rb") as file:
                hashlib.file_digest(file, "sha256")
    with clock("decoding"):
        signals = [audio.read(path) for path in paths]
    with clock("resampling"):
        for samples, rate in signals:
            audio.resample(samples, rate, codec.info.sample_rate)
    items = [sources.Item(path.stem, str(path), path.stat().st_size) for path in paths]
    with clock("all"):
        list(engine.encode_clips(codec, items))
    out["network and bookkeeping"] = out["all"] - out["sha256"] - out["decoding"] - out["resampling"]
    return out


def today(folder: Path) -> tuple[float, float] | None:
    """The loop that one writes first: torch, one file after another."""
    try:
        import torch

        from spectokenizer.training.checkpoint import load_model
    except ImportError:
        return None
    if not (ROOT / "models" / "mini").is_dir():
        return None
    torch.set_num_threads(1)
    model = load_model(ROOT / "models" / "mini")

    def loop() -> None:
        with torch.inference_mode():
            for path in sorted(folder.iterdir()):
                samples, _ = audio.read(path, 16000)
                padded = np.pad(samples, (0, -len(samples) % 320))
                model.encode(torch.from_numpy(padded)[None])

    return timed(loop)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--workers", default=f"1,{os.cpu_count()}", help="Numbers of workers, separated by commas.")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--rate", type=int, default=16000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    counts = sorted({int(count) for count in options.workers.split(",")})
    rows: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        seconds = prepare(options.data, folder, options.minutes, options.rate)
        click.echo(
            f"{seconds / 60:.1f} min of {options.rate} Hz FLAC, model {options.model}, load average {os.getloadavg()[0]:.1f}", err=True
        )
        runs = [(f"spectok tokenize, {count} workers", lambda count=count: tokenise(folder, options.model, count)) for count in counts]
        runs.append(("torch in a loop over files", lambda: today(folder)))
        work = [run for _ in range(options.rounds) for run in runs]
        with click.progressbar(work, label="measuring", file=sys.stderr, item_show_func=lambda run: run and run[0]) as bar:
            for name, run in bar:
                result = run()
                if result:
                    rows.setdefault(name, []).append(result)
        spent = parts(folder, options.model)
    best = {name: (min(wall for wall, _ in found), statistics.median(core for _, core in found)) for name, found in rows.items()}
    first = next(iter(best.values()))
    click.echo(f"{'':34}{'hours per core-hour':>20}{'× real time':>13}{'speed-up':>10}")
    for name, (wall, core) in best.items():
        click.echo(f"{name:34}{seconds / core:>20.1f}{seconds / wall:>13.1f}{first[0] / wall:>10.2f}")
    click.echo(f"\nwithin a worker ({seconds / spent['all']:.1f} × real time on a core):")
    for name, value in spent.items():
        if name != "all":
            click.echo(f"  {name:32}{value / spent['all']:>8.1%}")
    if options.json:
        result = {"seconds": seconds, "runs": {name: {"wall": wall, "cpu": core} for name, (wall, core) in best.items()}, "parts": spent}
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
