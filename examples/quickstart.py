"""The Python API in a few lines: a recording to codes and back, then the same as a live stream."""

from pathlib import Path

import numpy as np
import soundfile

import spectokenizer

audio, sample_rate = soundfile.read(Path(__file__).with_name("speech.flac"), dtype="float32")

codec = spectokenizer.load("mini")
codes = codec.encode(audio, sample_rate, bitrate=4000)  # any rate; [channels, samples] is mixed to mono
decoded = codec.decode(codes)  # float32 at 16 kHz, aligned with the input
print(codes, np.asarray(codes).dtype, f"{len(audio)} samples in, {len(decoded)} out")

encoder, decoder = codec.encoder(bitrate=4000), codec.decoder()  # streams work at 16 kHz, in pieces of any size
pieces = [decoder.push(encoder.push(audio[start : start + 320])) for start in range(0, len(audio), 320)]
pieces.append(decoder.push(encoder.flush()))
streamed = np.concatenate(pieces)[decoder.delay_samples :][: len(audio)]
print(f"live and at once are equal to the bit: {np.array_equal(streamed, decoded)}")
