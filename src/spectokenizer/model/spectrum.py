"""Samples ↔ compressed complex spectrum (paper: STFT, DRC eq. 1, DRE eq. 2, iSTFT), frame by frame with explicit state.

The window is a square-root Hann of two hops for analysis and synthesis, so overlap-add reconstructs exactly. The DFT is a
constant matrix with the window and the phase reference folded in: 320 × 512 numbers, one matrix product per frame.
The phase of a frame is referred to the window's centre, so neighbouring bins of one partial share their phase.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ..config import CodecConfig

FLOOR = 1e-7  # added to |s|² where its root is taken; -70 dB below a quiet bin, keeps gradients finite


def dft_matrices(config: CodecConfig) -> tuple[np.ndarray, np.ndarray]:
    """Analysis [window, 2·bins] and synthesis [2·bins, window], float64; columns are (re, im) pairs, bin after bin."""
    window, n_fft, bins = config.window_length, config.n_fft, config.num_bins
    n = np.arange(window)
    taper = np.sin(np.pi * (n + 0.5) / window)  # square root of a periodic Hann: squares sum to 1 at 50 % overlap
    phase = 2 * np.pi * np.outer(n - window / 2, np.arange(bins)) / n_fft
    analysis = taper[:, None, None] * np.stack([np.cos(phase), -np.sin(phase)], -1)  # [window, bins, 2]
    weight = np.where(np.arange(bins) == 0, 1.0, 2.0)[:, None, None] / n_fft  # real signal: each bin stands for two
    synthesis = weight * np.stack([np.cos(phase), -np.sin(phase)], -1).transpose(1, 2, 0) * taper
    return analysis.reshape(window, 2 * bins), synthesis.reshape(2 * bins, window)


def compress(s: Tensor) -> Tensor:
    """DRC, eq. 1 with p = 2: s_c = |s|^(1/2) · s/|s|; real and imaginary part on the last axis."""
    return s * (s.square().sum(-1, keepdim=True) + FLOOR).pow(-0.25)


def expand(s_c: Tensor) -> Tensor:
    """DRE, eq. 2 with p = 2: s = |s_c|² · s_c/|s_c|."""
    return s_c * (s_c.square().sum(-1, keepdim=True) + FLOOR**2).sqrt()


def unchanged(s: Tensor) -> Tensor:
    """Neither DRC nor DRE (p = 1, ablation)."""
    return s


CURVES = {2.0: (compress, expand), 1.0: (unchanged, unchanged)}  # p: DRC and DRE


class Analysis(nn.Module):
    """Samples [B, n·hop] to spectrum [n, B, bins, 2], after DRC. State [B, overlap]: the last samples seen."""

    matrix: Tensor

    def __init__(self, config: CodecConfig):
        super().__init__()
        self.config, self.compress = config, CURVES[config.compression][0]
        self.register_buffer("matrix", torch.tensor(dft_matrices(config)[0], dtype=torch.float32), persistent=False)

    def initial_state(self, batch: int) -> Tensor:
        return self.matrix.new_zeros(batch, self.config.delay_samples)

    def stft(self, audio: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        c = self.config
        samples = torch.cat([state, audio], 1)
        frames = samples.unfold(1, c.window_length, c.hop_length).transpose(0, 1)  # [n, B, window]
        spectrum = (frames @ self.matrix).unflatten(-1, (c.num_bins, 2))  # [n, B, bins, 2]
        return spectrum, samples[:, samples.shape[1] - c.delay_samples :]

    def forward(self, audio: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        spectrum, state = self.stft(audio, state)
        return self.compress(spectrum), state


class Scatter(nn.Module):
    """Pseudo-random phases for the highest bins, where none are coded: what the network makes of them is alike from frame to frame and from
    bin to bin, a click every 10 ms, which sounds like a buzz. Turned by angles that look random, the same magnitudes sound like breath.

    The angles are a fixed random projection of the frame's own quantised latent: a function of its codes alone, so there is nothing to
    remember, and a decoder that begins in the middle makes the same ones.
    """

    matrix: Tensor
    offset: Tensor

    def __init__(self, config: CodecConfig):
        super().__init__()
        self.bins, self.frames = config.scattered_bins, config.time_stride
        draw = np.random.RandomState(0)  # the one generator whose numbers numpy promises never to change
        self.register_buffer("matrix", torch.tensor(draw.randn(config.latent_dim, self.frames * self.bins), dtype=torch.float32), False)
        self.register_buffer("offset", torch.tensor(np.pi * draw.randn(self.frames * self.bins), dtype=torch.float32), False)

    @torch.no_grad()
    def angles(self, z_q: Tensor) -> Tensor:
        """Of latents [T, B, 1, D]: [T · frames, B, bins]; without codes they are as `offset` says."""
        turn = (z_q[:, :, 0] @ self.matrix + self.offset).unflatten(-1, (self.frames, self.bins))  # [T, B, frames, bins]
        return turn.transpose(1, 2).flatten(0, 1)

    def forward(self, s_c: Tensor, z_q: Tensor) -> Tensor:  # [n, B, bins, 2]
        if not self.bins:
            return s_c
        kept, high = s_c.split([s_c.shape[2] - self.bins, self.bins], 2)
        angle, (re, im) = self.angles(z_q), high.unbind(-1)
        turned = torch.stack([re * angle.cos() - im * angle.sin(), re * angle.sin() + im * angle.cos()], -1)
        return torch.cat([kept, turned], 2)


class Synthesis(nn.Module):
    """Compressed spectrum [n, B, bins, 2] to samples [B, n·hop], `delay_samples` late. State [B, overlap]: the open tail."""

    matrix: Tensor

    def __init__(self, config: CodecConfig):
        super().__init__()
        self.config, self.expand = config, CURVES[config.compression][1]
        self.register_buffer("matrix", torch.tensor(dft_matrices(config)[1], dtype=torch.float32), persistent=False)

    def initial_state(self, batch: int) -> Tensor:
        return self.matrix.new_zeros(batch, self.config.delay_samples)

    def istft(self, spectrum: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        frames = spectrum.flatten(-2) @ self.matrix  # [n, B, window]
        head, tail = frames.split(self.config.hop_length, -1)
        late = torch.cat([state[None], tail], 0)  # [n + 1, B, hop]
        return (head + late[:-1]).transpose(0, 1).flatten(1), late[-1]

    def forward(self, s_c: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return self.istft(self.expand(s_c), state)
