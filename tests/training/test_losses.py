from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from spectokenizer.training import losses  # noqa: E402

RATE = 16000


@pytest.fixture
def clip():
    torch.manual_seed(0)
    t = torch.arange(RATE) / RATE
    return (0.1 * torch.sin(2 * torch.pi * 220 * t) + 0.01 * torch.randn(2, RATE)).float()


def test_zero_for_a_copy_and_growing_with_the_error(clip):
    generator = torch.Generator()
    noise = torch.randn_like(clip)
    previous = None
    for level in (0.0, 0.001, 0.01, 0.1):
        values = losses.reconstruction(clip, clip + level * noise, RATE, generator.manual_seed(3))
        if previous is None:
            assert all(float(v) < 2e-3 for v in values.values())
        else:
            assert all(float(values[name]) > float(previous[name]) for name in values)
        previous = values


def test_waveform_is_the_share_of_the_error(clip):
    assert float(losses.waveform(clip, torch.zeros_like(clip))) == pytest.approx(1, abs=1e-3)
    assert float(losses.waveform(clip, 0.5 * clip)) == pytest.approx(0.5, abs=1e-2)


def test_bands_count_alike_however_weak_they_are(clip):
    t = torch.arange(RATE) / RATE
    strong, weak = 0.3 * torch.sin(2 * torch.pi * 400 * t)[None], 0.02 * torch.sin(2 * torch.pi * 1500 * t)[None]
    x = strong + weak + 3e-3 * torch.randn(1, RATE)  # no band is empty
    assert float(losses.by_band(x, 0 * x, RATE)["bands"]) == pytest.approx(1, abs=0.05)
    assert float(losses.by_band(x, x - weak, RATE)["bands"]) == pytest.approx(1 / (len(losses.BAND_EDGES) - 1), rel=0.2)  # one band is lost
    assert float(losses.waveform(x, x - weak)) < 0.1


def test_coherence_hears_no_level(clip):
    assert float(losses.by_band(clip, 0.3 * clip, RATE)["coherence"]) == pytest.approx(0, abs=0.01)
    assert float(losses.by_band(clip, -clip, RATE)["coherence"]) == pytest.approx(2, abs=0.01)
    assert float(losses.by_band(clip, torch.randn_like(clip), RATE)["coherence"]) == pytest.approx(1, abs=0.1)


def test_disturbance_is_what_pesq_takes_off(speech):
    """Noise as strong as the signal is at each moment (P.810): within 0.25 of PESQ's points. The level alone is nothing to it."""
    pesq = pytest.importorskip("pesq").pesq
    x = torch.from_numpy(speech.copy())[None]
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)) * x
    for snr in (10, 20, 30):
        y = x + 10 ** (-snr / 20) * noise
        mos = pesq(RATE, x[0].numpy(), y[0].numpy(), "wb")
        raw = (3.8224 - math.log(4 / (mos - 0.999) - 1)) / 1.3669  # P.862.2, annex A
        assert 4.5 - float(losses.disturbance(x, y)) == pytest.approx(raw, abs=0.25)
    assert float(losses.disturbance(x, 0.25 * x)) < 0.01


def test_complex_sees_phase_and_magnitude_does_not(clip):
    values = losses.spectral(clip, -clip, RATE, torch.Generator().manual_seed(0))
    assert float(values["magnitude"]) < 1e-5 < float(values["complex"])


def test_complex_asks_for_no_phase_where_the_decoder_scatters_it():
    t = torch.arange(RATE)[None] / RATE
    low, high = (0.1 * torch.sin(2 * math.pi * f * t) for f in (500.0, 5000.0))
    below, above = (float(losses.spectral(x, -x, RATE, torch.Generator().manual_seed(0))["complex"]) for x in (low, high))
    assert above < 0.3 * below  # what is left is the clip's edges


def test_silence_has_finite_gradients(clip):
    y = torch.zeros_like(clip, requires_grad=True)
    sum(losses.reconstruction(torch.zeros_like(clip), y, RATE).values()).backward()
    assert torch.isfinite(y.grad).all()


def test_a_silent_clip_does_not_rule_a_step(clip):
    """Nor does one with an empty band, when the output is not quiet yet."""
    noise = 0.05 * torch.randn(3, RATE)
    telephone = torch.fft.irfft(torch.fft.rfft(noise) * (torch.fft.rfftfreq(RATE, 1 / RATE) > 300))

    def strength(x):
        y = (0.1 * torch.randn(len(x), RATE)).requires_grad_()
        values = losses.reconstruction(x, y, RATE, torch.Generator().manual_seed(0))
        sum(values[name] for name in ("waveform", "bands", "coherence", "disturbance")).backward()
        return y.grad.norm(dim=1)

    silent = strength(torch.cat([noise[:2], 3e-5 * noise[:1].sign()]))
    assert silent[2] == 0 and (silent[:2] > 0).all()
    with_telephone = strength(torch.cat([noise[:2], telephone[2:]]))
    assert with_telephone[2] < 1e3 * with_telephone[0]


def test_si_sdr_formula(clip):
    x = clip - clip.mean(1, keepdim=True)
    noise = torch.randn_like(x)
    noise -= noise.mean(1, keepdim=True)
    noise -= (noise * x).sum(1, keepdim=True) / x.square().sum(1, keepdim=True) * x  # orthogonal
    noise *= (x.square().sum(1, keepdim=True) / noise.square().sum(1, keepdim=True) / 10).sqrt()
    torch.testing.assert_close(losses.si_sdr(x, 3 * (x + noise)), torch.full((2,), 10.0), atol=1e-3, rtol=0)


@pytest.mark.parametrize(("window", "bands"), losses.MEL_SCALES)
def test_mel_filters_are_weighted_means(window, bands):
    filters = losses.mel_filters(window, bands, RATE)
    assert filters.shape == (window // 2 + 1, bands)
    torch.testing.assert_close(filters.sum(0), torch.ones(bands))
