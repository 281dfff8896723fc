"""What a crash has cut off gets an end again: everything behind the last intact packet goes, an index and an end record come."""

from __future__ import annotations

from io import SEEK_END
from typing import BinaryIO, NamedTuple

from ..errors import CorruptedError, TruncatedError
from .header import HAS_INDEX
from .index import Index
from .reader import Reader, streams
from .records import MAX_END, make_end
from .seek import end_record
from .window import Window


class Repair(NamedTuple):
    """What was done to a file."""

    dropped: int  # bytes behind the last intact packet
    num_frames: int | None  # of the stream that was cut off; None: not even what stands before its packets was whole
    num_samples: int


def repair(file: BinaryIO, delay: int = 0) -> Repair | None:
    """Mend a file, opened to be read and written, that ends without an end record; None when it has one.

    How long the recording was when it was cut off is not known: it gets all samples that its frames decode to, but for the
    `delay` of the decoder. A stream that has not come to its first packet's place is taken away. Raises CorruptedError, and changes
    nothing, when there are intact packets or an end behind a damaged place: that is no crash, and a cut there would lose them.
    """
    size = file.seek(0, SEEK_END)
    file.seek(max(0, size - MAX_END))
    if size == 0 or end_record(file.read(MAX_END)):
        return None
    file.seek(0)
    reader: Reader | None = None
    ended: Reader | None = None
    index, stop, frames = Index(), 0, 0
    try:
        for reader in streams(file):
            index, stop, frames = Index(), reader.num_bytes, 0
            for packet in reader.raw():
                index.add(packet.first_frame, packet.offset - reader.start)
                stop, frames = packet.offset + packet.size, packet.stop_frame
            stop, ended = reader.num_bytes, reader
    except (TruncatedError, CorruptedError) as error:
        if reader is not None and reader is not ended and reader.num_samples is not None:
            stop = reader.num_bytes  # its end record is whole: the trouble is behind it
        if reader is None and isinstance(error, CorruptedError):
            raise
        if reader is not None:
            _check_tail(file, reader, stop, error)
    file.seek(stop)
    file.truncate()
    if reader is None or reader.num_samples is not None:  # between streams
        return Repair(size - stop, None, 0)
    num_samples = max(0, frames * reader.header.frame_size - delay)
    end = index.pack(stop - reader.start) if reader.flags & HAS_INDEX else b""
    file.write(end + make_end(frames, num_samples))
    file.flush()
    return Repair(size - stop, frames, num_samples)


def _check_tail(file: BinaryIO, reader: Reader, stop: int, error: Exception) -> None:
    """Nothing behind byte `stop` may be worth keeping."""
    file.seek(stop)
    tail = Reader(Window(file, stop), salvage=True, fallback=reader.header)
    if any(True for _ in tail.raw()) or tail.num_samples is not None or tail.next():
        raise CorruptedError(f"{error}; intact data follow, so that this is no trace of a crash: decode it with --salvage") from error
