"""One shard: the function that every engine calls. Calling it again costs nothing, killing it at any point leaves nothing half done."""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..disk import printable, replacing
from ..errors import AudioError, ModelError
from ..runtime.codec import Codec, bundled, load
from . import formats
from .engine import Encoded, Failed, Told, encode_clips
from .formats import Row, carried
from .sources import Item

STATE = ".spectok"  # in the output's folder: one report per finished shard


@dataclass(frozen=True)
class Job:
    """What all shards have in common; travels to other processes and machines."""

    out: str
    model: str  # folder, or a name that every machine can load
    model_hash: str
    bitrate: float | None
    kind: str  # one of formats.FORMATS
    shards: int  # in all: part of their names
    strict: bool = False
    schema: bytes | None = None  # of the manifests' columns, for Parquet

    def name(self, number: int) -> str:
        """Of a shard's file: the pattern by which `datasets` finds splits."""
        return f"train-{number:05d}-of-{self.shards:05d}"

    def report_path(self, number: int) -> Path:
        return Path(self.out) / STATE / f"{number:05d}.json"


class Shard(NamedTuple):
    """Some clips of a job: what one worker does in one go."""

    job: Job
    number: int
    items: list[Item]

    @property
    def size(self) -> int:
        """Bytes of its sources."""
        return sum(item.size for item in self.items)


@dataclass
class Report:
    """What came of one shard, or, added up, of all."""

    clips: int = 0
    seconds: float = 0.0  # of audio
    frames: int = 0
    size: int = 0  # bytes of the sources
    errors: list[dict[str, str]] = field(default_factory=list)  # id, path, reason
    usage: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 0), np.int64))  # [K, S]: how often each code occurs

    def add(self, other: Report) -> None:
        self.clips += other.clips
        self.seconds += other.seconds
        self.frames += other.frames
        self.size += other.size
        self.errors += other.errors
        if other.usage.size:
            self.usage = self.usage + other.usage if self.usage.size else other.usage

    @property
    def utilisation(self) -> list[float]:
        """Share of each codebook's entries that occur."""
        return [float((book > 0).mean()) for book in self.usage]

    @property
    def entropy(self) -> list[float]:
        """Bits per code, of each codebook by itself; log2 of its size is the most."""
        shares = [book[book > 0] / max(1, book.sum()) for book in self.usage]
        return [float(-(p * np.log2(p)).sum()) + 0.0 for p in shares]

    def to_json(self) -> str:
        usage = base64.b85encode(zlib.compress(self.usage.astype("<i8").tobytes())).decode()
        return json.dumps({**asdict(self), "usage": usage, "shape": self.usage.shape})

    @classmethod
    def from_json(cls, text: str) -> Report:
        values: dict[str, Any] = json.loads(text)
        shape, data = values.pop("shape"), zlib.decompress(base64.b85decode(values.pop("usage")))
        return cls(**values, usage=np.frombuffer(data, "<i8").astype(np.int64).reshape(shape))


@lru_cache(maxsize=2)
def codec_of(model: str) -> Codec:
    """Loaded once per process."""
    return load(model)


def portable(model: str | Path) -> str:
    """What other processes and machines load the same model by: a bundled one's name, a folder's whole path, else a name on the hub."""
    return str(model) if str(model) in bundled() or not Path(model).is_dir() else str(Path(model).absolute())


def finished(job: Job, number: int) -> Report | None:
    """The report of a shard that is done, and whose tokens are still there."""
    if not formats.shard_path(job.kind, Path(job.out), job.name(number)).exists():
        return None
    try:
        return Report.from_json(job.report_path(number).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, KeyError, TypeError, zlib.error):
        return None


def tokenize_shard(shard: Shard, told: Told = lambda size, seconds: None) -> Report:
    """Tokenise a shard's clips unless that is done already: first its data under a temporary name, then the new name, then the report.

    Raises ModelError when another model is installed here than where the job began and, with `strict`, AudioError for the first clip
    that cannot be read; else the report has it.
    """
    job, number, items = shard
    done = finished(job, number)
    if done is not None:
        return done
    codec = codec_of(job.model)
    info = codec.info
    if info.model_hash != job.model_hash:
        raise ModelError(
            f"this machine's model '{info.name}' is {info.model_hash}, the job's is {job.model_hash}; install the same everywhere"
        )
    rows: dict[str, Row] = {}
    report = Report(size=shard.size)
    longest_first = sorted(items, key=lambda item: -item.size)  # so that the lanes end together
    for result in encode_clips(codec, longest_first, job.bitrate, told):
        if isinstance(result, Failed):
            if job.strict:
                raise AudioError(f"{result.item.path}: {result.reason}")
            report.errors.append({"id": result.item.id, "path": printable(result.item.path), "reason": printable(result.reason)})
        else:
            rows[result.item.id] = _row(codec, result)
    ordered = [rows[item.id] for item in items if item.id in rows]
    order = {item.id: i for i, item in enumerate(items)}
    report.errors.sort(key=lambda error: order[error["id"]])
    report.clips = len(ordered)
    report.frames = sum(row.codes.shape[1] for row in ordered)
    report.seconds = sum(row.samples for row in ordered) / info.sample_rate
    report.usage = _usage(ordered, codec.codebooks_for(job.bitrate), info.codebook_size)
    formats.write(job.kind, Path(job.out), job.name(number), ordered, job.schema)
    with replacing(job.report_path(number), sync=False) as file:  # one that is lost or cut off only costs doing the shard again
        file.write(report.to_json().encode())
    return report


def _row(codec: Codec, clip: Encoded) -> Row:
    return Row(
        id=clip.item.id,
        codes=clip.codes,
        num_codebooks=len(clip.codes),
        frame_rate=codec.info.frame_rate,
        samples=clip.samples,
        sample_rate_in=clip.sample_rate_in,
        sha256=clip.sha256,
        model_hash=codec.info.model_hash,
        columns=carried(clip.item.columns or {}),
    )


def _usage(rows: list[Row], num_codebooks: int, codebook_size: int) -> npt.NDArray[np.int64]:
    usage = np.zeros((num_codebooks, codebook_size), np.int64)
    for row in rows:
        for k, book in enumerate(row.codes):
            usage[k] += np.bincount(book, minlength=codebook_size)
    return usage
