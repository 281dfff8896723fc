"""Training audio: folders, manifests and tar shards, decoded once into one memory-mapped int16 array, cropped at random.

A batch is a function of (seed, rank, step) alone, so a resumed run sees exactly what an uninterrupted one would have seen.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from ..corpus.sources import READABLE, SHARD, expand
from ..disk import cache_folder, printable, replace_text, replacing
from ..errors import AudioError, ConfigError
from ..runtime import audio
from ..runtime.sinks import to_int16

AHEAD = 8  # clips in memory while decoding

T = TypeVar("T")
R = TypeVar("R")

# -- where audio is ----------------------------------------------------------------------------------------------------


def find(source: str | Path) -> list[Path]:
    """Audio files and tar shards of `source`, which is one of
    - a folder, searched recursively;
    - a manifest: Parquet with a column "path", JSONL with a "path" each, or a list of paths, relative ones starting at its folder;
    - an audio file or shard, or a pattern of them: "shards/{000..099}.tar", "{a,b}.tar", "*.tar".

    Raises ConfigError when nothing is found.
    """
    source = Path(source)
    if source.is_dir():
        paths = sorted(p for p in source.rglob("*") if _is_audio(p))
    elif source.is_file():
        paths = [source] if _is_audio(source) else [source.parent / entry for entry in _entries(source)]
    elif set("*?[{") & set(str(source)):
        paths = [p for p in map(Path, expand(str(source))) if _is_audio(p)]
    else:
        raise ConfigError(f"{source}: neither a folder, a file nor a pattern of files")
    if not paths:
        raise ConfigError(f"{source}: no audio found; looked for {' '.join(sorted({*READABLE, SHARD}))}")
    return paths


def find_audio(source: str | Path) -> list[Path]:
    """Those of `find` that are audio files: each is a clip of its own."""
    paths = [path for path in find(source) if path.suffix.lower() != SHARD]
    if not paths:
        raise ConfigError(f"{source}: holds tar shards alone; audio files are needed here")
    return paths


def _is_audio(path: Path) -> bool:
    return path.suffix.lower() in READABLE or path.suffix.lower() == SHARD


def _entries(manifest: Path) -> list[str]:
    """The paths in a manifest, as they stand there."""
    parquet = manifest.suffix.lower() == ".parquet"
    entries = _parquet_entries(manifest) if parquet else _text_entries(manifest)
    for number, entry in entries.items():
        if not isinstance(entry, str) or not entry:
            raise ConfigError(f"{manifest}, {'row' if parquet else 'line'} {number}: the path is {entry!r}; give text")
    return [*entries.values()]


def _text_entries(manifest: Path) -> dict[int, object]:
    """Line number → path."""
    entries = {}
    try:
        lines = manifest.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{manifest}: not a manifest: neither text, JSONL nor .parquet ({error.reason})") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                entries[number] = json.loads(line)["path"] if line.lstrip().startswith("{") else line.strip()
            except (json.JSONDecodeError, KeyError) as error:
                raise ConfigError(f'{manifest}, line {number}: not a JSON object with a "path"') from error
    return entries


def _parquet_entries(manifest: Path) -> dict[int, object]:
    """Row number → path."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ConfigError(f"{manifest}: a Parquet manifest needs pyarrow: pip install pyarrow") from error
    try:
        with parquet.ParquetFile(manifest) as file:
            if "path" not in file.schema_arrow.names:
                raise ConfigError(f'{manifest}: no column "path" among {file.schema_arrow.names}')
            batches = file.iter_batches(columns=["path"])
            return dict(enumerate((entry for batch in batches for entry in batch.column(0).to_pylist()), 1))
    except (pyarrow.ArrowException, OSError) as error:
        raise ConfigError(f"{manifest}: not a Parquet file that can be read ({error})") from error


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
        paths = find(source)
        cache = cache or cache_folder()
        stem = cache / _key(paths, sample_rate)
        index, data = stem.with_suffix(".json"), stem.with_suffix(".i16")
        if not index.exists():
            cache.mkdir(parents=True, exist_ok=True)
            bounds = _decode(paths, sample_rate, data)
            replace_text(index, json.dumps(bounds))
        bounds = np.asarray(json.loads(index.read_text()), np.int64)
        if not bounds[-1]:
            raise ConfigError(f"{source}: none of its {len(paths)} files holds audio")
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


class Encoded(NamedTuple):
    """A clip before decoding."""

    name: str
    source: Path | BytesIO | AudioError  # or why there is none
    size: int  # bytes


def _key(paths: list[Path], sample_rate: int) -> str:
    """Name of the decoded audio in the cache: changes with any file or shard."""
    key = hashlib.sha256(str(sample_rate).encode())
    for path in paths:
        stat = path.stat() if path.exists() else None
        key.update(f"{path.resolve()}|{stat and stat.st_size}|{stat and stat.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return key.hexdigest()[:16]


def _encoded(paths: Iterable[Path]) -> Iterator[Encoded]:
    for path in paths:
        if path.suffix.lower() == SHARD:
            yield from _members(path)
        else:
            yield Encoded(str(path), path, _size(path))


def _members(shard: Path) -> Iterator[Encoded]:
    """The audio in a tar file, in its order, one member in memory at a time. Names tell the format and are never used as paths."""
    try:
        with tarfile.open(shard, "r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # which would grow with the shard
                if member.isreg() and Path(member.name).suffix.lower() in READABLE:
                    if member.size > _size(shard):  # a sparse file may promise more than there is
                        raise tarfile.ReadError(f"{member.name} claims {member.size} bytes")
                    yield Encoded(f"{shard}, {member.name}", BytesIO(tar.extractfile(member).read()), member.size)
            tar.fileobj.seek(tar.offset)
            if any(tar.fileobj.read(tarfile.BLOCKSIZE)):  # tarfile takes a broken header for the end
                raise tarfile.ReadError(f"no header at byte {tar.offset}")
    except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
        yield Encoded(str(shard), AudioError(f"{shard}: the tar file cannot be read any further ({error})"), 0)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _decode(paths: list[Path], sample_rate: int, data: Path) -> list[int]:
    """Write all clips one after another; returns their boundaries."""

    def load(clip: Encoded) -> tuple[int, np.ndarray | str]:
        return clip.size, _samples(clip, sample_rate)

    bounds = [0]
    import rich.progress  # here, so that `spectok evaluate` finds clips without it

    with rich.progress.Progress(*rich.progress.Progress.get_default_columns(), transient=True) as bar, replacing(data) as out:
        task = bar.add_task("decoding the training audio", total=sum(map(_size, paths)))
        with ThreadPoolExecutor(2) as pool:
            for size, result in _ordered(pool, load, _encoded(paths)):
                bar.advance(task, size)
                if isinstance(result, str):
                    bar.console.print(f"[yellow]skipped[/] {_printable(result)}")
                else:
                    out.write(result.tobytes())
                    bounds.append(bounds[-1] + len(result))
    return bounds


def _samples(clip: Encoded, sample_rate: int) -> np.ndarray | str:
    """int16 samples, or why there are none."""
    try:
        if isinstance(clip.source, AudioError):
            raise clip.source
        samples, _ = audio.read(clip.source, sample_rate)
    except AudioError as error:
        reason = str(error).removeprefix("standard input: ")  # a member of a tar file has no name of its own
        return reason if reason.startswith(printable(clip.name)) else f"{clip.name}: {reason}"
    return to_int16(samples)


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

    return escape("".join(c if c.isprintable() else "?" for c in text))
