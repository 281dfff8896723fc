"""The paper's layers, written for frames: time first, channels last.

Activations are [T, B, F, C] (time, batch, frequency, channels). With that order "strided convolution over four bins" is a
reshape, a convolution in time is a matrix product on shifted views, and a GRU step reads one contiguous block.
Every layer with memory maps (x, state) to (y, state); states are [B, F, ·], so streams can be batched along B.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import kernels


class FLNorm(nn.Module):
    """Normalises each time step over channels and frequency (eq. 3 and 4); no parameters, no look at other times."""

    eps = 1e-5

    def __init__(self, channels: int = 0):
        super().__init__()

    def forward(self, y: Tensor) -> Tensor:  # [T, B, F, C]
        return F.layer_norm(y, y.shape[-2:], eps=self.eps)


class BatchNorm(nn.BatchNorm1d):
    """Per channel, over everything else; running statistics outside of training, so that a stream is what the whole is (ablation)."""

    def forward(self, y: Tensor) -> Tensor:  # [T, B, F, C]
        return super().forward(y.flatten(0, 2)).view_as(y)


class _Snake(torch.autograd.Function):
    """x + sin²(αx)/α with one sine per direction; autograd's own graph keeps five tensors of this size, this keeps one."""

    @staticmethod
    def forward(ctx, x: Tensor, alpha: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x, alpha)
        return (x * alpha).sin_().square_().div_(alpha).add_(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        x, alpha = ctx.saved_tensors
        double = x * (2 * alpha)
        sine = double.sin()  # d/dx sin²(αx)/α = sin(2αx)
        # d/dα sin²(αx)/α = (x·sin(2αx) − sin²(αx)/α)/α, and sin² = (1 − cos)/2
        slope = (sine * x).sub_(double.cos_().neg_().add_(1).div_(2 * alpha)).mul_(grad)
        grad_alpha = slope.flatten(0, -2).sum(0) / alpha
        return sine.add_(1).mul_(grad), grad_alpha


class Snake2D(nn.Module):
    """x + sin²(αx)/α, α per channel (paper)."""

    def __init__(self, channels: int):
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        fast = kernels.snake(x, self.alpha)
        return _Snake.apply(x, self.alpha) if fast is None else fast


class ReLU(nn.ReLU):
    """In Snake2D's place (ablation)."""

    def __init__(self, channels: int):
        super().__init__()


Maker = Callable[[int], nn.Module]  # of a layer for so many channels
NORMS: dict[str, Maker] = {"frame": FLNorm, "batch": BatchNorm}
ACTIVATIONS: dict[str, Maker] = {"snake": Snake2D, "relu": ReLU}  # the layers below keep theirs as `snake`, whichever it is


def _taps(x: Tensor, history: Tensor, taps: int, stride: int) -> tuple[Tensor, Tensor]:
    """The last `taps` frames before each output, side by side: [T, B, F, C] to [T/stride, B, F, taps·C], and the new history.

    `history` [B, F, (taps − stride)·C] holds the frames before x, oldest first.
    """
    channels, kept = x.shape[-1], taps - stride
    past = history.unflatten(-1, (kept, channels)).permute(2, 0, 1, 3)  # [kept, B, F, C]
    padded = torch.cat([past, x], 0)
    end = padded.shape[0] - taps + 1
    window = torch.cat([padded[i : end + i : stride] for i in range(taps)], -1)
    return window, padded[padded.shape[0] - kept :].permute(1, 2, 0, 3).flatten(2)


def _uniform(*shape: int, fan_in: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(*shape).uniform_(-1, 1) * (3 / fan_in) ** 0.5)  # unit gain


def complex_as_real(weight: Tensor) -> Tensor:
    """Complex kernel [..., C_in, C_out, 2] as the real one [..., 2·C_in, 2·C_out] that acts on (re, im) pairs."""
    re, im = weight.unbind(-1)
    rows = torch.stack([torch.stack([re, im], -1), torch.stack([-im, re], -1)], -3)  # [..., C_in, 2, C_out, 2]
    return rows.flatten(-2).flatten(-3, -2)


class Stem(nn.Module):
    """ComplexConv2D followed by the first F_down: [T, B, bins, 2] to [T, B, bins/stride, C].

    There is no non-linearity between the two, so they run as the one (5 × 6)-tap convolution that their kernels multiply to:
    a quarter of the arithmetic, and no activations at full resolution. The bias belongs to the band: from here on
    all weights are shared over frequency, and this is where the network learns which band it looks at.
    """

    def __init__(self, c_complex: int, c_out: int, bands: int, taps: int, stride: int, activation: Maker = Snake2D):
        super().__init__()
        self.taps, self.stride, self.bands = taps, stride, bands
        self.complex_weight = _uniform(3, 3, 1, c_complex // 2, 2, fan_in=18)
        self.weight = _uniform(taps, stride, c_complex, c_out, fan_in=taps * stride * c_complex)
        self.bias = nn.Parameter(torch.zeros(bands, c_out))
        self.snake = activation(c_out)

    def initial_state(self, batch: int) -> Tensor:
        return self.bias.new_zeros(batch, self.bands, (self.taps + 1) * 2 * (self.stride + 2))

    def first(self) -> Tensor:
        """The convolution at full resolution, [3 (time), 3 (frequency), 2, c_complex]."""
        return complex_as_real(self.complex_weight)

    def kernel(self) -> Tensor:
        """The product of both kernels: [(taps + 2)·(stride + 2)·2, C]."""
        first = self.first().permute(3, 2, 0, 1)  # [m, 2, 3, 3]
        second = self.weight.permute(3, 2, 0, 1)  # [C, m, taps, stride]
        both = F.conv_transpose2d(second, first)  # polynomial product: [C, 2, taps + 2, stride + 2]
        return both.permute(2, 3, 1, 0).flatten(0, 2)

    def forward(self, s: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        s = F.pad(s, (0, 0, 1, 1)).flatten(2)  # the complex convolution sees a zero beyond each end of the spectrum
        bands = s.unfold(2, 2 * (self.stride + 2), 2 * self.stride)  # [T, B, bands, (stride + 2)·2], neighbours overlap by two bins
        x, state = _taps(bands, state, self.taps + 2, 1)
        return self.snake(kernels.linear(x, self.kernel()) + self.bias), state


class RealStem(Stem):
    """With a real 3×3 convolution of two channels, which knows nothing of phase, in the complex one's place (ablation)."""

    def __init__(self, c_complex: int, c_out: int, bands: int, taps: int, stride: int, activation: Maker = Snake2D):
        super().__init__(c_complex, c_out, bands, taps, stride, activation)
        del self.complex_weight
        self.real_weight = _uniform(3, 3, 2, c_complex, fan_in=18)

    def first(self) -> Tensor:
        return self.real_weight


class Down(nn.Module):
    """F_down: strided causal Conv2D and Snake2D. [T, B, F, C_in] to [T/stride_t, B, F/stride_f, C_out]."""

    def __init__(self, c_in: int, c_out: int, bands_out: int, taps: int, stride: tuple[int, int], activation: Maker = Snake2D):
        super().__init__()
        self.taps, self.stride, self.bands_out = taps, stride, bands_out
        self.weight = _uniform(taps * stride[1] * c_in, c_out, fan_in=taps * stride[1] * c_in)
        self.bias = nn.Parameter(torch.zeros(c_out))
        self.snake = activation(c_out)

    def initial_state(self, batch: int) -> Tensor:
        return self.bias.new_zeros(batch, self.bands_out, self.weight.shape[0] // self.taps * (self.taps - self.stride[0]))

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        folded = x.flatten(2).unflatten(2, (self.bands_out, -1))  # stride_f bins into the channels
        window, state = _taps(folded, state, self.taps, self.stride[0])
        return self.snake(kernels.linear(window, self.weight, self.bias)), state


class Up(nn.Module):
    """Transposed strided causal convolution and Snake2D. [T, B, F, C_in] to [T·stride_t, B, F·stride_f, C_out].

    A transposed convolution whose stride equals its kernel over frequency is an ordinary one with stride_f · C_out outputs,
    unfolded. With time stride 2 and three taps, even frames see taps (0, 2) of (now, before) and odd ones tap 1 of now.
    """

    def __init__(self, c_in: int, c_out: int, bands_in: int, taps: int, stride: tuple[int, int], activation: Maker = Snake2D):
        super().__init__()
        self.taps, self.stride, self.bands_in, self.c_in, self.c_out = taps, stride, bands_in, c_in, c_out
        self.kept = -(-taps // stride[0]) - 1  # frames of input that later outputs still need
        self.weight = _uniform(taps * c_in, stride[1] * c_out, fan_in=taps * c_in)  # oldest tap first
        self.bias = nn.Parameter(torch.zeros(c_out))
        self.snake = activation(c_out)

    def initial_state(self, batch: int) -> Tensor:
        return self.bias.new_zeros(batch, self.bands_in, self.kept * self.c_in)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        window, state = _taps(x, state, self.kept + 1, 1)  # oldest frame first
        bias = self.bias.repeat(self.stride[1])
        if self.stride[0] == 1:
            y = kernels.linear(window, self.weight, bias)
        else:
            oldest, middle, newest = self.weight.split(self.c_in)
            even, odd = kernels.linear(window, torch.cat([oldest, newest]), bias), kernels.linear(x, middle, bias)
            y = torch.stack([even, odd], 1).flatten(0, 1)  # [2T, B, F, stride_f·C_out]
        y = y.flatten(2).unflatten(2, (-1, self.c_out))  # [T', B, F·stride_f, C_out]
        return self.snake(y), state


class RNN2D(nn.Module):
    """FLNorm → tanh → GRU over time → 1×1 convolution → Snake2D, one GRU shared by all bands; added to its input.

    The paper draws no such addition; ours trains faster with it.
    """

    def __init__(self, channels: int, bands: int, norm: Maker = FLNorm, activation: Maker = Snake2D):
        super().__init__()
        self.channels, self.bands = channels, bands
        self.norm = norm(channels)
        self.gru = nn.GRU(channels, channels)
        self.conv = nn.Linear(channels, channels)
        self.snake = activation(channels)

    def initial_state(self, batch: int) -> Tensor:
        return self.conv.weight.new_zeros(batch, self.bands, self.channels)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        y = self.norm(x).tanh().flatten(1, 2)  # [T, B·F, C]
        h0 = state.flatten(0, 1)
        fast = kernels.gru(self.gru, y, h0)
        y = self.gru(y, h0[None].contiguous())[0] if fast is None else fast
        h = y[-1].view_as(state)
        return x + self.snake(kernels.linear(y, self.conv.weight.t(), self.conv.bias)).view_as(x), h


class ComplexConv(nn.Module):
    """Causal complex 3×3 convolution to one complex channel: [T, B, bins, C] to [T, B, bins, 2], the decoder's last layer.

    Its output is so narrow that each input frame is multiplied by all nine taps at once and the products are shifted into place.
    State [B, bins, 2·2]: what the last two frames still owe to the next two outputs.
    """

    def __init__(self, c_in: int, bins: int):
        super().__init__()
        self.bins = bins
        self.complex_weight = _uniform(3, 3, c_in // 2, 1, 2, fan_in=9 * c_in)
        self.bias = nn.Parameter(torch.zeros(2))

    def initial_state(self, batch: int) -> Tensor:
        return self.bias.new_zeros(batch, self.bins, 4)

    def kernel(self) -> Tensor:
        """[C, 3 (frequency) · 3 (time: now, one later, two later) · 2]."""
        return complex_as_real(self.complex_weight).permute(2, 0, 1, 3).flatten(1)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        below, here, above = (x @ self.kernel()).split(6, -1)  # what each bin adds to the bin above it, itself, the one below
        y = here + F.pad(below, (0, 0, 1, 0))[:, :, :-1] + F.pad(above, (0, 0, 0, 1))[:, :, 1:]  # [T, B, bins, (3, 2)]
        now, one, two = y.split(2, -1)
        owed = state.unflatten(-1, (2, 2)).permute(2, 0, 1, 3)  # [2, B, bins, 2]
        past = F.pad(one, (0, 0, 0, 0, 0, 0, 1, 1)) + F.pad(two, (0, 0, 0, 0, 0, 0, 2, 0))  # [T + 2, B, bins, 2]
        past = torch.cat([past[:2] + owed, past[2:]])
        return now + past[:-2] + self.bias, past[-2:].permute(1, 2, 0, 3).flatten(2)
