"""A folder of recordings to tokens, read back with pyarrow and numpy, and to audio again.

    python examples/corpus_tokens.py [FOLDER]

Needs: pip install ".[corpus]"
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet
import soundfile

from spectokenizer import corpus

recordings = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("speech.flac")

with tempfile.TemporaryDirectory() as folder:
    summary = corpus.tokenize([recordings], f"{folder}/tokens", bitrate=4000, workers=1)
    print(f"{summary.report.clips} clips, {summary.report.seconds:.1f} s, {summary.tokens} tokens, {len(summary.report.errors)} errors")
    print("entropy per codebook, bits:", " ".join(f"{bits:.2f}" for bits in summary.report.entropy))

    table = pyarrow.parquet.read_table(f"{folder}/tokens/data")
    codes = np.stack(table["codes"][0].values.to_numpy(zero_copy_only=False))  # int16 [K, T]
    print(table["id"][0], codes.shape, codes[:, :5].tolist())

    corpus.detokenize(f"{folder}/tokens", f"{folder}/audio", workers=1)
    for path in sorted(Path(folder, "audio").rglob("*.flac"))[:3]:
        print(path.relative_to(folder), f"{soundfile.info(path).duration:.2f} s")
