"""The two discriminators of the paper: MPD (HiFi-GAN: Kong et al., 2020) and MBMS-STFT (DAC: Kumar et al., 2023).

Both return, per sub-discriminator, the list of feature maps of its layers; the last one is its verdict. Default structure and
widths are the published ones; `width` scales the channels (0.25 trains on a CPU), `compression` below 1 lets MBMS-STFT see what is quiet.
They exist in training only.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

SLOPE = 0.1
FLOOR = 1e-4  # added to powers that are compressed
PERIODS = (2, 3, 5, 7, 11)
WINDOWS = (2048, 1024, 512)
BANDS = ((0.0, 0.1), (0.1, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0))  # shares of the spectrum

Features = list[list[Tensor]]


def _conv(c_in: int, c_out: int, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]) -> nn.Module:
    return weight_norm(nn.Conv2d(c_in, c_out, kernel, stride, padding))


class PeriodDiscriminator(nn.Module):
    """The waveform folded at one period and looked at along it. x [B, N] to feature maps [B, C, N/period/…, period]."""

    def __init__(self, period: int, width: float = 1.0):
        super().__init__()
        self.period = period
        channels = [1, *(max(4, round(c * width)) for c in (32, 128, 512, 1024, 1024))]
        strides = (3, 3, 3, 3, 1)
        self.convs = nn.ModuleList(_conv(a, b, (5, 1), (s, 1), (2, 0)) for a, b, s in zip(channels, channels[1:], strides, strict=False))
        self.post = _conv(channels[-1], 1, (3, 1), (1, 1), (1, 0))

    def forward(self, x: Tensor) -> list[Tensor]:
        x = F.pad(x, (0, -x.shape[1] % self.period), mode="reflect")
        y = x.unflatten(1, (-1, self.period))[:, None]  # [B, 1, N/period, period]
        features = []
        for conv in self.convs:
            y = F.leaky_relu(conv(y), SLOPE)
            features.append(y)
        return [*features, self.post(y)]


class BandSTFTDiscriminator(nn.Module):
    """The complex spectrum at one resolution, cut into bands with their own convolutions. x [B, N]; sees phase."""

    def __init__(self, window: int, width: float = 1.0, compression: float = 1.0):
        super().__init__()
        self.window, self.compression = window, compression
        c = max(4, round(32 * width))
        bins = window // 2 + 1
        self.edges = [(int(low * bins), int(high * bins)) for low, high in BANDS]
        shape = [((3, 9), (1, 1), (1, 4)), *[((3, 9), (1, 2), (1, 4))] * 3, ((3, 3), (1, 1), (1, 1))]
        self.bands = nn.ModuleList(nn.ModuleList(_conv(2 if i == 0 else c, c, *s) for i, s in enumerate(shape)) for _ in BANDS)
        self.post = _conv(c, 1, (3, 3), (1, 1), (1, 1))
        self.register_buffer("taper", torch.hann_window(window), persistent=False)

    def forward(self, x: Tensor) -> list[Tensor]:
        s = torch.stft(x, self.window, self.window // 4, window=self.taper, return_complex=True, pad_mode="constant")
        s = torch.view_as_real(s).permute(0, 3, 2, 1)  # [B, 2, T, bins]
        if self.compression != 1:
            s = s * (s.square().sum(1, keepdim=True) + FLOOR).pow((self.compression - 1) / 2)
        features, ends = [], []
        for (low, high), convs in zip(self.edges, self.bands, strict=True):
            y = s[..., low:high]
            for conv in convs:
                y = F.leaky_relu(conv(y), SLOPE)
                features.append(y)
            ends.append(y)
        return [*features, self.post(torch.cat(ends, -1))]


class Discriminators(nn.Module):
    """MPD and MBMS-STFT side by side: x [B, N] to one list of feature maps each."""

    def __init__(self, width: float = 1.0, mpd: bool = True, mbms_stft: bool = True, compression: float = 1.0):
        super().__init__()
        periods = [PeriodDiscriminator(p, width) for p in PERIODS] if mpd else []
        spectra = [BandSTFTDiscriminator(w, width, compression) for w in WINDOWS] if mbms_stft else []
        self.members = nn.ModuleList([*periods, *spectra])

    def forward(self, x: Tensor) -> Features:
        x = x - x.mean(1, keepdim=True)
        x = 0.8 * x / (x.abs().amax(1, keepdim=True) + 1e-5)  # they judge the sound, not its level (DAC)
        return [member(x) for member in self.members]
