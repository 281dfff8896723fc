"""What the records of a `.stk` stream have in common: type, size, body, checksum; and packets before their codes are decoded."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from ..codes import check_codes
from ..errors import CodesError, CorruptedError
from . import bits
from .crc32c import crc32c
from .window import MAX_BODY, read_varint, write_varint

if TYPE_CHECKING:
    from .coding import Entropy

MAGIC = b"\x89STK"  # the first byte is not ASCII, so that no text file begins like this; and no record has it for its type
MAX_CODEBOOKS = 32
MAX_FRAMES = 255  # per packet

END = 0x01
TABLES = 0x02  # of the entropy coder: their hash
PLAIN = range(0x20, 0x20 + MAX_CODEBOOKS)  # packets, one type for each number of codebooks
CODED = range(0x40, 0x40 + MAX_CODEBOOKS)  # the same, entropy-coded
OPTIONAL = 0x80  # in the type of records that a reader may skip
METADATA = 0x80
INDEX = 0x81

MAX_HEAD = 12  # bytes: type, frames, first frame of seven bytes, size of three
MAX_END = 20  # bytes of an end record

Codes = npt.NDArray[np.int16]


class Packet(NamedTuple):
    """Some frames of codes, and where they belong."""

    first_frame: int  # frames from the start; what a salvaging reader leaves out between two packets is lost
    codes: Codes  # [K, t]

    def cut(self, first: int, stop: int | None) -> Packet:
        """Of this packet the frames from `first` up to `stop`, both counted from the start of the recording."""
        begin = max(0, first - self.first_frame)
        codes = self.codes[:, begin : None if stop is None else stop - self.first_frame]
        return Packet(self.first_frame + begin, codes)


class RawPacket(NamedTuple):
    """A packet as it is stored, its checksum verified."""

    first_frame: int
    num_codebooks: int
    num_frames: int
    data: bytes
    coded: bool  # by entropy
    offset: int  # of the packet in the source, bytes
    size: int  # of the packet, bytes

    @property
    def stop_frame(self) -> int:
        return self.first_frame + self.num_frames

    def decode(self, bits_per_code: int, coder: Callable[[], Entropy]) -> Packet:
        """The codes. Raises CorruptedError."""
        shape = self.num_codebooks, self.num_frames
        if not self.coded:
            return Packet(self.first_frame, bits.unpack(self.data, *shape, bits_per_code))
        try:
            codes = check_codes(coder().decode(self.data, *shape), None, 1 << bits_per_code)
        except CodesError as error:
            raise CorruptedError(f"the entropy-coded codes are impossible: {error}") from error
        if codes.shape != shape:
            raise CorruptedError(f"the entropy-coded codes have shape {list(codes.shape)}, not {list(shape)}")
        return Packet(self.first_frame, codes)


class Head(NamedTuple):
    """What stands before a record's body."""

    kind: int
    frames: int  # in a packet
    first: int  # frame, of a packet
    at: int  # where the body starts
    length: int  # of the body

    @property
    def size(self) -> int:
        """Bytes of the whole record."""
        return self.at + self.length + 4

    @property
    def is_packet(self) -> bool:
        return self.kind in PLAIN or self.kind in CODED

    @property
    def num_codebooks(self) -> int:
        return (self.kind & 0x1F) + 1

    def packet(self, body: bytes, offset: int, bits_per_code: int) -> RawPacket:
        """Raises CorruptedError when the bits that fill up the last byte are set."""
        spare = -self.num_codebooks * self.frames * bits_per_code % 8
        if self.kind in PLAIN and body[-1] & (1 << spare) - 1:
            raise CorruptedError("the padding bits after the last code are not zero")
        return RawPacket(self.first, self.num_codebooks, self.frames, body, self.kind in CODED, offset, self.size)


def seal(record: bytes) -> bytes:
    """The record with its checksum."""
    return record + crc32c(record).to_bytes(4, "little")


def make_record(kind: int, body: bytes) -> bytes:
    """Any record but a packet."""
    return seal(bytes([kind]) + write_varint(len(body)) + body)


def make_packet(first: int, codes: Codes, bits_per_code: int, entropy: Entropy | None = None) -> bytes:
    """A packet of codes [K, t] in the shorter of the two forms; the plain one when they are equally short."""
    frames = bytes([codes.shape[1]]) + write_varint(first)
    plain = bits.pack(codes, bits_per_code)
    if entropy is not None:
        payload = entropy.encode(codes)
        body = write_varint(len(payload)) + payload
        if len(body) < len(plain) and len(payload) <= MAX_BODY:
            return seal(bytes([CODED[len(codes) - 1]]) + frames + body)
    return seal(bytes([PLAIN[len(codes) - 1]]) + frames + plain)


def read_head(byte: Callable[[int], int], bits_per_code: int, num_codebooks: int) -> Head:
    """The record that starts at `byte(0)`. Raises CorruptedError, or what `byte` raises at the end of the data."""
    kind, frames, first, at = byte(0), 0, 0, 1
    if kind in PLAIN or kind in CODED:
        frames = byte(1)
        first, at = read_varint(byte, 2)
        used = (kind & 0x1F) + 1
        if used > num_codebooks or frames == 0:
            raise CorruptedError(f"impossible packet of {frames} frames of {used} codes")
        if kind in PLAIN:
            return Head(kind, frames, first, at, bits.packed_size(used, frames, bits_per_code))
    length, at = read_varint(byte, at)
    if length > MAX_BODY:
        raise CorruptedError(f"impossible length of {length} bytes in a record of type 0x{kind:02x}")
    return Head(kind, frames, first, at, length)


def make_end(num_frames: int, num_samples: int) -> bytes:
    """The end record."""
    return make_record(END, write_varint(num_frames) + write_varint(num_samples))


def read_end(body: bytes, frames: int, frame_size: int) -> tuple[int, int]:
    """Numbers of frames and samples from the body of an end record behind so many `frames`. Raises CorruptedError."""
    try:
        num_frames, at = read_varint(body.__getitem__, 0)
        num_samples, at = read_varint(body.__getitem__, at)
    except (IndexError, CorruptedError):
        num_frames = num_samples = at = -1
    if at != len(body) or num_frames < frames or num_samples > num_frames * frame_size:
        raise CorruptedError(f"the end record has impossible values: {body.hex()}")
    return num_frames, num_samples
