"""Hours of one stream through encoder and decoder: constant memory, no drift, nothing that is not a number.

    python benchmarks/soak.py --hours 10

The stream is made as it goes (voices, noise, pauses, bursts of full scale, losses), so nothing is on disk. Every minute the resident
memory is noted, and a second pair of streams begins anew at the same place: after a few seconds it must give what the old
pair gives, or the old one has drifted. Prints JSON at the end; exit status 1 when something grew or drifted.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

import click
import numpy as np

import spectokenizer

RATE, BLOCK = 16000, 16000  # one second at a time


def second(number: int) -> np.ndarray:
    """Second `number` of the stream, int16: one of several kinds of sound."""
    rng = np.random.default_rng(number)
    t = (number % 3600) + np.arange(BLOCK) / RATE
    kind = rng.integers(10)
    if kind == 0:
        return np.zeros(BLOCK, np.int16)
    pitch = 90 + 140 * rng.random()
    voice = sum(np.sin(2 * np.pi * pitch * h * t + rng.random()) / h for h in range(1, 20)) * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * t))
    sound = 0.08 * voice + 0.01 * rng.standard_normal(BLOCK)
    if kind == 1:
        sound = 3 * sound  # clips
    elif kind == 2:
        sound = 0.001 * rng.standard_normal(BLOCK)
    return np.round(np.clip(sound, -1, 1) * 32767).astype(np.int16)


def resident() -> int:
    """Bytes of memory in use, where the system says; else the most that ever was."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@click.command()
@click.option("--hours", default=1.0, show_default=True)
@click.option("--model", default="mini", show_default=True)
@click.option("--bitrate", default=4000, show_default=True, help="bit/s")
@click.option("--lost", default=0.02, show_default=True, help="Share of the frames that are concealed.")
def main(hours: float, model: str, bitrate: int, lost: float) -> None:
    """Run the stream and say what happened."""
    codec = spectokenizer.load(model)
    encoder, decoder, rng = codec.encoder(bitrate), codec.decoder(), np.random.default_rng(0)
    memory, drift, samples = [], [], 0
    seconds = round(3600 * hours)
    fresh = None
    with click.progressbar(range(seconds), file=sys.stderr, label="soaking", update_min_steps=30) as numbers:
        for number in numbers:
            if number % 60 == 0:
                fresh, agree = (codec.encoder(bitrate), codec.decoder()), []
                memory.append(resident())
            audio = second(number)
            codes = encoder.push(audio)
            if rng.random() < 50 * lost / 5:  # five frames in a row
                heard = np.concatenate([decoder.push(codes[:, :-5]), decoder.conceal(5)])
            else:
                heard = decoder.push(codes)
            samples += len(heard)
            if not np.isfinite(heard).all():
                raise click.ClickException(f"second {number}: the output is not finite")
            if fresh is not None:
                agree.append(float((fresh[0].push(audio) == codes).mean()))
                if len(agree) == 10:
                    drift.append(agree[-1])
                    fresh = None
    exact = samples == encoder.num_frames * codec.info.frame_size == decoder.num_frames * codec.info.frame_size
    early, late = np.mean(memory[1:6] or memory), np.mean(memory[-5:])
    result = {
        "hours": seconds / 3600,
        "frames": encoder.num_frames,
        "samples_exact": bool(exact),
        "memory_mb": {
            "after_minutes_1_to_5": round(early / 1e6, 2),
            "last_5_minutes": round(late / 1e6, 2),
            "most": round(max(memory) / 1e6, 2),
        },
        "codes_equal_to_a_stream_begun_9_s_before": {
            "mean": round(float(np.mean(drift)), 4),
            "last_hour": round(float(np.mean(drift[-60:])), 4),
        },
    }
    print(json.dumps(result, indent=1))
    early_drift, late_drift = np.mean(drift[: max(1, len(drift) // 4)]), np.mean(drift[-max(1, len(drift) // 4) :])
    if not exact or late > 1.05 * early + 5e6 or late_drift < early_drift - 0.02:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
