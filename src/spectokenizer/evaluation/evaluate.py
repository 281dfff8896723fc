"""Run systems over clips and score what comes out: one row per (system, bitrate, clip), resumable after a kill.

    evaluate([Original(), *codec_systems("mini", [1000, 4000])], find_clips("speech"), metrics="all", out="results", workers=4)

writes results.csv (a row at a time), codes/ (for codebook statistics), run.json, and at the end summary.csv, curves.png, report.md.

A system is anything with `name`, `bitrate` (nominal, bits/s) and `process(audio, sample_rate) -> (audio of the same length,
payload bits[, codes [K, T]])`; it must survive pickling when workers > 1, and should load what is heavy on first use.
Optional: `aligned` (True: its output is promised to be in time and is never shifted), `fingerprint` (what it is exactly, e.g. a
model hash: rows of another one are refused), `codebook_size`. Rows of a clip whose file has changed since are refused, too.

Time: every output is cross-correlated with its original within ±40 ms; lag and correlation are recorded. Systems that
do not promise alignment are shifted by the lag when the correlation peak is distinct enough to be believed.
Level: every output is brought to the energy of its original; by how much it was off is recorded.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import hashlib
import math
import os
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from ..disk import lock, printable
from ..errors import AudioError, ConfigError, SpecTokenizerError
from ..runtime import audio
from ..runtime.audio import Audio, resample
from . import metrics as registry
from . import report

SAMPLE_RATE = registry.SAMPLE_RATE
MAX_LAG = 640  # samples, 40 ms


class Clip(NamedTuple):
    name: str  # path below the data folder: the key of its rows
    path: Path

    @property
    def text(self) -> Path:
        """Where the transcript is, if there is one: same name, .txt."""
        return self.path.with_suffix(".txt")

    @property
    def transcript(self) -> str | None:
        """What is said in the clip. Raises ConfigError."""
        try:
            return self.text.read_text(encoding="utf-8") if self.text.is_file() else None
        except UnicodeDecodeError as error:
            raise ConfigError(f"{self.text}: not UTF-8 ({error.reason} at byte {error.start}); save the transcript as UTF-8") from error

    @property
    def digest(self) -> str:
        """SHA-256 of the file: names alone do not tell one data set from another."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()


class Processed(NamedTuple):
    audio: Audio
    payload_bits: int
    codes: npt.NDArray[np.integer[Any]] | None = None


