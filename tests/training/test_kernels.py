"""The C loops compute what torch computes, forward and backward, and everything works without them."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from spectokenizer.model import kernels  # noqa: E402
from spectokenizer.model.layers import RNN2D, Snake2D  # noqa: E402


@pytest.fixture
def fast(tmp_path):
    if not kernels.enable(tmp_path):
        pytest.skip("no C compiler")
    yield
    kernels.disable()


def both(build, shapes):
    """Outputs and gradients with torch's operators and with the C loops."""
    results = []
    library = kernels._library
    for use in (None, library):
        kernels._library = use
        torch.manual_seed(0)
        inputs = [torch.randn(shape, requires_grad=True) for shape in shapes]
        module, outputs = build(inputs)
        sum((output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum() for output in outputs).backward()
        results.append([*outputs, *(x.grad for x in inputs), *(p.grad for p in module.parameters())])
    kernels._library = library
    return results


@pytest.mark.parametrize(("rows", "channels"), [(1, 8), (3, 16), (5, 24), (16, 32), (20, 40), (37, 96)])
def test_gru(fast, rows, channels):
    torch.manual_seed(1)
    gru = nn.GRU(channels, channels)

    def build(inputs):
        gru.zero_grad()
        x, h0 = inputs
        y = kernels.gru(gru, x, h0)
        if y is None:
            y = gru(x, h0[None])[0]
        return gru, [y]

    plain, quick = both(build, [(9, rows, channels), (rows, channels)])
    for a, b in zip(plain, [t.clone() for t in quick], strict=True):
        torch.testing.assert_close(a, b, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize(("rows", "k", "n"), [(1, 3, 8), (17, 60, 24), (64, 64, 72), (40, 24, 56), (33, 96, 40), (20, 16, 18)])
def test_linear(fast, rows, k, n):
    layer = nn.Linear(k, n)

    def build(inputs):
        layer.zero_grad()
        return layer, [kernels.linear(inputs[0], layer.weight.t(), layer.bias), kernels.linear(inputs[0], layer.weight.t())]

    plain, quick = both(build, [(2, rows, k)])
    for a, b in zip(plain, [t.clone() for t in quick], strict=True):
        torch.testing.assert_close(a, b, rtol=2e-4, atol=2e-5)


def test_snake(fast):
    snake = Snake2D(24)
    with torch.no_grad():
        snake.alpha.uniform_(0.2, 3)

    def build(inputs):
        snake.zero_grad(set_to_none=True)
        return snake, [snake(inputs[0] * 5)]

    plain, quick = both(build, [(3, 2, 7, 24)])
    for a, b in zip(plain, quick, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_layer_uses_torch_when_c_cannot(fast):
    """12 channels do not fill the kernel's vectors, float64 is not its type."""
    layer = RNN2D(12, 3)
    x = torch.randn(4, 2, 3, 12)
    y, _ = layer(x, layer.initial_state(2))
    assert torch.isfinite(y).all()
    double = RNN2D(8, 3).double()
    y, _ = double(torch.randn(4, 2, 3, 8, dtype=torch.float64), double.initial_state(2))
    assert y.dtype == torch.float64


def test_no_compiler(monkeypatch, tmp_path):
    kernels.disable()
    monkeypatch.setenv("CC", "no-such-compiler")
    assert not kernels.enable(tmp_path)
    monkeypatch.setenv("CC", "false")
    assert not kernels.enable(tmp_path)
