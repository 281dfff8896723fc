"""Augmentation: what rooms, streets and telephones do to speech, on batches [B, N] of float32 segments, in numpy alone.

The codec must reproduce what it hears: the augmented audio is its input and its target alike. Everything random comes from the
generator given; an augmentation that is off draws nothing from it. What a batch costs is in docs/training.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .config import AugmentConfig
from .data import Clips

Segments = npt.NDArray[np.float32]

TELEPHONE = (300.0, 3400.0)  # Hz
LOW_PASS = (3400.0, 7000.0)  # Hz, from … to
EDGE = 200.0  # Hz over which a band limit falls from all to nothing
SNR = (5.0, 30.0)  # dB
RT60 = (0.1, 0.5)  # s until reverberation has fallen by 60 dB
DIRECT = (3.0, 15.0)  # dB by which the direct sound is above its reverberation
GAP = 0.002  # s from the direct sound to the first reflection
MU = 255


@dataclass(frozen=True)
class Augmentation:
    """Applies the augmentations of `config` to each segment with their probabilities, in the order of a telephone call."""

    config: AugmentConfig
    sample_rate: int
    noise: Clips | None = None  # else coloured noise is made

    def __call__(self, segments: Segments, rng: np.random.Generator) -> Segments:
        """Segments [B, N] as a new array [B, N], peaks at most 1; a function of its arguments alone."""
        chain = {
            "reverberation": lambda x: reverberate(x, self.sample_rate, rng),
            "noise": lambda x: add_noise(x, self._noise(*x.shape, rng), rng),
            "mu_law": mu_law,
            "band_limit": lambda x: band_limit(x, self.sample_rate, rng),  # after μ-law: it shapes its noise, too
            "gain": lambda x: set_level(x, rng),
        }
        out = segments.copy()
        for name, apply in chain.items():
            rows = draw_rows(len(out), getattr(self.config, name), rng)
            if len(rows):
                out[rows] = apply(out[rows])
        return out / np.maximum(np.abs(out).max(1, keepdims=True), 1)

    def _noise(self, size: int, length: int, rng: np.random.Generator) -> Segments:
        return self.noise.batch(size, length, rng) if self.noise else coloured_noise(size, length, self.sample_rate, rng)


def draw_rows(size: int, probability: float, rng: np.random.Generator) -> npt.NDArray[np.intp]:
    """Which of `size` segments are chosen, each with `probability`; nothing is drawn where nothing is open."""
    if probability in (0, 1):
        return np.arange(size * int(probability))
    return np.flatnonzero(rng.random(size) < probability)


def set_level(segments: Segments, rng: np.random.Generator, low: float = -32.0, high: float = -14.0) -> Segments:
    """Each segment [B, N] at a random RMS level between `low` and `high` dBFS; silence stays silence, peaks stay below 1."""
    rms = _rms(segments)
    target = 10 ** (rng.uniform(low, high, (len(segments), 1)) / 20)
    gain = np.where(rms > 1e-4, target / np.maximum(rms, 1e-4), 1.0)
    peak = np.abs(segments).max(1, keepdims=True) * gain
    return (segments * gain / np.maximum(peak, 1.0)).astype(np.float32)


def reverberate(segments: Segments, sample_rate: int, rng: np.random.Generator) -> Segments:
    """Each segment in a room of its own: the direct sound, then exponentially decaying noise. Its level is kept."""
    size, length = segments.shape
    t = np.arange(round(RT60[1] * sample_rate), dtype=np.float32) / sample_rate
    decay = 10 ** (-3 * t / rng.uniform(*RT60, (size, 1)))  # [B, H]
    room = np.where(t < GAP, 0, decay * rng.standard_normal((size, len(t)), np.float32))
    room *= 10 ** (-rng.uniform(*DIRECT, (size, 1)) / 20) / np.linalg.norm(room, axis=1, keepdims=True)
    room[:, 0] = 1
    total = length + len(t)  # so that nothing wraps around
    wet = np.fft.irfft(np.fft.rfft(segments, total) * np.fft.rfft(room.astype(np.float32), total), total)[:, :length]
    return (wet * (_rms(segments) / np.maximum(_rms(wet), 1e-9))).astype(np.float32)


def add_noise(segments: Segments, noise: Segments, rng: np.random.Generator) -> Segments:
    """Speech with noise [B, N] at random signal-to-noise ratios between 5 and 30 dB, over the whole segment; silence stays silence."""
    ratio = 10 ** (-rng.uniform(*SNR, (len(segments), 1)) / 20)
    return (segments + noise * (ratio * _rms(segments) / np.maximum(_rms(noise), 1e-9))).astype(np.float32)


def coloured_noise(size: int, length: int, sample_rate: int, rng: np.random.Generator) -> Segments:
    """Noise [size, length] from 50 Hz up, whose power falls with frequency to a random power between 0 (white) and 2 (brown)."""
    f = np.fft.rfftfreq(length, 1 / sample_rate)
    shape = (size, len(f))
    spectrum = rng.standard_normal(shape, np.float32) + 1j * rng.standard_normal(shape, np.float32)
    spectrum *= np.where(f < 50, 0, np.maximum(f, 50) ** (-0.5 * rng.uniform(0, 2, (size, 1))))
    return np.fft.irfft(spectrum, length).astype(np.float32)


def mu_law(segments: Segments) -> Segments:
    """Through 8-bit μ-law and back: 127 levels either side of 0, clipped at full scale."""
    level = np.log1p(MU * np.minimum(np.abs(segments), 1)) / np.log1p(MU)
    return np.copysign(np.expm1(np.round(127 * level) * (np.log1p(MU) / 127)) / MU, segments).astype(np.float32)


def band_limit(segments: Segments, sample_rate: int, rng: np.random.Generator) -> Segments:
    """Half of the segments through the telephone's band, half through a low-pass at a random frequency; zero phase."""
    size, length = segments.shape
    telephone = rng.random((size, 1)) < 0.5
    low = np.where(telephone, TELEPHONE[0], -EDGE)
    high = np.where(telephone, TELEPHONE[1], rng.uniform(*LOW_PASS, (size, 1)))
    total = length + round(0.04 * sample_rate)  # the filter rings for less than 40 ms: nothing wraps around
    f = np.fft.rfftfreq(total, 1 / sample_rate)
    gain = _slope((f - low) / EDGE) * _slope((high - f) / EDGE)
    return np.fft.irfft(np.fft.rfft(segments, total) * gain, total)[:, :length].astype(np.float32)


def _slope(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """A raised cosine from 0 at −½ to 1 at ½."""
    return 0.5 + 0.5 * np.sin(np.pi * np.clip(x, -0.5, 0.5))


def _rms(segments: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    return np.sqrt(np.mean(segments**2, 1, keepdims=True))


def bursts(frames: int, rate: np.ndarray, burst: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Which frames [frames, clips] a channel loses: the share `rate` [clips], `burst` [clips] in a row on average (Gilbert, 1960)."""
    draws, lost = rng.random((frames, len(rate))), np.zeros((frames, len(rate)), bool)
    start, stay = rate / (burst * (1 - rate)), 1 - 1 / burst
    before = rng.random(len(rate)) < rate  # as if the channel had been there for long
    for t in range(frames):
        before = lost[t] = draws[t] < np.where(before, stay, start)
    return lost & (rate > 0)
