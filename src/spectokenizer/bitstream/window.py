"""A byte source seen through a bounded window that only moves forward, and the variable-length numbers in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO

from ..errors import CorruptedError
from .crc32c import RangeCrc

MAX_BODY = 1 << 16  # bytes in any record, and bytes passed that the window keeps before it lets go of them


class Window:
    """The bytes from the current position on, read from the source only as they are asked for."""

    def __init__(self, source: BinaryIO, offset: int = 0) -> None:
        self.offset = offset  # of the current position from the start of the source
        self._source = source
        self._data = bytearray()
        self._crc = RangeCrc()  # of _data
        self._at = 0  # of the current position in _data

    @property
    def end(self) -> int:
        """Offset of the end of what was read from the source."""
        return self.offset + len(self._data) - self._at

    def peek(self, count: int) -> bytes:
        """The next `count` bytes, fewer only at the end of the source."""
        while (missing := self._at + count - len(self._data)) > 0:
            piece = self._source.read(missing)
            if not piece:
                break
            self._data += piece
            self._crc.extend(piece)
        return bytes(self._data[self._at : self._at + count])

    def byte(self, index: int) -> int:
        """Raises EOFError if the source ends before."""
        if self._at + index >= len(self._data) and len(self.peek(index + 1)) <= index:
            raise EOFError
        return self._data[self._at + index]

    def crc(self, count: int) -> int:
        """0 if the last four of the next `count` bytes, all of them seen, are the checksum of those before."""
        stop = self._at + count - 4
        return self._crc.crc(self._at, stop) ^ int.from_bytes(self._data[stop : stop + 4], "little")

    def skip(self, count: int) -> None:
        """Move on over bytes that were seen."""
        self._at += count
        self.offset += count
        if self._at > MAX_BODY:
            del self._data[: self._at]
            self._crc.drop(self._at)
            self._at = 0


def write_varint(value: int) -> bytes:
    """Seven bits per byte, least significant first; the top bit says that more follow."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def read_varint(byte: Callable[[int], int], at: int) -> tuple[int, int]:
    """The value at index `at`, and the index behind it. At most seven bytes (49 bits), in the shortest form: else CorruptedError."""
    value = 0
    for index in range(7):
        piece = byte(at + index)
        value |= (piece & 0x7F) << 7 * index
        if piece < 0x80:
            if piece == 0 and index > 0:
                break
            return value, at + index + 1
    raise CorruptedError("a number is longer than it may be")