class System(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def bitrate(self) -> int: ...
    def process(self, audio: Audio, sample_rate: int) -> tuple[Any, ...]: ...


@dataclass(frozen=True)
class Original:
    """The uncoded clip: what the metrics say of a perfect codec, and the floor of those that judge without a reference."""

    name: str = report.ORIGINAL
    bitrate: int = 16 * SAMPLE_RATE
    aligned: bool = True

    def process(self, audio: Audio, sample_rate: int) -> Processed:
        return Processed(audio, 16 * len(audio))


@functools.cache
def _codec(model: str) -> Any:
    from ..runtime.codec import load

    return load(model)


@dataclass(frozen=True)
class CodecSystem:
    """Our codec at one bitrate; the model is loaded once per process, whatever the number of bitrates."""

    model: str  # bundled name or folder
    bitrate: int
    name: str
    fingerprint: str
    codebook_size: int
    aligned: bool = True

    def process(self, audio: Audio, sample_rate: int) -> Processed:
        codec = _codec(self.model)
        codes = codec.encode(audio, sample_rate, bitrate=self.bitrate)
        decoded = fit(resample(codec.decode(codes), codec.info.sample_rate, sample_rate), len(audio))
        return Processed(decoded, codes.array.size * codec.info.bits_per_code, codes.array)


def codec_systems(model: str | Path = "mini", bitrates: Sequence[int] | None = None, name: str | None = None) -> list[CodecSystem]:
    """One system per bitrate (bits/s; all of the model's by default), under another name than the bundled model's or the folder's.

    Raises ModelError, BitrateError.
    """
    codec = _codec(str(model))
    info = codec.info
    chosen = info.bitrates if bitrates is None else bitrates
    for bitrate in chosen:
        codec.codebooks_for(bitrate)
    if name is None and Path(model).is_dir():  # a run's export has the preset's name
        name = Path(model).resolve().name
    return [CodecSystem(str(model), int(b), name or info.name, info.model_hash, info.codebook_size) for b in chosen]


def bitrates(model: str | Path) -> tuple[int, ...]:
    """Those of a model. Raises ModelError."""
    return _codec(str(model)).info.bitrates


def find_clips(data: str | Path, limit: int | None = None) -> list[Clip]:
    """Clips of a folder or manifest; `limit` takes that many, evenly spaced, so that every subfolder is heard.

    Raises ConfigError when there are none.
    """
    from ..training.data import find_audio

    data = Path(data)
    root = data if data.is_dir() else data.parent
    paths = find_audio(data)
    if limit is not None:
        if limit < 1:
            raise ConfigError(f"limit is {limit}; give at least 1 clip")
        count = min(limit, len(paths))
        paths = [paths[i * len(paths) // count] for i in range(count)]
    return [Clip(printable((p.relative_to(root) if p.is_relative_to(root) else p).as_posix()), p) for p in paths]


# -- one clip through one system ---------------------------------------------------------------------------------------


def find_lag(reference: Audio, degraded: Audio, max_lag: int = MAX_LAG) -> tuple[int, float]:
    """(lag, correlation): by how many samples `degraded` is late, and the normalised correlation there (sign kept)."""
    size = 1 << (len(reference) + max_lag).bit_length()
    spectrum = np.fft.rfft(degraded, size) * np.conj(np.fft.rfft(reference, size))
    correlation = np.fft.irfft(spectrum, size)
    lags = np.arange(-max_lag, max_lag + 1)
    best = int(lags[np.argmax(correlation[lags])])
    scale = float(np.linalg.norm(reference.astype(np.float64)) * np.linalg.norm(degraded.astype(np.float64)))
    return (best, float(correlation[best]) / scale) if scale else (0, 0.0)


def fit(samples: Audio, length: int) -> Audio:
    """The first `length` samples, silence after the last one."""
    return np.pad(samples[:length], (0, max(0, length - len(samples))))


def shift(samples: Audio, lag: int) -> Audio:
    """The signal `lag` samples earlier, as long as before, silence where nothing is known."""
    out = np.zeros_like(samples)
    if lag >= 0:
        out[: len(samples) - lag] = samples[lag:]
    else:
        out[-lag:] = samples[:lag]
    return out


FIXED = ("system", "bitrate", "clip", "audio", "fingerprint", "seconds", "kbps", "lag_ms", "correlation", "shifted", "gain_db")
Row = dict[str, Any]  # FIXED, the metrics' fields, notes; tables from before `audio` are refused: nobody knows what they heard


class Failure(NamedTuple):
    """A clip that gave no row: it could not be read, or the system broke on it. Tried again by the next run."""

    system: str
    bitrate: int
    clip: str
    reason: str


def measure(clip: Clip, system: System, names: Sequence[str], codes_folder: Path | None = None) -> Row | Failure:
    """Process and score one clip. What goes wrong with this clip alone comes back as a Failure."""
    try:
        reference, _ = audio.read(clip.path, SAMPLE_RATE)
        digest = clip.digest
        transcript = clip.transcript if "wer" in names else None  # a text that no metric reads may be anything
        if not len(reference):
            raise AudioError(f"{clip.path}: holds no samples")
        made = Processed(*system.process(reference, SAMPLE_RATE))
        degraded = np.asarray(made.audio, np.float32)
        if degraded.shape != reference.shape:
            raise AudioError(f"{system.name} returned shape {list(degraded.shape)} for {list(reference.shape)}")
        if not np.isfinite(degraded).all():
            raise AudioError(f"{system.name} returned values that are not finite")
    except Exception as error:  # one clip, one system: the other thousands must go on; nothing is lost, the report lists it
        reason = str(error) if isinstance(error, SpecTokenizerError) else f"{type(error).__name__}: {error}"
        return Failure(system.name, system.bitrate, clip.name, printable(reason.replace("\n", " ")))

    lag, correlation = find_lag(reference, degraded)
    shifted = bool(lag) and correlation >= report.TRUSTED_CORRELATION and not getattr(system, "aligned", False)
    if shifted:
        degraded = shift(degraded, lag)
    energy_in, energy_out = (float(np.sum(np.square(x, dtype=np.float64))) for x in (reference, degraded))
    if energy_in and energy_out:
        degraded = degraded * np.float32(math.sqrt(energy_in / energy_out))
    row: Row = {
        "system": system.name,
        "bitrate": system.bitrate,
        "clip": clip.name,
        "audio": digest,
        "fingerprint": getattr(system, "fingerprint", ""),
        "seconds": len(reference) / SAMPLE_RATE,
        "kbps": made.payload_bits * SAMPLE_RATE / len(reference) / 1000,
        "lag_ms": 1000 * lag / SAMPLE_RATE,
        "correlation": correlation,
        "shifted": int(shifted),
        "gain_db": 10 * math.log10(energy_out / energy_in) if energy_in and energy_out else math.nan,
    }
    notes = []
    for name in names:
        values, reason = registry.METRICS[name](reference, degraded, SAMPLE_RATE, transcript)
        row |= values
        if reason:
            notes.append(f"{name}: {reason}")
    if codes_folder is not None and made.codes is not None:
        folder = codes_folder / report.system_folder(system.name, system.bitrate)
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / report.codes_file(clip.name), np.asarray(made.codes))
    return row | {"notes": "; ".join(notes)}


# -- the table ---------------------------------------------------------------------------------------------------------


class Table:
    """results.csv: appended to and flushed row by row, by one process; a last line that a kill cut short is dropped on opening.

    Raises ConfigError when it is in use, of other columns or no such table at all; it is then left as it is.
    """

    def __init__(self, path: Path, fields: Sequence[str]):
        self.path, self.fields = path, [*FIXED, *fields, "notes"]
        self._file = path.open("a+", newline="", encoding="utf-8")
        try:
            lock(self._file, f"{path}: another evaluation is writing there; wait for it, or use another folder")
            self.rows = self._open()
        except BaseException:
            self._file.close()
            raise

    def _open(self) -> list[Row]:
        header, data = (",".join(self.fields) + "\n").encode(), self.path.read_bytes()
        if header.startswith(data):  # empty, or killed while its header was being written
            os.truncate(self.path, 0)
            self._file.write(header.decode())
            self._file.flush()
            return []
        if not data.startswith(header):
            found = data.partition(b"\n")[0].decode("utf-8", "backslashreplace").split(",")
            if found[:3] != self.fields[:3]:
                raise ConfigError(f"{self.path} is no table of results (it begins with {found[0][:40]!r}); use another folder")
            differing = sorted(set(found) ^ set(self.fields)) or ["the order"]
            raise ConfigError(f"{self.path} has other columns ({', '.join(differing)} differ); use the same metrics or another folder")
        os.truncate(self.path, data.rfind(b"\n") + 1)
        return report.read_rows(self.path)

    def __enter__(self) -> Table:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, row: Row) -> None:
        cells = [f"{v:.6g}" if isinstance(v, float) else v for v in (row[field] for field in self.fields)]
        csv.writer(self._file, lineterminator="\n").writerow(cells)
        self._file.flush()
        self.rows.append(row)


# -- all of them -------------------------------------------------------------------------------------------------------

Job = tuple[Clip, int]  # which clip, which system
_worker: tuple[Sequence[System], Sequence[str], Path] | None = None  # set once per worker process: systems stay loaded


def _start_worker(systems: Sequence[System], names: Sequence[str], codes_folder: Path) -> None:
    global _worker
    _worker = systems, names, codes_folder


def _work(job: Job) -> Row | Failure:
    if _worker is None:
        raise RuntimeError("worker process was not initialised")
    systems, names, codes_folder = _worker
    return measure(job[0], systems[job[1]], names, codes_folder)


THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


@contextlib.contextmanager
def _single_threaded_children() -> Iterator[None]:
    """Workers inherit these at their start; libraries read them when they load, before any code of ours could tell them."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _results(
    jobs: list[Job], systems: Sequence[System], names: Sequence[str], codes: Path, workers: int
) -> Generator[Row | Failure, None, None]:
    """Results as they come: here, one after another, or from a pool of fresh processes."""
    if workers <= 1:
        for clip, index in jobs:
            yield measure(clip, systems[index], names, codes)
        return
    with _single_threaded_children():
        pool = ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (systems, names, codes))
        try:
            queue, running = iter(jobs), dict[Future[Row | Failure], Job]()
            while True:
                while len(running) < 2 * workers and (job := next(queue, None)) is not None:
                    running[pool.submit(_work, job)] = job
                if not running:
                    return
                done = wait(running, return_when=FIRST_COMPLETED).done
                for future in sorted(done, key=lambda future: future.exception() is not None):  # results first: they are kept
                    result = future.result()
                    del running[future]
                    yield result
        except BrokenProcessPool as error:
            lost = ", ".join(sorted({clip.name for clip, _ in running.values()}))
            raise SpecTokenizerError(
                f"a worker process died at one of {lost}: out of memory, killed, or a metric's library crashed; finished rows are "
                "kept and the same command goes on: with --workers 1 it needs less memory, else leave out that clip or metric"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


class Outcome(NamedTuple):
    rows: list[Row]  # all of results.csv, earlier runs' included
    failures: list[Failure]
    report: Path


def evaluate(
    systems: Sequence[System],
    clips: Sequence[Clip],
    metrics: str | list[str] = "all",
    out: str | Path = "evaluation",
    workers: int = 1,
    progress: bool = True,
) -> Outcome:
    """Score every system on every clip into folder `out` and write the report; rows already there are kept.

    Raises ConfigError when the folder holds rows of another model, of other clips of these names or of other metrics, or is being
    written to, when there is nothing to do, or when a metric asked for by name is absent; SpecTokenizerError when a worker died.
    """
    if not systems or not clips:
        raise ConfigError(f"nothing to evaluate: {len(systems)} systems, {len(clips)} clips")
    for what, keys in (("system and bitrate", [(s.name, s.bitrate) for s in systems]), ("clip", [c.name for c in clips])):
        if len(set(keys)) < len(keys):
            raise ConfigError(f"each {what} may appear once only: rows are told apart by it")
    chosen, absent = registry.select(metrics)
    names = [metric.name for metric in chosen]
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)

    with Table(out / "results.csv", [field for metric in chosen for field in metric.fields]) as table:
        prints = {row["system"]: row["fingerprint"] for row in table.rows}
        for system in systems:
            if prints.setdefault(system.name, mine := getattr(system, "fingerprint", "")) != mine:
                raise ConfigError(f"{table.path} is for another '{system.name}' ({prints[system.name]}, not {mine}); use another folder")
        heard = {row["clip"]: row["audio"] for row in table.rows}
        for clip in clips:
            if clip.name in heard and clip.digest != heard[clip.name]:
                seen = printable(str(clip.path))
                raise ConfigError(f"{table.path} holds rows of another '{clip.name}' than {seen} is now; use another folder (--out)")
        report.describe(out, systems, clips, chosen, absent)

        done = {(row["system"], row["bitrate"], row["clip"]) for row in table.rows}
        jobs = [(c, i) for c in clips for i, s in enumerate(systems) if (s.name, s.bitrate, c.name) not in done]
        failures: list[Failure] = []
        with (
            _progress(len(jobs), progress) as advance,
            contextlib.closing(_results(jobs, systems, names, out / "codes", workers)) as results,
        ):
            for result in results:
                if isinstance(result, Failure):
                    failures.append(result)
                else:
                    table.append(result)
                advance()
    return Outcome(table.rows, failures, report.write(out, [f._asdict() for f in failures]))


@contextlib.contextmanager
def _progress(total: int, show: bool) -> Iterator[Any]:
    """A function to call after each row; draws a bar where rich is installed."""
    try:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    except ImportError:
        show = False
    if not (show and total):
        yield lambda: None
        return
    columns = (TextColumn("evaluating"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns) as bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.advance(task)
