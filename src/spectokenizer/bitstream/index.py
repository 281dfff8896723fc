"""The index of a stream: where some of its packets start, so that a reader finds any time in it by two or three reads.

One entry for every so many packets. The stride doubles whenever there are too many entries, so that a writer's memory and the
record are bounded whatever the length, and a reader looks at no more than a few heads of packets behind the entry.
"""

from __future__ import annotations

from typing import NamedTuple

from ..errors import CorruptedError
from .records import INDEX, make_record, seal
from .window import read_varint, write_varint

STRIDE = 16  # packets per entry at first: at one second a packet, two bits per second
MAX_ENTRIES = 4096  # at most 14 bytes each
TAIL = 3  # bytes at the end of the body that hold the size of the whole record


class Entry(NamedTuple):
    """A packet's place."""

    frame: int
    offset: int  # bytes from the first byte of the stream


class Index:
    """What a writer gathers."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.stride = STRIDE
        self.packets = 0

    def add(self, frame: int, offset: int) -> None:
        """A packet that starts with `frame` at byte `offset` of its stream."""
        if self.packets % self.stride == 0:
            self.entries.append(Entry(frame, offset))
            if len(self.entries) > MAX_ENTRIES:
                del self.entries[1::2]
                self.stride *= 2
        self.packets += 1

    def pack(self, position: int) -> bytes:
        """The record that stands at byte `position` of the stream; nothing for a stream so short that it needs none."""
        if len(self.entries) < 2:
            return b""
        body = bytearray(write_varint(position) + write_varint(len(self.entries)))
        before = Entry(0, 0)
        for entry in self.entries:
            body += write_varint(entry.frame - before.frame) + write_varint(entry.offset - before.offset)
            before = entry
        size = len(make_record(INDEX, bytes(len(body) + TAIL)))
        return make_record(INDEX, bytes(body) + size.to_bytes(TAIL, "little"))


def unpack_index(record: bytes) -> tuple[int, list[Entry]]:
    """The position of an index record in its stream, and its entries in order. Raises CorruptedError."""
    impossible = CorruptedError("the index is damaged")
    if len(record) < 5 + TAIL or record[0] != INDEX or seal(record[:-4]) != record:
        raise impossible
    try:
        length, at = read_varint(record.__getitem__, 1)
        if at + length + 4 != len(record) or int.from_bytes(record[-4 - TAIL : -4], "little") != len(record):
            raise impossible
        position, at = read_varint(record.__getitem__, at)
        count, at = read_varint(record.__getitem__, at)
        if count > length:
            raise impossible
        entries, before = [], Entry(-1, 0)
        for number in range(count):
            frames, at = read_varint(record.__getitem__, at)
            size, at = read_varint(record.__getitem__, at)
            entry = Entry(max(before.frame, 0) + frames, before.offset + size)
            if entry.frame <= before.frame or entry.offset <= before.offset or (number == 0 and entry.frame):
                raise impossible
            entries.append(entry)
            before = entry
    except IndexError:
        raise impossible from None
    if at != len(record) - 4 - TAIL or not before.offset < position:
        raise impossible
    return position, entries
