"""The header of a `.stk` stream: what a decoder must know before the first packet."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import ConfigError, CorruptedError, FormatError, TruncatedError, VersionError
from . import bits
from .records import MAGIC, MAX_CODEBOOKS, seal
from .window import Window, read_varint, write_varint

VERSION = 1

HAS_TABLES, HAS_INDEX, HAS_METADATA = 1, 2, 4  # flags
MAX_FIELD = (1 << 21) - 1  # sample rate and frame size: varints of at most three bytes
_KNOWN_MAGIC = {b"RIFF": "WAV", b"fLaC": "FLAC", b"OggS": "Ogg", b"ID3\x03": "MP3", b"ID3\x04": "MP3"}


@dataclass(frozen=True)
class Header:
    """Whose codes these are, and their geometry. Raises ConfigError on values that the format cannot hold."""

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
            f"sample_rate is 1 to {MAX_FIELD}": 1 <= self.sample_rate <= MAX_FIELD,
            f"frame_size is 1 to {MAX_FIELD}": 1 <= self.frame_size <= MAX_FIELD,
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

    def pack(self, flags: int = 0) -> bytes:
        """The header's bytes."""
        sizes = write_varint(self.sample_rate) + write_varint(self.frame_size) + bytes([self.bits_per_code, self.num_codebooks])
        body = bytes([flags]) + bytes.fromhex(self.model_hash) + sizes + self.model.encode()
        return seal(MAGIC + bytes([VERSION, len(body)]) + body)

    @classmethod
    def unpack(cls, body: bytes) -> Header:
        """From the header's body. Raises IndexError, UnicodeDecodeError, ConfigError or CorruptedError."""
        sample_rate, at = read_varint(body.__getitem__, 9)
        frame_size, at = read_varint(body.__getitem__, at)
        return cls(body[at + 2 :].decode(), body[1:9].hex(), sample_rate, frame_size, body[at + 1], body[at])


def read_header(window: Window) -> tuple[Header, int, int]:
    """The header at the window's position, its flags and its size in bytes; nothing is consumed.

    Raises FormatError (something else), VersionError (newer), TruncatedError or CorruptedError.
    """
    seen, start = window.peek(6), window.offset
    if not MAGIC.startswith(seen[:4]):
        guess = _KNOWN_MAGIC.get(seen[:4])
        raise FormatError(f"not a .stk stream: it begins with {seen[:4]!r}{f' ({guess})' if guess else ''}, not with {MAGIC!r}")
    if len(seen) > 4 and seen[4] > VERSION:
        raise VersionError(f"format version {seen[4]}; this reader knows version {VERSION}: upgrade spectokenizer")
    size = 6 + (seen[5] if len(seen) == 6 else 0) + 4
    header = window.peek(size)
    if len(header) < size:
        raise TruncatedError(f"the data end at byte {window.end}, inside the header{f' at byte {start}' if start else ''}")
    if header[4] == 0 or window.crc(size) != 0:
        raise CorruptedError(f"the header (byte {start}) is damaged: its checksum does not match")
    body = header[6:-4]
    try:
        if body[0] & ~(HAS_TABLES | HAS_INDEX | HAS_METADATA):
            raise VersionError(f"the header has flags 0x{body[0]:02x} that this reader does not know: upgrade spectokenizer")
        return Header.unpack(body), body[0], size
    except (IndexError, UnicodeDecodeError, ConfigError, CorruptedError) as error:
        raise CorruptedError(f"the header (byte {start}) has an impossible value: {error}") from error


def header_here(window: Window) -> bool:
    """Whether an intact header that this reader understands starts at the window's position."""
    try:
        read_header(window)
    except FormatError:
        return False
    return True
