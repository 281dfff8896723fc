"""The `.stk` container, version 1: a header, packets of frames, an end record. `docs/format.md` has every bit.

    header   magic, version, length | flags, model hash, sample rate, frame size, bits, codebooks, model name | CRC-32C
    packet   type and K, frames, first frame | codes | CRC-32C
    record   type, length | body | CRC-32C                   (the end record, and whatever later versions add)

Written and read front to back in bounded memory: nothing seeks, and no length field makes the reader allocate more than the
largest record. Every record has its own checksum and every packet its place, so that what is intact can be recovered.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import CodesError, ConfigError, CorruptedError, FormatError, StreamError, TruncatedError, VersionError
from . import bits
from .crc32c import crc32c
from .window import MAX_BODY, Window, read_varint, write_varint

MAGIC = b"\x89STK"  # the first byte is not ASCII, so that no text file begins like this
VERSION = 1
MAX_CODEBOOKS = 32
MAX_FRAMES = 255  # per packet
MAX_PROBLEMS = 1000  # kept by a salvaging reader

_END = 0x01
_CODES = range(0x20, 0x20 + MAX_CODEBOOKS)  # one type for each number of codebooks
_OPTIONAL = 0x80  # in the type of records that a reader may skip
_HINTS = 0b110  # flags that need no understanding: an index or metadata follows, in optional records
_MAX_FIELD = (1 << 21) - 1  # sample rate and frame size: varints of at most three bytes
_KNOWN_MAGIC = {b"RIFF": "WAV", b"fLaC": "FLAC", b"OggS": "Ogg", b"ID3\x03": "MP3", b"ID3\x04": "MP3"}


def _seal(record: bytes) -> bytes:
    return record + crc32c(record).to_bytes(4, "little")


@dataclass(frozen=True)
class Header:
    """What a decoder must know before the first packet. Raises ConfigError on values that the format cannot hold."""

    model: str  # name, 1 to 64 bytes of UTF-8; no path
    model_hash: str  # 16 hexadecimal digits
    sample_rate: int  # Hz
    frame_size: int  # samples per frame
    num_codebooks: int  # the most that any packet uses
    bits_per_code: int

    def __post_init__(self) -> None:
        name = self.model
        checks = {
            # A reader may look for a model of this name on its disk and print it on a terminal.
            "model is a printable name of 1 to 64 bytes without a leading dot and without / \\ :": name.isprintable()
            and 1 <= len(name.encode("utf-8", "replace")) <= 64
            and re.search(r"^\.|[/\\:]", name) is None,
            "model_hash is 16 lowercase hexadecimal digits": re.fullmatch("[0-9a-f]{16}", self.model_hash) is not None,
            f"sample_rate is 1 to {_MAX_FIELD}": 1 <= self.sample_rate <= _MAX_FIELD,
            f"frame_size is 1 to {_MAX_FIELD}": 1 <= self.frame_size <= _MAX_FIELD,
            f"num_codebooks is 1 to {MAX_CODEBOOKS}": 1 <= self.num_codebooks <= MAX_CODEBOOKS,
            f"bits_per_code is 1 to {bits.MAX_BITS}": 1 <= self.bits_per_code <= bits.MAX_BITS,
        }
        broken = [rule for rule, holds in checks.items() if not holds]
        if broken:
            raise ConfigError(f"a .stk header needs: {'; '.join(broken)}; this is {self}")

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.frame_size

    def _pack(self) -> bytes:
        sizes = write_varint(self.sample_rate) + write_varint(self.frame_size) + bytes([self.bits_per_code, self.num_codebooks])
        body = b"\0" + bytes.fromhex(self.model_hash) + sizes + self.model.encode()  # no flags
        return _seal(MAGIC + bytes([VERSION, len(body)]) + body)

    @classmethod
    def _unpack(cls, body: bytes) -> Header:
        """Raises IndexError, UnicodeDecodeError, ConfigError or CorruptedError."""
        sample_rate, at = read_varint(body.__getitem__, 9)
        frame_size, at = read_varint(body.__getitem__, at)
        return cls(body[at + 2 :].decode(), body[1:9].hex(), sample_rate, frame_size, body[at + 1], body[at])


class Packet(NamedTuple):
    """Some frames of codes, and where they belong."""

    first_frame: int  # frames from the start; what a salvaging reader leaves out between two packets is lost
    codes: npt.NDArray[np.int16]  # [K, t]


class Writer:
    """Writes codes to `sink`: the header now, packets as they fill up, the end record on `close`.

    A packet holds `packet_frames` frames (1 to 255, default one second) of the same number of codebooks, and waits until a fifth
    more has come: the last one before a change or the end takes in a short rest, which costs no packet of its own. Each
    reaches the sink in one write, followed by a flush: another process can follow live, and after a crash all that was
    written can be read. The sink is not closed. Raises ConfigError on an impossible `packet_frames`.
    """

    def __init__(self, sink: BinaryIO, header: Header, packet_frames: int | None = None) -> None:
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
        self._buffer: list[npt.NDArray[np.int16]] = []  # [K, t] each, all of the same K
        self._buffered = 0  # frames
        self._closed = False
        self._send(header._pack())

    def write(self, codes: npt.ArrayLike) -> None:
        """Append codes [K, t], K from 1 to `header.num_codebooks`. Raises CodesError, or StreamError after `close`."""
        self._check_open()
        array = bits.check_codes(codes, self.header.bits_per_code)
        if not 1 <= len(array) <= self.header.num_codebooks:
            raise CodesError(f"codes must have 1 to {self.header.num_codebooks} codebooks, not {len(array)}")
        if array.shape[1] == 0:
            return
        if self._buffer and len(self._buffer[0]) != len(array):
            self._drain(1)
        self._buffer.append(array)
        self._buffered += array.shape[1]
        if self._buffered >= self._packet_frames + self._slack:
            self._drain(self._packet_frames + self._slack)

    def close(self, num_samples: int) -> None:
        """Write what is left and the end record. `num_samples` is the exact length of the audio at `header.sample_rate`."""
        self._check_open()
        most = (self.num_frames + self._buffered) * self.header.frame_size
        if not 0 <= num_samples <= most:
            raise CodesError(f"num_samples must be 0 to {most}, what the frames hold; not {num_samples}")
        self._drain(1)
        body = write_varint(self.num_frames) + write_varint(num_samples)
        self._send(_seal(bytes([_END]) + write_varint(len(body)) + body))
        self._closed = True

    def __enter__(self) -> Writer:
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
            head = bytes([_CODES[len(codes) - 1], size]) + write_varint(self.num_frames)
            self._send(_seal(head + bits.pack(codes[:, start : start + size], self.header.bits_per_code)))
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


class Reader:
    """Reads a `.stk` stream: the header now, then `Packet`s by iteration, never more from `source` than the next record needs.

    `source.read` must block until there are data or none will come. After the last packet `num_samples` and `num_frames`
    hold the length; until then they are None. Raises FormatError (not a `.stk` stream), VersionError (needs a newer reader),
    TruncatedError (ends too early) or CorruptedError (damaged).

    With `salvage` only an unusable header is an error. Everything else goes to `problems`, damaged packets are left out, and
    reading goes on at the next intact record: each packet's `first_frame` and in the end `num_frames` tell what is lost. If
    the end record is lost, `num_samples` stays None. A `fallback` header takes the place of a damaged one.
    """

    def __init__(self, source: BinaryIO, salvage: bool = False, fallback: Header | None = None) -> None:
        self.num_samples: int | None = None
        self.num_frames: int | None = None
        self.problems: list[FormatError] = []  # the first MAX_PROBLEMS
        self._window = Window(source)
        self._salvage = salvage
        self._start = 0  # byte where the current record starts
        self._packets = 0  # intact ones so far
        self._frames = 0  # where the next packet should start
        self._done = False
        try:
            self.header = self._read_header()
        except (CorruptedError, TruncatedError) as error:
            if not salvage or fallback is None:
                raise
            self.header = fallback
            self._skip_damage(error)

    @property
    def num_bytes(self) -> int:
        """Bytes read so far."""
        return self._window.offset

    def __iter__(self) -> Iterator[Packet]:
        while not self._done:
            self._start = self._window.offset
            try:
                record = self._record()
            except FormatError as error:
                self._skip_damage(error)
                continue
            self._window.skip(record.size)
            if record.kind in _CODES:
                packet = self._packet(record)
                if packet is not None:
                    yield packet
            elif record.kind == _END:
                self._done = True
                self._end(record.body)
            elif not record.kind & _OPTIONAL:
                self._fail(VersionError(f"{self._place()}: record type 0x{record.kind:02x} is unknown here; upgrade spectokenizer"))

    def _read_header(self) -> Header:
        seen = self._window.peek(6)
        if not MAGIC.startswith(seen[:4]):
            guess = _KNOWN_MAGIC.get(seen[:4])
            raise FormatError(f"not a .stk stream: it begins with {seen[:4]!r}{f' ({guess})' if guess else ''}, not with {MAGIC!r}")
        if len(seen) > 4 and seen[4] > VERSION:
            raise VersionError(f"format version {seen[4]}; this reader knows version {VERSION}: upgrade spectokenizer")
        size = 6 + (seen[5] if len(seen) == 6 else 0) + 4
        header = self._window.peek(size)
        if len(header) < size:
            raise TruncatedError(f"the data end at byte {len(header)}, inside the header")
        if header[4] == 0 or self._window.crc(size) != 0:
            raise CorruptedError("the header (byte 0) is damaged: its checksum does not match")
        body = header[6:-4]
        try:
            if body[0] & ~_HINTS:
                raise VersionError(f"the header has flags 0x{body[0]:02x} that this reader does not know: upgrade spectokenizer")
            fields = Header._unpack(body)
        except (IndexError, UnicodeDecodeError, ConfigError, CorruptedError) as error:
            raise CorruptedError(f"the header (byte 0) has an impossible value: {error}") from error
        self._window.skip(size)
        return fields

    def _record(self) -> _Record:
        """The record at the window's start, its checksum verified, not yet consumed. Raises CorruptedError or TruncatedError."""
        window = self._window
        try:
            kind, frames, first = window.byte(0), 0, 0
            if kind in _CODES:
                frames = window.byte(1)
                first, at = read_varint(window.byte, 2)
                if kind > _CODES[self.header.num_codebooks - 1] or frames == 0:
                    raise CorruptedError(f"impossible packet of {frames} frames of {_CODES.index(kind) + 1} codes")
                length = bits.packed_size(_CODES.index(kind) + 1, frames, self.header.bits_per_code)
            else:
                length, at = read_varint(window.byte, 1)
                if length > MAX_BODY:
                    raise CorruptedError(f"impossible length of {length} bytes in a record of type 0x{kind:02x}")
            size = at + length + 4
            window.byte(size - 1)
        except EOFError:
            where = f"inside the record at byte {self._start}" if window.peek(1) else "without an end record"
            raise TruncatedError(f"the data end at byte {window.end}, {where}; {self._packets} complete packets before") from None
        except CorruptedError as error:
            raise CorruptedError(f"{self._place()}: {error}") from None
        if window.crc(size) != 0:
            raise CorruptedError(f"{self._place()}: the checksum does not match")
        return _Record(kind, frames, first, window.peek(size)[at:-4], size)

    def _packet(self, record: _Record) -> Packet | None:
        if record.first != self._frames:
            self._fail(CorruptedError(f"{self._place()}: a packet starts with frame {record.first}, expected was frame {self._frames}"))
            if record.first < self._frames:
                return None
        try:
            codes = bits.unpack(record.body, _CODES.index(record.kind) + 1, record.frames, self.header.bits_per_code)
        except CorruptedError as error:
            self._fail(CorruptedError(f"{self._place()}: {error}"))
            return None
        self._packets += 1
        self._frames = record.first + record.frames
        return Packet(record.first, codes)

    def _end(self, body: bytes) -> None:
        try:
            num_frames, at = read_varint(body.__getitem__, 0)
            num_samples, at = read_varint(body.__getitem__, at)
        except (IndexError, CorruptedError):
            num_frames = num_samples = at = -1
        if at != len(body) or num_frames < self._frames or num_samples > num_frames * self.header.frame_size:
            self._fail(CorruptedError(f"{self._place()}: the end record has impossible values: {body.hex()}"))
        else:
            if num_frames > self._frames:
                self._fail(CorruptedError(f"{self._place()}: the end record counts {num_frames} frames, seen were {self._frames}"))
            self.num_frames, self.num_samples = num_frames, num_samples
        if self._window.peek(1):
            self._fail(CorruptedError(f"more data after the end record, from byte {self._window.offset}"))

    def _skip_damage(self, error: FormatError) -> None:
        """Go to the next intact packet or end record; there is always at least one byte less to read."""
        if not self._salvage:
            raise error
        window = self._window
        while window.peek(1):
            window.skip(1)
            if window.peek(1) and (window.byte(0) in _CODES or window.byte(0) == _END):
                try:
                    self._record()
                except FormatError:
                    continue
                self._fail(CorruptedError(f"{error}; {window.offset - self._start} bytes skipped"))
                return
        self._done = True
        self._fail(error)

    def _fail(self, error: FormatError) -> None:
        if not self._salvage:
            raise error
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(error)

    def _place(self) -> str:
        return f"byte {self._start}, after {self._packets} packets"


class _Record(NamedTuple):
    kind: int
    frames: int  # in a packet
    first: int  # frame, of a packet
    body: bytes
    size: int  # bytes in all
