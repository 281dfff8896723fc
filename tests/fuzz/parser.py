"""The parser under a coverage-guided fuzzer, atheris: whatever bytes come, nothing but named errors.

    python tests/fuzz/parser.py -max_total_time=300 [folder of inputs to begin with and to keep]

The first byte of an input says how the rest is read: as it is; or as pieces of records, each of which gets its checksum, since a
fuzzer does not find checksums that match; with or without a header before them.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["spectokenizer.bitstream"]):
    sys.path.insert(0, str(Path(__file__).parent))
    import mutate

    from spectokenizer.bitstream.header import HAS_INDEX, HAS_METADATA, HAS_TABLES
    from spectokenizer.bitstream.records import make_end, make_record, seal

FRONTS = [
    b"",
    mutate.HEADER.pack(),
    mutate.HEADER.pack(HAS_METADATA | HAS_INDEX),
    mutate.HEADER.pack(HAS_TABLES) + make_record(2, mutate.CODER.hash),
    mutate.HEADER.pack() + make_end(0, 0),
]


def assembled(data: bytes) -> bytes:
    """From an input to a file."""
    if len(data) < 2:
        return data
    mode, rest = data[0], data[1:]
    front = FRONTS[mode % len(FRONTS)]
    if mode & 0x80:
        return front + rest
    out, at = bytearray(front), 0
    while at < len(rest):
        size = rest[at] & 0x3F
        piece = rest[at + 1 : at + 1 + size]
        out += piece if rest[at] & 0x80 else make_record(piece[0], piece[1:]) if rest[at] & 0x40 and piece else seal(piece)
        at += 1 + size
    return bytes(out)


def test_one_input(data: bytes) -> None:
    mutate.check(assembled(data), random.Random(len(data)))


def corpus() -> list[bytes]:
    """Inputs to begin with: the files of the other fuzzer, whole and in pieces."""
    found = []
    for file in mutate.seeds():
        found.append(b"\x82" + file)  # 0x82 % 5 == 0: nothing before them
        pieces = [record[:-4] for record in mutate.split(file)]
        found.append(b"\x00" + b"".join(bytes([len(piece)]) + piece for piece in pieces if len(piece) < 0x40))
        found.append(b"\x01" + b"".join(bytes([len(piece)]) + piece for piece in pieces[1:] if len(piece) < 0x40))
    return found


if __name__ == "__main__":
    folder = next((Path(word) for word in sys.argv[1:] if not word.startswith("-")), None)
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        for number, data in enumerate(corpus()):
            (folder / f"seed-{number}").write_bytes(data)
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()
