"""Entropy coding of codes: a range coder, and tables from which the frequency of every code follows from the codes before it.

    sources   codes already known (of the frame before, of a coarser codebook) → each its small vector; their sum h [D]
    scores    bias + h · weights → one whole number per code: how likely it is, in steps of 1/32 octave
    range     frequencies 2^(score/32) → the interval that the code narrows → bytes

All of it is whole numbers, so encoder and decoder agree on every machine. Vectors and weights are int8: some 20 kB per
codebook stand for a table of a million frequencies. A packet stands alone, so damage costs no more than its own packet.
`docs/entropy.md` has the arithmetic and the file format, and what it saves.
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from math import isqrt
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..codes import check_codes
from ..disk import replacing
from ..errors import CodesError, ConfigError, CorruptedError, ModelError
from . import bits
from .coding import HASH_SIZE
from .crc32c import crc32c
from .records import MAX_CODEBOOKS, MAX_FRAMES

MAGIC = b"\x89STE"
VERSION = 1
FILE = "entropy.bin"  # in a model's folder
MAX_RANK = 32
MAX_SOURCES = 4
MAX_SHIFT = 8
MAX_BODY = 1 << 24  # bytes of tables, so that no file fills the memory
STEPS = 32  # scores per octave of frequency
OCTAVES = 16  # from the likeliest code to the least likely, which so keeps a frequency of at least 1

_RANGE = 1 << 56  # at the start; never more
_AT_ONCE = 16  # frames, in encoding: more do not fit the cache
_SMALL = 1 << 40  # a smaller range takes in two more bytes; frequencies add up to less than 2^31

Int32 = npt.NDArray[np.int32]


def _powers() -> npt.NDArray[np.uint32]:
    """floor(2^(i/32)) for i from 0 to 512, by whole-number square roots: the floor of a root's floor is the root's."""
    return np.array([isqrt(isqrt(isqrt(isqrt(isqrt(1 << i))))) for i in range(STEPS * OCTAVES + 1)], np.uint32)


_POWERS = _powers()


class Source(NamedTuple):
    """A code that is known when another is coded: of codebook `codebook`, `lag` frames before (0 or 1)."""

    lag: int
    codebook: int


@dataclass(frozen=True, eq=False)
class Table:
    """How likely the codes of one codebook are, given what is known. S codes, rank D."""

    sources: tuple[Source, ...]
    shift: int  # bits by which products are finer than scores
    bias: npt.NDArray[np.int16]  # [S], as fine as products
    weights: npt.NDArray[np.int8]  # [D, S]
    vectors: npt.NDArray[np.int8]  # [sources, S + 1, D]; the last row where there is no frame before

    @property
    def rank(self) -> int:
        return len(self.weights)


class Entropy:
    """Codes of one model to bytes and back. Holds no state: may be shared by threads.

    `tables` has one `Table` per codebook, each for `2**bits_per_code` codes, whose sources are of coarser codebooks, or of the
    same one in the frame before: so fewer codebooks need only their own tables. Raises ConfigError for tables that cannot work.
    """

    def __init__(self, tables: list[Table] | tuple[Table, ...], bits_per_code: int) -> None:
        self.tables, self.bits_per_code = tuple(tables), bits_per_code
        size = 1 << bits_per_code if 1 <= bits_per_code <= bits.MAX_BITS else 0
        checks = {f"1 to {bits.MAX_BITS} bits per code": size > 0, f"1 to {MAX_CODEBOOKS} tables": 1 <= len(tables) <= MAX_CODEBOOKS}
        for k, table in enumerate(self.tables):
            counts = len(table.sources), table.rank
            checks |= {
                f"table {k}: sources of codebooks before it, or of codebook {k} one frame before": all(
                    (lag == 0 and 0 <= j < k) or (lag == 1 and 0 <= j <= k) for lag, j in table.sources
                ),
                f"table {k}: up to {MAX_SOURCES} sources, rank up to {MAX_RANK}, shift up to {MAX_SHIFT}": counts[0] <= MAX_SOURCES
                and counts[1] <= MAX_RANK
                and 0 <= table.shift <= MAX_SHIFT,
                f"table {k}: int16 bias [{size}], int8 weights and vectors of fitting shapes": (
                    (table.bias.dtype.str[1:], table.weights.dtype.str[1:], table.vectors.dtype.str[1:]) == ("i2", "i1", "i1")
                    and table.bias.shape == (size,)
                    and table.weights.shape[1:] == (size,)
                    and table.vectors.shape == (counts[0], size + 1, counts[1])
                ),
            }
        checks[f"at most {MAX_BODY} bytes of tables"] = sum(_num_bytes(size, len(t.sources), t.rank) for t in self.tables) <= MAX_BODY
        broken = [rule for rule, holds in checks.items() if not holds]
        if broken:
            raise ConfigError(f"entropy tables need: {'; '.join(broken)}")
        self._groups = [_group(self.tables, run) for run in _runs(self.tables)]

    @property
    def num_codebooks(self) -> int:
        return len(self.tables)

    # -- codes to bytes and back -----------------------------------------------------------------------------------------

    def encode(self, codes: npt.ArrayLike) -> bytes:
        """Codes [K, t], K from 1 to `num_codebooks`, t up to 255, as bytes that say neither K nor t. Raises CodesError."""
        array = check_codes(codes, None, 1 << self.bits_per_code)
        num_codebooks, num_frames = array.shape
        if not (1 <= num_codebooks <= self.num_codebooks and num_frames <= MAX_FRAMES):
            raise CodesError(
                f"codes have shape [{num_codebooks}, {num_frames}]; these tables take 1 to {self.num_codebooks} codebooks, "
                f"0 to {MAX_FRAMES} frames"
            )
        start, stop, total = self._intervals(array)
        low, span, size = 0, _RANGE, 7  # a number of `size` bytes; Python's are as long as it takes, and carry by themselves
        for a, b, whole in zip(start.T.ravel().tolist(), stop.T.ravel().tolist(), total.T.ravel().tolist(), strict=True):
            step = span // whole
            low += step * a
            span = step * (b - a)
            while span < _SMALL:
                low <<= 16
                span <<= 16
                size += 2
        return _shortest(low, span, size)

    def decode(self, data: bytes, num_codebooks: int, num_frames: int) -> npt.NDArray[np.int16]:
        """The int16 codes [num_codebooks, num_frames] of which `encode` makes exactly these bytes; CorruptedError if there are none.

        The work depends on the two numbers alone, not on the data.
        """
        if not (1 <= num_codebooks <= self.num_codebooks and 0 <= num_frames <= MAX_FRAMES):
            raise CorruptedError(
                f"{num_frames} frames of {num_codebooks} codebooks are entropy-coded; these tables know 1 to {self.num_codebooks} "
                f"codebooks, and a packet has 0 to {MAX_FRAMES} frames"
            )
        absent, used = 1 << self.bits_per_code, [group for group in self._groups if group.first < num_codebooks]
        known = np.full((2, self.num_codebooks, 1), absent, np.intp)  # the frame before, and this one as far as it is known
        out = np.empty((num_codebooks, num_frames), np.int16)
        padded = data + bytes(4 * num_codebooks * num_frames + 7)  # a code takes in no more than four bytes
        offset, span, at = int.from_bytes(padded[:7], "big"), _RANGE, 7  # offset: how far the data are above the interval's low end
        for t in range(num_frames):
            for group in used:
                for k, row in enumerate(group.sums(known.reshape(-1, 1), num_codebooks)[:, 0], group.first):
                    whole = int(row[-1])
                    step = span // whole
                    value = offset // step
                    if value >= whole:
                        raise CorruptedError(f"no code of codebook {k} has this bit pattern, in frame {t} of the packet")
                    code = int(row.searchsorted(np.uint32(value), "right"))
                    a = int(row[code - 1]) if code else 0
                    offset -= step * a
                    span = step * (int(row[code]) - a)
                    while span < _SMALL:
                        offset = offset << 16 | padded[at] << 8 | padded[at + 1]
                        span <<= 16
                        at += 2
                    known[1, k] = out[k, t] = code
            known[0] = known[1]
        low = (int.from_bytes(data[:at], "big") << 8 * max(0, at - len(data))) - offset
        if len(data) > at or _shortest(low, span, at) != data:
            raise CorruptedError(f"{len(data)} bytes are not what {num_frames} frames of {num_codebooks} codebooks are coded as")
        return out

    def _intervals(self, codes: npt.NDArray[np.int16]) -> npt.NDArray[np.int64]:
        """Of each code in [K, t]: the sum of the frequencies below it, the same with its own, and the sum of all; [3, K, t]."""
        num_codebooks, num_frames = codes.shape
        known = np.full((2, self.num_codebooks, num_frames + 1), 1 << self.bits_per_code, np.intp)
        known[0, :num_codebooks, 1:] = known[1, :num_codebooks, :-1] = codes
        out = np.empty((3, num_codebooks, num_frames), np.int64)
        for at in range(0, num_frames, _AT_ONCE):
            here = slice(at, min(at + _AT_ONCE, num_frames))
            for group in self._groups:
                if group.first < num_codebooks:
                    sums = group.sums(known[:, :, here].reshape(2 * self.num_codebooks, -1), num_codebooks)  # [g, t, S]
                    place = slice(group.first, group.first + len(sums))
                    rows = codes[place, here, None].astype(np.intp)
                    below = np.where(rows > 0, np.take_along_axis(sums, np.maximum(rows - 1, 0), 2), 0)
                    out[:, place, here] = below[..., 0], np.take_along_axis(sums, rows, 2)[..., 0], sums[..., -1]
        return out

    # -- the file ---------------------------------------------------------------------------------------------------------

    @cached_property
    def hash(self) -> bytes:
        """Eight bytes that change whenever the bytes of some codes may: of the tables, not of how they are compressed."""
        return hashlib.sha256(self._head() + self._body()).digest()[:HASH_SIZE]

    def to_bytes(self) -> bytes:
        head, packed = self._head(), zlib.compress(self._body(), 9)
        record = head + packed
        return record + crc32c(record).to_bytes(4, "little")

    def save(self, path: str | Path) -> None:
        """Write the file whole or not at all."""
        with replacing(Path(path)) as file:
            file.write(self.to_bytes())

    @classmethod
    def load(cls, path: str | Path) -> Entropy:
        """Tables from a file, or from a model's folder. Raises ModelError saying what is wrong with them."""
        path = Path(path) / FILE if Path(path).is_dir() else Path(path)
        try:
            with path.open("rb") as file:
                return cls.from_bytes(file.read(MAX_BODY + 1))
        except OSError as error:
            raise ModelError(f"{path}: entropy tables cannot be read ({error.strerror}); 'spectok tables' makes some") from error
        except ModelError as error:
            raise ModelError(f"{path}: {error}; make them again with 'spectok tables'") from None

    @classmethod
    def from_bytes(cls, data: bytes) -> Entropy:
        """What `to_bytes` gave. Raises ModelError for anything else, before it has used much memory."""
        if data[:4] != MAGIC or len(data) < 12:
            raise ModelError("these are no entropy tables")
        if data[4] > VERSION:
            raise ModelError(f"entropy tables of version {data[4]}, newer than {VERSION}; upgrade spectokenizer")
        if len(data) > MAX_BODY or crc32c(data[:-4]) != int.from_bytes(data[-4:], "little"):
            raise ModelError("the entropy tables are damaged: their checksum does not match")
        try:
            return cls._parse(data[:-4])
        except (IndexError, ValueError, zlib.error, ConfigError) as error:
            raise ModelError(f"the entropy tables hold an impossible value ({error})") from error

    @classmethod
    def _parse(cls, data: bytes) -> Entropy:
        """Raises IndexError, ValueError, zlib.error or ConfigError."""
        if data[4] != VERSION or not 1 <= data[5] <= bits.MAX_BITS or not 1 <= data[6] <= MAX_CODEBOOKS:
            raise ValueError(f"version {data[4]}, {data[5]} bits, {data[6]} codebooks")
        size, at, shapes = 1 << data[5], 7, []
        for _ in range(data[6]):
            rank, shift, count = data[at : at + 3]
            sources = tuple(Source(data[i], data[i + 1]) for i in range(at + 3, at + 3 + 2 * count, 2))
            if rank > MAX_RANK or count > MAX_SOURCES:
                raise ValueError(f"rank {rank}, {count} sources")
            shapes.append((rank, shift, sources))
            at += 3 + 2 * count
        expected = sum(_num_bytes(size, len(sources), rank) for rank, _, sources in shapes)
        if expected > MAX_BODY:
            raise ValueError(f"{expected} bytes of tables")
        inflate = zlib.decompressobj()
        body = inflate.decompress(data[at:], expected + 1)
        if len(body) != expected or not inflate.eof or inflate.unused_data:
            raise ValueError("tables of another length")
        tables, at = [], 0
        for rank, shift, sources in shapes:
            ends = list(accumulate([2 * size, rank * size, len(sources) * (size + 1) * rank], initial=at))
            bias, weights, vectors = (body[start:stop] for start, stop in pairwise(ends))
            tables.append(
                Table(
                    sources,
                    shift,
                    np.frombuffer(bias, "<i2").astype(np.int16),
                    np.frombuffer(weights, np.int8).reshape(rank, size),
                    np.frombuffer(vectors, np.int8).reshape(len(sources), size + 1, rank),
                )
            )
            at = ends[-1]
        return cls(tables, data[5])

    def _head(self) -> bytes:
        described = [bytes([t.rank, t.shift, len(t.sources), *(value for source in t.sources for value in source)]) for t in self.tables]
        return MAGIC + bytes([VERSION, self.bits_per_code, self.num_codebooks]) + b"".join(described)

    def _body(self) -> bytes:
        return b"".join(t.bias.astype("<i2").tobytes() + t.weights.tobytes() + t.vectors.tobytes() for t in self.tables)


