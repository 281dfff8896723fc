"""Codes as text, one character each, in the mapping of the package codec-bpe (Acoustic BPE, Shen et al., 2024).

Code c of codebook k of K is the character number offset + k·S + c, S the codebook's size; frames follow each other, all their
codebooks side by side. From 0x4E00 that is the block of CJK ideographs, which byte-pair encoders split at every character.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..codes import CodeArray, check_codes
from ..errors import CodesError
from ..tokens import Vocabulary

OFFSET = 0x4E00
OFFSET_LARGE = 0xE000  # beyond the surrogates, for more than 35 328 characters in all
SURROGATES = range(0xD800, 0xE000)


def codes_to_chars(codes: npt.ArrayLike, codebook_size: int, offset: int = OFFSET) -> str:
    """Codes [K, T] to K·T characters. Raises CodesError for codes out of range and for characters that cannot be."""
    array = check_codes(codes, None, codebook_size)
    return _vocabulary(len(array), codebook_size, offset).encode(array).astype("<u4").tobytes().decode("utf-32-le")


def chars_to_codes(text: str, num_codebooks: int, codebook_size: int, offset: int = OFFSET) -> CodeArray:
    """Characters, such as a language model writes them, to codes [K, T] of the whole frames among them.

    A character that is not the next codebook's is dropped, as codec-bpe does, and so are frames that begin or end in the middle.
    """
    numbers = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    return _vocabulary(num_codebooks, codebook_size, offset).decode(numbers)


def _vocabulary(num_codebooks: int, codebook_size: int, offset: int) -> Vocabulary:
    """Its ids are the characters' numbers."""
    last = offset + num_codebooks * codebook_size - 1
    if offset < 0 or last > 0x10FFFF or (offset < SURROGATES.stop and last >= SURROGATES.start):
        raise CodesError(
            f"{num_codebooks} × {codebook_size} characters from {offset:#x} on reach {last:#x}, where no characters are; "
            f"begin at {OFFSET_LARGE:#x}"
        )
    return Vocabulary(num_codebooks, codebook_size, (), offset)
