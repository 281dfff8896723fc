"""Four quantisers behind one interface: latents z [N, D] to codes [N, K] and back.

    ResidualVQ   K codebooks, each looking at what the ones before left over; any number of leading stages is a valid code
    SingleVQ     the paper's one large codebook: the same with one stage, and replacements drawn from a pool of past latents
    PairVQ       one large codebook with two small tables: its entries are the sums of one of each
    FSQ          one codebook without a table (Mentzer et al., 2023): a few numbers, each rounded to one of L levels

A stage of the first three projects to `codebook_dim` numbers, finds the nearest of `codebook_size` entries and projects that back, by the
same orthonormal directions both ways: the entry nearest in them is the one that leaves least of the latent to the next stage. (In DAC's
factorised lookup the two are independent; with half the numbers this is as good, and latents are coded, not what became of them.)
Codebooks are learned by moving averages (decay 0.99), start from k-means on real latents, and entries that fall out of use
are drawn anew. (The expiration in EnCodec's published code is undone by its next averaging step, its issue 61; here count,
sum and entry are replaced together.)

A code equal to `codebook_size` is absent and decodes to zeros.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import CodecConfig

SEARCH = 1 << 23  # scores held at once, 32 MB: 256 latents against 32768 entries


class Quantized(NamedTuple):
    z_q: Tensor  # [N, D], gradients pass straight through
    codes: Tensor  # [N, K]; stages switched off by dropout hold `codebook_size`
    commitment: Tensor  # scalar, relative to the codebooks' own power


class Quantizer(nn.Module):
    """What all four have in common."""

    expire = True  # entries that fall out of use are replaced (the paper's ablation switches both off)
    data_pool = True  # SingleVQ: by past latents rather than by the batch's
    wanted = 0  # latents that `initialize` needs at least

    def initialize(self, z: Tensor, generator: torch.Generator | None = None, steps: int = 1) -> None:
        """Start from latents z [N, D], as many as this process sees in so many steps."""
        raise NotImplementedError

    def forward(self, z: Tensor, active: Tensor | None = None, update: bool = False) -> Quantized:
        """Quantise z [N, D] with `active` [N] leading stages each (all, if None); `update` moves the codebooks."""
        raise NotImplementedError

    def decode(self, codes: Tensor) -> Tensor:
        """Codes [N, K'] (K' ≤ K; entries equal to `codebook_size` are absent) to z_q [N, D]."""
        raise NotImplementedError

    def memory(self) -> dict[str, Tensor]:
        """What a training run needs to go on and a trained model does not: buffers that `state_dict` leaves out."""
        kept = self.state_dict()
        return {name: value for name, value in self.named_buffers() if name not in kept}

    def load_memory(self, saved: dict[str, Tensor]) -> None:
        for name, value in self.memory().items():
            if name in saved:
                value.copy_(saved[name])


def _all_reduce(x: Tensor) -> Tensor:
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(x)
    return x


def _processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _from_rank_0(x: Tensor) -> Tensor:
    if dist.is_available() and dist.is_initialized():
        dist.broadcast(x, 0)
    return x


def kmeans(x: Tensor, clusters: int, iterations: int = 20, generator: torch.Generator | None = None) -> Tensor:
    """Lloyd's algorithm, Euclidean: [N, d] to [clusters, d]. Empty clusters restart from random points.

    A point whose centre stayed where it was can only have changed to one that did not: with few points per cluster most of the
    search is saved, and it ends when nothing moves any more.
    """
    centres = x[torch.randperm(len(x), generator=generator)[:clusters].to(x.device)].clone()
    if len(centres) < clusters:
        extra = x[torch.randint(len(x), (clusters - len(centres),), generator=generator).to(x.device)]
        centres = torch.cat([centres, extra + 1e-3 * torch.randn(extra.shape, generator=generator).to(x.device) * x.std()])
    score, nearest = _search(x, centres)
    for i in range(iterations):
        counts = torch.bincount(nearest, minlength=clusters).to(x)
        sums = torch.zeros_like(centres).index_add_(0, nearest, x)
        random = x[torch.randint(len(x), (clusters,), generator=generator).to(x.device)]
        before, centres = centres, torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], random)
        moved = (centres != before).any(-1)
        if i == iterations - 1 or not moved.any():
            break
        lost = moved[nearest].nonzero()[:, 0]  # these look at all centres, the others at those that moved
        kept = (~moved[nearest]).nonzero()[:, 0]
        score[lost], nearest[lost] = _search(x[lost], centres)
        other, index = _search(x[kept], centres[moved])
        won = other > score[kept]
        score[kept[won]], nearest[kept[won]] = other[won], moved.nonzero()[index[won], 0]
    return centres


def _search(u: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    """max and argmax of u·c − ‖c‖²/2, which is argmin ‖u − c‖², a few rows at a time: [N, d], [S, d] to twice [N]."""
    offset = codebook.square().sum(-1) / 2
    parts = [(part @ codebook.T).sub_(offset).max(-1) for part in u.split(max(1, SEARCH // len(codebook)))]
    score, index = zip(*parts, strict=True)
    return torch.cat(score), torch.cat(index)


def _nearest(u: Tensor, codebook: Tensor) -> Tensor:
    """argmin ‖u − c‖²: [N, d], [S, d] to [N]."""
    return _search(u, codebook)[1]


def _principal(z: Tensor, count: int) -> Tensor:
    """The `count` directions [count, D] in which z [N, D] has the most power."""
    _, _, v = torch.linalg.svd(z.T @ z / len(z))
    return v[:count]


class ResidualVQ(Quantizer):
    decay = 0.99
    expire_below = 0.02  # of the average count of an entry
    iterations = 20  # of k-means

    codebooks: Tensor
    counts: Tensor
    sums: Tensor

    def __init__(self, dim: int, num_codebooks: int, codebook_size: int, codebook_dim: int):
        super().__init__()
        self.num_codebooks, self.codebook_size, self.codebook_dim = num_codebooks, codebook_size, codebook_dim
        self.projection = nn.Parameter(torch.randn(num_codebooks, dim, codebook_dim))
        self._straighten()
        shape = (num_codebooks, codebook_size, codebook_dim)
        self.register_buffer("codebooks", torch.randn(shape))
        self.register_buffer("counts", torch.ones(shape[:2]))
        self.register_buffer("sums", self.codebooks.clone())

    @torch.no_grad()
    def initialize(self, z: Tensor, generator: torch.Generator | None = None, steps: int = 1) -> None:
        """Greedy start from latents z [N, D]: per stage the residual's principal directions, then k-means in them.

        Counts begin with what a step brings. (From 1 each, as they often do, an entry of 32768 would need 800 steps to expire.)
        """
        residual = z.clone()
        for k in range(self.num_codebooks):
            directions = _principal(residual, self.codebook_dim)  # [d, D]
            u = residual @ directions.T
            codebook = kmeans(u, self.codebook_size, self.iterations, generator)
            index = _nearest(u, codebook)
            self.projection[k] = directions.T
            self.codebooks[k] = codebook
            self.counts[k] = torch.bincount(index, minlength=self.codebook_size).to(u).clamp(min=0.01) * (_processes() / steps)
            self.sums[k] = codebook * self.counts[k, :, None]
            residual -= codebook[index] @ directions
        for tensor in (self.projection, self.codebooks, self.counts, self.sums):
            _from_rank_0(tensor.data)

    @torch.no_grad()
    def _straighten(self) -> None:
        """Back to orthonormal columns, which a step of the optimiser leaves by a little."""
        q, r = torch.linalg.qr(self.projection)
        self.projection.copy_(q * r.diagonal(dim1=1, dim2=2).sign()[:, None])

    def forward(self, z: Tensor, active: Tensor | None = None, update: bool = False) -> Quantized:
        if update:
            self._straighten()
        residual, z_q, commitment, codes = z, torch.zeros_like(z), z.new_zeros(()), []
        for k in range(self.num_codebooks):
            codebook = self.codebooks[k]
            u = residual @ self.projection[k]  # [N, d]
            index = _nearest(u.detach(), codebook)
            c = F.embedding(index, codebook)
            on = z.new_ones(len(z)) if active is None else (active > k).to(z)
            error = (u - c).square().sum(-1) / codebook.square().sum(-1).mean().clamp(min=1e-6)
            commitment = commitment + (error * on).sum() / on.sum().clamp(min=1)
            if update:
                self._move(k, u.detach(), index)
            step = (u + (c - u).detach()) @ self.projection[k].T
            z_q, residual = z_q + step * on[:, None], residual - step
            codes.append(torch.where(on > 0, index, self.codebook_size))
        return Quantized(z_q, torch.stack(codes, 1), commitment / self.num_codebooks)

    @torch.no_grad()
    def _move(self, k: int, u: Tensor, index: Tensor) -> None:
        counts, sums, entries = self.counts[k], self.sums[k], self.codebooks[k]
        batch = torch.zeros(self.codebook_size, self.codebook_dim + 1, dtype=u.dtype, device=u.device)
        batch.index_add_(0, index, torch.cat([u, u.new_ones(len(u), 1)], 1))
        batch = _all_reduce(batch)
        counts.lerp_(batch[:, -1], 1 - self.decay)
        sums.lerp_(batch[:, :-1], 1 - self.decay)
        average = counts.mean()
        if self.expire:
            expired = counts < self._least(average)
            seen = self._seen(u)
            fresh = _from_rank_0(seen[torch.randint(len(seen), (self.codebook_size,), device=u.device)])
            counts.copy_(torch.where(expired, average, counts))
            sums.copy_(torch.where(expired[:, None], fresh * average, sums))
        entries.copy_(sums / counts.clamp(min=1e-8)[:, None])

    def _least(self, average: Tensor) -> Tensor:
        """The count below which an entry expires; counts are averages of latents per step, over all processes."""
        return self.expire_below * average

    def _seen(self, u: Tensor) -> Tensor:
        """What replacements are drawn from, [M, d]; called once per step with the batch's u [N, d]."""
        return u

    def decode(self, codes: Tensor) -> Tensor:
        tables = F.pad(self.codebooks, (0, 0, 0, 1))  # one more row of zeros: the absent code
        c = torch.stack([tables[k][codes[:, k]] for k in range(codes.shape[1])], 1)  # [N, K', d]
        return c.flatten(1) @ self.projection[: codes.shape[1]].transpose(1, 2).flatten(0, 1)


