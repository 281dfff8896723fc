"""Codes: what the codec makes of audio, with what is needed to go back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .errors import CodesError

CodeArray = npt.NDArray[np.int16]


@dataclass(frozen=True, eq=False)
class Codes:
    """Codes [K, T] of one clip: codebook k, frame t, values 0 … codebook_size − 1. `np.asarray` gives the bare array."""

    array: CodeArray
    num_samples: int  # of the audio at `sample_rate`; decoding returns exactly as many
    sample_rate: int
    frame_size: int
    model: str
    model_hash: str

    @property
    def num_codebooks(self) -> int:
        return int(self.array.shape[0])

    @property
    def num_frames(self) -> int:
        return int(self.array.shape[1])

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[np.generic]:
        return np.array(self.array, dtype=dtype, copy=copy)

    def __repr__(self) -> str:
        k, t = self.array.shape
        return f"Codes({k} codebooks × {t} frames, {self.num_samples / self.sample_rate:.2f} s, model '{self.model}')"


def num_frames(num_samples: int, frame_size: int, delay_samples: int) -> int:
    """Frames that cover `num_samples`: the last sample must have left the decoder, which is `delay_samples` late."""
    return -(-(num_samples + delay_samples) // frame_size) if num_samples else 0


class CodebookUsage(NamedTuple):
    """How one codebook is used over a set: share of its codes that occur, 2^entropy, entropy in bits per code, and of how many tokens."""

    utilisation: float
    perplexity: float
    entropy: float
    tokens: int


def codebook_usage(codes: npt.NDArray[np.integer[Any]], codebook_size: int) -> list[CodebookUsage]:
    """One entry per codebook of codes [K, T]; absent ones, codebook_size, are left out.

    Few tokens cannot show many codes: utilisation is at most tokens / codes, perplexity at most the smaller of both, and entropy, that of
    single codes as counted, is too low when there are not many more tokens than codes.
    """
    usage = []
    for book in codes:
        counts = np.bincount(book[book < codebook_size].astype(np.int64), minlength=codebook_size)
        p = counts[counts > 0] / max(1, counts.sum())
        entropy = float(-np.sum(p * np.log2(p))) + 0.0
        usage.append(CodebookUsage(len(p) / codebook_size, 2**entropy, entropy, int(counts.sum())))
    return usage


def check_codes(codes: npt.ArrayLike, num_codebooks: int | None, codebook_size: int) -> CodeArray:
    """A fresh int16 array [K, T] of the codes, 1 ≤ K ≤ num_codebooks (None: any K); raises CodesError saying what does not fit."""
    try:
        array = np.asarray(codes)
    except ValueError as error:
        raise CodesError(f"codes are no array ({error}); give [codebooks, frames]") from error
    if array.ndim != 2:
        raise CodesError(f"codes have shape {list(array.shape)}; give [codebooks, frames]")
    if array.dtype.kind not in "iu":
        raise CodesError(f"codes have type {array.dtype}; give integers")
    if num_codebooks is not None and not 1 <= array.shape[0] <= num_codebooks:
        raise CodesError(f"codes have {array.shape[0]} codebooks (shape {list(array.shape)}); this model has 1 to {num_codebooks}")
    if array.size and not (array.min() >= 0 and array.max() < codebook_size):
        raise CodesError(f"codes range from {array.min()} to {array.max()}; this model's are 0 to {codebook_size - 1}")
    return array.astype(np.int16)
