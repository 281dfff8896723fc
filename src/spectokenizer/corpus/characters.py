"""Codes as text, one character each, in the mapping of the package codec-bpe (Acoustic BPE, Shen et al., 2024).

Code c of codebook k of K is the character number offset + k·S + c, S the codebook's size; frames follow each other, all their
codebooks side by side. From 0x4E00 that is the block of CJK ideographs, which byte-pair encoders split at every character.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..codes import CodeArray
from ..errors import CodesError

OFFSET = 0x4E00
OFFSET_LARGE = 0xE000  # beyond the surrogates, for more than 35 328 characters in all
SURROGATES = range(0xD800, 0xE000)


def codes_to_chars(codes: npt.ArrayLike, codebook_size: int, offset: int = OFFSET) -> str:
    """Codes [K, T] to K·T characters. Raises CodesError for codes out of range and for characters that cannot be."""
    array = np.asarray(codes)
    if array.ndim != 2 or array.dtype.kind not in "iu":
        raise CodesError(f"codes have shape {list(array.shape)} and type {array.dtype}; give integers [codebooks, frames]")
    if array.size and not (array.min() >= 0 and array.max() < codebook_size):
        raise CodesError(f"codes range from {array.min()} to {array.max()}; 0 to {codebook_size - 1} are wanted")
    _check_offset(offset, len(array), codebook_size)
    numbers = array.astype(np.uint32) + (offset + np.arange(len(array), dtype=np.uint32) * codebook_size)[:, None]
    return numbers.T.astype("<u4").tobytes().decode("utf-32-le")


def chars_to_codes(text: str, num_codebooks: int, codebook_size: int, offset: int = OFFSET) -> CodeArray:
    """Characters, such as a language model writes them, to codes [K, T] of the whole frames among them.

    A character that is not the next codebook's is dropped, as codec-bpe does, and so are frames that begin or end in the middle.
    """
    _check_offset(offset, num_codebooks, codebook_size)
    data = text.encode("utf-32-le", "surrogatepass")
    numbers = np.frombuffer(data, "<u4").astype(np.int64) - offset
    book = numbers // codebook_size
    kept, wanted = [], 0
    for number, k in zip(numbers.tolist(), book.tolist(), strict=True):
        if k == wanted:
            kept.append(number - k * codebook_size)
            wanted = (wanted + 1) % num_codebooks
    whole = len(kept) // num_codebooks * num_codebooks
    return np.array(kept[:whole], np.int16).reshape(-1, num_codebooks).T


def _check_offset(offset: int, num_codebooks: int, codebook_size: int) -> None:
    last = offset + num_codebooks * codebook_size - 1
    if offset < 0 or last > 0x10FFFF or (offset < SURROGATES.stop and last >= SURROGATES.start):
        raise CodesError(
            f"{num_codebooks} × {codebook_size} characters from {offset:#x} on reach {last:#x}, where no characters are; "
            f"begin at {OFFSET_LARGE:#x}"
        )
