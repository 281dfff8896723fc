"""Damaged and forged `.stk` files by the thousand: nothing but named errors, bounded memory, and what can be promised after damage.

    python tests/fuzz/mutate.py 100000 [seed]

Besides flipped bits, cuts and insertions, records are repeated, moved, taken from other files, and changed inside with a checksum
that matches. The pytest beside this runs 500; `SPECTOKENIZER_FUZZ=100000` makes it more.
"""

from __future__ import annotations

import dataclasses
import io
import random
import sys
import time
import tracemalloc
import zlib
from collections import Counter

import numpy as np

from spectokenizer.bitstream import Header, Writer, streams
from spectokenizer.bitstream.bits import pack, unpack
from spectokenizer.bitstream.header import read_header
from spectokenizer.bitstream.reader import MAX_PROBLEMS
from spectokenizer.bitstream.records import MAGIC, read_head, seal
from spectokenizer.bitstream.repair import repair
from spectokenizer.bitstream.seek import Parts
from spectokenizer.bitstream.window import Window
from spectokenizer.errors import CorruptedError, FormatError, ModelError

HEADER = Header("mini", "0123456789abcdef", 16000, 320, 4, 6)
MEMORY = 8 << 20  # bytes beyond what was there, for files of a few kB: the largest records are 64 KiB


class Deflate:
    """Stands for an entropy coder."""

    hash = b"fake-tab"

    def encode(self, codes: np.ndarray) -> bytes:
        return zlib.compress(pack(codes, 6), 9)

    def decode(self, data: bytes, num_codebooks: int, num_frames: int) -> np.ndarray:
        try:
            return unpack(zlib.decompressobj().decompress(data, 1 << 14), num_codebooks, num_frames, 6)
        except zlib.error as error:
            raise CorruptedError(str(error)) from error


CODER = Deflate()