def _num_bytes(size: int, sources: int, rank: int) -> int:
    """Of one table in a file, uncompressed."""
    return 2 * size + rank * size + sources * (size + 1) * rank


def _runs(tables: tuple[Table, ...]) -> list[range]:
    """Codebooks one after the other, none of which needs another of its run in the same frame: their frequencies come together."""
    starts = [0]
    for k, table in enumerate(tables):
        if any(lag == 0 and j >= starts[-1] for lag, j in table.sources):
            starts.append(k)
    return [range(start, stop) for start, stop in pairwise([*starts, len(tables)])]


@dataclass(frozen=True, eq=False)
class _Group:
    """The tables of G codebooks in arrays, filled up with zeros to n sources and rank D."""

    first: int  # codebook
    bias: Int32  # [G, 1, S]
    shift: Int32  # [G, 1, 1]
    weights: Int32  # [G, D, S]
    vectors: Int32  # [rows, D], those of all sources
    start: npt.NDArray[np.intp]  # [G, n, 1], where a source's rows start
    source: npt.NDArray[np.intp]  # [G, n], its row in what is known

    def sums(self, known: npt.NDArray[np.intp], used: int) -> npt.NDArray[np.uint32]:
        """Running sums of all frequencies [g, t, S], from the codes `known` [2 · K, t] in the frame before and in the same frame,
        for the g codebooks of the group that are among the first `used`.

        The likeliest code has a frequency of 2^16, one that is 16 octaves below or more has 1.
        """
        g = slice(used - self.first)
        rows = known.take(self.source[g], axis=0) + self.start[g]  # [g, n, t]
        h = self.vectors.take(rows, axis=0).sum(1, dtype=np.int32)  # [g, t, D]
        scores = np.einsum("gtd,gds->gts", h, self.weights[g])  # faster than a product of matrices, which for integers is a plain loop
        scores += self.bias[g]
        scores >>= self.shift[g]
        scores -= scores.max(2, keepdims=True) - STEPS * OCTAVES
        return np.add.accumulate(_POWERS.take(scores, mode="clip"), axis=2)  # clipped: a score below 0 counts as 0


