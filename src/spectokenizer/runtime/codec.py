"""The codec as people use it: load a model, encode, decode, open streams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..bitstream.entropy import FILE as TABLES
from ..bitstream.entropy import Entropy
from ..codes import Codes, num_frames
from ..errors import BitrateError, CodesError, ModelError
from . import hub
from .audio import Audio, check_rate, resample, to_mono
from .network import CONFIG, Network
from .streams import Decoder, Encoder

DEFAULT_BITRATE = 4000


@dataclass(frozen=True)
class Info:
    """What a model is and costs. Lengths in samples at `sample_rate`, bitrates in bits per second."""

    name: str
    sample_rate: int
    frame_size: int
    frame_rate: float
    num_codebooks: int
    codebook_size: int
    bits_per_code: int
    bitrates: tuple[int, ...]
    delay_samples: int  # how much later than its input a sample leaves the decoder
    latency_samples: int  # the same with the frame that must be complete first
    parameters: int  # as counted in the paper
    macs_per_second: int  # true multiply-accumulates, encoder and decoder
    table_numbers: int  # in the codebooks, not among the parameters
    model_hash: str

    @property
    def default_bitrate(self) -> int:
        """What is meant where no bitrate is given: 4 kbit/s, or the highest of a model that has not got that."""
        return DEFAULT_BITRATE if DEFAULT_BITRATE in self.bitrates else self.bitrates[-1]


class Codec:
    """One model. Holds no state of any stream; may be shared by threads."""

    def __init__(self, folder: str | Path, threads: int = 1):
        self.network = Network(folder, threads)
        c = self.network.config
        self.info = Info(
            name=c.name,
            sample_rate=c.sample_rate,
            frame_size=c.frame_size,
            frame_rate=c.frame_rate,
            num_codebooks=c.num_codebooks,
            codebook_size=c.codebook_size,
            bits_per_code=c.bits_per_code,
            bitrates=c.bitrates,
            delay_samples=c.delay_samples,
            latency_samples=c.latency_samples,
            parameters=c.parameters,
            macs_per_second=c.macs_per_second,
            table_numbers=c.table_numbers,
            model_hash=self.network.content_hash,
        )

    def __repr__(self) -> str:
        return f"Codec('{self.info.name}', {self.info.model_hash}, up to {self.info.bitrates[-1]} bps)"

    @cached_property
    def entropy(self) -> Entropy | None:
        """The entropy coder with the tables in the model's folder, None without such; raises ModelError for damaged ones."""
        path = self.network.folder / TABLES
        return Entropy.load(path) if path.is_file() else None

    def codebooks_for(self, bitrate: float | None) -> int:
        """How many codebooks make up `bitrate` bits per second (`default_bitrate`, for None). Raises BitrateError for one between steps."""
        rates = self.info.bitrates
        if bitrate is None:
            bitrate = self.info.default_bitrate
        if bitrate not in rates:
            steps = f"{rates[0]} to {rates[-1]} in steps of {rates[0]}" if len(rates) > 1 else str(rates[0])
            raise BitrateError(f"bitrate {bitrate} bps; model '{self.info.name}' has {steps}")
        return rates.index(round(bitrate)) + 1

    def encode(self, audio: npt.ArrayLike, sample_rate: float, bitrate: float | None = None) -> Codes:
        """Float (−1…1) or int16 samples, [N] or [C, N] (mixed to mono), at any rate (resampled) to `Codes` [K, T].

        Raises AudioError for audio that cannot be used, BitrateError for a bitrate the model does not have.
        """
        return self.encode_batch([audio], sample_rate, bitrate)[0]

    def encode_batch(self, clips: Sequence[npt.ArrayLike], sample_rate: float, bitrate: float | None = None) -> list[Codes]:
        """Several clips of any lengths at once; the codes are those of `encode` on each alone."""
        info, k = self.info, self.codebooks_for(bitrate)
        rate = check_rate(sample_rate)
        signals = [resample(to_mono(clip), rate, info.sample_rate) for clip in clips]
        frames = [num_frames(len(signal), info.frame_size, info.delay_samples) for signal in signals]
        codes = np.zeros((len(signals), k, 0), np.int16)
        if any(frames):
            padded = np.zeros((len(signals), max(frames) * info.frame_size), np.float32)
            for row, signal in zip(padded, signals, strict=True):
                row[: len(signal)] = signal  # the codec is causal: what follows a clip cannot change its codes
            full, _ = self.network.encode(padded, self.network.initial_state("encoder", len(padded)))
            codes = full[:, :k].astype(np.int16)
        return [
            Codes(codes[i, :, :t].copy(), len(signal), info.sample_rate, info.frame_size, info.name, info.model_hash)
            for i, (signal, t) in enumerate(zip(signals, frames, strict=True))
        ]

    def decode(self, codes: Codes | npt.ArrayLike, num_samples: int | None = None) -> Audio:
        """`Codes`, or a bare array [K, T], to float32 samples at the model's rate, aligned with what was encoded.

        `Codes` know how many samples they stand for; of an array all whole ones are returned unless `num_samples` says less.
        Raises CodesError when the codes do not fit, ModelError when another model made them.
        """
        info = self.info
        if isinstance(codes, Codes):
            if codes.model_hash != info.model_hash:
                raise ModelError(
                    f"codes of model '{codes.model}' ({codes.model_hash}) cannot be decoded by '{info.name}' ({info.model_hash})"
                )
            num_samples = codes.num_samples if num_samples is None else num_samples
            codes = codes.array
        decoder = self.decoder()
        audio = decoder.push(codes)[info.delay_samples :]
        if num_samples is None:
            return audio
        if not 0 <= num_samples <= len(audio):
            raise CodesError(f"{num_samples} samples asked of {decoder.num_frames} frames, which hold {len(audio)}")
        return audio[:num_samples]

    def encoder(self, bitrate: float | None = None) -> Encoder:
        """A stream from samples at the model's rate to codes."""
        return Encoder(self, bitrate)

    def decoder(self) -> Decoder:
        """A stream from codes to samples."""
        return Decoder(self)


def bundled() -> list[str]:
    """Names of the models inside the package."""
    assets = resources.files("spectokenizer") / "assets"
    return sorted(entry.name for entry in assets.iterdir() if (entry / CONFIG).is_file()) if assets.is_dir() else []


def load(model: str | Path = "mini", threads: int = 1) -> Codec:
    """A bundled model by name, the folder of an exported one, or "org/name" from the Hugging Face hub. Raises ModelError."""
    if isinstance(model, str) and model in bundled():
        return Codec(Path(str(resources.files("spectokenizer") / "assets" / model)), threads)
    if str(model) and Path(model).is_dir():
        return Codec(model, threads)
    if isinstance(model, str) and hub.is_name(model):
        return Codec(hub.download(model), threads)
    raise ModelError(f"no model '{model}': neither bundled ({', '.join(bundled()) or 'none'}) nor a folder")
