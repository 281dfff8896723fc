"""Metadata: what goes in comes out, and nothing else comes in."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectokenizer.bitstream import Header, Reader, Writer, crc32c
from spectokenizer.bitstream.metadata import unpack_metadata
from spectokenizer.bitstream.records import make_record
from spectokenizer.errors import ConfigError, CorruptedError, TruncatedError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)
KEYS = (
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=64).filter(str.isprintable).filter(lambda key: key != "created")
)


@given(st.dictionaries(KEYS, TEXT, max_size=6))
def test_round_trip(make: Any, metadata: dict[str, str]) -> None:
    data, codes = make(60, metadata=metadata)
    reader = Reader(io.BytesIO(data))
    assert reader.metadata == metadata  # before any packet is read
    assert sum(packet.codes.shape[1] for packet in reader) == codes.shape[1]
    assert data[6] == (4 if metadata else 0)
    assert not metadata or data[29] == 0x80


@pytest.mark.parametrize("created", ["2026-01-31", "2026-01-31T12:00:00Z", "2026-01-31T12:00:00.5+01:00", "20260131T120000"])
def test_dates_of_iso_8601(make: Any, created: str) -> None:
    assert Reader(io.BytesIO(make(1, metadata={"created": created})[0])).metadata == {"created": created}


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"created": "yesterday"}, "'created' is 'yesterday'; give a date of ISO 8601"),
        ({"": "x"}, "keys of 1 to 64"),
        ({"k" * 65: "x"}, "keys of 1 to 64"),
        ({"a\nb": "x"}, "printable"),
        ({"a": 1}, "text by key, not int by 'a'"),
        ({1: "a"}, "text by key"),
        ({"a": "\ud800"}, "half a character"),
        ({"a": "x" * 65536}, "65544 bytes; at most 65536"),
    ],
)
def test_what_does_not_fit_is_named(header: Header, metadata: dict[str, str], message: str) -> None:
    sink = io.BytesIO()
    with pytest.raises(ConfigError, match=message):
        Writer(sink, header, metadata=metadata)
    assert not sink.getvalue()


def test_the_largest(make: Any) -> None:
    metadata = {"a": "x" * (65536 - 8)}
    assert Reader(io.BytesIO(make(1, metadata=metadata)[0])).metadata == metadata


BAD = [
    b"",
    b"{",
    b"[]",
    b"1",
    b"null",
    b'{"a":1}',
    b'{"a":null}',
    b'{"a":{"b":"c"}}',
    b'{"a":"b","a":"c"}',
    b'{"":"b"}',
    b'{"a":"\xff"}',
    b'{"a":"\\ud800"}',
    b'{"a":NaN}',
    b'{"a\\u0000":"b"}',
    b"[" * 65536,
    b'{"a":' * 10000,
    b"9" * 65536,
    b"\xef\xbb\xbf{}",
]


@pytest.mark.parametrize("body", BAD, ids=lambda body: repr(body[:12]))
def test_anything_but_text_by_key_is_damage(make: Any, body: bytes) -> None:
    """Even with a checksum that matches. A salvaging reader does without."""
    data, codes = make(60, metadata={"a": "b"})
    good = make_record(0x80, json.dumps({"a": "b"}, separators=(",", ":")).encode())
    assert data[29 : 29 + len(good)] == good
    broken = data[:29] + make_record(0x80, body) + data[29 + len(good) :]
    with pytest.raises(CorruptedError, match=r"byte 29, .*metadata"):
        Reader(io.BytesIO(broken))
    reader = Reader(io.BytesIO(broken), salvage=True)
    assert sum(packet.codes.shape[1] for packet in reader) == codes.shape[1]
    assert reader.metadata == {} and len(reader.problems) == 1 and reader.num_samples == 60 * 320 - 7


def test_damaged_cut_off_and_taken_out(make: Any) -> None:
    data, codes = make(60, metadata={"title": "x" * 100})
    size = len(make_record(0x80, json.dumps({"title": "x" * 100}, separators=(",", ":")).encode()))
    for at in range(29, 29 + size):
        broken = data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]
        if at > 29:  # at 29 the type becomes one of those that may be skipped, but for the checksum
            with pytest.raises((CorruptedError, TruncatedError)):
                Reader(io.BytesIO(broken))
        reader = Reader(io.BytesIO(broken), salvage=True)
        assert sum(packet.codes.shape[1] for packet in reader) == codes.shape[1]
        with pytest.raises(TruncatedError):
            Reader(io.BytesIO(data[:at]))
    reader = Reader(io.BytesIO(data[:29] + data[29 + size :]))
    assert reader.metadata == {} and len(list(reader)) == 2


@given(st.binary(max_size=60) | st.from_regex(rb'\{("[a-z]":"[a-z]",?){0,3}\}?', fullmatch=True))
def test_any_bytes(body: bytes) -> None:
    try:
        metadata = unpack_metadata(body)
    except CorruptedError:
        return
    assert all(isinstance(text, str) for pair in metadata.items() for text in pair)


def test_metadata_elsewhere_are_read_over(make: Any) -> None:
    """Whoever wants them to be found puts them right behind the header."""
    data, _ = make(60)
    late = b"\x80\x09" + b'{"a":"b"}'
    late += crc32c(late).to_bytes(4, "little")
    reader = Reader(io.BytesIO(data[:29] + late + data[29:]))
    assert len(list(reader)) == 2 and reader.metadata == {}
