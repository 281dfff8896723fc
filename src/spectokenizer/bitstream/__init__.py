"""Bytes: the `.stk` container. Knows codes and checksums, and no network."""

from .bits import pack, unpack
from .container import MAGIC, VERSION, Header, Packet, Reader, Writer
from .crc32c import crc32c

__all__ = ["MAGIC", "VERSION", "Header", "Packet", "Reader", "Writer", "crc32c", "pack", "unpack"]