class SingleVQ(ResidualVQ):
    """One large codebook, as the paper trains it: k-means with 50 iterations, expiration at 0.01, a pool of past latents.

    The threshold has Jukebox's unit (Dhariwal et al., 2020): the moving average of how many latents of a step, over all processes, chose
    the entry. The 400 latents of a step of 8 s give each of 32768 entries 0.012 on average, and 0.01 would replace entries in good use
    all the time; where the average is below 0.5, 2 % of it (`expire_below`) are the threshold.
    """

    threshold = 0.01
    iterations = 50

    pool: Tensor
    pooled: Tensor

    def __init__(self, dim: int, codebook_size: int, codebook_dim: int):
        super().__init__(dim, 1, codebook_size, codebook_dim)
        self.wanted = 4 * codebook_size
        self.register_buffer("pool", torch.zeros(max(32768, codebook_size), codebook_dim), persistent=False)  # projected latents, a ring
        self.register_buffer("pooled", torch.zeros((), dtype=torch.int64), persistent=False)  # how many were ever put in

    @torch.no_grad()
    def initialize(self, z: Tensor, generator: torch.Generator | None = None, steps: int = 1) -> None:
        super().initialize(z, generator, steps)
        self._seen(z @ self.projection[0])

    def _least(self, average: Tensor) -> Tensor:
        return (self.expire_below * average).clamp(max=self.threshold)

    def _seen(self, u: Tensor) -> Tensor:
        if not self.data_pool:
            return u
        size = len(self.pool)
        new = _from_rank_0(u.clone())[-size:]  # a copy: the batch's own u goes on into the loss
        self.pool[(self.pooled + torch.arange(len(new), device=u.device)) % size] = new
        self.pooled += len(new)
        return self.pool[: int(self.pooled)]


