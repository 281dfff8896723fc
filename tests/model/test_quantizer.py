"""Residual, single-codebook, paired and table-free quantisation: what decodes to what, and codebooks that stay alive."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from spectokenizer.config import CodecConfig  # noqa: E402
from spectokenizer.model import quantizer as module  # noqa: E402
from spectokenizer.model.quantizer import FSQ, PairVQ, ResidualVQ, SingleVQ, kmeans  # noqa: E402

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


def test_counts_begin_with_what_a_step_brings() -> None:
    """So an entry that nothing chooses has the same time to expire, whatever the codebook's size."""
    quantizer = ResidualVQ(DIM, 2, SIZE, INNER)
    quantizer.initialize(latents(600), torch.Generator().manual_seed(1), steps=30)
    torch.testing.assert_close(quantizer.counts.sum(1), torch.full((2,), 20.0), rtol=0, atol=0.01 * SIZE / 30)
    assert (quantizer.counts > 0).all()
    torch.testing.assert_close(quantizer.sums / quantizer.counts[..., None], quantizer.codebooks)


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
    assert quantizer.projection.grad is not None and quantizer.projection.grad.abs().sum() > 0
    assert not quantizer.codebooks.requires_grad


def test_projections_are_orthonormal_whenever_codebooks_move(quantizer: ResidualVQ) -> None:
    """The entry nearest in the projection is then the one that leaves least of the latent."""
    with torch.no_grad():
        quantizer.projection += 0.1 * torch.randn_like(quantizer.projection)  # a step of the optimiser
    z = latents(300, seed=2)
    quantizer(z, update=True)
    gram = quantizer.projection.transpose(1, 2) @ quantizer.projection
    torch.testing.assert_close(gram, torch.eye(INNER).expand_as(gram), atol=1e-5, rtol=0)
    codes = quantizer(z).codes
    entries = quantizer.codebooks[0] @ quantizer.projection[0].T
    assert torch.equal(torch.cdist(z, entries).argmin(1), codes[:, 0])


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
        quantizer.projection[0] = torch.eye(DIM)[:, :INNER]
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
    seen = z @ quantizer.projection[0].detach()
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


