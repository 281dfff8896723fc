"""Perfect reconstruction, its delay to the sample, and the dynamic range pair, which an ablation leaves out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

torch = pytest.importorskip("torch")

from spectokenizer.config import CodecConfig  # noqa: E402
from spectokenizer.model.spectrum import Analysis, Scatter, Synthesis, compress, dft_matrices, expand  # noqa: E402

CONFIG = CodecConfig()
HOP, WINDOW, FFT = CONFIG.hop_length, CONFIG.window_length, CONFIG.n_fft
Signal = npt.NDArray[np.float64]


def double() -> tuple[Analysis, Synthesis]:
    """Both transforms with the matrices as they were computed, not as they are stored."""
    analysis, synthesis = Analysis(CONFIG), Synthesis(CONFIG)
    analysis.matrix, synthesis.matrix = (torch.tensor(matrix) for matrix in dft_matrices(CONFIG))
    return analysis, synthesis


def there_and_back(audio: Signal, analysis: Analysis, synthesis: Synthesis) -> Signal:
    x = torch.tensor(audio)[None].to(analysis.matrix.dtype)
    spectrum, _ = analysis.stft(x, analysis.initial_state(1))
    return synthesis.istft(spectrum, synthesis.initial_state(1))[0][0].numpy()


def frames(audio: Signal) -> Signal:
    """Windowed frames [n, window], the first half of the first one before the start."""
    padded = np.concatenate([np.zeros(WINDOW - HOP), audio])
    taper = np.sqrt(0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(WINDOW) + 0.5) / WINDOW))
    return np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP] * taper


def nyquist_part(audio: Signal) -> Signal:
    """What the dropped bin would have added to the output."""
    alternating = (-1.0) ** np.arange(WINDOW)
    taper = np.sin(np.pi * (np.arange(WINDOW) + 0.5) / WINDOW)
    parts = (frames(audio) @ alternating)[:, None] * alternating * taper / FFT
    out = np.zeros(len(audio) + WINDOW - HOP)
    for i, part in enumerate(parts):
        out[i * HOP : i * HOP + WINDOW] += part
    return out[: len(audio)]


def test_analysis_is_the_centred_dft() -> None:
    audio = np.random.default_rng(0).standard_normal(20 * HOP)
    spectrum, state = double()[0].stft(torch.tensor(audio)[None], torch.zeros(1, WINDOW - HOP, dtype=torch.float64))
    centre = np.exp(2j * np.pi * np.arange(FFT // 2) * (WINDOW / 2) / FFT)
    expected = np.fft.rfft(frames(audio), FFT)[:, :-1] * centre
    np.testing.assert_allclose(torch.view_as_complex(spectrum)[:, 0].numpy(), expected, atol=1e-12)
    np.testing.assert_array_equal(state[0].numpy(), audio[-(WINDOW - HOP) :])


def test_identity_but_for_the_nyquist_bin() -> None:
    """On white noise the output misses exactly that bin, and nothing else."""
    audio = np.random.default_rng(1).standard_normal(50 * HOP)
    output = there_and_back(audio, *double()) + nyquist_part(audio)
    np.testing.assert_allclose(output[CONFIG.delay_samples :], audio[: -CONFIG.delay_samples], atol=1e-12)


def test_identity_without_content_at_nyquist() -> None:
    """Tones far below the Nyquist frequency: what leaks there through the window is small."""
    t = np.arange(60 * HOP) / CONFIG.sample_rate
    audio = sum(np.sin(2 * np.pi * f * t + f) for f in (80.0, 440.0, 1234.5, 3000.0)) * np.hanning(len(t))
    delay = CONFIG.delay_samples
    np.testing.assert_allclose(there_and_back(audio, *double())[delay:], audio[:-delay], atol=2e-4)
    np.testing.assert_allclose(there_and_back(audio, Analysis(CONFIG), Synthesis(CONFIG))[delay:], audio[:-delay], atol=2e-4)


@pytest.mark.parametrize("at", [0, 1, 159, 160, 161, 1000])
def test_delay_is_exact_to_the_sample(at: int) -> None:
    audio = np.zeros(12 * HOP)
    audio[at] = 1
    output = there_and_back(audio, *double())
    assert np.abs(output).argmax() == at + CONFIG.delay_samples
    assert not output[: at - at % HOP].any()  # nothing before the frame that sees it


def test_expand_undoes_compress() -> None:
    generator = torch.Generator().manual_seed(0)
    level = torch.logspace(-1, 2, 1000, dtype=torch.float64)[:, None]
    s = level * torch.nn.functional.normalize(torch.randn(1000, 2, generator=generator, dtype=torch.float64), dim=-1)
    torch.testing.assert_close(expand(compress(s)), s, rtol=1e-5, atol=0)
    torch.testing.assert_close(compress(s).norm(dim=-1), level[:, 0].sqrt(), rtol=1e-5, atol=0)  # eq. 1 with p = 2
    assert (compress(s) * s).sum(-1).div(compress(s).norm(dim=-1) * s.norm(dim=-1)).min() > 1 - 1e-12  # same phase


def test_silence_has_finite_gradients() -> None:
    for function in (compress, expand):
        s = torch.zeros(3, 2, requires_grad=True)
        function(s).sum().backward()
        assert torch.isfinite(s.grad).all()
        assert not function(torch.zeros(3, 2)).any()


def test_without_compression_the_spectrum_itself_is_coded() -> None:
    plain, synthesis = Analysis(CodecConfig(compression=1)), Synthesis(CodecConfig(compression=1))
    x = 0.1 * torch.sin(0.3 * torch.arange(8 * HOP))[None]  # nothing at the Nyquist frequency, whose bin is dropped
    s, _ = plain(x, plain.initial_state(1))
    assert torch.equal(s, Analysis(CONFIG).stft(x, plain.initial_state(1))[0])
    y, _ = synthesis(s, synthesis.initial_state(1))
    torch.testing.assert_close(y[:, HOP:], x[:, :-HOP], rtol=0, atol=1e-4)


def test_scattered_phases_are_of_the_high_bins_alone_and_differ_with_the_latent() -> None:
    config = CodecConfig(scatter=2000.0)
    scatter, low = Scatter(config), 64  # 2000 Hz of 31.25 Hz bins
    assert config.scattered_bins == config.num_bins - low
    generator = torch.Generator().manual_seed(0)
    z_q = torch.randn(50, 3, 1, config.latent_dim, generator=generator)
    spectrum = torch.randn(100, 3, config.num_bins, 2, generator=generator)
    turned = scatter(spectrum, z_q)
    assert torch.equal(turned[:, :, :low], spectrum[:, :, :low])
    torch.testing.assert_close(turned.square().sum(-1), spectrum.square().sum(-1))
    angles = scatter.angles(z_q)  # [100, 3, bins]
    for other in (angles.roll(1, 0), angles.roll(1, 1), angles.roll(1, 2)):  # another frame, clip, bin: as far apart as chance has it
        assert float((angles - other).cos().mean().abs()) < 0.02
    alone = scatter.angles(z_q[20:21])  # of the frame's own latent, up to how a library rounds products of other sizes
    torch.testing.assert_close(alone[:, 1], angles[40:42, 1], rtol=0, atol=1e-4)
    assert torch.equal(Scatter(CodecConfig(scatter=8000.0))(spectrum, z_q), spectrum)
