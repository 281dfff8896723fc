"""Muon: orthogonal updates, and the same steps as torch's own where that one is exact enough to tell."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from spectokenizer.training.muon import Muon, orthogonalize  # noqa: E402


@pytest.mark.parametrize("shape", [(16, 16), (24, 72), (96, 32), (288, 64)])
def test_updates_are_nearly_orthogonal(shape: tuple[int, int]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalize(x))
    assert values.min() > 0.3 and values.max() < 1.3
    u, _, vh = torch.linalg.svd(x, full_matrices=False)
    exact = u @ vh
    assert torch.nn.functional.cosine_similarity(orthogonalize(x).flatten(), exact.flatten(), dim=0) > 0.97


def test_steps_are_those_of_torch() -> None:
    reference = pytest.importorskip("torch.optim", reason="torch has no Muon").Muon
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(32, 48, generator=generator)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    optimizers = [Muon([ours], lr=0.01, weight_decay=0.1), reference([theirs], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")]
    for _ in range(5):
        gradient = torch.randn(32, 48, generator=generator)
        for parameter, optimizer in zip((ours, theirs), optimizers, strict=True):
            parameter.grad = gradient.clone()
            optimizer.step()
    moved = (ours - start).norm()
    assert (ours - theirs).norm() < 0.03 * moved  # bfloat16
    ours_state, their_state = (optimizer.state_dict() for optimizer in optimizers)
    optimizers[0].load_state_dict(their_state)  # runs that were begun with torch's go on
    assert ours_state["state"][0].keys() == their_state["state"][0].keys()