# -- k-means -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("points", "clusters"), [(400, 100), (1000, 8), (30, 60)])
def test_kmeans_leaves_out_only_what_cannot_matter(points: int, clusters: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Centres are those of Lloyd's algorithm in which every point looks at every centre, and rows at a time change nothing."""
    x = torch.randn(points, 3, generator=torch.Generator().manual_seed(1))
    found = kmeans(x, clusters, 15, torch.Generator().manual_seed(2))
    monkeypatch.setattr(module, "SEARCH", 7 * clusters)
    assert torch.equal(kmeans(x, clusters, 15, torch.Generator().manual_seed(2)), found)

    generator = torch.Generator().manual_seed(2)
    centres = x[torch.randperm(points, generator=generator)[:clusters]]
    if len(centres) < clusters:
        return
    for _ in range(15):
        nearest = torch.cdist(x, centres).argmin(1)
        random = x[torch.randint(points, (clusters,), generator=generator)]
        centres = torch.stack([x[nearest == i].mean(0) if (nearest == i).any() else random[i] for i in range(clusters)])
    torch.testing.assert_close(found, centres, atol=1e-5, rtol=1e-5)


# -- the single codebook -----------------------------------------------------------------------------------------------


def single(**switches: bool) -> SingleVQ:
    torch.manual_seed(0)
    quantizer = SingleVQ(DIM, 64, INNER)
    for name, value in switches.items():
        setattr(quantizer, name, value)
    quantizer.initialize(latents(600), torch.Generator().manual_seed(1))
    return quantizer


def kill(quantizer: SingleVQ, entry: int) -> None:
    with torch.no_grad():
        quantizer.codebooks[0, entry], quantizer.sums[0, entry], quantizer.counts[0, entry] = 1e3, 0, 0


def test_replacements_come_from_the_pool() -> None:
    quantizer = single()
    past = latents(600) @ quantizer.projection[0].detach()
    kill(quantizer, 3)
    now = latents(1, seed=9)
    quantizer(now, update=True)
    pool = torch.cat([past, now @ quantizer.projection[0].detach()])
    torch.testing.assert_close(quantizer.pool[: int(quantizer.pooled)], pool, atol=1e-5, rtol=1e-5)
    assert (quantizer.codebooks[0, 3] - pool).norm(dim=1).min() < 1e-4
    without = single(data_pool=False)
    kill(without, 3)
    without(now, update=True)
    torch.testing.assert_close(without.codebooks[0, 3], (now @ without.projection[0])[0].detach())  # there is nothing else
    assert without.pooled == 0


def test_the_pool_is_a_ring() -> None:
    quantizer = SingleVQ(DIM, 64, INNER)
    quantizer.pool = torch.zeros(5, INNER)
    rows = torch.arange(1.0, 14)[:, None].expand(13, INNER)
    for part, held in zip(rows.split([3, 3, 7]), ({1, 2, 3}, {2, 3, 4, 5, 6}, {9, 10, 11, 12, 13}), strict=True):
        assert set(quantizer._seen(part)[:, 0].tolist()) == held


def test_the_pool_is_no_part_of_the_model() -> None:
    quantizer = single()
    assert set(quantizer.state_dict()) == set(ResidualVQ(DIM, 1, 64, INNER).state_dict())
    assert quantizer.memory().keys() == {"pool", "pooled"}
    other = SingleVQ(DIM, 64, INNER)
    other.load_memory({name: value.clone() for name, value in quantizer.memory().items()})
    assert torch.equal(other.pool, quantizer.pool) and other.pooled == quantizer.pooled == 600
    assert not ResidualVQ(DIM, 2, SIZE, INNER).memory()
    assert SingleVQ(DIM, 2, 1).pool.shape == (32768, 1)


def test_without_expiration_a_dead_entry_stays_dead() -> None:
    quantizer = single(expire=False)
    kill(quantizer, 3)
    quantizer(latents(500, seed=9), update=True)
    assert quantizer.counts[0, 3] == 0


def test_the_threshold_is_latents_per_step() -> None:
    quantizer = single()
    assert quantizer._least(torch.tensor(5.0)) == pytest.approx(0.01)  # Jukebox's
    assert quantizer._least(torch.tensor(0.0122)) == pytest.approx(0.02 * 0.0122)  # 400 latents, 32768 entries


class Undone(SingleVQ):
    """EnCodec's expiration, its issue 61: only the entry is overwritten, and the next average of count and sum knows nothing of it."""

    @torch.no_grad()
    def _move(self, k: int, u: Tensor, index: Tensor) -> None:
        entries = self.codebooks[k].clone()
        expired = self.counts[k] < self._least(self.counts[k].mean())
        self.expire = False
        super()._move(k, u, index)  # moves every entry to sum / count
        seen = self._seen(u)
        fresh = seen[torch.randint(len(seen), entries.shape[:1])]
        self.codebooks[k] = torch.where(expired[:, None], fresh, self.codebooks[k])


@pytest.mark.parametrize("kind", [Undone, SingleVQ])
def test_an_expiration_that_the_next_average_undoes(kind: type[SingleVQ]) -> None:
    torch.manual_seed(0)
    quantizer = kind(DIM, 64, INNER)
    quantizer.initialize(latents(600), torch.Generator().manual_seed(1))
    dead = 3
    far = 1e3
    with torch.no_grad():  # an entry far from everything that was chosen last long ago
        quantizer.counts[0, dead] = 1e-4
        quantizer.sums[0, dead] = far * 1e-4
        quantizer.codebooks[0, dead] = far
    quantizer(latents(500, seed=5), update=True)
    fresh = quantizer.codebooks[0, dead].clone()
    assert fresh.abs().max() < far / 10  # both put a latent there
    quantizer.threshold = 0  # what does the average alone make of it?
    quantizer(torch.zeros(1, DIM), update=True)  # a step that does not choose it
    after = quantizer.codebooks[0, dead]
    if kind is Undone:
        assert after.max() > 0.9 * far  # back where it was
    else:
        torch.testing.assert_close(after, fresh)


# -- two small tables --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "sizes"), [(32768, (1024, 32)), (1024, (128, 8)), (4, (2, 2))])
def test_a_pair_is_two_residual_stages_in_one_code(size: int, sizes: tuple[int, int]) -> None:
    torch.manual_seed(0)
    config = CodecConfig(num_codebooks=1, codebook_size=size, quantizer="pair")
    assert config.pair_sizes == sizes
    pair = PairVQ(DIM, sizes, INNER)
    pair.initialize(latents(), torch.Generator().manual_seed(1))
    assert pair.codebook_size == size
    z, some = latents(3000, seed=2), torch.arange(3000) % 3
    quantized = pair(z, some)
    off = some == 0
    assert (quantized.codes[off] == size).all() and not quantized.z_q[off].any()
    assert quantized.codes[~off].min() >= 0 and quantized.codes[~off].max() < size
    torch.testing.assert_close(pair.decode(quantized.codes), quantized.z_q, atol=1e-5, rtol=1e-5)
    first = pair.first.decode(pair.first(z).codes)
    errors = [(z - out).square().mean() for out in (first, pair.decode(pair(z).codes))]
    assert errors[1] < errors[0] < z.square().mean()
    assert torch.equal(pair(z).codes[:, 0] % sizes[0], pair.first(z).codes[:, 0])
    before = {name: value.clone() for name, value in pair.named_buffers()}
    pair(z)
    assert all(torch.equal(value, before[name]) for name, value in pair.named_buffers())
    pair(z, update=True)
    assert not any(torch.equal(value, before[name]) for name, value in pair.named_buffers())


# -- without a table ---------------------------------------------------------------------------------------------------

SHAPES = [(32768, 5, 8), (32768, 3, 32), (32768, 15, 2), (64, 3, 4), (16, 1, 16)]


@pytest.mark.parametrize(("size", "dim", "levels"), SHAPES)
def test_fsq_levels_and_digits(size: int, dim: int, levels: int) -> None:
    torch.manual_seed(0)
    fsq = FSQ(DIM, size, dim)
    assert fsq.levels == levels and levels**dim == size
    codes = torch.randint(size, (200, 1))
    digits = codes // fsq.radix % levels
    values = fsq._values(digits)
    assert values.abs().max() <= 1 - 1 / levels
    assert torch.equal(fsq._values(levels - 1 - digits), -values)  # symmetric, an even L, too
    with torch.no_grad():
        fsq.project_in.zero_(), fsq.bias_in.zero_()
        fsq.project_in[:dim] = torch.eye(dim)[:, :dim] if dim <= DIM else 0
    if dim <= DIM:  # a level's own middle is in its part
        z = torch.nn.functional.pad(torch.atanh(values), (0, DIM - dim))
        assert torch.equal(fsq(z).codes, codes)


def test_fsq_decodes_what_training_saw() -> None:
    torch.manual_seed(0)
    fsq = FSQ(DIM, 4096, 4)
    fsq.initialize(latents() + 3)
    z = latents(3000, seed=2) + 3
    quantized = fsq(z, torch.arange(3000) % 3)
    off = torch.arange(3000) % 3 == 0
    assert (quantized.codes[off] == 4096).all() and not quantized.z_q[off].any()
    assert quantized.codes[~off].max() < 4096
    torch.testing.assert_close(fsq.decode(quantized.codes), quantized.z_q, atol=1e-5, rtol=1e-5)
    assert quantized.commitment == 0
    error = (fsq.decode(fsq(z).codes) - z).square().sum() / (z - z.mean(0)).square().sum()
    _, s, _ = torch.linalg.svd(z - z.mean(0))
    assert error < 1 - (s[:4].square().sum() / s.square().sum()) * 0.9  # most of what four directions hold
    digits = fsq(z).codes // fsq.radix % fsq.levels
    counts = torch.stack([torch.bincount(column, minlength=fsq.levels) for column in digits.T])
    assert counts.min() > 3000 / fsq.levels / 2  # all levels in use from the start


def test_fsq_gradients_go_straight_through() -> None:
    fsq = FSQ(DIM, 64, 3)
    z = latents(50).requires_grad_()
    (grad,) = torch.autograd.grad(fsq(z).z_q.sum(), z)
    smooth = (z @ fsq.project_in + fsq.bias_in).tanh() @ fsq.project_out + fsq.bias_out
    torch.testing.assert_close(grad, torch.autograd.grad(smooth.sum(), z)[0])
    assert not torch.autograd.grad(fsq(z).commitment, z)[0].any()


def test_the_configuration_names_the_quantiser(tiny_config: object) -> None:
    from dataclasses import replace

    kinds = {"rvq": ResidualVQ, "vq": SingleVQ, "pair": PairVQ, "fsq": FSQ}
    for name, kind in kinds.items():
        assert type(module.quantizer(replace(tiny_config, quantizer=name, num_codebooks=1, codebook_dim=3))) is kind  # type: ignore[type-var]
