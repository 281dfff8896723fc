"""Whole corpora to tokens and back: folders, manifests and tar shards in; Parquet, tar or .npy out. Needs no torch.

    from spectokenizer import corpus

    summary = corpus.tokenize(["speech/"], "tokens/", bitrate=4000, workers=8)
    for row in corpus.read("tokens/"): row.id, row.codes   # int16 [K, T], exactly those of `codec.encode` on the file alone

One shard of clips is one call of one function that writes a temporary file and renames it (`shard.py`), whether a pool of
processes or a cluster makes the calls (`job.py`, `cluster.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .characters import chars_to_codes, codes_to_chars
    from .decode import detokenize
    from .formats import Row, read
    from .job import Summary, tokenize

_LAZY = {
    "tokenize": "job",
    "Summary": "job",
    "detokenize": "decode",
    "read": "formats",
    "Row": "formats",
    "codes_to_chars": "characters",
    "chars_to_codes": "characters",
}

__all__ = ["Row", "Summary", "chars_to_codes", "codes_to_chars", "detokenize", "read", "tokenize"]


def __getattr__(name: str) -> Any:
    """Imported at first use, so that --help answers at once."""
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
