"""Gradient balancer (EnCodec, Défossez et al. 2022, eq. 4): a loss's weight is its share of the gradient at the output."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


class Balancer:
    """Keeps a moving average of the norm of each loss's gradient with respect to the model's output."""

    def __init__(self, decay: float = 0.999, total: float = 1.0):
        self.decay, self.total = decay, total
        self.norms: dict[str, float] = {}
        self.counts: dict[str, int] = {}

    def __call__(self, values: dict[str, Tensor], weights: dict[str, float], y: Tensor) -> Tensor:
        """A surrogate loss whose gradient at y [B, N] is the balanced one; losses that do not depend on y keep their weights."""
        used = {name: value for name, value in values.items() if weights.get(name)}
        surrogate = y.new_zeros(())
        gradients: dict[str, Tensor] = {}
        for name, value in used.items():
            (gradient,) = torch.autograd.grad(value, y, retain_graph=True, allow_unused=True) if value.requires_grad else (None,)
            if gradient is None:
                surrogate = surrogate + weights[name] * value
            else:
                gradients[name] = gradient
        share = sum(weights[name] for name in gradients)
        for name, gradient in gradients.items():
            surrogate = surrogate + (y * gradient * (self.total * weights[name] / share / self._average(name, gradient))).sum()
        return surrogate

    def _average(self, name: str, gradient: Tensor) -> float:
        norm = gradient.flatten(1).norm(dim=1).mean()
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(norm)
            norm = norm / dist.get_world_size()
        count = self.counts.get(name, 0) + 1
        decay = min(self.decay, 1 - 1 / count)  # a plain mean at first
        self.norms[name] = decay * self.norms.get(name, 0.0) + (1 - decay) * float(norm)
        self.counts[name] = count
        return max(self.norms[name], 1e-12)

    def state_dict(self) -> dict[str, dict[str, float]]:
        return {"norms": dict(self.norms), "counts": dict(self.counts)}

    def load_state_dict(self, state: dict[str, dict[str, float]]) -> None:
        self.norms, self.counts = dict(state["norms"]), {k: int(v) for k, v in state["counts"].items()}
