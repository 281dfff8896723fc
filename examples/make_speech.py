"""Makes speech.flac, the bundled example: three sentences by three synthetic voices, 16 kHz mono.

    python examples/make_speech.py        needs the program espeak-ng; writes speech.flac beside this script

Synthetic speech carries no rights of a speaker. It shows that everything works; how good the codec is, real speech tells.
"""

from __future__ import annotations

import subprocess
from io import BytesIO
from pathlib import Path

import numpy as np
import soundfile
import soxr

RATE = 16000
LEVEL_DB = -24.0  # root mean square of each sentence, relative to full scale
PAUSE_SECONDS = 0.35

SENTENCES = [  # (espeak-ng voice, text)
    ("en-us", "This voice went through a file of four kilobits per second."),
    ("en-gb+f3", "Seven small waves crossed the quiet harbour before the rain."),
    ("de", "Fünfzig Mal in der Sekunde beschreiben Zahlen, was ich sage."),
]


def speak(voice: str, text: str) -> np.ndarray:
    """One sentence, float32 [n] at RATE, at LEVEL_DB and without silence around it."""
    wav = subprocess.run(["espeak-ng", "-v", voice, "-s", "165", "--stdout", text], capture_output=True, check=True).stdout
    samples, rate = soundfile.read(BytesIO(wav), dtype="float32")
    loud = np.flatnonzero(np.abs(samples) > 1e-3)
    samples = soxr.resample(samples[loud[0] : loud[-1] + 1], rate, RATE)
    return samples * (10 ** (LEVEL_DB / 20) / np.sqrt(np.mean(samples**2)))


def main() -> None:
    pause = np.zeros(round(PAUSE_SECONDS * RATE), np.float32)
    parts = [pause]
    for voice, text in SENTENCES:
        parts += [speak(voice, text), pause]
    path = Path(__file__).with_name("speech.flac")
    soundfile.write(path, np.clip(np.concatenate(parts), -1, 1), RATE, subtype="PCM_16")
    print(f"{path}: {sum(map(len, parts)) / RATE:.2f} s, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
