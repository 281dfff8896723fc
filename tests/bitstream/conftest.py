"""Streams to read, repair and damage, and a coder that is no good but obeys the protocol."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from spectokenizer.bitstream import Header, Writer
from spectokenizer.bitstream.bits import pack, unpack
from spectokenizer.errors import CorruptedError

Codes = npt.NDArray[np.int16]
HEADER = Header("mini", "0123456789abcdef", 16000, 320, 12, 10)


class FakeCoder:
    """Deflate. What it is given back is checked as little as the protocol allows, so that the container has to."""

    def __init__(self, tables: bytes = b"fake-tab") -> None:
        self.hash = tables

    def encode(self, codes: Codes) -> bytes:
        return zlib.compress(pack(codes, 10), 9)

    def decode(self, data: bytes, num_codebooks: int, num_frames: int) -> Codes:
        try:
            plain = zlib.decompressobj().decompress(data, 1 << 16)
        except zlib.error as error:
            raise CorruptedError(f"not deflate: {error}") from error
        return unpack(plain, num_codebooks, num_frames, 10)


@pytest.fixture(scope="session")
def coder() -> FakeCoder:
    return FakeCoder()


@pytest.fixture(scope="session")
def header() -> Header:
    return HEADER


Make = Callable[..., tuple[bytes, Codes]]


@pytest.fixture(scope="session")
def make() -> Make:
    """make(frames, seed, codebooks=8, quiet=False, **options of Writer) → a stream's bytes and its codes, 7 samples short."""

    def one(frames: int, seed: int = 0, codebooks: int = 8, quiet: bool = False, **options: Any) -> tuple[bytes, Codes]:
        codes = np.random.default_rng(seed).integers(0, 2 if quiet else 1024, (codebooks, frames)).astype(np.int16)
        sink = io.BytesIO()
        writer = Writer(sink, options.pop("header", HEADER), **options)
        writer.write(codes)
        writer.close(max(0, frames * 320 - 7))
        assert writer.num_bytes == len(sink.getvalue())
        return sink.getvalue(), codes

    return one
