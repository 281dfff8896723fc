"""Training audio: folders, manifests and tar shards, decoded once into one memory-mapped int16 array, cropped at random.

A batch is a function of (seed, rank, step) alone, so a resumed run sees exactly what an uninterrupted one would have seen.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import TypeVar

import numpy as np

from ..corpus.sources import SHARD, Item, listed
from ..disk import cache_folder, printable, replace_text, replacing
from ..errors import AudioError, ConfigError
from ..runtime import audio
from ..runtime.sinks import to_int16

AHEAD = 8  # clips in memory while decoding

T = TypeVar("T")
R = TypeVar("R")

# -- where audio is ----------------------------------------------------------------------------------------------------


def find(source: str | Path) -> list[Item]:
    """The clips of `source`, one of what `spectok tokenize` takes (corpus/sources.py):
    - a folder, searched recursively;
    - a manifest: Parquet, CSV, TSV or JSONL with a column "path" (or another of its usual names), or a list of paths; relative ones
      start at its folder;
    - an audio file or tar shard, or a pattern of them: "shards/{000..099}.tar", "{a,b}.tar", "*.tar".

    Raises ConfigError when nothing is found.
    """
    found = listed([str(source)])
    return sorted(found, key=lambda item: Path(item.path)) if Path(source).is_dir() else found


def files(items: Iterable[Item]) -> list[Path]:
    """The files that they lie in; a tar shard counts once."""
    out: list[Path] = []
    for path in (Path(item.path) for item in items):
        if path.suffix.lower() != SHARD or path not in out[-1:]:
            out.append(path)
    return out


def find_audio(source: str | Path) -> list[Path]:
    """Those of `find` that are audio files: each is a clip of its own."""
    paths = [Path(item.path) for item in find(source) if Path(item.path).suffix.lower() != SHARD]
    if not paths:
        raise ConfigError(f"{source}: holds tar shards alone; audio files are needed here")
    return paths


# -- clips -------------------------------------------------------------------------------------------------------------


class Clips:
    """Clips as places [start, end) in one int16 array on disk."""

    def __init__(self, samples: np.ndarray, starts: np.ndarray, ends: np.ndarray, sample_rate: int):
        self.samples, self.starts, self.ends, self.sample_rate = samples, starts, ends, sample_rate
        lengths = ends - starts
        if not lengths.sum():
            raise ConfigError("these clips hold no samples")
        self._cumulative = np.cumsum(lengths / lengths.sum())  # clips are drawn by duration

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def seconds(self) -> float:
        return float((self.ends - self.starts).sum()) / self.sample_rate

    def split(self, share: float) -> tuple[Clips, Clips]:
        """(the rest, every n-th clip held out so that they are about `share` of all, of few up to 8 or a tenth); one alone is both."""
        if len(self) < 2:
            return self, self
        held, every = np.zeros(len(self), bool), min(round(1 / share), max(10, len(self) // 8))
        held[min(every, len(self)) - 1 :: every] = True
        pick = lambda mask: Clips(self.samples, self.starts[mask], self.ends[mask], self.sample_rate)  # noqa: E731
        return pick(~held), pick(held)

    @classmethod
    def open(cls, source: str | Path, sample_rate: int, cache: Path | None = None) -> Clips:
        """Decode `source` (see `find`) unless the cache already has it. Unreadable files and members are named and skipped."""
        items = find(source)
        cache = cache or cache_folder()
        stem = cache / _key(files(items), sample_rate)
        index, data = stem.with_suffix(".json"), stem.with_suffix(".i16")
        if not index.exists():
            cache.mkdir(parents=True, exist_ok=True)
            bounds = _decode(items, sample_rate, data)
            replace_text(index, json.dumps(bounds))
        bounds = np.asarray(json.loads(index.read_text()), np.int64)
        if not bounds[-1]:
            raise ConfigError(f"{source}: none of its {len(items)} clips can be read")
        starts, ends = bounds[:-1], bounds[1:]
        some = ends > starts
        return cls(np.memmap(data, np.int16, mode="r"), starts[some], ends[some], sample_rate)

    def batch(self, size: int, length: int, rng: np.random.Generator) -> np.ndarray:
        """Random segments [size, length], float32; a clip that is too short sits at a random place in silence."""
        out = np.zeros((size, length), np.float32)
        for row in out:
            clip = min(int(np.searchsorted(self._cumulative, rng.random())), len(self) - 1)
            start, end = int(self.starts[clip]), int(self.ends[clip])
            spare = end - start - length
            offset = int(rng.integers(abs(spare) + 1))
            if spare >= 0:
                row[:] = self.samples[start + offset : start + offset + length]
            else:
                row[offset : offset + end - start] = self.samples[start:end]
        return out / 32768


# -- decoding ----------------------------------------------------------------------------------------------------------


def _key(paths: list[Path], sample_rate: int) -> str:
    """Name of the decoded audio in the cache: changes with any file or shard."""
    key = hashlib.sha256(str(sample_rate).encode())
    for path in paths:
        stat = path.stat() if path.exists() else None
        key.update(f"{path.resolve()}|{stat and stat.st_size}|{stat and stat.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return key.hexdigest()[:16]


def _decode(items: list[Item], sample_rate: int, data: Path) -> list[int]:
    """Write all clips one after another; returns their boundaries."""

    def load(item: Item) -> tuple[int, np.ndarray | str]:
        return item.size, _samples(item, sample_rate)

    bounds = [0]
    import rich.progress  # here, so that `spectok evaluate` finds clips without it

    with rich.progress.Progress(*rich.progress.Progress.get_default_columns(), transient=True) as bar, replacing(data) as out:
        task = bar.add_task("decoding the training audio", total=sum(item.size for item in items))
        with ThreadPoolExecutor(2) as pool:
            for size, result in _ordered(pool, load, items):
                bar.advance(task, size)
                if isinstance(result, str):
                    bar.console.print(f"[yellow]skipped[/] {_printable(result)}")
                else:
                    out.write(result.tobytes())
                    bounds.append(bounds[-1] + len(result))
    return bounds


def _samples(item: Item, sample_rate: int) -> np.ndarray | str:
    """int16 samples, or why there are none."""
    name = item.path if item.offset < 0 else f"{item.path}, {item.id}"
    if item.problem:
        return f"{name}: {item.problem}"
    try:
        if item.offset < 0:
            return to_int16(audio.read(item.path, sample_rate)[0])
        with open(item.path, "rb") as shard:  # its name in there is never used as a path
            shard.seek(item.offset)
            return to_int16(audio.read(BytesIO(shard.read(item.size)), sample_rate)[0])
    except (AudioError, OSError) as error:
        reason = str(error).removeprefix("standard input: ")  # bytes have no name of their own
        return reason if reason.startswith(printable(name)) else f"{name}: {reason}"


def _ordered(pool: ThreadPoolExecutor, work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """pool.map that takes its items as results are asked for, so that neither piles up."""
    pending: deque[Future[R]] = deque()
    for item in items:
        pending.append(pool.submit(work, item))
        if len(pending) > AHEAD:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _printable(text: str) -> str:
    """Names come from other people: no markup, no control characters."""
    from rich.markup import escape

    return escape(printable(text))
