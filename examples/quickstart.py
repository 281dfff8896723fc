"""The Python API: audio to codes and back, at once and as a stream.    python examples/quickstart.py [in.wav [out.wav]]"""

import sys
from pathlib import Path

import numpy as np
import soundfile

import spectokenizer

source = sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_name("speech.flac")
audio, sample_rate = soundfile.read(source, always_2d=True)  # [N, C]

codec = spectokenizer.load("mini")
codes = codec.encode(audio.T, sample_rate, bitrate=4000)  # any rate and number of channels
decoded = codec.decode(codes)  # float32 [num_samples] at 16 kHz, aligned with the input
print(codes, np.asarray(codes).shape, f"{len(decoded)} samples")

encoder, decoder = codec.encoder(bitrate=4000), codec.decoder()  # a live stream: 16 kHz, any number of samples per push
blocks = [decoder.push(encoder.push(decoded[start : start + 320])) for start in range(0, len(decoded), 320)]
streamed = np.concatenate([*blocks, decoder.push(encoder.flush()), decoder.flush()])[decoder.delay_samples :]
same = codec.decode(codec.encode(decoded, codec.info.sample_rate, bitrate=4000))
print("the stream says the same, sample for sample:", np.array_equal(streamed[: len(same)], same))

if len(sys.argv) > 2:
    soundfile.write(sys.argv[2], decoded, codec.info.sample_rate)
