"""Reconstruction losses, by name. The output is compared as a listener gets it: re-analysed from its samples.

`complex` and `magnitude` live in the codec's own compressed domain (|s|^½, eq. 1) at several resolutions; `mel` is DAC's
multi-scale log-mel distance. The complex term buys waveform fidelity (SDR), the other two buy sound. `loudness` weighs errors
as an ear does: in Bark bands, above the threshold of hearing and of masking, and more for what was added than for what is missing.
"""

from __future__ import annotations

import functools
import itertools

import numpy as np
import torch
from torch import Tensor

from ..model.discriminators import Features

RESOLUTIONS = ((320, 160), (512, 128), (1024, 256))  # (window, hop)
MEL_SCALES = ((32, 5), (64, 10), (128, 20), (256, 40), (512, 80), (1024, 160), (2048, 320))  # (window, bands), hop = window/4
BAND_EDGES = (0, 250, 500, 750, 1000, 1350, 1700, 2150, 2700, 3400)  # Hz, about two critical bands each
BAND_WINDOW, BAND_FLOOR = 512, 1e-6
BAND_MOST = 100.0  # times its energy: so much the error of a band counts at most, that an empty one does not rule a step
SILENCE = 1e-4  # RMS; an error's share of a quieter clip says nothing either
MEL_FLOOR = 3e-5  # mean magnitude of a band, -90 dB of full scale: below it nothing is heard
CODEC_SCALE = 100.0  # a full-scale sine in the codec's own spectrum
LOUDNESS_BANDS, LOUDNESS_WINDOW = 49, 512  # P.862.2's numbers at 16 kHz
LISTENING_LEVEL = 79.0  # dB SPL of the original, whatever its level in the file (P.862)
GRADIENT_FLOOR = 1e-4  # |s| below this counts as silence: the root's slope stays finite


@functools.cache
def _window(length: int, device: torch.device) -> Tensor:
    return torch.hann_window(length, device=device)


