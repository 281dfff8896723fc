"""A whole corpus: the clips cut into shards, the shards given to an engine, what is finished kept, and what came of it written down.

The output's folder holds data/ (and codes/ for npy), dataset.json (what made it, and its statistics), errors.jsonl, and .spectok/:
job.json, by which a second start knows that it goes on with the same job, and a report per finished shard.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TextIO

from ..disk import lock, replacing
from ..errors import AudioError, ConfigError
from ..runtime.codec import Info
from . import formats, sources
from .engine import Told
from .formats import CODES, DATA, FORMATS, INFO
from .pool import pool
from .shard import STATE, Job, Report, Shard, codec_of, finished, portable, tokenize_shard
from .sources import Item

SHARD_CLIPS = 1000
CONTENT_CLIPS, CONTENT_BYTES = 16, 2**16  # what is looked at to know a corpus again
SHARD_BYTES = 64 * 2**20  # an hour of 16 kHz FLAC: a minute or so of work, which is what a kill costs
SHARDS = 64  # a small corpus is cut into about so many, so that it keeps many cores busy, but not into smaller pieces than
LEAST_CLIPS, LEAST_BYTES = 16, 2**20
CARD, ERRORS = "dataset.json", "errors.jsonl"


class Progress(NamedTuple):
    """How far a job is: all of it, and what this start has done."""

    share: float  # 0 to 1, by the sources' bytes
    seconds: float  # of audio, by this start and those before
    speed: float  # × real time, by this start, all workers together
    errors: int
    left: float | None  # wall-clock seconds, when there is a guess


Show = Callable[[Progress], None]


class Engine(Protocol):
    """Calls `work` for each task, somewhere, and gives the reports as they come: `pool.pool`, `cluster.Ray`.

    `moving` hears how many bytes and seconds of audio are done, unfinished shards included, as well as it knows.
    """

    def __call__(
        self, work: Callable[[Any, Told], Report], tasks: Sequence[Any], workers: int | None, moving: Callable[[float, float], None]
    ) -> Iterator[Report]: ...


@dataclass
class Summary:
    """What came of a corpus."""

    report: Report
    info: Info
    num_codebooks: int
    shards: int
    resumed: int  # shards that were done before
    wall_seconds: float  # of this start
    new_seconds: float  # of audio, by this start

    @property
    def tokens(self) -> int:
        return self.report.frames * self.num_codebooks

    @property
    def speed(self) -> float:
        return self.new_seconds / self.wall_seconds if self.wall_seconds else 0.0


def tokenize(
    inputs: Sequence[str | Path],
    out: str | Path,
    model: str | Path = "mini",
    bitrate: float | None = None,
    kind: str = "parquet",
    workers: int | None = None,
    engine: Engine = pool,
    strict: bool = False,
    root: str | None = None,
    path_column: str | None = None,
    stdin: TextIO | None = None,
    show: Show = lambda progress: None,
    shard_clips: int = SHARD_CLIPS,
    program: str = "spectokenizer",
) -> Summary:
    """Tokenise all audio of `inputs` (see `sources.find`) into the folder `out`, or go on doing so.

    Raises ConfigError when `out` holds another job, BitrateError and ModelError as `load`; with `strict` AudioError for the first clip
    that cannot be read. Without, such clips are in errors.jsonl.
    """
    if kind not in FORMATS:
        raise ConfigError(f"format '{kind}'; known are {', '.join(FORMATS)}")
    codec, out = codec_of(str(model)), Path(out)
    num_codebooks = codec.codebooks_for(bitrate)
    if kind == "parquet":
        formats.need_pyarrow()
    found = sources.find([str(path) for path in inputs], root, path_column, stdin)
    items = [item._replace(path=os.path.abspath(item.path)) for item in found]  # workers elsewhere have another current folder
    groups = cut(items, shard_clips)
    schema = formats.column_types(items) if kind == "parquet" else None
    job = Job(str(out.absolute()), portable(model), codec.info.model_hash, bitrate, kind, len(groups), strict, schema)
    shards = [Shard(job, number, group) for number, group in enumerate(groups)]
    _make(out)
    with open(out / STATE / "lock", "wb") as file:  # two at once would write the same shards
        lock(file, f"{out}: another 'spectok tokenize' is writing there; wait for it, or give another folder")
        _same_job(out, _fingerprint(job, items, shard_clips))
        _clear(out)
        if kind == "npy":
            info = codec.info
            about = formats.codec_info(num_codebooks, info.codebook_size, info.frame_rate, info.sample_rate, info.name)
            _write_json(out / CODES / INFO, about)
        return _run(job, shards, codec.info, num_codebooks, engine, workers, show, _names(inputs), program)


def cut(items: Sequence[Item], most_clips: int = SHARD_CLIPS) -> list[list[Item]]:
    """Neighbouring clips together, as many as fit; depends on the list alone, so that a later start cuts the same."""
    most_clips = min(most_clips, max(LEAST_CLIPS, len(items) // SHARDS))
    most_bytes = min(SHARD_BYTES, max(LEAST_BYTES, sum(item.size for item in items) // SHARDS))
    shards: list[list[Item]] = []
    room = 0
    for item in items:
        if not shards or len(shards[-1]) >= most_clips or item.size > room:
            shards.append([])
            room = most_bytes
        shards[-1].append(item)
        room -= item.size
    return shards


def _run(
    job: Job,
    shards: list[Shard],
    info: Info,
    num_codebooks: int,
    engine: Engine,
    workers: int | None,
    show: Show,
    names: list[str],
    program: str,
) -> Summary:
    out = Path(job.out)
    total, before = Report(), Report()
    left = []
    for shard in shards:
        report = finished(job, shard.number)
        if report is None:
            left.append(shard)
        else:
            before.add(report)
    if job.strict and before.errors:
        first, number = before.errors[0], len(before.errors)
        raise AudioError(f"{first['path']}: {first['reason']}: {number} clips of shards from before; mend them and give another --out")
    total.add(before)
    _write_errors(out, total.errors)
    all_bytes, start, moved = max(1, sum(shard.size for shard in shards)), time.monotonic(), [0.0, 0.0]

    def told(size: float, seconds: float) -> None:
        """How much this start has done so far, unfinished shards included."""
        moved[:] = [max(moved[0], size), max(moved[1], seconds)]
        elapsed = time.monotonic() - start
        todo = all_bytes - before.size - moved[0]
        guess = elapsed * max(0.0, todo) / moved[0] if moved[0] and elapsed > 2 else None
        speed = moved[1] / elapsed if elapsed else 0.0
        share = min(1.0, (before.size + moved[0]) / all_bytes)
        show(Progress(share, before.seconds + moved[1], speed, len(total.errors), guess))

    fresh = Report()
    if left:
        told(0, 0)
        reports = engine(tokenize_shard, left, workers, told)
        with closing(reports):
            for report in reports:
                fresh.add(report)
                total.add(report)
                _append_errors(out, report.errors)
                told(fresh.size, fresh.seconds)
    summary = Summary(total, info, num_codebooks, len(shards), len(shards) - len(left), time.monotonic() - start, fresh.seconds)
    _write_errors(out, _in_order(job, shards))
    _write_json(out / CARD, card(summary, job, names, program))
    return summary


@contextlib.contextmanager
def closing(reports: Iterator[Report]) -> Iterator[None]:
    """Engines are generators, and stop their workers when closed."""
    try:
        yield
    finally:
        if isinstance(reports, Generator):
            reports.close()


def _in_order(job: Job, shards: Iterable[Shard]) -> list[dict[str, str]]:
    return [error for shard in shards if (report := finished(job, shard.number)) for error in report.errors]


def card(summary: Summary, job: Job, inputs: list[str], program: str) -> dict[str, Any]:
    """What made the corpus and what is in it, as JSON."""
    report, info = summary.report, summary.info
    return {
        "made_by": program,
        "model": info.name,
        "model_hash": info.model_hash,
        "bitrate": round(summary.num_codebooks * info.bits_per_code * info.frame_rate),
        "num_codebooks": summary.num_codebooks,
        "codebook_size": info.codebook_size,
        "frame_rate": info.frame_rate,
        "frame_size": info.frame_size,
        "sample_rate": info.sample_rate,
        "format": job.kind,
        "shards": summary.shards,
        "inputs": inputs,
        "clips": report.clips,
        "hours": round(report.seconds / 3600, 4),
        "tokens": summary.tokens,
        "errors": len(report.errors),
        "utilisation": [round(value, 4) for value in report.utilisation],
        "entropy_bits": [round(value, 3) for value in report.entropy],
    }


def _names(inputs: Sequence[str | Path]) -> list[str]:
    """Of the inputs the last part only: where they lie is nobody's business."""
    return ["a list on standard input" if str(path) == "-" else Path(os.path.abspath(path)).name for path in inputs]


