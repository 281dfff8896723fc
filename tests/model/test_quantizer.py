"""Scalable residual quantisation: what decodes to what, and codebooks that stay alive."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from spectokenizer.model.quantizer import ResidualVQ, kmeans  # noqa: E402

DIM, STAGES, SIZE, INNER = 12, 4, 16, 4


def latents(count: int = 2000, seed: int = 0) -> Tensor:
    """Correlated, as latents are."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(99))
    return torch.randn(count, DIM, generator=generator) @ mixing


@pytest.fixture
def quantizer() -> ResidualVQ:
    torch.manual_seed(0)
    module = ResidualVQ(DIM, STAGES, SIZE, INNER)
    module.initialize(latents(), torch.Generator().manual_seed(1))
    return module


def test_decoding_the_codes_gives_what_training_saw(quantizer: ResidualVQ) -> None:
    z = latents(300, seed=2)
    quantized = quantizer(z)
    assert quantized.codes.shape == (300, STAGES)
    assert set(quantized.codes.unique().tolist()) <= set(range(SIZE))
    torch.testing.assert_close(quantizer.decode(quantized.codes), quantized.z_q, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("stages", range(1, STAGES + 1))
def test_any_leading_stages_are_a_valid_code(quantizer: ResidualVQ, stages: int) -> None:
    z = latents(300, seed=2)
    active = torch.full((300,), stages)
    quantized, full = quantizer(z, active), quantizer(z)
    assert torch.equal(quantized.codes[:, :stages], full.codes[:, :stages])
    assert (quantized.codes[:, stages:] == SIZE).all()  # the absent code
    torch.testing.assert_close(quantizer.decode(full.codes[:, :stages]), quantized.z_q, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(quantizer.decode(quantized.codes), quantized.z_q, atol=1e-5, rtol=1e-5)


def test_dropout_is_per_row(quantizer: ResidualVQ) -> None:
    active = torch.arange(300) % (STAGES + 1)
    quantized = quantizer(latents(300, seed=2), active)
    assert torch.equal((quantized.codes != SIZE).sum(1), active)
    assert not quantized.z_q[active == 0].any()
    assert torch.isfinite(quantized.commitment)


def test_absent_codes_add_nothing(quantizer: ResidualVQ) -> None:
    assert not quantizer.decode(torch.full((5, STAGES), SIZE)).any()
    codes = quantizer(latents(5)).codes
    codes[:, 2] = SIZE  # a hole in the middle
    parts = [quantizer.decode(torch.where(torch.arange(STAGES) == k, codes, SIZE)) for k in (0, 1, 3)]
    torch.testing.assert_close(quantizer.decode(codes), sum(parts), atol=1e-5, rtol=1e-5)


def test_every_stage_of_a_fresh_start_lowers_the_error(quantizer: ResidualVQ) -> None:
    z = latents(1000, seed=3)
    codes = quantizer(z).codes
    errors = [(z - quantizer.decode(codes[:, :k])).square().mean().item() for k in range(1, STAGES + 1)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] < 0.8 * z.square().mean().item()
    assert all(len(codes[:, k].unique()) > SIZE / 2 for k in range(STAGES))


def test_start_from_fewer_latents_than_entries() -> None:
    module = ResidualVQ(DIM, STAGES, SIZE, INNER)
    module.initialize(latents(5), torch.Generator().manual_seed(1))
    assert all(torch.isfinite(value).all() for value in module.state_dict().values())


def test_kmeans_finds_clusters() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    x = centres.repeat(100, 1) + 0.1 * torch.randn(300, 2, generator=generator)
    found = kmeans(x, 6, generator=generator)
    assert torch.cdist(x, found).min(1).values.max() < 1
    assert torch.cdist(found, centres).min(1).values.max() < 1


def test_gradients_go_straight_through(quantizer: ResidualVQ) -> None:
    z = latents(50).requires_grad_()
    quantizer(z).z_q.sum().backward()
    assert z.grad is not None and z.grad.abs().sum() > 0
    assert quantizer.project_in.grad is not None and quantizer.project_out.grad is not None
    assert not quantizer.codebooks.requires_grad


def test_codebooks_move_only_when_told(quantizer: ResidualVQ) -> None:
    before = quantizer.codebooks.clone()
    quantizer(latents(500, seed=4))
    assert torch.equal(quantizer.codebooks, before)
    quantizer(latents(500, seed=4), update=True)
    assert not torch.equal(quantizer.codebooks, before)


def test_entries_follow_the_moving_average() -> None:
    quantizer = ResidualVQ(DIM, 1, 2, INNER)
    with torch.no_grad():
        quantizer.codebooks.copy_(torch.stack([torch.full((INNER,), -5.0), torch.full((INNER,), 5.0)]))
        quantizer.sums.copy_(quantizer.codebooks)
        quantizer.project_in[0] = torch.eye(DIM)[:, :INNER]
    z = torch.cat([torch.full((30, DIM), -4.0), torch.full((10, DIM), 6.0)])
    quantizer(z, update=True)
    torch.testing.assert_close(quantizer.counts[0], torch.tensor([0.99 + 0.3, 0.99 + 0.1]))
    torch.testing.assert_close(quantizer.codebooks[0, 0], torch.full((INNER,), (0.99 * -5 + 0.3 * -4) / 1.29))
    torch.testing.assert_close(quantizer.codebooks[0, 1], torch.full((INNER,), (0.99 * 5 + 0.1 * 6) / 1.09))


def test_dead_entries_are_replaced_and_stay_replaced(quantizer: ResidualVQ) -> None:
    """In EnCodec's published code the next averaging step undoes the replacement."""
    dead, far = 3, 1e3
    with torch.no_grad():
        quantizer.codebooks[0, dead] = far
        quantizer.sums[0, dead] = 0
        quantizer.counts[0, dead] = 0
    z = latents(500, seed=5)
    seen = z @ quantizer.project_in[0].detach()
    torch.manual_seed(0)
    quantizer(z, update=True)
    fresh, count = quantizer.codebooks[0, dead].clone(), quantizer.counts[0, dead].clone()
    assert torch.cdist(fresh[None], seen).min() < 1e-4  # one of the batch
    assert count > quantizer.expire_below * quantizer.counts[0].mean()
    mine = seen[quantizer(z).codes[:, 0] == dead]
    assert len(mine) > 0  # back in use
    quantizer(z, update=True)
    average = (0.99 * count * fresh + 0.01 * mine.sum(0)) / (0.99 * count + 0.01 * len(mine))
    torch.testing.assert_close(quantizer.codebooks[0, dead], average)


def test_a_collapsed_codebook_recovers() -> None:
    torch.manual_seed(0)
    quantizer = ResidualVQ(DIM, 1, SIZE, INNER)
    with torch.no_grad():
        quantizer.codebooks.fill_(100)  # all in one far place: one entry takes everything
        quantizer.sums.copy_(quantizer.codebooks)
    for seed in range(600):
        codes = quantizer(latents(64, seed), update=True).codes
    assert len(quantizer(latents(1000, 1)).codes.unique()) > SIZE / 2
    assert codes.shape == (64, 1)