def _group(tables: tuple[Table, ...], run: range) -> _Group:
    chosen = [tables[k] for k in run]
    size, rank, count = len(chosen[0].bias), max(t.rank for t in chosen), max(len(t.sources) for t in chosen)
    nothing = np.zeros((size + 1, rank), np.int32)
    weights = np.zeros((len(run), rank, size), np.int32)
    place, start = np.zeros((2, len(run), count), np.intp)
    vectors = [nothing]
    for g, table in enumerate(chosen):
        weights[g, : table.rank] = table.weights
        for i, source in enumerate(table.sources):
            place[g, i] = source.codebook + (0 if source.lag else len(tables))
            start[g, i] = len(vectors) * (size + 1)
            vectors.append(nothing.copy())
            vectors[-1][:, : table.rank] = table.vectors[i]
    bias = np.array([t.bias for t in chosen], np.int32)[:, None]
    shift = np.array([t.shift for t in chosen], np.int32)[:, None, None]
    return _Group(run.start, bias, shift, weights, np.concatenate(vectors), start[..., None], place)


def _shortest(low: int, span: int, size: int) -> bytes:
    """The fewest bytes that, followed by zeros up to `size`, are a number from `low` up to `low + span`, and of these the smallest."""
    number, zeros = low, 0
    while zeros < size:
        rounded = -(-low >> 8 * (zeros + 1)) << 8 * (zeros + 1)  # up to the next multiple
        if rounded >= low + span:
            break
        number, zeros = rounded, zeros + 1
    return (number >> 8 * zeros).to_bytes(size - zeros, "big")