@functools.cache
def mel_filters(n_fft: int, bands: int, sample_rate: int) -> Tensor:
    """Triangular mel filters [n_fft/2 + 1, bands] (HTK mel), each a weighted mean, float32."""
    top = 2595 * np.log10(1 + sample_rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, bands + 2) / 2595) - 1)
    bins = np.linspace(0, sample_rate / 2, n_fft // 2 + 1)
    rise = (bins[:, None] - edges[:-2]) / np.diff(edges)[:-1]
    fall = (edges[2:] - bins[:, None]) / np.diff(edges)[1:]
    filters = np.maximum(0, np.minimum(rise, fall))
    nearest = np.abs(bins[:, None] - edges[1:-1]).argmin(0)  # a band narrower than a bin takes the nearest one
    filters[nearest, np.arange(bands)] += filters.sum(0) == 0
    return torch.tensor(filters / filters.sum(0), dtype=torch.float32)


def stft(x: Tensor, window: int, hop: int) -> Tensor:
    """[B, N] to complex [B, window/2 + 1, frames], a full-scale sine near 1."""
    w = _window(window, x.device)
    return torch.stft(x, window, hop, window=w, center=True, pad_mode="constant", return_complex=True) * (2 / window)


def _compressed(s: Tensor) -> tuple[Tensor, Tensor]:
    power = s.real.square() + s.imag.square() + GRADIENT_FLOOR**2
    root = power.pow(0.25)
    return s / power.pow(0.25), root


def spectral(x: Tensor, y: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
    """`complex` and `magnitude`: mean absolute error in the compressed domain, at one resolution drawn per call."""
    pick = int(torch.randint(len(RESOLUTIONS), (), generator=generator))
    window, hop = RESOLUTIONS[pick]
    with torch.no_grad():
        reference, loudness = _compressed(stft(x, window, hop) * CODEC_SCALE)
    output, loud = _compressed(stft(y, window, hop) * CODEC_SCALE)
    difference = torch.view_as_real(output - reference)
    return {"complex": difference.abs().mean(), "magnitude": (loud - loudness).abs().mean()}


def _over_clips(x: Tensor, values: Tensor) -> Tensor:
    """Mean of values [B] over the clips of x [B, N] that are not silent. What is to come out of silence, `complex`, `magnitude` and `mel`
    say; relative to nothing at all, one silent clip would rule the step of a network that is not quiet yet."""
    heard = (x.square().mean(1) > SILENCE**2).to(values)
    return (values * heard).sum() / heard.sum().clamp(min=1)


def waveform(x: Tensor, y: Tensor) -> Tensor:
    """Root of the error's share of the signal's energy, mean over clips: 1 for silence, 0 for a perfect copy."""
    return _over_clips(x, ((y - x).square().mean(1) / (x.square().mean(1) + 1e-6) + 1e-6).sqrt())


def by_band(x: Tensor, y: Tensor, sample_rate: int) -> dict[str, Tensor]:
    """Phase in each band of `BAND_EDGES`, mean over bands and clips. `waveform` is ruled by the strongest partials, which lie below
    1 kHz; here every band counts as much as any other.

    `bands`: the error's share of the band's energy, 1 for silence. A band whose phase is not known is best left out.
    `coherence`: 1 − Re Σ X* Y / √(Σ|X|² Σ|Y|²), which asks for the phase and leaves the level to other losses.
    """
    bin_hz = sample_rate / BAND_WINDOW
    edges = [round(edge / bin_hz) for edge in BAND_EDGES]
    with torch.no_grad():
        reference = torch.view_as_real(stft(x, BAND_WINDOW, BAND_WINDOW // 4))
        energy = _band_sums(reference.square(), edges) + BAND_FLOOR
    output = torch.view_as_real(stft(y, BAND_WINDOW, BAND_WINDOW // 4))
    error = _band_sums((output - reference).square(), edges)
    norm = (energy * (_band_sums(output.square(), edges) + BAND_FLOOR)).sqrt()
    coherence = (_band_sums(output * reference, edges) + BAND_FLOOR) / norm
    share = error / (energy + error.detach() / BAND_MOST)
    return {"bands": _over_clips(x, share.mean(1)), "coherence": _over_clips(x, 1 - coherence.mean(1))}


def _band_sums(values: Tensor, edges: list[int]) -> Tensor:
    """[B, bins, frames, 2] to [B, bands]."""
    sums = values.sum((2, 3))
    return torch.stack([sums[:, low:high].sum(1) for low, high in itertools.pairwise(edges)], 1)


def mel(x: Tensor, y: Tensor, sample_rate: int, scales: int = 2, generator: torch.Generator | None = None) -> Tensor:
    """Mean absolute log10-mel error over `scales` of the seven scales, drawn per call."""
    total = y.new_zeros(())
    for i in torch.randperm(len(MEL_SCALES), generator=generator)[:scales].tolist():
        window, bands = MEL_SCALES[i]
        filters = mel_filters(window, bands, sample_rate).to(y.device)

        def log_mel(signal: Tensor, window: int = window, filters: Tensor = filters) -> Tensor:
            s = stft(signal, window, window // 4)
            magnitude = (s.real.square() + s.imag.square() + 1e-12).sqrt()
            return (magnitude.transpose(1, 2) @ filters).clamp(min=MEL_FLOOR).log10()

        with torch.no_grad():
            reference = log_mel(x)
        total = total + (log_mel(y) - reference).abs().mean()
    return total / scales


@functools.cache
def _bark_bands(sample_rate: int) -> tuple[Tensor, Tensor, Tensor]:
    """Triangular filters [bins, bands] that sum power, the threshold of hearing [bands] as power, and the bands' widths in Bark."""
    bins = np.linspace(0, sample_rate / 2, LOUDNESS_WINDOW // 2 + 1)
    edges = np.linspace(6 * np.arcsinh(50 / 600), 6 * np.arcsinh(sample_rate / 2 / 600), LOUDNESS_BANDS + 2)  # Bark
    position = 6 * np.arcsinh(bins / 600)[:, None]
    width = edges[1] - edges[0]
    filters = np.maximum(0, 1 - np.abs(position - edges[1:-1]) / width)
    nearest = np.abs(position - edges[1:-1]).argmin(0)  # a band narrower than a bin takes the nearest one
    filters[nearest, np.arange(LOUDNESS_BANDS)] += filters.sum(0) == 0
    khz = 0.6 * np.sinh(edges[1:-1] / 6)
    threshold = 3.64 * khz**-0.8 - 6.5 * np.exp(-0.6 * (khz - 3.3) ** 2) + 1e-3 * khz**4  # dB SPL (Terhardt, 1979)
    tensors = (torch.tensor(a, dtype=torch.float32) for a in (filters, 10 ** (threshold / 10), np.full(LOUDNESS_BANDS, width)))
    return tuple(tensors)  # type: ignore[return-value]


def loudness(x: Tensor, y: Tensor, sample_rate: int) -> Tensor:
    """Disturbance after PESQ's perceptual model (ITU-T P.862, sections 10.2.5 to 10.2.11), without its alignments, which would
    forgive a codec its gain and its timbre: Zwicker loudness in Bark bands, a dead zone where the original masks the error, and a
    second term for added sound. The logarithm of 1 + disturbance, mean over clips: 0 for a perfect copy, 1 for a fair one."""
    filters, threshold, width = (t.to(x.device) for t in _bark_bands(sample_rate))
    level = (10 ** (LISTENING_LEVEL / 10) / (x.square().mean(1) + 1e-6))[:, None, None]

    def bark(signal: Tensor) -> Tensor:  # [B, frames, bands], power
        s = stft(signal, LOUDNESS_WINDOW, LOUDNESS_WINDOW // 2)
        return level * ((s.real.square() + s.imag.square()).transpose(1, 2) @ filters)

    def sone(power: Tensor) -> Tensor:  # Zwicker's law
        return 0.24 * (threshold * 2).pow(0.23) * ((0.5 + 0.5 * power / threshold).pow(0.23) - 1)

    with torch.no_grad():
        reference = bark(x)
        wanted = sone(reference)
        audible = ((reference.sum(-1) + 1e4) / 10 ** (LISTENING_LEVEL / 10)).pow(0.04)  # errors in pauses count a little more
    output = bark(y)
    heard = sone(output)
    difference = heard - wanted
    disturbance = (difference.abs() - 0.25 * torch.minimum(heard, wanted)).clamp(min=0)
    asymmetry = ((output + 500) / (reference + 500)).pow(1.2)
    asymmetry = (asymmetry.clamp(max=12) * (asymmetry > 3)).detach()
    symmetric = ((disturbance.square() * width).sum(-1) + 1e-6).sqrt() / audible  # [B, frames]
    added = (disturbance * asymmetry * width).sum(-1) / audible
    over_time = (symmetric.square().mean(1) + 1e-6).sqrt() + 0.1 * (added.square().mean(1) + 1e-6).sqrt()
    return _over_clips(x, over_time.log1p())


def reconstruction(x: Tensor, y: Tensor, sample_rate: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
    """All reconstruction losses of output y [B, N] against x [B, N], unweighted."""
    return {
        "waveform": waveform(x, y),
        **by_band(x, y, sample_rate),
        **spectral(x, y, generator),
        "mel": mel(x, y, sample_rate, generator=generator),
        "loudness": loudness(x, y, sample_rate),
    }


def si_sdr(x: Tensor, y: Tensor) -> Tensor:
    """Scale-invariant signal-to-distortion ratio per clip, dB: [B, N], [B, N] to [B]."""
    x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    target = (x * y).sum(1, keepdim=True) / x.square().sum(1, keepdim=True).clamp(min=1e-8) * x
    return 10 * torch.log10(target.square().sum(1).clamp(min=1e-8) / (y - target).square().sum(1).clamp(min=1e-8))


def discriminator(real: Features, fake: Features) -> Tensor:
    """Least squares: verdicts towards 1 for real and 0 for fake audio, mean over the discriminators."""
    terms = [(1 - r[-1]).square().mean() + f[-1].square().mean() for r, f in zip(real, fake, strict=True)]
    return torch.stack(terms).mean()


def adversarial(real: Features, fake: Features) -> dict[str, Tensor]:
    """Eq. (5)'s L_adv and L_feat for the codec: verdicts on its output towards 1, features towards those of the original."""
    verdicts = [(1 - f[-1]).square().mean() for f in fake]
    distances = [
        (a - b.detach()).abs().mean() / b.detach().abs().mean().clamp(min=1e-4)
        for f, r in zip(fake, real, strict=True)
        for a, b in zip(f[:-1], r[:-1], strict=True)
    ]
    return {"adversarial": torch.stack(verdicts).mean(), "feature": torch.stack(distances).mean()}
