"""What the container asks of an entropy coder, and how it finds the one that a stream needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt

from ..errors import ModelError
from .header import Header

HASH_SIZE = 8  # bytes


class Entropy(Protocol):
    """An entropy coder: integer tables, and codes to bytes and back by them."""

    @property
    def hash(self) -> bytes:
        """Eight bytes that tell these tables from all others."""

    def encode(self, codes: npt.NDArray[np.int16]) -> bytes:
        """Codes [K, t] as bytes."""

    def decode(self, data: bytes, num_codebooks: int, num_frames: int) -> npt.NDArray[np.int16]:
        """The codes [K, t] that `encode` was given. Raises CorruptedError when that cannot be."""


FindEntropy = Callable[[str, bytes | None], Entropy | None]  # from the model's hash and the tables' (None: lost to damage)


def find_entropy(entropy: Entropy | FindEntropy | None, header: Header, tables: bytes | None) -> Entropy:
    """The coder with these tables. Raises ModelError when it is not there."""
    found = cast("Entropy | None", entropy if hasattr(entropy, "decode") else entropy and entropy(header.model_hash, tables))
    if found is not None and tables in (None, found.hash):
        return found
    wanted = f"tables {tables.hex()}" if tables else "tables"
    other = "" if found is None else f", not {found.hash.hex()}"
    raise ModelError(
        f"the codes are entropy-coded with {wanted} of model '{header.model}' ({header.model_hash}){other}; "
        "give the folder of the model that has them (--model), or encode again without --entropy"
    )
