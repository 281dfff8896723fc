"""Each layer against the paper's equation or torch's plain convolution, causal padding written out; and causality itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from spectokenizer.model import kernels  # noqa: E402
from spectokenizer.model.layers import RNN2D, BatchNorm, ComplexConv, Down, FLNorm, RealStem, ReLU, Snake2D, Stem, Up  # noqa: E402

T, B = 6, 2


@pytest.fixture(autouse=True)
def _torch_operators() -> None:
    kernels.disable()
    torch.manual_seed(0)


def randomised(layer: Any) -> Any:
    """In float64, with biases and slopes that matter."""
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
            elif name.endswith("alpha"):
                parameter.uniform_(0.5, 2)
    return layer.double()


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def run(layer: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        return layer(x, layer.initial_state(x.shape[1]))[0]


def image(x: Tensor) -> Tensor:
    """[T, B, F, C] as torch's convolutions want it, [B, C, T, F]."""
    return x.permute(1, 3, 0, 2)


def frames(x: Tensor) -> Tensor:
    return x.permute(2, 0, 3, 1)


def past(x: Tensor, count: int) -> Tensor:
    """Zeros for `count` frames before the first of [B, C, T, F]."""
    return F.pad(x, (0, 0, count, 0))


def snake(x: Tensor, layer: Snake2D) -> Tensor:
    return x + torch.sin(layer.alpha * x) ** 2 / layer.alpha


def complex_of(x: Tensor) -> Tensor:
    """Neighbouring channels are real and imaginary part: [B, 2·C, T, F] to complex [B, C, T, F]."""
    return torch.complex(x[:, 0::2], x[:, 1::2])


def real_of(x: Tensor) -> Tensor:
    return torch.stack([x.real, x.imag], 2).flatten(1, 2)


def test_flnorm_is_equations_3_and_4() -> None:
    y = random(T, B, 5, 7).numpy()
    mean, variance = (reduce(y, axis=(2, 3), keepdims=True) for reduce in (np.mean, np.var))
    np.testing.assert_allclose(FLNorm()(torch.tensor(y)).numpy(), (y - mean) / np.sqrt(variance + FLNorm.eps), rtol=1e-10)


def test_snake_value_and_gradients() -> None:
    layer = randomised(Snake2D(5))
    x = (3 * random(2, 3, 4, 5)).requires_grad_()
    torch.testing.assert_close(layer(x), snake(x, layer))
    assert torch.autograd.gradcheck(lambda x, alpha: torch.func.functional_call(layer, {"alpha": alpha}, (x,)), (x, layer.alpha))


def test_stem_is_complex_convolution_then_down() -> None:
    layer = randomised(Stem(c_complex=6, c_out=5, bands=4, taps=3, stride=4))
    s = random(T, B, 16, 2)
    weight = torch.view_as_complex(layer.complex_weight)[:, :, 0].permute(2, 0, 1)[:, None]  # [c/2, 1, 3, 3]
    complex_conv = F.conv2d(F.pad(past(complex_of(image(s)), 2), (1, 1)), weight)
    down = F.conv2d(past(real_of(complex_conv), 2), layer.weight.permute(3, 2, 0, 1), stride=(1, 4))
    torch.testing.assert_close(run(layer, s), snake(frames(down) + layer.bias, layer.snake).detach())


def test_real_stem_is_a_real_convolution_then_down() -> None:
    layer = randomised(RealStem(c_complex=6, c_out=5, bands=4, taps=3, stride=4))
    s = random(T, B, 16, 2)
    first = F.conv2d(F.pad(past(image(s), 2), (1, 1)), layer.real_weight.permute(3, 2, 0, 1))
    down = F.conv2d(past(first, 2), layer.weight.permute(3, 2, 0, 1), stride=(1, 4))
    torch.testing.assert_close(run(layer, s), snake(frames(down) + layer.bias, layer.snake).detach())


def test_batch_norm_is_torch_s_over_channels() -> None:
    layer, plain = BatchNorm(7).double(), torch.nn.BatchNorm2d(7).double()
    y = 3 * random(T, B, 5, 7) + 1
    for training in (True, False):  # then with the statistics that the first pass left
        layer.train(training), plain.train(training)
        torch.testing.assert_close(layer(y), frames(plain(image(y))))


def test_relu_takes_snake_s_place() -> None:
    layer = randomised(Down(5, 7, bands_out=3, taps=3, stride=(1, 4), activation=ReLU))
    x = random(T, B, 12, 5)
    expected = F.conv2d(past(image(x), 2), layer.weight.view(3, 4, 5, 7).permute(3, 2, 0, 1), layer.bias, (1, 4))
    torch.testing.assert_close(run(layer, x), frames(expected).relu().detach())
    assert "snake.alpha" not in dict(layer.named_parameters())


