"""Writing a `.stk` stream, version 1: a header, packets of frames, an end record. `docs/format.md` has every bit.

    header   magic, version, length | flags, model hash, sample rate, frame size, bits, codebooks, model name | CRC-32C
    packet   type and K, frames, first frame | codes | CRC-32C        (entropy-coded ones have a length, too)
    record   type, length | body | CRC-32C                            (hash of the tables, metadata, index, end)

Written front to back in bounded memory, each record in one piece: nothing seeks, so it may be a pipe. Every record has its own
checksum and every packet its place, so that what is intact can be recovered.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
import numpy.typing as npt

from ..codes import check_codes
from ..errors import CodesError, ConfigError, StreamError
from . import records
from .coding import HASH_SIZE, Entropy
from .header import HAS_INDEX, HAS_METADATA, HAS_TABLES, Header
from .index import Entry, Index
from .metadata import pack_metadata
from .records import MAX_FRAMES, Codes

Snapshot = dict[str, npt.NDArray[Any]]


class Writer:
    """Writes codes to `sink`: the header now, packets as they fill up, the end record on `close`.

    A packet holds `packet_frames` frames (1 to 255, default one second) of the same number of codebooks, and waits until a fifth
    more has come: the last one before a change or the end takes in a short rest, which costs no packet of its own. Each
    reaches the sink in one write, followed by a flush: another process can follow live, and after a crash all that was
    written can be read. The sink is not closed.

    `metadata` is text by key. With `index` a reader finds any time in a long recording at once. With `entropy` each packet is
    entropy-coded if that makes it shorter. Raises ConfigError on an impossible `packet_frames` or metadata.
    """

    def __init__(
        self,
        sink: BinaryIO,
        header: Header,
        packet_frames: int | None = None,
        *,
        metadata: Mapping[str, str] | None = None,
        index: bool = False,
        entropy: Entropy | None = None,
        snapshot: Snapshot | None = None,
    ) -> None:
        if packet_frames is None:
            packet_frames = min(max(round(header.frame_rate), 1), MAX_FRAMES)
        if not 1 <= packet_frames <= MAX_FRAMES:
            raise ConfigError(f"packet_frames must be 1 to {MAX_FRAMES}, not {packet_frames}")
        self.header = header
        self.num_frames = 0  # written, in the buffer not counted
        self.num_bytes = 0  # written
        self._sink = sink
        self._packet_frames = packet_frames
        self._slack = min(packet_frames // 5, MAX_FRAMES - packet_frames)
        self._buffer: list[Codes] = []  # [K, t] each, all of the same K
        self._buffered = 0  # frames
        self._closed = False
        self._entropy = entropy
        self._index = Index() if index else None
        self.front = _front(header, metadata, index, entropy)
        if snapshot is None:
            self._send(self.front)
        else:
            self._restore(snapshot)

    def write(self, codes: npt.ArrayLike) -> None:
        """Append codes [K, t], K from 1 to `header.num_codebooks`. Raises CodesError, or StreamError after `close`."""
        self._check_open()
        array = check_codes(codes, self.header.num_codebooks, 1 << self.header.bits_per_code)
        if array.shape[1] == 0:
            return
        if self._buffer and len(self._buffer[0]) != len(array):
            self._drain(1)
        self._buffer.append(array)
        self._buffered += array.shape[1]
        if self._buffered >= self._packet_frames + self._slack:
            self._drain(self._packet_frames + self._slack)

    def close(self, num_samples: int) -> None:
        """Write what is left, the index and the end record. `num_samples` is the exact length at `header.sample_rate`."""
        self._check_open()
        most = (self.num_frames + self._buffered) * self.header.frame_size
        if not 0 <= num_samples <= most:
            raise CodesError(f"num_samples must be 0 to {most}, what the frames hold; not {num_samples}")
        self._drain(1)
        index = self._index.pack(self.num_bytes) if self._index else b""
        self._send(index + records.make_end(self.num_frames, num_samples))
        self._closed = True

    def snapshot(self) -> Snapshot:
        """Plain arrays from which `Writer(..., snapshot=...)` goes on exactly here, once the sink is cut to `num_bytes`."""
        self._check_open()
        entries = self._index.entries if self._index else []
        return {
            "counters": np.array([self.num_frames, self.num_bytes]),
            "buffer": np.concatenate(self._buffer, axis=1) if self._buffer else np.zeros((1, 0), np.int16),
            "index": np.array(entries, np.int64).reshape(-1, 2),
            "stride": np.array([self._index.stride, self._index.packets] if self._index else [], np.int64),
        }

    def _restore(self, snapshot: Snapshot) -> None:
        try:
            self.num_frames, self.num_bytes = map(int, snapshot["counters"])
            if self._index:
                self._index.entries = [Entry(*map(int, row)) for row in snapshot["index"]]
                self._index.stride, self._index.packets = map(int, snapshot["stride"])
            self.write(snapshot["buffer"])
        except (KeyError, TypeError, ValueError, CodesError) as error:
            raise StreamError(f"the snapshot is not one of a .stk writer with these options: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Without `close` the codes are written but no end record, so that a reader sees the data as cut off."""
        if not self._closed:
            self._drain(1)
            self._closed = True
            if error is None:
                raise StreamError("the .stk writer was left without close(num_samples): the data have no end record")

    def _check_open(self) -> None:
        if self._closed:
            raise StreamError("this .stk writer is closed")

    def _drain(self, least: int) -> None:
        """Send packets for as long as at least `least` frames are buffered."""
        if not self._buffer:
            return
        codes = np.concatenate(self._buffer, axis=1)
        self._buffer, self._buffered = [], 0  # an interruption may lose frames but never repeats them
        start, count = 0, codes.shape[1]
        while count - start >= least:
            size = self._packet_frames if count - start >= self._packet_frames + self._slack else count - start
            if self._index:
                self._index.add(self.num_frames, self.num_bytes)
            self._send(records.make_packet(self.num_frames, codes[:, start : start + size], self.header.bits_per_code, self._entropy))
            self.num_frames += size
            start += size
        if start < count:
            self._buffer, self._buffered = [codes[:, start:].copy()], count - start

    def _send(self, record: bytes) -> None:
        try:
            self._sink.write(record)
            self._sink.flush()
        except BaseException:
            self._closed = True  # a record may be cut off: nothing can follow it
            raise
        self.num_bytes += len(record)


def _front(header: Header, metadata: Mapping[str, str] | None, index: bool, entropy: Entropy | None) -> bytes:
    """The header, and the records that belong right behind it."""
    flags = (HAS_TABLES if entropy else 0) | (HAS_INDEX if index else 0) | (HAS_METADATA if metadata else 0)
    tables = b"" if entropy is None else entropy.hash
    if entropy and len(tables) != HASH_SIZE:
        raise ConfigError(f"the hash of entropy tables has {HASH_SIZE} bytes, not {len(tables)}")
    parts = [header.pack(flags)]
    if entropy:
        parts.append(records.make_record(records.TABLES, tables))
    if metadata:
        parts.append(records.make_record(records.METADATA, pack_metadata(metadata)))
    return b"".join(parts)
