"""Bytes: the `.stk` container. Knows codes and checksums, and no network."""

from .bits import pack, unpack
from .coding import Entropy, FindEntropy
from .crc32c import crc32c
from .header import VERSION, Header
from .reader import Reader, streams
from .records import MAGIC, Packet, RawPacket
from .writer import Writer

__all__ = [
    "MAGIC",
    "VERSION",
    "Entropy",
    "FindEntropy",
    "Header",
    "Packet",
    "RawPacket",
    "Reader",
    "Writer",
    "crc32c",
    "pack",
    "streams",
    "unpack",
]
