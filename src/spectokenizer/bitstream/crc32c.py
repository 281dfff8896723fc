"""CRC-32C (Castagnoli), the checksum of every record in a `.stk` file.

A reader that looks for intact records in damaged data needs the checksums of very many overlapping ranges. `RangeCrc` gives each
in constant time: the register is linear, and n zero bytes multiply it by x^(8n) modulo the polynomial, so the checksum of a range
follows from the registers at its two ends. No input can make the search quadratic.
"""

from __future__ import annotations

from array import array

_POLYNOMIAL = 0x82F63B78  # bit-reflected: the most significant bit is the coefficient of x^0
_ONES = 0xFFFFFFFF  # the register starts with it, and the checksum is the register inverted


def _make_table() -> list[int]:
    table = list(range(256))
    for _ in range(8):
        table = [value >> 1 ^ (_POLYNOMIAL if value & 1 else 0) for value in table]
    return table


_TABLE = _make_table()
_POWERS = array("I", [1 << 31])  # x^(8n), grown on demand


def crc32c(data: bytes) -> int:
    """The checksum of `data`; crc32c(b"123456789") == 0xE3069283."""
    register = _ONES
    for byte in data:
        register = _TABLE[(register ^ byte) & 0xFF] ^ register >> 8
    return register ^ _ONES


class RangeCrc:
    """Checksums of any range of a growing run of bytes."""

    def __init__(self) -> None:
        self._registers = array("I", [_ONES])  # before each byte, and after the last

    def extend(self, data: bytes) -> None:
        """Append bytes."""
        register = self._registers[-1]
        for byte in data:
            register = _TABLE[(register ^ byte) & 0xFF] ^ register >> 8
            self._registers.append(register)

    def drop(self, count: int) -> None:
        """Forget the first `count` bytes; ranges count from the first one that is left."""
        del self._registers[:count]

    def crc(self, start: int, stop: int) -> int:
        """crc32c of the bytes from `start` up to `stop`."""
        while len(_POWERS) <= stop - start:
            _POWERS.append(_TABLE[_POWERS[-1] & 0xFF] ^ _POWERS[-1] >> 8)
        return self._registers[stop] ^ _multiply(self._registers[start] ^ _ONES, _POWERS[stop - start]) ^ _ONES


def _multiply(a: int, b: int) -> int:
    """a · b modulo the polynomial, bit-reflected."""
    product = 0
    while a:
        if a & 1 << 31:
            product ^= b
        a = a << 1 & _ONES
        b = b >> 1 ^ (_POLYNOMIAL if b & 1 else 0)
    return product
