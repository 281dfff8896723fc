"""Metadata of a stream: text by key. A title, when it was made, whatever else its owner wants to keep with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from ..errors import ConfigError, CorruptedError
from .window import MAX_BODY

MAX_KEY = 64  # characters


def pack_metadata(metadata: Mapping[str, str]) -> bytes:
    """A JSON object in UTF-8. Raises ConfigError on what the format cannot hold, and when `created` is no date of ISO 8601."""
    broken = _broken(metadata)
    if broken:
        raise ConfigError(f"metadata {broken}")
    created = metadata.get("created")
    if created is not None:
        try:
            datetime.fromisoformat(created)
        except ValueError as error:
            raise ConfigError(f"metadata 'created' is {created!r}; give a date of ISO 8601 such as 2026-01-31T12:00:00Z") from error
    body = json.dumps(dict(metadata), ensure_ascii=False, separators=(",", ":")).encode()
    if len(body) > MAX_BODY:
        raise ConfigError(f"metadata take {len(body)} bytes; at most {MAX_BODY} fit in a file")
    return body


def unpack_metadata(body: bytes) -> dict[str, str]:
    """Raises CorruptedError on anything but a JSON object of text by distinct keys."""
    try:
        pairs: Any = json.loads(body.decode(), object_pairs_hook=_Pairs)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise CorruptedError(f"the metadata are not JSON: {error}") from None
    if not isinstance(pairs, _Pairs):
        raise CorruptedError("the metadata are not a JSON object")
    values = dict(pairs)
    broken = _broken(values) or ("have a key twice" if len(values) < len(pairs) else "")
    if broken:
        raise CorruptedError(f"the metadata {broken}")
    return values


class _Pairs(list[tuple[str, Any]]):
    """A JSON object, its order and repetitions kept."""


def _broken(metadata: Mapping[Any, Any]) -> str:
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            return f"must be text by key, not {type(value).__name__} by {key!r}"
        if not 1 <= len(key) <= MAX_KEY or not key.isprintable():
            return f"need keys of 1 to {MAX_KEY} printable characters, not {key[: MAX_KEY + 1]!r}"
        try:
            value.encode()
        except UnicodeEncodeError:
            return f"'{key}' holds half a character, which is no Unicode text"
    return ""
