"""One frozen description of a codec; everything derivable is a property.

The names and sizes are the paper's (Wan et al., INTERSPEECH 2025; `mini` as published is `mini-paper`);
`micro` and the single ones are ours.
Costs are counted here, in plain Python, so that `spectok info` needs neither torch nor a model:
they are the costs of the published architecture, one multiply-accumulate (MAC) per weight use.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from .errors import ConfigError


class LayerCost(NamedTuple):
    """What one layer weighs and what it does in one second of audio."""

    name: str
    parameters: int
    macs_per_second: int


SIZES = ["sample_rate", "hop_length", "window_length", "n_fft", "kernel_time", "num_codebooks", "codebook_size", "codebook_dim"]


def _is_size(value: object) -> bool:
    return type(value) is int and value >= 1


@dataclass(frozen=True)
class CodecConfig:
    """Geometry and widths of a codec.

    Frequencies in Hz, lengths in samples. `channels[0]` is the width of the complex convolution (real and
    imaginary parts counted), `channels[i]` that of level i; `strides` are (time, frequency) per level and the
    kernel is (`kernel_time`, frequency stride), the paper's (3, 4).

    `quantizer` is "rvq" (residual, any number of leading codebooks is a valid code), "vq" (the paper's one large codebook), "pair" (one
    large codebook with two small tables, whose entries are sums of one of each) or "fsq" (one codebook without a table: `codebook_dim`
    numbers, each rounded to one of codebook_size^(1/codebook_dim) levels; with two levels this is binary spherical quantisation's
    code). `codebook_dim` of the others is how many directions of the latent a stage sees.

    `norm` to `complex_stem` switch parts of the paper off, for its ablation; they can be trained and evaluated, not exported.
    """

    name: str = "mini"
    sample_rate: int = 16000
    hop_length: int = 160
    window_length: int = 320
    n_fft: int = 512
    compression: float = 2.0  # p of eq. 1 and 2
    channels: tuple[int, ...] = (16, 24, 32, 64, 96)
    strides: tuple[tuple[int, int], ...] = ((1, 4), (1, 4), (1, 4), (2, 4))
    kernel_time: int = 3
    num_codebooks: int = 12
    codebook_size: int = 1024
    codebook_dim: int = 32  # measured: docs/training.md, "What a stage sees"
    quantizer: str = "rvq"
    norm: str = "frame"  # FLNorm, or "batch"
    activation: str = "snake"  # or "relu"
    recurrence: str = "all"  # RNN2D at every level, or at the "finest" only
    complex_stem: bool = True  # complex or real first convolution
    scatter: float = 2000.0  # Hz; from there up the decoder's phases are pseudo-random (at half the sample rate: none are)

    def __post_init__(self) -> None:
        for name in ("channels", "strides"):
            value = getattr(self, name)
            if not isinstance(value, (list, tuple)):
                raise ConfigError(f"codec '{self.name}': {name} is {value!r}; give a list")
            object.__setattr__(self, name, tuple(tuple(item) if isinstance(item, list) else item for item in value))
        wrong = [f"{name} is {value!r}; give {kind}" for name, value, kind in self._mistyped()]
        if wrong:
            raise ConfigError(f"codec '{self.name}': " + "; ".join(wrong))
        fold = prod(f for _, f in self.strides)
        checks = {
            "compression is 2 (the paper's square root) or 1 (none)": self.compression in (1.0, 2.0),
            "channels has one entry more than strides": len(self.channels) == len(self.strides) + 1,
            "channels[0] is even (real and imaginary parts)": sum(self.channels[:1]) % 2 == 0,
            f"the frequency strides fold all {self.num_bins} bins to 1 (they fold {fold})": fold == self.num_bins,
            "window_length is twice hop_length (square-root Hann, 50 % overlap)": self.window_length == 2 * self.hop_length,
            "n_fft is at least window_length": self.n_fft >= self.window_length,
            "the first level does not stride in time (its convolution is one with the complex one)": all(
                t == 1 for t, _ in self.strides[:1]
            ),
            "levels stride in time by 1, or by 2 with kernel_time 3": all(
                t == 1 or (t, self.kernel_time) == (2, 3) for t, _ in self.strides
            ),
            "codebook_dim is at most the last of channels": self.codebook_dim <= (self.channels or (0,))[-1],
            "codebook_size is a power of two from 2 to 32768": self.codebook_size in [2**bits for bits in range(1, 16)],
            "num_codebooks is at most 32": self.num_codebooks <= 32,
            "quantizer is rvq, or vq, pair or fsq with one codebook": self.quantizer == "rvq"
            or (self.quantizer in ("vq", "pair", "fsq") and self.num_codebooks == 1),
            "a pair's codebook_size is 4 or more": self.quantizer != "pair" or self.codebook_size >= 4,
            f"fsq's codebook_dim divides the {self.bits_per_code} bits of a code": self.quantizer != "fsq"
            or self.bits_per_code % self.codebook_dim == 0,
            "norm is frame or batch": self.norm in ("frame", "batch"),
            "activation is snake or relu": self.activation in ("snake", "relu"),
            "recurrence is all or finest": self.recurrence in ("all", "finest"),
            "scatter is a frequency up to half the sample rate": 0 <= self.scatter <= self.sample_rate / 2,
        }
        broken = [rule for rule, holds in checks.items() if not holds]
        if broken:
            raise ConfigError(f"codec '{self.name}' needs: " + "; ".join(broken))

    def _mistyped(self) -> Iterator[tuple[str, object, str]]:
        """Fields, their values and what they should be: a file may hold anything."""
        for name in SIZES:
            if not _is_size(getattr(self, name)):
                yield name, getattr(self, name), "a whole number from 1"
        if not all(map(_is_size, self.channels)):
            yield "channels", list(self.channels), "whole numbers from 1"
        if not all(isinstance(stride, tuple) and len(stride) == 2 and all(map(_is_size, stride)) for stride in self.strides):
            yield "strides", list(self.strides), "pairs of whole numbers from 1"
        for name in ("compression", "scatter"):
            if isinstance(getattr(self, name), bool) or not isinstance(getattr(self, name), (int, float)):
                yield name, getattr(self, name), "a number"
        if not isinstance(self.complex_stem, bool):
            yield "complex_stem", self.complex_stem, "true or false"

    # -- geometry ------------------------------------------------------------------------------------------------

    @property
    def num_bins(self) -> int:
        """Frequency bins per frame; the Nyquist bin is dropped."""
        return self.n_fft // 2

    @property
    def bands(self) -> tuple[int, ...]:
        """Frequency positions at each level, from the full spectrum to 1."""
        out = [self.num_bins]
        for _, stride in self.strides:
            out.append(out[-1] // stride)
        return tuple(out)

    @property
    def time_stride(self) -> int:
        """STFT frames per latent frame."""
        return prod(t for t, _ in self.strides)

    @property
    def recurrent_levels(self) -> range:
        """Levels with an RNN2D."""
        return range(len(self.strides) if self.recurrence == "all" else 1)

    @property
    def frame_size(self) -> int:
        """Samples per latent frame, that is per code."""
        return self.hop_length * self.time_stride

    @property
    def frame_rate(self) -> float:
        """Latent frames per second."""
        return self.sample_rate / self.frame_size

    @property
    def delay_samples(self) -> int:
        """How much later than its input a sample leaves the decoder, framing not counted: the window's overlap."""
        return self.window_length - self.hop_length

    @property
    def latency_samples(self) -> int:
        """Algorithmic latency: one frame must be complete, and its last sample waits for the next overlap."""
        return self.frame_size + self.delay_samples

    @property
    def scattered_bins(self) -> int:
        """How many bins, the highest, get pseudo-random phases from the decoder."""
        return self.num_bins - min(self.num_bins, math.ceil(self.scatter * self.n_fft / self.sample_rate))

    @property
    def latent_dim(self) -> int:
        return self.channels[-1]

    # -- bits ----------------------------------------------------------------------------------------------------

    @property
    def bits_per_code(self) -> int:
        return self.codebook_size.bit_length() - 1

    @property
    def bitrates(self) -> tuple[int, ...]:
        """Bits per second for 1, 2, ... `num_codebooks` codebooks."""
        return tuple(round(k * self.bits_per_code * self.frame_rate) for k in range(1, self.num_codebooks + 1))

    @property
    def table_numbers(self) -> int:
        """Numbers in the codebooks, which `parameters` leaves out, as the paper does; FSQ has none."""
        if self.quantizer == "fsq":
            return 0
        entries = sum(self.pair_sizes) if self.quantizer == "pair" else self.num_codebooks * self.codebook_size
        return entries * self.codebook_dim

    @property
    def pair_sizes(self) -> tuple[int, int]:
        """Entries of a pair's two tables: the coarse one has two thirds of the bits (measured: docs/training.md, "Two tables")."""
        fine = max(1, self.bits_per_code // 3)
        return 1 << self.bits_per_code - fine, 1 << fine

    # -- cost ----------------------------------------------------------------------------------------------------

    def costs(self, num_codebooks: int | None = None) -> list[LayerCost]:
        """Cost of every layer in signal order, biases and activations' slopes included in the parameters.

        The complex convolutions are 3×3; the quantiser's projections are counted and its tables are not, as in the
        paper's cost table (which is for 4 kbps, that is `num_codebooks=8`).
        """
        used = num_codebooks or self.num_codebooks
        rate = self.sample_rate / self.hop_length  # frames per second
        encoder: list[LayerCost] = []
        decoder: list[LayerCost] = []
        c0 = self.channels[0]
        complex_weights = 9 * c0  # 9 taps × c0/2 complex weights of two numbers
        complex_macs = 2 * complex_weights * self.num_bins * rate  # a complex product is four real ones
        stem_weights = complex_weights if self.complex_stem else 9 * 2 * c0  # as many products, but none share a weight
        encoder.append(LayerCost("encoder.complex_conv", stem_weights, round(complex_macs)))
        slope = self.activation == "snake"  # α per channel
        for level, (stride_t, stride_f) in enumerate(self.strides):
            c_in, c_out = self.channels[level], self.channels[level + 1]
            rate /= stride_t
            positions = self.bands[level + 1] * rate
            conv = self.kernel_time * stride_f * c_in * c_out
            recurrent = 6 * c_out * c_out + c_out * c_out  # GRU and 1×1 convolution
            small = 6 * c_out + c_out + slope * c_out  # GRU biases, 1×1 bias, Snake2D
            small += 2 * c_out if self.norm == "batch" else 0  # BatchNorm's gain and bias; FLNorm has none
            bias = self.bands[1] * c_out if level == 0 else c_out  # the first one knows its frequency
            encoder.append(LayerCost(f"encoder.down{level}", conv + bias + slope * c_out, round(conv * positions)))
            decoder.insert(0, LayerCost(f"decoder.up{level}", conv + c_in + slope * c_in, round(conv * positions)))
            if level in self.recurrent_levels:
                encoder.append(LayerCost(f"encoder.rnn{level}", recurrent + small, round(recurrent * positions)))
                decoder.insert(0, LayerCost(f"decoder.rnn{level}", recurrent + small, round(recurrent * positions)))
        decoder.append(LayerCost("decoder.complex_conv", complex_weights + 2, round(complex_macs)))
        stages = 2 if self.quantizer == "pair" else used
        projections = stages * self.codebook_dim * self.latent_dim  # the same in and out
        fsq = projections + self.codebook_dim + self.latent_dim if self.quantizer == "fsq" else 0  # out apart, and means
        quantizer = LayerCost("quantizer.projections", projections + fsq, round(2 * projections * self.frame_rate))
        return [*encoder, quantizer, *decoder]

    @property
    def parameters(self) -> int:
        """Parameters as counted in the paper: network and projections at 8 codebooks, tables not counted."""
        return sum(c.parameters for c in self.costs(min(8, self.num_codebooks)))

    @property
    def macs_per_second(self) -> int:
        """True multiply-accumulates per second of audio, encoder and decoder, without STFT and codebook search."""
        return sum(c.macs_per_second for c in self.costs() if not c.name.startswith("quantizer"))

    # -- JSON ----------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Without the switches that are as they ever were: files name their model by a digest of this."""
        later = ("quantizer", "norm", "activation", "recurrence", "complex_stem", "scatter")
        values = dataclasses.asdict(self)
        return {f.name: values[f.name] for f in dataclasses.fields(self) if f.name not in later or values[f.name] != f.default}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> CodecConfig:
        """Raises ConfigError on an unknown key or an impossible value."""
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ConfigError(f"unknown codec settings {unknown}; known are {sorted(known)}")
        try:
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"codec settings of the wrong type: {error}") from error

    @classmethod
    def from_json(cls, path: str | Path) -> CodecConfig:
        return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8"))["codec"])


PRESETS = {
    "base": CodecConfig("base", channels=(192, 256, 384, 800, 1280), codebook_dim=16),
    "mini": CodecConfig(),
    "mini-paper": CodecConfig("mini-paper", codebook_dim=16),  # as many parameters as published
    "micro": CodecConfig("micro", channels=(8, 16, 16, 32, 64), codebook_dim=16),
    "mini-single": CodecConfig("mini-single", num_codebooks=1, codebook_size=32768, codebook_dim=32, quantizer="pair"),
    "mini-single-25hz": CodecConfig(
        "mini-single-25hz",
        strides=((1, 4), (1, 4), (2, 4), (2, 4)),
        num_codebooks=1,
        codebook_size=32768,
        codebook_dim=32,
        quantizer="pair",
    ),
}
