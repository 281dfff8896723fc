"""What TensorBoard lets one hear and see of a run: the same few held-out clips at every validation, original and decoded."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

from ..config import CodecConfig
from ..errors import ModelError
from ..model.spectokenizer import SpecTokenizer
from ..spectrogram import spectrograms
from .config import Stage, TrainConfig
from .data import Clips

KBPS = (1.5, 4.0, 6.0)  # or what the codec has nearest to them
SECONDS = 4.0  # of each clip


def rate_name(codec: CodecConfig, codebooks: int) -> str:
    """What results with so many codebooks are called; 0 is the plain autoencoder."""
    return f"{codebooks * codec.bits_per_code * codec.frame_rate / 1000:g}kbps" if codebooks else "unquantized"


class Samples:
    """The first seconds of `config.tensorboard_audio` clips, evenly spaced among the held-out ones."""

    def __init__(self, writer: SummaryWriter, clips: Clips, config: TrainConfig):
        self.writer, self.codec, self.originals_written = writer, config.codec, False
        usable = np.flatnonzero(clips.ends - clips.starts >= self.codec.frame_size)
        count = min(config.tensorboard_audio, len(usable))
        picks = [int(usable[i * len(usable) // count]) for i in range(count)]
        longest = round(SECONDS * self.codec.frame_rate) * self.codec.frame_size
        self.lengths = [min(longest, int(clips.ends[i] - clips.starts[i])) for i in picks]
        self.originals = np.zeros((count, longest), np.float32)
        for row, length, i in zip(self.originals, self.lengths, picks, strict=True):
            row[:length] = clips.samples[clips.starts[i] : clips.starts[i] + length] / 32768
        per_codebook = self.codec.bits_per_code * self.codec.frame_rate / 1000
        self.codebooks = sorted({min(max(round(kbps / per_codebook), 1), self.codec.num_codebooks) for kbps in KBPS})

    def write(self, model: SpecTokenizer, stage: Stage, step: int) -> None:
        """Decoded audio and, where there is matplotlib, spectrograms; the originals' audio with the first call alone."""
        if not self.lengths:
            return
        decoded = self._decode(model, stage)
        for i, length in enumerate(self.lengths):
            shown = {"original": self.originals[i, :length], **{name: y[i, :length] for name, y in decoded.items()}}
            for name, audio in shown.items():
                if name != "original" or not self.originals_written:
                    self.writer.add_audio(f"clip{i}/{name}", audio, step, self.codec.sample_rate)
            picture = picture_of(shown, self.codec.sample_rate)
            if picture is not None:
                self.writer.add_image(f"clip{i}/spectrograms", picture, step, dataformats="HWC")
        self.originals_written = True

    @torch.no_grad()
    def _decode(self, model: SpecTokenizer, stage: Stage) -> dict[str, np.ndarray]:
        """Name of the bitrate → audio [clips, N] in -1…1."""
        x = torch.from_numpy(self.originals).to(next(model.parameters()).device)
        out = {}
        for k in self.codebooks if stage.quantize else [0]:
            active = torch.full((len(x),), k, device=x.device) if k else None
            out[rate_name(self.codec, k)] = model(x, active, stage.quantize)[0].clamp(-1, 1).cpu().numpy()
        return out


def picture_of(shown: dict[str, np.ndarray], sample_rate: int) -> np.ndarray | None:
    """Their spectrograms, [H, W, 3] of uint8; None without matplotlib."""
    try:
        figure = spectrograms(shown, sample_rate)
    except ModelError:
        return None
    canvas: Any = figure.canvas
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
