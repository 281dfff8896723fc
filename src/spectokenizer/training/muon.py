"""Muon (Jordan et al., 2024) in single precision: momentum, then the update nearest to an orthogonal matrix.

torch.optim.Muon does the same in bfloat16, which most CPUs emulate: there it took a third of a whole training step.
Hyperparameters and state have its names, so that its saved states load.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic that drives singular values towards 1 fast rather than exactly
ITERATIONS = 5


def orthogonalize(update: Tensor) -> Tensor:
    """Newton–Schulz iteration: [m, n] to U Vᵀ of its singular value decomposition, singular values between 0.7 and 1.2."""
    wide = update if update.shape[0] <= update.shape[1] else update.T
    x = wide / wide.norm().clamp(min=1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide is update else x.T


class Muon(torch.optim.Optimizer):
    """For matrices inside a network. Steps have the RMS of AdamW's, so that both take one learning rate (Liu et al., 2025)."""

    def __init__(self, params: Iterable[Tensor], lr: float = 1e-3, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                buffer = self.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))
                buffer.lerp_(parameter.grad, 1 - group["momentum"])
                update = orthogonalize(parameter.grad.lerp(buffer, group["momentum"]))  # Nesterov's look ahead
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update, alpha=-group["lr"] * 0.2 * max(parameter.shape) ** 0.5)
        return loss
