"""Optional C versions of the two loops that dominate training on a CPU, compiled at first use; torch's own otherwise.

`enable()` is called by training, as is `keep_memory()`, which is for the C library's allocator.
Export, tests and inference run torch's operators unless they ask for these.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

SOURCE = Path(__file__).with_suffix(".c")
FLAGS = ["-O3", "-march=native", "-ffast-math", "-fopenmp-simd", "-fPIC", "-shared"]

_library: Any = None


def enable(cache: Path) -> bool:
    """Compile (once per machine and source) and use the C loops; False when there is no compiler that can."""
    global _library
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if _library is None and compiler:
        key = hashlib.sha256(SOURCE.read_bytes() + " ".join([compiler, *FLAGS]).encode() + _cpu()).hexdigest()[:16]
        library = cache / f"kernels-{key}.so"
        if not library.exists():
            cache.mkdir(parents=True, exist_ok=True)
            part = library.with_suffix(f".{os.getpid()}.part")
            done = subprocess.run([compiler, *FLAGS, str(SOURCE), "-o", str(part), "-lm"], capture_output=True, check=False)
            if done.returncode:
                return False
            part.replace(library)
        try:
            _library = ctypes.CDLL(str(library))
        except OSError:
            return False
    return _library is not None


def keep_memory() -> None:
    """Have glibc keep what a step frees for the next one: fetching 70 MB of zeroed pages anew took 6 % of every step."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3
    for parameter, value in ((mmap_threshold, 1 << 25), (trim_threshold, (1 << 31) - 1), (top_pad, 1 << 28)):
        mallopt(parameter, value)


def disable() -> None:
    """Back to torch's operators."""
    global _library
    _library = None


def _cpu() -> bytes:
    """What -march=native depends on."""
    try:
        return next(line for line in Path("/proc/cpuinfo").read_bytes().splitlines() if line.startswith(b"flags"))
    except (OSError, StopIteration):
        return os.uname().machine.encode()


def _usable(*tensors: Tensor) -> bool:
    return _library is not None and all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors)


def _call(name: str, *arguments: int | Tensor) -> None:
    values = [ctypes.c_void_p(a.data_ptr()) if isinstance(a, Tensor) else ctypes.c_long(a) for a in arguments]
    getattr(_library, name)(*values)


class _Snake(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, alpha: Tensor) -> Tensor:  # type: ignore[override]
        x = x.contiguous()
        wide = alpha.repeat(x.shape[-2])
        y = torch.empty_like(x)
        _call("snake_forward", x.numel() // len(wide), len(wide), x, wide, y)
        ctx.save_for_backward(x, wide)
        ctx.channels = len(alpha)
        return y

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        x, wide = ctx.saved_tensors
        dx, dalpha = torch.empty_like(x), torch.zeros_like(wide)
        _call("snake_backward", x.numel() // len(wide), len(wide), x, wide, grad.contiguous(), dx, dalpha)
        return dx, dalpha.view(-1, ctx.channels).sum(0)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        wanted, rows = ctx.needs_input_grad, grad.flatten(0, -2)
        dx = _product(grad, weight.t(), None) if wanted[0] else None
        return dx, x.flatten(0, -2).t() @ rows if wanted[1] else None, rows.sum(0) if wanted[2] else None


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    k, n = weight.shape
    if n % 8:
        return x @ weight if bias is None else x @ weight + bias
    x, y = x.contiguous(), x.new_empty(*x.shape[:-1], n)
    _call("linear", x.numel() // k, k, n, x, weight.contiguous(), x.new_zeros(n) if bias is None else bias.contiguous(), y)
    return y


class _GRU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gates: Tensor, weight: Tensor, bias: Tensor, h0: Tensor) -> Tensor:  # type: ignore[override]
        steps, rows, width = gates.shape
        channels = width // 3
        gates = gates.clone() if gates.requires_grad and gates.is_leaf else gates.contiguous()
        h, m = gates.new_empty(steps + 1, rows, channels), gates.new_empty(steps, rows, channels)
        h[0] = h0
        _call("gru_forward", steps, rows, channels, gates, weight.t().contiguous(), bias.contiguous(), h, m)
        ctx.save_for_backward(gates, weight, h, m)
        return h[1:]

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # type: ignore[override]
        gates, weight, h, m = ctx.saved_tensors
        steps, rows, channels = m.shape
        dx, dm, dh = torch.empty_like(gates), torch.empty_like(m), torch.zeros_like(h[0])
        _call("gru_backward", steps, rows, channels, grad.contiguous(), gates, h, m, weight.contiguous(), dx, dm, dh)
        before = h[:-1].reshape(-1, channels)
        dw = torch.cat([dx.view(-1, 3 * channels)[:, : 2 * channels].t() @ before, dm.view(-1, channels).t() @ before])
        return dx, dw, dm.sum((0, 1)), dh


def snake(x: Tensor, alpha: Tensor) -> Tensor | None:
    """x + sin²(αx)/α for x [..., F, C], α [C]; None when torch must do it."""
    return _Snake.apply(x, alpha) if _usable(x, alpha) else None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..., K] · weight [K, N] + bias [N], by torch where it must: BLAS is made for squarer matrices."""
    if not _usable(x, weight) or weight.shape[1] % 8:
        return x @ weight if bias is None else x @ weight + bias
    return _Linear.apply(x, weight, bias)


def gru(module: nn.GRU, x: Tensor, h0: Tensor) -> Tensor | None:
    """All states [T, R, C] of a GRU over x [T, R, C] from h0 [R, C]; None when torch must do it."""
    c = module.hidden_size
    if not _usable(x, h0, module.weight_hh_l0) or c % 8:
        return None
    v = module.bias_hh_l0
    bias = module.bias_ih_l0 + torch.cat([v[: 2 * c], v.new_zeros(c)])
    gates = linear(x, module.weight_ih_l0.t(), bias)  # the kernel overwrites this buffer: nothing else needs it
    return _GRU.apply(gates, module.weight_hh_l0, v[2 * c :], h0)