@pytest.mark.parametrize("stride", [(1, 4), (2, 4), (2, 2)])
def test_down_is_a_causal_strided_convolution(stride: tuple[int, int]) -> None:
    layer = randomised(Down(5, 7, bands_out=3, taps=3, stride=stride))
    x = random(T, B, 3 * stride[1], 5)
    weight = layer.weight.view(3, stride[1], 5, 7).permute(3, 2, 0, 1)
    expected = F.conv2d(past(image(x), 3 - stride[0]), weight, layer.bias, stride)
    torch.testing.assert_close(run(layer, x), snake(frames(expected), layer.snake).detach())


@pytest.mark.parametrize("stride", [(1, 4), (2, 4), (1, 2)])
def test_up_is_a_causal_transposed_convolution(stride: tuple[int, int]) -> None:
    layer = randomised(Up(5, 7, bands_in=3, taps=3, stride=stride))
    x = random(T, B, 3, 5)
    weight = layer.weight.view(3, 5, stride[1], 7).flip(0).permute(1, 3, 0, 2)  # newest tap first
    expected = F.conv_transpose2d(image(x), weight, layer.bias, stride)[:, :, : T * stride[0]]
    torch.testing.assert_close(run(layer, x), snake(frames(expected), layer.snake).detach())


def test_complex_conv_is_a_causal_complex_convolution() -> None:
    layer = randomised(ComplexConv(6, bins=9))
    x = random(T, B, 9, 6)
    weight = torch.view_as_complex(layer.complex_weight)[..., 0].flip(1).permute(2, 1, 0)[None]  # [1, c/2, time, frequency]
    expected = frames(real_of(F.conv2d(F.pad(past(complex_of(image(x)), 2), (1, 1)), weight))) + layer.bias
    torch.testing.assert_close(run(layer, x), expected.detach())


def test_rnn2d_runs_one_gru_over_every_band() -> None:
    layer = randomised(RNN2D(5, bands=3))
    x = random(T, B, 3, 5)
    y = FLNorm()(x).tanh()
    bands = [layer.gru(y[:, :, band])[0] for band in range(3)]
    torch.testing.assert_close(run(layer, x), (x + snake(layer.conv(torch.stack(bands, 2)), layer.snake)).detach())


LAYERS = {
    "stem": (Stem(6, 5, 4, 3, 4), (16, 2)),
    "down": (Down(5, 7, 3, 3, (1, 4)), (12, 5)),
    "down in time": (Down(5, 7, 3, 3, (2, 4)), (12, 5)),
    "up": (Up(5, 7, 3, 3, (1, 4)), (3, 5)),
    "up in time": (Up(5, 7, 3, 3, (2, 4)), (3, 5)),
    "rnn2d": (RNN2D(5, 3), (3, 5)),
    "complex conv": (ComplexConv(6, 9), (9, 6)),
    "real stem": (RealStem(6, 5, 4, 3, 4), (16, 2)),
    "rnn2d with batch norm": (RNN2D(5, 3, BatchNorm, ReLU).eval(), (3, 5)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_frames_one_by_one_give_what_one_call_gives(name: str) -> None:
    layer, shape = randomised(LAYERS[name][0]), LAYERS[name][1]
    step = 2 if name == "down in time" else 1
    x = random(T, B, *shape)
    state, parts = layer.initial_state(B), []
    with torch.no_grad():
        for part in x.split(step):
            y, state = layer(part, state)
            parts.append(y)
        whole, end = layer(x, layer.initial_state(B))
    torch.testing.assert_close(torch.cat(parts), whole)
    torch.testing.assert_close(state, end)
    assert state.shape == layer.initial_state(B).shape


@pytest.mark.parametrize("name", LAYERS)
def test_the_future_never_changes_the_past(name: str) -> None:
    layer, shape = randomised(LAYERS[name][0]), LAYERS[name][1]
    x = random(T, B, *shape)
    changed = x.clone()
    changed[4:] = random(T - 4, B, *shape)
    before, after = run(layer, x), run(layer, changed)
    now = 4 * len(before) // T
    assert torch.equal(before[:now], after[:now])
    assert not torch.equal(before[now:], after[now:])


def test_the_whole_codec_is_causal(tiny_model: Any) -> None:
    config, frame = tiny_model.config, 5
    audio = 0.1 * torch.randn(1, 10 * config.frame_size)
    changed = audio.clone()
    changed[:, frame * config.frame_size :] += 0.1
    with torch.no_grad():
        (codes, _), (other, _) = tiny_model.encode(audio), tiny_model.encode(changed)
        assert torch.equal(codes[..., :frame], other[..., :frame])
        assert not torch.equal(codes[..., frame:], other[..., frame:])
        (heard, _), (different, _) = tiny_model.decode(codes), tiny_model.decode(other)
    assert torch.equal(heard[:, : frame * config.frame_size], different[:, : frame * config.frame_size])
