"""Audio in and out: any file soundfile reads, any rate, mixed or refused explicitly. float32 throughout."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from numbers import Real
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from ..disk import printable
from ..errors import AudioError

Audio = npt.NDArray[np.float32]

BLOCK_SECONDS = 10.0  # how much of a file is in memory at once
OPEN_ENDED = 0x7FFF0000  # from here on a length stands for a pipe's, which nobody knew
LOUDEST = 32.0  # 30 dB beyond full scale: integers that were made float and not divided, which a codec would make noise of


def to_mono(audio: npt.ArrayLike, first: int = 0) -> Audio:
    """Samples as float32 [N] in −1…1: int16 is scaled, [C, N] is averaged. `first`: the number of the first, for errors.

    Raises AudioError for other types and shapes and for values that are not finite or absurdly large.
    """
    try:
        samples = np.asarray(audio)
    except ValueError as error:
        raise AudioError(f"audio is no array ({error}); give [samples] or [channels, samples]") from error
    if samples.dtype == np.int16:
        samples = samples.astype(np.float32) / 32768
    elif samples.dtype.kind == "f":
        with np.errstate(over="ignore"):  # float64 beyond float32's range becomes infinite and is refused below
            samples = samples.astype(np.float32)
    else:
        raise AudioError(f"audio has type {samples.dtype}; give float samples in -1..1 or int16")
    if samples.ndim == 2:
        if samples.shape[0] > 32:
            raise AudioError(f"audio has shape {list(samples.shape)}, read as [channels, samples]; transpose it")
        if samples.shape[0] == 0:
            raise AudioError(f"audio has shape {list(samples.shape)}: no channels")
    elif samples.ndim != 1:
        raise AudioError(f"audio has shape {list(samples.shape)}; give [samples] or [channels, samples]")
    usable = np.abs(samples) <= LOUDEST  # false for NaN, too
    if not usable.all():
        at = tuple(np.argwhere(~usable)[0])
        raise AudioError(
            f"audio holds {samples[at]:g} at sample {first + at[-1]}; give finite samples in -1..1: "
            "divide 16-bit integers by 32768, replace NaN and infinite ones"
        )
    return np.ascontiguousarray(samples.mean(0) if samples.ndim == 2 else samples)


def check_rate(sample_rate: float) -> int:
    """An integer rate between 1 kHz and 768 kHz, or AudioError."""
    if not (isinstance(sample_rate, Real) and 1000 <= sample_rate <= 768000 and sample_rate == int(sample_rate)):
        raise AudioError(f"sample rate {sample_rate!r} Hz; give a whole number between 1000 and 768000")
    return int(sample_rate)


class Resampler:
    """Streaming resampler of known length: n samples in give round(n · to / from) out, whatever the blocks."""

    def __init__(self, rate_in: int, rate_out: int):
        self.rate_in, self.rate_out = check_rate(rate_in), check_rate(rate_out)
        self._stream = soxr.ResampleStream(rate_in, rate_out, 1, dtype="float32") if rate_in != rate_out else None

    def push(self, samples: Audio, last: bool = False) -> Audio:
        if self._stream is None:
            return samples
        return np.asarray(self._stream.resample_chunk(samples, last=last), np.float32)


def resample(samples: Audio, rate_in: int, rate_out: int) -> Audio:
    """Mono samples at another rate, in one go."""
    return Resampler(rate_in, rate_out).push(samples, last=True)


class _Forward(soundfile.SoundFile):  # type: ignore[misc,unused-ignore]
    """Read from front to back: soundfile seeks after each block where it can, at which an MP3 loses the bits that it had put by."""

    def seekable(self) -> bool:
        return False


@contextmanager
def open_audio(path: str | Path | BinaryIO) -> Iterator[soundfile.SoundFile]:
    """A readable sound file, for `with`. A pipe is first copied to disk, because soundfile seeks.

    Raises AudioError saying what is wrong with it.
    """
    name = printable(str(path)) if isinstance(path, (str, Path)) else "standard input"
    with ExitStack() as stack:
        if isinstance(path, (str, Path)) and Path(path).is_fifo():
            path = stack.enter_context(open(path, "rb"))
        if not isinstance(path, (str, Path)) and not path.seekable():
            copy = stack.enter_context(TemporaryFile())
            shutil.copyfileobj(path, copy)
            copy.seek(0)
            path = copy
        try:
            # On POSIX a name is bytes, which need not be text.
            named = os.fsencode(path) if isinstance(path, (str, Path)) and os.name == "posix" else path
            file = stack.enter_context(_Forward(named))
            file.seek(0)  # as soundfile.read does: an MP3's last bits, and with them now and then a code, depend on it
        except (soundfile.LibsndfileError, OSError, TypeError) as error:
            if isinstance(path, (str, Path)) and not Path(path).exists():
                raise AudioError(f"{name}: no such file") from error
            if isinstance(path, (str, Path)) and Path(path).is_dir():
                raise AudioError(f"{name}: a folder, not audio; 'spectok tokenize' takes folders") from error
            raise AudioError(f"{name}: not audio that can be read ({getattr(error, 'error_string', error)})") from error
        try:
            check_rate(file.samplerate)
        except AudioError as error:
            raise AudioError(f"{name}: {error}") from error
        yield file


def blocks(file: soundfile.SoundFile, seconds: float = BLOCK_SECONDS) -> Iterator[Audio]:
    """The file's samples, mixed to mono, block by block, so that ten hours need no more memory than ten seconds."""
    frames, count = max(1, int(seconds * file.samplerate)), 0
    name = printable(os.fsdecode(file.name)) if isinstance(file.name, (str, bytes)) else "standard input"
    while True:
        try:
            block = file.read(frames, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise AudioError(f"{name}: broken at sample {count} ({error.error_string})") from error
        if not len(block):
            return
        try:
            yield to_mono(block.T, count)
        except AudioError as error:
            raise AudioError(f"{name}: {error}") from error
        count += len(block)


def cut_off(file: soundfile.SoundFile, count: int) -> str:
    """What is missing of a file of which `count` samples could be read, in words; "" when nothing is, as far as the format tells."""
    promised, there = file.frames, count
    if told := re.search(r"(?:data|SSND) : (\d+) \(should be (\d+)\)", file.extra_info):  # WAV and AIFF, bytes
        promised, there = int(told[1]), int(told[2])
    missing = 1 - there / promised if 0 < promised < OPEN_ENDED else 0.0
    return f"{missing:.0%} of what its header promises is not there; the file is cut off" if missing > 0.01 else ""


def read(path: str | Path | BinaryIO, sample_rate: int | None = None) -> tuple[Audio, int]:
    """A whole file as mono float32 [N], resampled when `sample_rate` is given; returns (samples, rate)."""
    with open_audio(path) as file:
        parts = list(blocks(file))
        rate = file.samplerate
    samples = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    if sample_rate and sample_rate != rate:
        return resample(samples, rate, sample_rate), sample_rate
    return samples, rate