def make(frames: int, seed: int, header: Header = HEADER, packet_frames: int = 3, **options: object) -> bytes:
    codes = np.random.default_rng(seed).integers(0, 2 if seed % 2 else 1 << header.bits_per_code, (header.num_codebooks, frames))
    sink = io.BytesIO()
    writer = Writer(sink, header, packet_frames, **options)  # type: ignore[arg-type]
    for start in range(0, frames, 20):
        writer.write(codes[: 1 + start // 20 % header.num_codebooks, start : start + 20])
    writer.close(max(0, frames * header.frame_size - 7))
    return sink.getvalue()


def seeds() -> list[bytes]:
    """Small files with every feature."""
    other = dataclasses.replace(HEADER, model="other", num_codebooks=3)
    plain, full = make(40, 0), make(40, 1, metadata={"title": "x", "a": "b"}, index=True, entropy=CODER)
    return [
        plain,
        make(0, 2),
        make(90, 3, packet_frames=2, index=True),
        full,
        make(30, 5, entropy=CODER, packet_frames=10),
        make(9, 4, other) + plain,
        make(60, 7, packet_frames=1, index=True) + full + make(0, 0, metadata={"k": "v"}) + make(70, 6, packet_frames=2, index=True),
    ]


def split(data: bytes) -> list[bytes]:
    """A good file's records, headers among them."""
    records, header, at = [], HEADER, 0
    while at < len(data):
        if data[at : at + 4] == MAGIC:
            header, _, size = read_header(Window(io.BytesIO(data[at:])))
        else:
            size = read_head(data[at:].__getitem__, header.bits_per_code, header.num_codebooks).size
        records.append(data[at : at + size])
        at += size
    return records


def mutated(files: list[list[bytes]], rng: random.Random) -> bytes:
    """One of the files, changed in one to five ways."""
    records = list(rng.choice(files))
    structural = rng.random() < 0.7
    for _ in range(rng.choice([0, 1, 1, 2, 3]) if structural else 0):
        at = rng.randrange(len(records) + 1)
        kind = rng.randrange(6)
        if kind == 0 and records:
            records.insert(at, rng.choice(records))
        elif kind == 1:
            records.insert(at, rng.choice(rng.choice(files)))
        elif kind == 2:
            del records[at : at + rng.choice([1, 1, 1, 2, 5])]
        elif kind == 3:
            rng.shuffle(records) if rng.random() < 0.1 else records[at : at + 3].reverse()
        elif records:
            at = min(at, len(records) - 1)
            records[at] = forged(records[at], rng)
    data = bytearray(b"".join(records))
    for _ in range(rng.choice([0, 0, 1]) if structural else rng.choice([1, 1, 2, 5])):
        at, size = rng.randrange(len(data) + 1), rng.choice([1, 1, 2, 4, 30, 200])
        kind = rng.randrange(7)
        if kind == 0:
            data[at:at] = rng.randbytes(size)
        elif kind == 1:
            del data[at : at + size]
        elif kind == 2:
            data[at : at + size] = rng.choice([b"\0", b"\xff", b"\x80"]) * size
        elif kind == 3:
            del data[at:]
        elif kind == 4 and data:
            source = rng.randrange(len(data))
            data[at:at] = data[source : source + size]
        elif at < len(data):
            data[at] ^= 1 << rng.randrange(8)
    return bytes(data)


def forged(record: bytes, rng: random.Random) -> bytes:
    """Changed inside, with a checksum that matches."""
    body = bytearray(record[:-4])
    for _ in range(rng.choice([1, 1, 2])):
        at = rng.choice([rng.randrange(len(body)), min(len(body) - 1, rng.randrange(8)), len(body) - 1 - rng.randrange(min(4, len(body)))])
        kind = rng.randrange(5)
        if kind == 0:
            body[at] = rng.choice([0, 1, 2, 0x20, 0x3F, 0x40, 0x5F, 0x7F, 0x80, 0x81, 0x89, 0xFF])
        elif kind == 1:
            body[at:at] = rng.choice([b"\xff" * 6, b"\x80" * 3, rng.randbytes(rng.choice([1, 9, 300]))])
        elif kind == 2 and len(body) > 1:
            del body[at : at + rng.choice([1, 4])]
        else:
            body[at] ^= 1 << rng.randrange(8)
        body = body or bytearray(1)
    return seal(bytes(body))


class Source(io.BytesIO):
    """Refuses to be asked for more than the largest record."""

    def read(self, size: int | None = -1) -> bytes:
        assert size is not None and 0 <= size < 70_000, f"asked for {size} bytes"
        return super().read(size)


def check(data: bytes, rng: random.Random) -> str:
    """Everything that reads; raises on anything but named errors and on broken promises. Returns what the file is."""
    outcome = "good"
    total = 0
    try:
        for reader in streams(Source(data), entropy=CODER):
            for packet in reader:
                total += packet.codes.size
            assert reader.num_frames is not None and reader.num_samples is not None
    except (FormatError, ModelError) as error:
        outcome = type(error).__name__
    salvaged = 0
    try:
        for reader in streams(Source(data), True, HEADER if rng.random() < 0.5 else None, CODER):
            expected = 0
            for packet in reader:
                assert packet.first_frame >= expected
                expected = packet.first_frame + packet.codes.shape[1]
                assert packet.codes.min() >= 0 and packet.codes.max() < 1 << reader.header.bits_per_code
                salvaged += packet.codes.size
            assert len(reader.problems) <= MAX_PROBLEMS
            assert reader.num_frames is None or reader.num_frames >= expected
    except (FormatError, ModelError):
        pass
    else:
        assert outcome == "ModelError" or salvaged >= total, "salvage found less"
    first = rng.randrange(100)
    try:
        for part in Parts(Source(data), CODER):
            list(part.packets(first, rng.choice([None, first + rng.randrange(40)])))
    except (FormatError, ModelError):
        pass
    file = io.BytesIO(data)
    try:
        mended = repair(file, 160)
    except FormatError:
        assert file.getvalue() == data, "a repair that fails must change nothing"
    else:
        assert mended is None or repair(file, 160) is None, "what was mended needs no mending"
        if mended is not None and file.seek(0, 2):
            file.seek(0)
            for reader in streams(file):
                list(reader.raw())
    return outcome


def run(count: int, seed: int = 0) -> Counter[str]:
    """So many files. Every fiftieth has its memory measured, which is slow."""
    rng, files = random.Random(seed), [split(data) for data in seeds()]
    outcomes: Counter[str] = Counter()
    for number in range(count):
        data = mutated(files, rng)
        measured = number % 50 == 0
        if measured:
            tracemalloc.start()
        try:
            outcomes[check(data, rng)] += 1
            assert not measured or tracemalloc.get_traced_memory()[1] < MEMORY, "too much memory"
        except Exception as error:
            error.add_note(f"file {number} of seed {seed}: {data.hex()}")
            raise
        finally:
            if measured:
                tracemalloc.stop()
    return outcomes


if __name__ == "__main__":
    count, seed = map(int, [*sys.argv[1:], "10000", "0"][:1] + [*sys.argv[2:], "0"][:1])
    start = time.monotonic()
    for name, number in run(count, seed).most_common():
        print(f"{number:8} {name}")
    try:
        import resource
    except ImportError:
        pass
    else:
        print(f"peak of the whole process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")
    print(f"{count} files in {time.monotonic() - start:.0f} s")
