"""What entropy coding saves: bits per code and per second at every bitrate, packets of one second, and what coding takes.

    python benchmarks/entropy.py --data DIR [--model mini] [--limit 30]

Prints JSON and a table. `coded` counts whole packets of bytes as the container stores them; `frame` is what packets of one frame would
take, which is why live packets (packets.py) are not coded.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import click
import numpy as np

import spectokenizer
from spectokenizer.bitstream import bits
from spectokenizer.export.entropy import encode_clips, measure, packets
from spectokenizer.training.data import find_audio


@click.command()
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Folder or manifest of speech that the tables have not seen.")
@click.option("--model", default="mini", show_default=True)
@click.option("--limit", type=click.IntRange(1), help="Only so many clips, evenly spaced.")
def main(data: Path, model: str, limit: int | None) -> None:
    """Measure the model's entropy tables."""
    codec = spectokenizer.load(model)
    entropy = codec.entropy
    if entropy is None:
        raise click.ClickException(f"model '{model}' has no entropy tables; make them with: spectok tables {model} --data DIR")
    paths = [Path(path) for path in find_audio(data)]
    count = min(limit or len(paths), len(paths))
    skipped: list[str] = []
    chosen = [paths[i * len(paths) // count] for i in range(count)]
    with click.progressbar(length=1000, label="encoding", file=sys.stderr) as bar:
        clips, seconds = encode_clips(codec, chosen, 1e6, skipped, lambda share: bar.update(0))
    with click.progressbar(length=1000, label="measuring", file=sys.stderr) as bar:
        savings = measure(entropy, clips, lambda share: bar.update(round(1000 * share) - bar.pos))
    rows = []
    for saving, rate in zip(savings, codec.info.bitrates, strict=True):
        codes = sum(clip.shape[1] for clip in clips) * saving.num_codebooks
        rows.append(
            {
                "bitrate": rate,
                "coded": round(rate * saving.coded / saving.plain),
                "saved_percent": round(100 * saving.share, 2),
                "bits_per_code": round(8 * saving.coded / codes, 3),
            }
        )
    some = [codes for codes in packets(clips[:20], 8) if codes.shape[1] == 50][:40]
    start = time.process_time()
    coded = [entropy.encode(codes) for codes in some]
    middle = time.process_time()
    for data_, codes in zip(coded, some, strict=True):
        entropy.decode(data_, *codes.shape)
    end = time.process_time()
    intervals = np.concatenate([entropy._intervals(codes).reshape(3, -1) for codes in some], axis=1)
    ideal = np.log2(intervals[2] / (intervals[1] - intervals[0])).sum() / 8  # bytes, by the frequencies alone
    single = [entropy.encode(codes[:, t : t + 1]) for codes in some[:10] for t in range(50)]
    result = {
        "model": codec.info.model_hash,
        "tables": entropy.hash.hex(),
        "tables_bytes": len(entropy.to_bytes()),
        "clips": len(chosen),
        "seconds": round(seconds, 1),
        "skipped": skipped,
        "rates": rows,
        "ms_per_packet_of_50x8": {
            "encode": round(1000 * (middle - start) / len(some), 2),
            "decode": round(1000 * (end - middle) / len(some), 2),
        },
        "bytes_per_packet_of_50x8": {
            "plain": bits.packed_size(8, 50, entropy.bits_per_code),
            "by_the_frequencies": round(ideal / len(some), 2),
            "coded": round(sum(map(len, coded)) / len(some), 2),
        },
        "bytes_per_frame_of_8_alone": {
            "plain": bits.packed_size(8, 1, entropy.bits_per_code),
            "coded": round(sum(map(len, single)) / len(single), 2),
        },
    }
    print(json.dumps(result, indent=1))
    print(f"\n{'kbit/s':>8}{'coded':>8}{'saved':>9}{'bits per code':>15}")
    for row in rows:
        print(f"{row['bitrate'] / 1000:8.1f}{row['coded'] / 1000:8.2f}{row['saved_percent']:8.1f}%{row['bits_per_code']:15.2f}")


if __name__ == "__main__":
    main()
