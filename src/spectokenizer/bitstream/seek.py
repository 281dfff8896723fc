"""Parts of a seekable `.stk` file, without reading the rest.

From the end of the file the end record and the index before it tell how long the last stream is, where it begins and where its
packets are, and so does the end of the stream before it, and so on. What has no index (short streams, live ones, a crash) is walked
through from head to head of its packets, their codes left unread, and only as far as is asked for.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from io import SEEK_END
from typing import BinaryIO, NamedTuple

from ..errors import CorruptedError, FormatError, TruncatedError, VersionError
from . import records
from .coding import HASH_SIZE, Entropy, FindEntropy, find_entropy
from .header import HAS_TABLES, MAX_FIELD, read_header
from .index import TAIL, Index, unpack_index
from .records import MAGIC, MAX_END, MAX_HEAD, Head, Packet, read_end, read_head
from .window import MAX_BODY, Window

MAX_STREAMS = 1 << 16  # that are looked up from the end of the file


class _Bytes:
    """A seekable source that is read piece by piece; counts what was read."""

    def __init__(self, source: BinaryIO) -> None:
        self.count = 0
        self._source = source
        self._base = source.tell()
        self.size = source.seek(0, SEEK_END) - self._base

    def at(self, offset: int, count: int) -> bytes:
        """The bytes from `offset` on, fewer only at the end."""
        self._source.seek(self._base + offset)
        data = b""
        while len(data) < count and (piece := self.read(count - len(data))):
            data += piece
        return data

    def read(self, count: int) -> bytes:
        piece = self._source.read(count)
        self.count += len(piece)
        return piece

    def window(self, offset: int) -> Window:
        self._source.seek(self._base + offset)
        return Window(self, offset)  # type: ignore[arg-type]


class _Ending(NamedTuple):
    """What the last bytes of a stream tell; the index itself is read again when it is used."""

    stop: int  # bytes
    index_at: int
    index_size: int
    start: int
    num_frames: int
    num_samples: int


class Part:
    """One of the streams in a file. `num_frames` and `num_samples` are None until they are known: see `finish`."""

    def __init__(self, data: _Bytes, start: int, entropy: Entropy | FindEntropy | None, ending: _Ending | None) -> None:
        self.start = start  # byte
        self.stop = ending.stop if ending else None
        self.num_frames = ending.num_frames if ending else None
        self.num_samples = ending.num_samples if ending else None
        self.tables: bytes | None = None  # the entropy coder's hash
        self.frames = 0  # as far as packets were seen
        self._data, self._entropy, self._ending = data, entropy, ending
        self._coder: Entropy | None = None
        try:
            self.header, flags, self._front = read_header(data.window(start))
        except FormatError as error:
            if start and not isinstance(error, (CorruptedError, TruncatedError, VersionError)):
                raise CorruptedError(f"more data after the end record, from byte {start}") from error
            raise
        if flags & HAS_TABLES:
            head = self._head(start + self._front)
            body = self._body(head, start + self._front)
            if head.kind != records.TABLES or len(body) != HASH_SIZE:
                raise CorruptedError(
                    f"byte {start + self._front}: the hash of the entropy tables, which the header announces, is not there"
                )
            self.tables = body
            self._front += head.size
        self._index = Index()  # of what was walked through, unless the file has one

    @property
    def num_bytes(self) -> int:
        """Read of the file so far, by all of its parts."""
        return self._data.count

    def packets(self, first: int = 0, stop: int | None = None) -> Iterator[Packet]:
        """The frames from `first` up to `stop` (None: to the end), of which only the packets that hold them are read whole."""
        for head, offset in self._heads(first):
            if head.first + head.frames <= first:
                continue
            if stop is not None and head.first >= stop:
                return
            try:
                raw = head.packet(self._body(head, offset), offset, self.header.bits_per_code)
                if raw.coded and self.tables is None:
                    raise CorruptedError("an entropy-coded packet, which the header does not announce")
                packet = raw.decode(self.header.bits_per_code, self._find_coder)
            except CorruptedError as error:
                raise CorruptedError(f"byte {offset}: {error}") from error
            yield packet.cut(first, stop)
            if stop is not None and raw.stop_frame >= stop:
                return

    def finish(self) -> int:
        """Walk to the end record, if it is not known, and return the byte behind it."""
        if self.stop is None:
            for _ in self._heads(self.frames):
                pass
        assert self.stop is not None
        return self.stop

    def _heads(self, first: int) -> Iterator[tuple[Head, int]]:
        """Heads of packets and their bytes, from the last known place before frame `first`, to the end record."""
        if self._ending and not self._index.entries:
            _, self._index.entries = unpack_index(self._data.at(self._ending.index_at, self._ending.index_size))
        places = self._index.entries
        place = bisect_right(places, first, key=lambda entry: entry.frame) - 1
        frame, at = places[place] if place >= 0 else (0, self._front)
        at += self.start
        while True:
            head = self._head(at)
            if head.is_packet:
                if head.first != frame:
                    raise CorruptedError(f"byte {at}: a packet starts with frame {head.first}, expected was frame {frame}")
                if not self._ending and frame == self.frames:
                    self._index.add(frame, at - self.start)
                frame += head.frames
                self.frames = max(self.frames, frame)
                yield head, at
            elif head.kind == records.END:
                self._end(head, at, frame)
                return
            elif head.kind == records.TABLES:
                raise CorruptedError(f"byte {at}: the hash of entropy tables belongs right behind a header that announces it")
            elif not head.kind & records.OPTIONAL:
                raise VersionError(f"byte {at}: record type 0x{head.kind:02x} is unknown here; upgrade spectokenizer")
            at += head.size

    def _head(self, at: int) -> Head:
        data = self._data.at(at, MAX_HEAD)
        try:
            if data[:4] == MAGIC:
                raise TruncatedError(f"byte {at}: a new stream begins before the end record of the one at byte {self.start}")
            return read_head(data.__getitem__, self.header.bits_per_code, self.header.num_codebooks)
        except IndexError:
            raise TruncatedError(f"the data end at byte {self._data.size}, without an end record") from None
        except CorruptedError as error:
            raise CorruptedError(f"byte {at}: {error}") from None

    def _body(self, head: Head, at: int) -> bytes:
        record = self._data.at(at, head.size)
        if len(record) < head.size:
            raise TruncatedError(f"the data end at byte {self._data.size}, inside the record at byte {at}")
        if records.seal(record[:-4]) != record:
            raise CorruptedError(f"byte {at}: the checksum does not match")
        return record[head.at : -4]

    def _end(self, head: Head, at: int, frame: int) -> None:
        num_frames, num_samples = read_end(self._body(head, at), frame, self.header.frame_size)
        if num_frames != frame:
            raise CorruptedError(f"byte {at}: the end record counts {num_frames} frames, seen were {frame}")
        self.num_frames, self.num_samples, self.stop = num_frames, num_samples, at + head.size

    def _find_coder(self) -> Entropy:
        if self._coder is None:
            self._coder = find_entropy(self._entropy, self.header, self.tables)
        return self._coder


class Parts:
    """The streams of a seekable source, in order, by iteration. Raises what a Reader raises, about the parts that it reads."""

    def __init__(self, source: BinaryIO, entropy: Entropy | FindEntropy | None = None) -> None:
        self._data = _Bytes(source)
        self._entropy = entropy
        self._endings: dict[int, _Ending] = {}  # by start
        stop = self._data.size
        while stop > 0 and len(self._endings) < MAX_STREAMS and (ending := _read_ending(self._data, stop)):
            self._endings[ending.start] = ending
            stop = ending.start

    def __iter__(self) -> Iterator[Part]:
        at = 0
        while at < self._data.size or at == 0:
            part = Part(self._data, at, self._entropy, self._endings.get(at))
            yield part
            at = part.finish()


def end_record(data: bytes) -> bytes | None:
    """The intact end record with which these bytes end, if they do; the last MAX_END bytes of a file are enough."""
    for size in range(8, min(MAX_END, len(data)) + 1):
        record = data[-size:]
        if record[0] == records.END and record[1] == size - 6 and records.seal(record[:-4]) == record:
            return record
    return None


def _read_ending(data: _Bytes, stop: int) -> _Ending | None:
    """From the end record that ends at byte `stop` and the index before it; None where these two are not."""
    tail = data.at(max(0, stop - MAX_END - 4 - TAIL), min(stop, MAX_END + 4 + TAIL))
    record = end_record(tail)
    if record is None or len(tail) < len(record) + 4 + TAIL:
        return None
    before = tail[: -len(record)]
    length = int.from_bytes(before[-4 - TAIL : -4], "little")
    at = stop - len(record) - length
    if at < 0 or length > MAX_BODY + MAX_HEAD:
        return None
    try:
        position, entries = unpack_index(data.at(at, length))
        num_frames, num_samples = read_end(record[2:-4], entries[-1].frame + 1 if entries else 0, MAX_FIELD)
    except CorruptedError:
        return None
    return _Ending(stop, at, length, at - position, num_frames, num_samples) if position <= at else None
