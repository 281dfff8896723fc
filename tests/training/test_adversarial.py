"""The second player: published shapes, losses with known values, a stage that trains, freezes and resumes."""

from __future__ import annotations

import json

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lightning_fabric")

from safetensors.torch import load_file  # noqa: E402

from spectokenizer.model.discriminators import PERIODS, BandSTFTDiscriminator, Discriminators, PeriodDiscriminator  # noqa: E402
from spectokenizer.training import losses  # noqa: E402
from spectokenizer.training.balancer import Balancer  # noqa: E402

from .test_train import RECIPE, finish, setup, start  # noqa: E402, F401

STAGE = """
[[stage]]
name = "adversarial"
steps = 3
quantize = true
freeze_encoder = true
lr = 1e-3
lr_end = 1e-3
losses = { complex = 1.0, mel = 1.0, adversarial = 1.0, feature = 2.0 }
"""


def test_published_structure():
    """Channel widths and strides of HiFi-GAN's MPD: five convolutions, 1024 wide at the end, time divided by 81."""
    d = PeriodDiscriminator(2)
    features = d(torch.randn(1, 16200))
    assert [f.shape[1] for f in features] == [32, 128, 512, 1024, 1024, 1]
    assert features[-1].shape[2:] == (8100 // 81, 2)
    assert sum(p.numel() for p in Discriminators().parameters()) == pytest.approx(42.5e6, rel=0.01)


@pytest.mark.parametrize("length", [8000, 8001, 15840])
def test_shapes_for_any_length(length):
    features = Discriminators(width=0.05)(torch.randn(2, length))
    assert len(features) == len(PERIODS) + 3
    assert all(len(f) == 6 for f in features[: len(PERIODS)])
    assert all(len(f) == 5 * 5 + 1 for f in features[len(PERIODS) :])
    assert all(torch.isfinite(f).all() and f.shape[0] == 2 for member in features for f in member)


def test_switches():
    assert len(Discriminators(0.05, mpd=False).members) == 3
    assert len(Discriminators(0.05, mbms_stft=False).members) == 5


@pytest.mark.parametrize("window", [512, 2048])
def test_the_spectrum_is_seen_as_published(window):
    """DAC gives the plain transform: a sine of amplitude 0.8 stands in its bin with 0.8 times half the sum of Hann's window."""
    discriminator, seen = BandSTFTDiscriminator(window, 0.1), []
    for convs in discriminator.bands:
        convs[0].register_forward_hook(lambda module, given, output: seen.append(given[0]))
    discriminator(0.8 * torch.sin(2 * torch.pi * 2000 / 16000 * torch.arange(16000.0))[None])
    spectrum = torch.cat(seen, -1).square().sum(1).sqrt()[0]  # [T, bins]
    assert int(spectrum[10].argmax()) == window // 8
    assert float(spectrum[10].max()) == pytest.approx(0.8 * window / 4, rel=1e-3)


def test_compression_lifts_what_is_quiet():
    """A sound 60 dB lower is seen 18 dB lower; silence has a gradient; the published discriminators see the spectrum itself."""
    x = torch.randn(1, 16000)

    def seen(compression, scale):
        torch.manual_seed(0)
        discriminator = BandSTFTDiscriminator(512, 0.1, compression)
        first, inputs = discriminator.bands[2][0], []
        first.register_forward_hook(lambda module, given, output: inputs.append(given[0]))
        discriminator(x * scale)
        return float(inputs[0].square().mean())

    assert seen(1.0, 1e-3) == pytest.approx(1e-6 * seen(1.0, 1.0), rel=1e-4)
    assert seen(0.3, 1.0) == pytest.approx(1e6**0.3 * seen(0.3, 1e-3), rel=0.5)
    silence = torch.zeros(1, 16000, requires_grad=True)
    sum(f.square().mean() for f in BandSTFTDiscriminator(512, 0.1, 0.3)(silence)).backward()
    assert silence.grad.isfinite().all()


def test_least_squares_values():
    ones, zeros = [[torch.ones(2, 3), torch.ones(2, 1)]], [[torch.ones(2, 3), torch.zeros(2, 1)]]
    assert float(losses.discriminator(ones, zeros)) == 0
    assert float(losses.discriminator(zeros, ones)) == 2
    assert {k: float(v) for k, v in losses.adversarial(ones, zeros).items()} == {"adversarial": 1.0, "feature": 0.0}


def test_balancer_makes_weights_shares_of_the_gradient():
    y = torch.randn(3, 50, requires_grad=True)
    other = torch.ones((), requires_grad=True)
    values = {"loud": 1000 * y.sum(), "quiet": 1e-3 * (y * torch.linspace(-1, 1, 50)).sum(), "apart": 2 * other}
    Balancer()(values, {"loud": 1.0, "quiet": 3.0, "apart": 0.5}, y).backward()
    loud, ramp = torch.ones(50) / 50**0.5, torch.linspace(-1, 1, 50)
    torch.testing.assert_close(y.grad, (0.25 * loud + 0.75 * ramp / ramp.norm()).expand(3, 50))
    assert float(other.grad) == 1.0


def test_adversarial_stage_keeps_every_code(setup):  # noqa: F811
    recipe = "discriminator_width = 0.02\nbalance = true\n" + RECIPE + STAGE
    (setup / "tiny.toml").write_text(recipe)
    try:
        finish(start(setup, "gan", "--max-steps", "12"))
        before = load_file(setup / "gan" / "weights.safetensors")
        finish(start(setup, "gan", "--max-steps", "13"))
        finish(start(setup, "gan"))
        finish(start(setup, "gan-at-once"))
    finally:
        (setup / "tiny.toml").write_text(RECIPE)
    state = torch.load(setup / "gan" / "state.pt", weights_only=True)
    assert state["step"] == 15
    assert state["discriminators"]
    after = load_file(setup / "gan" / "weights.safetensors")
    kept = [name for name in after if name.startswith(("encoder.", "quantizer."))]
    assert kept and all(torch.equal(after[name], before[name]) for name in kept)
    assert any(not torch.equal(after[name], before[name]) for name in after if name.startswith("decoder."))
    at_once = torch.load(setup / "gan-at-once" / "state.pt", weights_only=True)
    for name, value in state["discriminators"].items():
        assert torch.equal(value, at_once["discriminators"][name]), name
    assert all(torch.equal(value, after[name]) for name, value in load_file(setup / "gan-at-once" / "weights.safetensors").items())
    lines = [json.loads(line) for line in (setup / "gan" / "metrics.jsonl").read_text().splitlines()]
    assert {"discriminator", "adversarial", "feature"} <= set(next(x for x in lines if x["step"] == 14 and x["kind"] == "train"))
