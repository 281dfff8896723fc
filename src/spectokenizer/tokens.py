"""Codes as token ids, for a language model: one vocabulary, three orders. Needs numpy alone.

    offset                    specials, then a range of codebook_size ids per codebook
    │ pad bos eos │ codebook 0 │ codebook 1 │ …        id of code c of codebook k = offset + specials + k·S + c

    flat     f0k0 f0k1 f1k0 f1k1 f2k0 f2k1             frame by frame, coarse to fine: [K·T]
    delay    f0k0 f1k0 f2k0 pad                        codebook k begins k frames late (MusicGen): [K, T + K − 1]
             pad  f0k1 f1k1 f2k1
    single   f0k0 f1k0 f2k0                            flat of one codebook: [T]

Codes as text, in codec-bpe's mapping, are `corpus.codes_to_chars`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .codes import CodeArray, Codes, check_codes
from .errors import CodesError, ConfigError

TokenArray = npt.NDArray[np.int64]
PATTERNS = ("flat", "delay", "single")


@dataclass(frozen=True)
class Vocabulary:
    """Which id stands for what. Ids are int64, as an embedding wants them, from `offset` to `end` − 1.

    `offset` is where a text model's own vocabulary ends, 0 for none. Raises ConfigError for what cannot be.
    """

    num_codebooks: int = 1
    codebook_size: int = 1024
    specials: tuple[str, ...] = ("pad", "bos", "eos")
    offset: int = 0

    def __post_init__(self) -> None:
        numbers = (self.num_codebooks, self.codebook_size, self.offset)
        if any(isinstance(number, bool) or not isinstance(number, int) for number in numbers):
            raise ConfigError(f"num_codebooks, codebook_size and offset are {numbers}; give whole numbers")
        if isinstance(self.specials, str) or not all(isinstance(name, str) and name for name in self.specials):
            raise ConfigError(f"specials are {self.specials!r}; give a tuple of names")
        object.__setattr__(self, "specials", tuple(self.specials))
        checks = {
            "num_codebooks from 1": self.num_codebooks >= 1,
            "a codebook_size of 1 to 32768": 1 <= self.codebook_size <= 32768,
            "each special once": len(set(self.specials)) == len(self.specials),
            "an offset from 0": self.offset >= 0,
            "ids that fit 31 bits": self.offset + len(self.specials) + self.num_codebooks * self.codebook_size < 2**31,
        }
        if broken := [rule for rule, holds in checks.items() if not holds]:
            raise ConfigError(f"{self} needs " + ", ".join(broken))

    @property
    def first_code(self) -> int:
        """Id of code 0 of codebook 0."""
        return self.offset + len(self.specials)

    @property
    def size(self) -> int:
        """How many ids there are, specials included."""
        return len(self.specials) + self.num_codebooks * self.codebook_size

    @property
    def end(self) -> int:
        """One more than the last id: how many rows the embedding of a model needs that had `offset` before."""
        return self.offset + self.size

    @property
    def ranges(self) -> tuple[range, ...]:
        """The ids of each codebook."""
        starts = (self.first_code + k * self.codebook_size for k in range(self.num_codebooks))
        return tuple(range(start, start + self.codebook_size) for start in starts)

    def id(self, special: str) -> int:
        """Raises ConfigError for a name that is not among the specials."""
        if special not in self.specials:
            raise ConfigError(f"this vocabulary has no '{special}'; its specials are {', '.join(self.specials) or 'none'}")
        return self.offset + self.specials.index(special)

    # -- codes to tokens ---------------------------------------------------------------------------------------------

    def encode(self, codes: Codes | npt.ArrayLike, pattern: str = "flat", bos: bool = False, eos: bool = False) -> TokenArray:
        """Codes [K, T], or [T] of a single codebook, to ids: "flat" and "single" [N], "delay" [K, T + K − 1].

        K may be less than `num_codebooks`: a lower bitrate of a residual codec. `bos` and `eos` put one in front and one behind, for
        "delay" a column. Raises CodesError for codes that do not fit.
        """
        _check(pattern, PATTERNS)
        array = np.asarray(codes)
        array = check_codes(array[None] if array.ndim == 1 else array, self.num_codebooks, self.codebook_size)
        k, t = array.shape
        if pattern == "single" and k != 1:
            raise CodesError(f"codes have {k} codebooks; pattern 'single' is for one, take np.asarray(codes)[:1], 'flat' or 'delay'")
        ids = array.astype(np.int64) + np.array([ids.start for ids in self.ranges[:k]])[:, None]
        if pattern == "delay":
            tokens = np.full((k, t + k - 1), self.id("pad") if k > 1 else 0)
            for book in range(k):
                tokens[book, book : book + t] = ids[book]
        else:
            tokens = ids.T.reshape(-1)
        ends = [np.full((*tokens.shape[:-1], 1), self.id(name)) for name, wanted in (("bos", bos), ("eos", eos)) if wanted]
        return np.concatenate([*ends[: int(bos)], tokens, *ends[int(bos) :]], -1)

    # -- tokens to codes ---------------------------------------------------------------------------------------------

    def decode(
        self, tokens: npt.ArrayLike, pattern: str | None = None, num_codebooks: int | None = None, strict: bool = False
    ) -> CodeArray:
        """Ids, as `encode` makes them or a model writes them, to codes int16 [K, T] of the whole frames among them.

        `pattern` is "delay" for [K, N] and "flat" for [N] unless given. The codebooks are `num_codebooks`, the vocabulary's
        unless given, for "delay" the rows. Ids up to "eos", if there is one, count; "bos" and "pad" are passed over, then:

        - flat, single: an id that is not the next codebook's is dropped, and so is a last frame that is not complete, as
          `corpus.chars_to_codes` does it;
        - delay: a frame is its K places along the diagonal, and dropped unless each holds an id of its row's codebook.

        With `strict`, what would be dropped raises CodesError that says where it is. So does, always, what is no array of integers of
        the right shape.
        """
        try:
            array = np.asarray(tokens)
        except ValueError as error:
            raise CodesError(f"tokens are no array ({error}); give [N] or, for delay, [codebooks, N]") from error
        pattern = ("delay" if array.ndim == 2 else "flat") if pattern is None else pattern
        _check(pattern, PATTERNS)
        if array.dtype.kind not in "iu" and array.size:
            raise CodesError(f"tokens have type {array.dtype}; give integers")
        if array.ndim != (2 if pattern == "delay" else 1):
            wanted = "[codebooks, N]" if pattern == "delay" else "[N]"
            raise CodesError(f"tokens have shape {list(array.shape)}; pattern '{pattern}' is {wanted}")
        default = len(array) if pattern == "delay" else 1 if pattern == "single" else self.num_codebooks
        k = default if num_codebooks is None else num_codebooks
        if not 1 <= k <= self.num_codebooks or (pattern != "flat" and k != default):
            asked = f"{k} codebooks asked of tokens {list(array.shape)}, pattern '{pattern}'"
            raise CodesError(f"{asked}; this vocabulary has {self.num_codebooks}")
        ids = array.astype(np.int64)
        if pattern == "delay":
            return self._undelay(ids, strict)
        return self._unflatten(ids, k, strict)

    def _unflatten(self, ids: TokenArray, k: int, strict: bool) -> CodeArray:
        ids = ids[: self._ended(ids)]
        silent = [self.id(name) for name in ("bos", "pad") if name in self.specials]
        where = np.flatnonzero(~np.isin(ids, silent))
        ids = ids[where]
        book, code = np.divmod(ids - self.first_code, self.codebook_size)
        kept = np.arange(len(ids))
        if not np.array_equal(book, kept % k):  # a slip somewhere: one by one
            keep, wanted = [], 0
            for place, found in enumerate(book.tolist()):
                if found == wanted:
                    keep.append(place)
                    wanted = (wanted + 1) % k
                elif strict:
                    raise CodesError(f"token {ids[place]} at {where[place]} is {self.name(int(ids[place]))}; codebook {wanted} comes next")
            kept = np.array(keep, np.int64)
        whole = len(kept) // k * k
        if strict and whole != len(kept):
            raise CodesError(f"the last frame has {len(kept) - whole} of {k} codes")
        return code[kept[:whole]].astype(np.int16).reshape(-1, k).T

    def _undelay(self, ids: TokenArray, strict: bool) -> CodeArray:
        ids = ids[:, : self._ended(ids[0])]  # bos and eos are columns; the coarsest row tells
        begin = int((np.cumsum(ids[0] != self._special("bos")) == 0).sum())
        ids = ids[:, begin:]
        k, n = ids.shape
        frames = max(0, n - (k - 1))
        rows, columns = np.arange(k)[:, None], np.arange(n)
        codes = ids - np.array([ids.start for ids in self.ranges[:k]])[:, None]
        inside = (columns >= rows) & (columns < rows + frames)
        good = np.where(inside, (codes >= 0) & (codes < self.codebook_size), ids == self._special("pad"))
        if strict and not good.all():
            column, row = np.argwhere(~good.T)[0]
            wanted = f"codebook {row}" if inside[row, column] else "pad"
            seen = self.name(int(ids[row, column]))
            raise CodesError(f"row {row}, column {column + begin} holds {seen}; {wanted} belongs there")
        if strict and n < k - 1:
            raise CodesError(f"{n} columns; {k} delayed codebooks have {k - 1} or more")
        diagonal = rows, rows + np.arange(frames)  # [K, T]
        whole: CodeArray = codes[diagonal][:, good[diagonal].all(0)].astype(np.int16)
        return whole

    def name(self, token: int) -> str:
        """What an id stands for: "bos", "code 17 of codebook 0", "no token of this vocabulary"."""
        if self.offset <= token < self.first_code:
            return self.specials[token - self.offset]
        book, code = divmod(token - self.first_code, self.codebook_size)
        return f"code {code} of codebook {book}" if 0 <= book < self.num_codebooks else "no token of this vocabulary"

    def _special(self, name: str) -> int:
        """Its id, or one that no token has."""
        return self.id(name) if name in self.specials else -1

    def _ended(self, ids: TokenArray) -> int:
        ends = np.flatnonzero(ids == self.id("eos")) if "eos" in self.specials else ids[:0]
        return int(ends[0]) if len(ends) else len(ids)

    # -- JSON --------------------------------------------------------------------------------------------------------

    def to_json(self) -> str:
        """For a file beside the language model's weights."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Vocabulary:
        """Raises ConfigError for what `to_json` cannot have written."""
        try:
            values = json.loads(text)
        except ValueError as error:
            raise ConfigError(f"a vocabulary that is no JSON: {error}") from error
        known = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(values, Mapping) or set(values) != known:
            raise ConfigError(f"a vocabulary has {', '.join(sorted(known))}; this is {text[:100]}")
        settings: dict[str, Any] = dict(values)
        if not isinstance(settings["specials"], list):
            raise ConfigError(f"specials are {settings['specials']!r}; give a list of names")
        return cls(**{**settings, "specials": tuple(settings["specials"])})


def _check(pattern: str, known: tuple[str, ...]) -> None:
    if pattern not in known:
        raise ConfigError(f"pattern '{pattern}'; known are {', '.join(known)}")
