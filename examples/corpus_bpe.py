"""Byte-pair encoding over codes with the package codec-bpe, on what `spectok tokenize --format npy` writes, and back to audio.

    python examples/corpus_bpe.py [FOLDER] [VOCABULARY]

Needs: pip install ".[corpus]" codec-bpe
A vocabulary is only as good as its audio is long: with the example recording this shows the way, no more.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np

import spectokenizer
from spectokenizer import corpus

try:
    from codec_bpe.core.trainer import Trainer
except ModuleNotFoundError as error:
    sys.exit(f"{error.name} is missing: pip install codec-bpe")

BITRATE = 1000  # two codebooks: a frame is two characters
recordings = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("speech.flac")

with tempfile.TemporaryDirectory() as folder:
    corpus.tokenize([recordings], folder, bitrate=BITRATE, kind="npy", workers=1)
    info = json.loads(Path(folder, "codes", "codec_info.json").read_text())
    k, size = info["num_codebooks"], info["codebook_size"]
    vocabulary = int(sys.argv[2]) if len(sys.argv) > 2 else k * size + 100

    trainer = Trainer(k, size, info["framerate"], chunk_size_secs=30, vocab_size=vocabulary, pad_token="<pad>", max_token_codebook_ngrams=2)
    tokenizer = trainer.train(f"{folder}/codes")

    row = next(corpus.read(folder))
    text = corpus.codes_to_chars(row.codes, size)  # one character per code, in codec-bpe's mapping
    tokens = tokenizer.encode(text)
    print(f"{row.id}: {row.codes.shape[1]} frames, {len(text)} codes, {len(tokens)} tokens of {len(tokenizer)}")

    back = corpus.chars_to_codes(tokenizer.decode(tokens), k, size)
    print("the same codes again:", np.array_equal(back, row.codes))
    audio = spectokenizer.load("mini").decode(back, row.samples)
    print(f"and {len(audio) / 16000:.2f} s of audio")
