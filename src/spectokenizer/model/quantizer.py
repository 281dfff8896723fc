"""Scalable residual vector quantiser: K codebooks, each looking at the residual through its own small projection.

Stage k projects the residual to `codebook_dim` numbers, finds the nearest of `codebook_size` entries, projects that back and
subtracts it. Any number of leading stages is a valid code, which is what makes one model serve every bitrate.
Codebooks are learned by moving averages (decay 0.99), start from k-means on real latents, and entries that fall out of use
are drawn anew from the current batch. (The expiration in EnCodec's published code is undone by its next averaging step, its
issue 61; here count, sum and entry are replaced together.)
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F


class Quantized(NamedTuple):
    z_q: Tensor  # [N, D], gradients pass straight through
    codes: Tensor  # [N, K]; stages switched off by dropout hold `codebook_size`
    commitment: Tensor  # scalar, relative to the codebooks' own power


def _all_reduce(x: Tensor) -> Tensor:
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(x)
    return x


def _from_rank_0(x: Tensor) -> Tensor:
    if dist.is_available() and dist.is_initialized():
        dist.broadcast(x, 0)
    return x


def kmeans(x: Tensor, clusters: int, iterations: int = 20, generator: torch.Generator | None = None) -> Tensor:
    """Lloyd's algorithm, Euclidean: [N, d] to [clusters, d]. Empty clusters restart from random points."""
    centres = x[torch.randperm(len(x), generator=generator)[:clusters].to(x.device)].clone()
    if len(centres) < clusters:
        extra = x[torch.randint(len(x), (clusters - len(centres),), generator=generator).to(x.device)]
        centres = torch.cat([centres, extra + 1e-3 * torch.randn(extra.shape, generator=generator).to(x.device) * x.std()])
    for _ in range(iterations):
        nearest = torch.cat([_nearest(part, centres) for part in x.split(8192)])
        counts = torch.bincount(nearest, minlength=clusters).to(x)
        sums = torch.zeros_like(centres).index_add_(0, nearest, x)
        random = x[torch.randint(len(x), (clusters,), generator=generator).to(x.device)]
        centres = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], random)
    return centres


def _nearest(u: Tensor, codebook: Tensor) -> Tensor:
    """argmin ‖u − c‖² as one matrix product and an offset: [N, d], [S, d] to [N]."""
    return (u @ codebook.T - codebook.square().sum(-1) / 2).argmax(-1)


class ResidualVQ(nn.Module):
    decay = 0.99
    expire_below = 0.02  # of the average count of an entry

    down: Tensor
    codebooks: Tensor
    counts: Tensor
    sums: Tensor

    def __init__(self, dim: int, num_codebooks: int, codebook_size: int, codebook_dim: int):
        super().__init__()
        self.num_codebooks, self.codebook_size, self.codebook_dim = num_codebooks, codebook_size, codebook_dim
        self.project_in = nn.Parameter(torch.randn(num_codebooks, dim, codebook_dim) * dim**-0.5)
        self.project_out = nn.Parameter(torch.randn(num_codebooks, codebook_dim, dim) * codebook_dim**-0.5)
        shape = (num_codebooks, codebook_size, codebook_dim)
        self.register_buffer("codebooks", torch.randn(shape))
        self.register_buffer("counts", torch.ones(shape[:2]))
        self.register_buffer("sums", self.codebooks.clone())

    @torch.no_grad()
    def initialize(self, z: Tensor, generator: torch.Generator | None = None) -> None:
        """Greedy start from latents z [N, D]: per stage the residual's principal directions, then k-means in them."""
        residual = z.clone()
        for k in range(self.num_codebooks):
            _, _, v = torch.linalg.svd(residual.T @ residual / len(residual))
            directions = v[: self.codebook_dim]  # [d, D]
            u = residual @ directions.T
            codebook = kmeans(u, self.codebook_size, generator=generator)
            nearest = torch.cat([_nearest(part, codebook) for part in u.split(8192)])
            self.project_in[k], self.project_out[k] = directions.T, directions
            self.codebooks[k] = codebook
            self.counts[k] = 1
            self.sums[k] = codebook
            residual -= codebook[nearest] @ directions
        for tensor in (self.project_in, self.project_out, self.codebooks, self.counts, self.sums):
            _from_rank_0(tensor.data)

    def forward(self, z: Tensor, active: Tensor | None = None, update: bool = False) -> Quantized:
        """Quantise z [N, D] with `active` [N] leading stages each (all, if None); `update` moves the codebooks."""
        residual, z_q, commitment, codes = z, torch.zeros_like(z), z.new_zeros(()), []
        for k in range(self.num_codebooks):
            codebook = self.codebooks[k]
            u = residual @ self.project_in[k]  # [N, d]
            index = _nearest(u.detach(), codebook)
            c = F.embedding(index, codebook)
            on = z.new_ones(len(z)) if active is None else (active > k).to(z)
            error = (u - c).square().sum(-1) / codebook.square().sum(-1).mean().clamp(min=1e-6)
            commitment = commitment + (error * on).sum() / on.sum().clamp(min=1)
            if update:
                self._move(k, u.detach(), index)
            step = (u + (c - u).detach()) @ self.project_out[k]
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
        expired = counts < self.expire_below * average
        fresh = _from_rank_0(u[torch.randint(len(u), (self.codebook_size,), device=u.device)])
        counts.copy_(torch.where(expired, average, counts))
        sums.copy_(torch.where(expired[:, None], fresh * average, sums))
        entries.copy_(sums / counts.clamp(min=1e-8)[:, None])

    def decode(self, codes: Tensor) -> Tensor:
        """Codes [N, K'] (K' ≤ K; entries equal to `codebook_size` are absent) to z_q [N, D]."""
        tables = F.pad(self.codebooks, (0, 0, 0, 1))  # one more row of zeros: the absent code
        c = torch.stack([tables[k][codes[:, k]] for k in range(codes.shape[1])], 1)  # [N, K', d]
        return c.flatten(1) @ self.project_out[: codes.shape[1]].flatten(0, 1)
