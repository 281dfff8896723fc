"""Training audio: any folder or manifest, decoded once into one memory-mapped int16 array, cropped at random.

A batch is a function of (seed, rank, step) alone, so a resumed run sees exactly what an uninterrupted one would have seen.
"""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import rich.progress

from ..errors import AudioError, ConfigError
from ..runtime import audio

SUFFIXES = {".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".au", ".w64", ".caf"}


def find_audio(source: str | Path) -> list[Path]:
    """Audio files of a folder (searched recursively) or of a manifest: JSONL with a "path" each, or a list of paths.

    Relative paths in a manifest start at its folder. Raises ConfigError when nothing is found.
    """
    source = Path(source)
    if source.is_dir():
        paths = sorted(p for p in source.rglob("*") if p.suffix.lower() in SUFFIXES)
    elif source.is_file():
        paths = []
        for number, line in enumerate(source.read_text(encoding="utf-8").splitlines(), 1):
            if line.strip():
                try:
                    entry = json.loads(line)["path"] if line.lstrip().startswith("{") else line.strip()
                except (json.JSONDecodeError, KeyError) as error:
                    raise ConfigError(f'{source}, line {number}: not a JSON object with a "path"') from error
                paths.append(source.parent / entry)
    else:
        raise ConfigError(f"{source}: neither a folder nor a manifest")
    if not paths:
        raise ConfigError(f"{source}: no audio found; looked for {' '.join(sorted(SUFFIXES))}")
    return paths


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "spectokenizer"


class Clips:
    """Clips as places [start, end) in one int16 array on disk."""

    def __init__(self, samples: np.ndarray, starts: np.ndarray, ends: np.ndarray, sample_rate: int):
        self.samples, self.starts, self.ends, self.sample_rate = samples, starts, ends, sample_rate
        lengths = ends - starts
        if not lengths.sum():
            raise ConfigError("the training data holds no samples")
        self._cumulative = np.cumsum(lengths / lengths.sum())  # clips are drawn by duration

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def seconds(self) -> float:
        return float((self.ends - self.starts).sum()) / self.sample_rate

    def split(self, share: float) -> tuple[Clips, Clips]:
        """(the rest, every n-th clip held out so that they are about `share` of all); one clip alone is both."""
        if len(self) < 2:
            return self, self
        held = np.zeros(len(self), bool)
        held[min(round(1 / share), len(self)) - 1 :: round(1 / share)] = True
        pick = lambda mask: Clips(self.samples, self.starts[mask], self.ends[mask], self.sample_rate)  # noqa: E731
        return pick(~held), pick(held)

    @classmethod
    def open(cls, source: str | Path, sample_rate: int, cache: Path | None = None) -> Clips:
        """Decode `source` unless the cache already has it. Unreadable files are named and skipped."""
        paths = find_audio(source)
        cache = cache or cache_folder()
        key = hashlib.sha256(str(sample_rate).encode())
        for path in paths:
            stat = path.stat() if path.exists() else None
            key.update(f"{path.resolve()}|{stat and stat.st_size}|{stat and stat.st_mtime_ns}\n".encode())
        stem = cache / key.hexdigest()[:16]
        index, data = stem.with_suffix(".json"), stem.with_suffix(".i16")
        if not index.exists():
            cache.mkdir(parents=True, exist_ok=True)
            bounds = _decode(paths, sample_rate, data)
            part = index.with_suffix(f".{os.getpid()}.part")
            part.write_text(json.dumps(bounds))
            part.replace(index)
        bounds = np.asarray(json.loads(index.read_text()), np.int64)
        if not bounds[-1]:
            raise ConfigError(f"{source}: none of its {len(paths)} files holds audio")
        return cls(np.memmap(data, np.int16, mode="r"), bounds[:-1], bounds[1:], sample_rate)

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


def _decode(paths: list[Path], sample_rate: int, data: Path) -> list[int]:
    """Write all files one after another; returns their boundaries."""

    def load(path: Path) -> np.ndarray | str:
        try:
            samples, _ = audio.read(path, sample_rate)
        except AudioError as error:
            return str(error)
        return np.round(np.clip(samples, -1, 1 - 2**-15) * 32768).astype(np.int16)

    bounds, part = [0], data.with_suffix(f".{os.getpid()}.part")
    with rich.progress.Progress(*rich.progress.Progress.get_default_columns(), transient=True) as bar, open(part, "wb") as out:
        task = bar.add_task("decoding the training audio", total=len(paths))
        with ThreadPoolExecutor(2) as pool:
            for first in range(0, len(paths), 256):  # in parts, so that decoded audio does not pile up
                for result in pool.map(load, paths[first : first + 256]):
                    bar.advance(task)
                    if isinstance(result, str):
                        bar.console.print(f"[yellow]skipped[/] {result}")
                    else:
                        out.write(result.tobytes())
                        bounds.append(bounds[-1] + len(result))
    part.replace(data)
    return bounds


def set_level(segments: np.ndarray, rng: np.random.Generator, low: float = -32.0, high: float = -14.0) -> np.ndarray:
    """Each segment [B, N] at a random RMS level between `low` and `high` dBFS; silence stays silence, peaks stay below 1."""
    rms = np.sqrt(np.mean(segments**2, 1, keepdims=True))
    target = 10 ** (rng.uniform(low, high, (len(segments), 1)) / 20)
    gain = np.where(rms > 1e-4, target / np.maximum(rms, 1e-4), 1.0)
    peak = np.abs(segments).max(1, keepdims=True) * gain
    return (segments * gain / np.maximum(peak, 1.0)).astype(np.float32)
