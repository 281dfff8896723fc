"""Golden files of version 1: one for each feature. They must always decode to the same; an update that reads them differently breaks.

`python tests/bitstream/test_golden.py` writes those that are missing, and never one that is there.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spectokenizer.bitstream import Header, Reader, Writer, streams
from spectokenizer.bitstream.entropy import Entropy, Source, Table
from spectokenizer.bitstream.seek import Parts

DATA = Path(__file__).parents[1] / "data"
DOCUMENT = Path(__file__).parents[2] / "docs" / "format.md"
METADATA = {"title": "Grüße", "created": "2026-01-31T12:00:00Z", "Ärger ": 'a "b"\n\\c\u2028'}


def codes(codebooks: int, frames: int) -> np.ndarray:
    return (np.arange(codebooks * frames).reshape(codebooks, frames) * 67 % 1024).astype(np.int16)


def stream(header: Header, parts: list[np.ndarray], num_samples: int, packet_frames: int | None = None, **options: Any) -> bytes:
    sink = io.BytesIO()
    writer = Writer(sink, header, packet_frames, **options)
    for part in parts:
        writer.write(part)
    writer.close(num_samples)
    return sink.getvalue()


TWO = Header("mini", "0123456789abcdef", 16000, 320, 2, 10)
THREE = Header("tiny", "00112233aabbccdd", 16000, 320, 3, 4)
FIVE = Header("modèle", "fedcba9876543210", 24000, 480, 5, 7)


def with_metadata() -> bytes:
    return stream(TWO, [codes(2, 8)], 2400, metadata=METADATA)


def with_index() -> bytes:
    """40 packets of one frame: entries for packets 0, 16 and 32."""
    return stream(TWO, [codes(2, 20), codes(1, 20)], 12_345, 1, index=True)


def chained() -> bytes:
    """Two codebooks; then five of another model, with a title; then a recording of no samples."""
    return (
        stream(TWO, [codes(2, 8)], 2400)
        + stream(FIVE, [codes(5, 30) % 128, codes(1, 3) % 128], 33 * 480 - 1, 9, metadata={"title": "two"}, index=True)
        + stream(TWO, [], 0)
    )


def tables() -> Entropy:
    """Three codebooks of 16 codes; small ones, and those like the ones before, are likely."""
    made = []
    for k in range(3):
        sources = (Source(1, k), Source(0, k - 1)) if k else (Source(1, k),)
        near = np.abs(np.arange(17)[:, None] - np.arange(2)) % 9  # [17, 2]
        vectors = np.stack([near - 4 + lag for lag in range(len(sources))]).astype(np.int8)
        weights = (np.arange(32).reshape(2, 16) * 5 % 13 - 6).astype(np.int8)
        made.append(Table(sources, shift=2, bias=(-120 * np.arange(16)).astype(np.int16), weights=weights, vectors=vectors))
    return Entropy(made, 4)


def entropy_coded() -> bytes:
    """Three packets that are shorter coded, and one that is not."""
    likely = (np.arange(90).reshape(3, 30) * 7 // 3 % 3).astype(np.int16)
    return stream(THREE, [likely, codes(3, 10) % 16], 12_800 - 160, 10, entropy=tables())


GOLDEN: dict[str, Callable[[], bytes]] = {"metadata": with_metadata, "index": with_index, "chained": chained, "entropy": entropy_coded}


def path(name: str) -> Path:
    return DATA / f"golden-v1-{name}.stk"


def read(name: str) -> list[tuple[Reader, list[list[int]]]]:
    """Each stream and its frames."""
    out = []
    for reader in streams(io.BytesIO(path(name).read_bytes())):
        out.append((reader, [frame for packet in reader for frame in packet.codes.T.tolist()]))
    return out


def test_metadata() -> None:
    ((reader, frames),) = read("metadata")
    assert reader.header == TWO and reader.metadata == METADATA and list(reader.metadata) == list(METADATA)
    assert frames == codes(2, 8).T.tolist()
    assert (reader.num_samples, reader.num_frames) == (2400, 8)


def test_index() -> None:
    ((reader, frames),) = read("index")
    assert reader.indexed and reader.header == TWO and reader.metadata == {}
    assert frames == codes(2, 20).T.tolist() + codes(1, 20).T.tolist()
    assert reader.num_samples == 12_345
    (part,) = Parts(io.BytesIO(path("index").read_bytes()))
    assert (part.num_samples, part.num_frames) == (12_345, 40)  # which only the index tells at once
    assert [packet.codes.T.tolist() for packet in part.packets(18, 22)] == [[frames[t]] for t in range(18, 22)]


def test_chained() -> None:
    (one, first), (two, second), (three, third) = read("chained")
    assert (one.header, two.header, three.header) == (TWO, FIVE, TWO)
    assert (one.metadata, two.metadata, three.metadata) == ({}, {"title": "two"}, {})
    assert first == codes(2, 8).T.tolist()
    assert second == (codes(5, 30) % 128).T.tolist() + (codes(1, 3) % 128).T.tolist()
    assert third == []
    assert [reader.num_samples for reader in (one, two, three)] == [2400, 33 * 480 - 1, 0]
    parts = list(Parts(io.BytesIO(path("chained").read_bytes())))
    assert [part.num_samples for part in parts] == [2400, 33 * 480 - 1, 0]
    assert [part.start for part in parts] == [0, 65, 300] and parts[2].stop == path("chained").stat().st_size


def test_entropy() -> None:
    """Its tables are kept beside it."""
    coder = Entropy.load(DATA / "golden-v1-entropy.tables")
    reader = Reader(io.BytesIO(path("entropy").read_bytes()), entropy=coder)
    frames = [frame for packet in reader for frame in packet.codes.T.tolist()]
    assert reader.header == THREE and reader.tables == coder.hash
    assert frames == (np.arange(90).reshape(3, 30) * 7 // 3 % 3).T.tolist() + (codes(3, 10) % 16).T.tolist()
    assert (reader.num_samples, reader.num_frames) == (12_640, 40)
    assert [packet.coded for packet in Reader(io.BytesIO(path("entropy").read_bytes())).raw()] == [True, True, True, False]


@pytest.mark.parametrize("name", GOLDEN)
def test_the_writer_writes_them(name: str) -> None:
    assert GOLDEN[name]() == path(name).read_bytes()


@pytest.mark.parametrize("name", ["metadata", "index", "entropy"])
def test_the_document_shows_them(name: str) -> None:
    block = re.search(rf"```hex {name}\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    data = path(name).read_bytes()
    for line in block[1].splitlines():
        at, columns, *_ = line.split("  ")
        shown = bytes.fromhex(columns)
        assert data[int(at, 16) :][: len(shown)] == shown


if __name__ == "__main__":
    if not (DATA / "golden-v1-entropy.tables").exists():
        tables().save(DATA / "golden-v1-entropy.tables")
    for name, make in GOLDEN.items():
        if not path(name).exists():
            path(name).write_bytes(make())
        print(name, path(name).read_bytes().hex(" "))
