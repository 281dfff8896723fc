"""How long a decoder that begins in the middle of a recording differs from one that heard it all: the table of docs/format.md.

    python benchmarks/warm_up.py [--model mini] [--input examples/speech.flac] [--bitrates 1000,4000,6000] [--starts 33]

Each part is decoded by a fresh decoder from some seconds before its start on; compared is the half second after the start.
"""

from __future__ import annotations

import argparse

import numpy as np
import soundfile
from rich.console import Console
from rich.progress import track
from rich.table import Table

import spectokenizer

SECONDS = (0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0)
HEARD = 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--input", default="examples/speech.flac")
    parser.add_argument("--bitrates", default="1000,4000,6000")
    parser.add_argument("--starts", type=int, default=33)
    options = parser.parse_args()
    codec = spectokenizer.load(options.model)
    rate, size = codec.info.frame_rate, codec.info.frame_size
    audio, sample_rate = soundfile.read(options.input, dtype="float32")
    heard, longest = round(HEARD * rate), round(max(SECONDS) * rate)
    largest = {seconds: [] for seconds in SECONDS}  # per bitrate the differences of all starts
    for bitrate in track([int(b) for b in options.bitrates.split(",")], console=Console(stderr=True)):
        codes = np.asarray(codec.encode(audio, sample_rate, bitrate=bitrate))
        whole = codec.decoder().push(codes)
        starts = np.linspace(longest, codes.shape[1] - heard, options.starts).astype(int)
        for seconds in SECONDS:
            warm_up = round(seconds * rate)
            parts = [codec.decoder().push(codes[:, start - warm_up : start + heard])[-heard * size :] for start in starts]
            wholes = [whole[start * size : (start + heard) * size] for start in starts]
            largest[seconds].append([np.abs(a - b).max() for a, b in zip(parts, wholes, strict=True)])
    table = Table("warm-up", "largest difference", "median over the starting points", title=f"{options.model}, full scale is 1")
    for seconds, differences in largest.items():
        medians = np.median(differences, axis=1)
        table.add_row(f"{seconds:g} s", f"{np.max(differences):.1e}", f"{medians.min():.1e} to {medians.max():.1e}")
    Console().print(table)


if __name__ == "__main__":
    main()