class PairVQ(Quantizer):
    """One codebook whose entries are the sums of an entry of each of two small ones, the second looking at what the first left over.

    32768 entries of 32 numbers are two tables of 1024 and 32: 33 792 numbers where a table of them all would have a million. Of the
    power of `mini`'s latents such sums leave 0.39, FSQ's fifteen bits 0.53 to 0.56; the larger the first, the less they leave and the
    more of them are in use (docs/training.md). The code is first + 1024 · second: its lowest digit is the coarse one.
    """

    def __init__(self, dim: int, sizes: tuple[int, int], codebook_dim: int):
        super().__init__()
        self.num_codebooks, self.codebook_size, self.codebook_dim = 1, sizes[0] * sizes[1], codebook_dim
        self.sizes = sizes
        self.first = ResidualVQ(dim, 1, self.sizes[0], codebook_dim)
        self.second = ResidualVQ(dim, 1, self.sizes[1], codebook_dim)

    @torch.no_grad()
    def initialize(self, z: Tensor, generator: torch.Generator | None = None, steps: int = 1) -> None:
        self.first.initialize(z, generator, steps)
        self.second.initialize(z - self.first(z).z_q, generator, steps)

    def forward(self, z: Tensor, active: Tensor | None = None, update: bool = False) -> Quantized:
        self.first.expire = self.second.expire = self.expire
        coarse = self.first(z, None, update)
        fine = self.second(z - coarse.z_q, None, update)
        on = z.new_ones(len(z)) if active is None else (active > 0).to(z)
        codes = torch.where(on[:, None] > 0, coarse.codes + self.sizes[0] * fine.codes, self.codebook_size)
        return Quantized((coarse.z_q + fine.z_q) * on[:, None], codes, (coarse.commitment + fine.commitment) / 2)

    def decode(self, codes: Tensor) -> Tensor:
        first = torch.where(codes < self.codebook_size, codes % self.sizes[0], self.sizes[0])
        return self.first.decode(first) + self.second.decode(codes // self.sizes[0])  # absent: each one's absent code


class FSQ(Quantizer):
    """Finite scalar quantisation: `codebook_dim` numbers, bounded by tanh, each rounded to one of L = codebook_size^(1/codebook_dim).

    The levels are the middles of L equal parts of −1 … 1, so they lie symmetrically for an even L, too. (The published way, rounding
    to integers with half an offset, leaves an even L one level more below 0 than above.) The code is the digits' number in
    base L, the first digit counting least. Every entry exists from the start, so nothing needs a commitment, an average or a replacement.
    """

    spread = 3**-0.5 * torch.pi / 2  # deviation of a logistic variable whose tanh is uniform: every level is used alike at the start

    def __init__(self, dim: int, codebook_size: int, codebook_dim: int):
        super().__init__()
        self.num_codebooks, self.codebook_size, self.codebook_dim = 1, codebook_size, codebook_dim
        self.levels = 2 ** ((codebook_size.bit_length() - 1) // codebook_dim)
        self.project_in = nn.Parameter(torch.randn(dim, codebook_dim) * dim**-0.5)
        self.bias_in = nn.Parameter(torch.zeros(codebook_dim))
        self.project_out = nn.Parameter(torch.randn(codebook_dim, dim) * codebook_dim**-0.5)
        self.bias_out = nn.Parameter(torch.zeros(dim))

    @property
    def edges(self) -> Tensor:
        """Where one level ends and the next begins, before tanh: [L − 1]."""
        return torch.atanh(2 * torch.arange(1, self.levels, dtype=torch.float64) / self.levels - 1).to(self.bias_in)

    @property
    def radix(self) -> Tensor:
        """What each digit counts, [d]."""
        return self.levels ** torch.arange(self.codebook_dim, device=self.bias_in.device)

    def _values(self, digits: Tensor) -> Tensor:
        return (2 * digits + 1).to(self.bias_in) / self.levels - 1

    @torch.no_grad()
    def initialize(self, z: Tensor, generator: torch.Generator | None = None, steps: int = 1) -> None:
        """The directions in which z [N, D] varies most, each spread over all levels; back by least squares."""
        mean = z.mean(0)
        into = _principal(z - mean, self.codebook_dim).T
        into = into * (self.spread / ((z - mean) @ into).std(0).clamp(min=1e-6))
        self.project_in.copy_(into)
        self.bias_in.copy_(-mean @ into)
        c = F.pad(self._values(torch.bucketize(z @ self.project_in + self.bias_in, self.edges)), (0, 1), value=1.0)
        ridge = 1e-3 * len(c) * torch.eye(c.shape[1], device=c.device)  # few latents may not show every direction
        out = torch.linalg.solve(c.T @ c + ridge, c.T @ z)
        self.project_out.copy_(out[:-1])
        self.bias_out.copy_(out[-1])
        for parameter in self.parameters():
            _from_rank_0(parameter.data)

    def forward(self, z: Tensor, active: Tensor | None = None, update: bool = False) -> Quantized:
        u = z @ self.project_in + self.bias_in  # [N, d]
        digits = torch.bucketize(u.detach(), self.edges)
        y = u.tanh()
        z_q = (y + (self._values(digits) - y).detach()) @ self.project_out + self.bias_out
        on = z.new_ones(len(z)) if active is None else (active > 0).to(z)
        codes = torch.where(on > 0, (digits * self.radix).sum(-1), self.codebook_size)
        return Quantized(z_q * on[:, None], codes[:, None], 0 * u.sum())  # no commitment, but one whose gradient can be asked for

    def decode(self, codes: Tensor) -> Tensor:
        z_q = self._values(codes // self.radix % self.levels) @ self.project_out + self.bias_out  # [N, 1] // [d]
        return z_q * (codes < self.codebook_size)


def quantizer(config: CodecConfig) -> Quantizer:
    """The one that the configuration names."""
    sizes = config.codebook_size, config.codebook_dim
    match config.quantizer:
        case "vq":
            return SingleVQ(config.latent_dim, *sizes)
        case "pair":
            return PairVQ(config.latent_dim, config.pair_sizes, config.codebook_dim)
        case "fsq":
            return FSQ(config.latent_dim, *sizes)
    return ResidualVQ(config.latent_dim, config.num_codebooks, *sizes)