# -- the output's folder -----------------------------------------------------------------------------------------------


def _make(out: Path) -> None:
    try:
        (out / STATE).mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ConfigError(f"{out}: is a file; give the name of a folder") from error


def _fingerprint(job: Job, items: Sequence[Item], shard_clips: int) -> dict[str, Any]:
    """What must be the same for a second start to go on with the first."""
    digest = sha256()
    for item in items:
        digest.update(f"{item.id}\0{item.size}\0{item.offset}\0{json.dumps(item.columns, default=str)}\n".encode("utf-8", "surrogatepass"))
    return {
        "model": job.model_hash,
        "bitrate": job.bitrate,
        "format": job.kind,
        "clips per shard": shard_clips,
        "clips": len(items),
        "inputs": digest.hexdigest(),
        "content": _content(items),
    }


def _content(items: Sequence[Item]) -> str:
    """Of the beginnings of some clips: corpora that differ in noise alone have the same names and sizes."""
    digest = sha256()
    for i in range(min(CONTENT_CLIPS, len(items))):
        item = items[i * len(items) // min(CONTENT_CLIPS, len(items))]
        with contextlib.suppress(OSError), open(item.path, "rb") as file:
            file.seek(max(0, item.offset))
            digest.update(file.read(CONTENT_BYTES))
    return digest.hexdigest()


def _same_job(out: Path, wanted: dict[str, Any]) -> None:
    """Raises ConfigError when the folder holds something else than an earlier start of this job."""
    path = out / STATE / "job.json"
    if not path.exists():
        if any((out / name).exists() for name in (DATA, CODES)):
            raise ConfigError(f"{out}: holds a folder {DATA} or {CODES} of something else; give a new folder")
        _write_json(path, wanted)
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path}: cannot be read ({error}); give a new folder") from error
    changed = [f"{name} {found.get(name)} then, {value} now" for name, value in wanted.items() if found.get(name) != value]
    if changed:
        what = (
            "; ".join(text for text in changed if not text.startswith(("inputs ", "content ")))
            or "the files or what the manifest says of them"
        )
        raise ConfigError(f"{out}: was begun with something else ({what}); give the same inputs and options to go on, or a new folder")


def _clear(out: Path) -> None:
    """What killed writers left."""
    for folder in (out, out / DATA, out / CODES, out / STATE):
        for path in folder.rglob(".*.part") if folder.name == CODES else folder.glob(".*.part"):
            path.unlink(missing_ok=True)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    with replacing(path) as file:
        file.write((json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def _write_errors(out: Path, errors: Sequence[dict[str, str]]) -> None:
    if errors or (out / ERRORS).exists():
        with replacing(out / ERRORS) as file:
            file.write(_lines(errors))


def _append_errors(out: Path, errors: Sequence[dict[str, str]]) -> None:
    if errors:
        with open(out / ERRORS, "ab") as file:
            file.write(_lines(errors))


def _lines(errors: Sequence[dict[str, str]]) -> bytes:
    return "".join(json.dumps(error, ensure_ascii=False) + "\n" for error in errors).encode()
