"""Train and measure the trials of an experiment, side by side, each once, whoever starts them and however often they are killed.

    WORK/EXPERIMENT/TRIAL-seedN/
      settings.json   all that the result depends on; another settings.json is refused
      run/            an ordinary training run, which goes on by itself
      results.csv     a row per held-out clip, which goes on by itself, too
      result.json     the trial is done
      code.txt        states of the code that trained it
      log.txt         what it said
      claim-N         a process works on it (claims.py)

One process per trial, of one thread, or of one GPU: python -m spectokenizer.experiments.run FOLDER SOURCES. The same command on
several machines that share WORK shares out the trials.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from .. import __version__
from ..codes import codebook_usage, num_frames
from ..config import CodecConfig
from ..disk import cache_folder, replace_text
from ..errors import ConfigError, SpecTokenizerError, TrainingError
from ..evaluation import evaluate as ev
from ..evaluation import metrics as registry
from ..evaluation import report as evaluation_report
from ..runtime.audio import Audio, resample
from ..training.config import TrainConfig
from ..training.data import Clips, files, find
from . import claims
from .trials import Experiment, Trial

METRICS = ("pesq_wb", "stoi", "si_sdr", "mel_distance")
TOKENS_PER_ENTRY = (
    40  # which utilisation wants: no codebook is used evenly, and with 8 a good one of 32768 shows 82 % of its entries, with 40 94 %
)
NOISE = 0.1  # of the segments are trained with noise when there is some
BUSY, STOPPED = 75, 130  # how a worker ends that found another at work, or was told to stop
PATIENCE = 60.0  # seconds for workers to save and end
Result = dict[str, Any]


@dataclass(frozen=True)
class Sources:
    """Where things are on this machine. What they are, not where, is part of a trial's settings."""

    data: str
    validation: str
    noise: str | None = None
    init: str | None = None
    cache: str | None = None
    limit: int | None = None  # held-out clips to measure on, evenly spaced


@dataclass(frozen=True)
class Job:
    """A trial with one seed."""

    trial: Trial
    seed: int
    settings: Mapping[str, Any]
    folder: Path

    @property
    def key(self) -> str:
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def steps(self) -> int:
        return sum(stage["steps"] for stage in self.settings["recipe"]["stage"])

    def steps_done(self) -> int:
        """As far as the training run has logged."""
        with contextlib.suppress(OSError, ValueError, IndexError, KeyError), (self.folder / "run" / "metrics.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
            whole = file.read().rpartition(b"\n")[0]
            return int(json.loads(whole.rpartition(b"\n")[2])["step"])
        return 0

    def result(self) -> Result | None:
        return read_result(self.folder, self.key)


class Failure(NamedTuple):
    trial: str
    reason: str
    log: Path


class Outcome(NamedTuple):
    results: list[Result]
    failures: list[Failure]


class Stopped(SpecTokenizerError):  # noqa: N818 - a verdict, not a failure
    """A trial was told to stop before its end; what it has is saved."""


# -- what a trial is ---------------------------------------------------------------------------------------------------


def jobs(experiment: Experiment, sources: Sources, seeds: Sequence[int], every_seed: bool, work: Path) -> list[Job]:
    """The reference with every seed, the others with the first, or all with all. Their order is that of the table, first seeds first.

    Raises ConfigError for sources that are not there and for settings that do not go together.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(f"seeds {list(seeds)}; give at least one, each once")
    shared = {
        "codebooks": experiment.codebooks,
        "data": fingerprint(sources.data),
        "validation": {**fingerprint(sources.validation), "limit": sources.limit},
        "noise": fingerprint(sources.noise) if sources.noise else None,
        "init": origin(Path(sources.init)) if sources.init else None,
    }
    out = []
    for seed in seeds:
        for trial in experiment.trials:
            if seed == seeds[0] or every_seed or trial.name == experiment.reference:
                recipe = experiment.recipe(trial, seed, with_autoencoder=not sources.init)
                if sources.noise:
                    recipe["augment"] = {"noise": NOISE}
                codec = TrainConfig.from_dict(recipe).codec.to_dict()  # in full: a preset may become another one
                settings = {"trial": trial.name, "recipe": recipe, "codec": codec, **shared}
                out.append(Job(trial, seed, settings, work / experiment.name / f"{trial.name}-seed{seed}"))
    return out


def fingerprint(source: str) -> dict[str, Any]:
    """What audio it is, wherever it lies: number of files, and a digest of their names and sizes."""
    paths = files(find(source))
    root, digest = Path(source), hashlib.sha256()
    for path in paths:
        name = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
        digest.update(f"{name}|{path.stat().st_size if path.exists() else None}\n".encode(errors="surrogateescape"))
    return {"files": len(paths), "digest": digest.hexdigest()[:16]}


def origin(folder: Path) -> dict[str, Any]:
    """The network that all begin with: a digest of its weights, its name, the seconds of audio that it has seen."""
    from ..training.checkpoint import load_about

    digest = weights_hash(folder)
    name = CodecConfig.from_json(folder / "config.json").name
    return {"weights": digest, "name": name, "audio_seconds": load_about(folder)["trained_audio_seconds"]}


def weights_hash(folder: Path) -> str:
    from ..training.checkpoint import WEIGHTS

    try:
        return hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()[:16]
    except FileNotFoundError as error:
        raise ConfigError(f"{folder}: no {WEIGHTS} to begin with; give the folder of a training run, or models/mini") from error


def prepare(job: Job) -> None:
    """Make the trial's folder. Raises ConfigError when it holds a trial with other settings."""
    job.folder.mkdir(parents=True, exist_ok=True)
    path = job.folder / "settings.json"
    if path.exists():
        there = json.loads(path.read_text(encoding="utf-8"))
        if there["key"] != job.key:
            a, b = _flat(there["settings"]), _flat(job.settings)
            differing = sorted(name for name in {**a, **b} if a.get(name) != b.get(name))
            shown = "; ".join(f"{name} {a.get(name)} there, {b.get(name)} here" for name in differing[:3])
            raise ConfigError(f"{job.folder} holds a trial with other settings ({shown}); give another --work, or delete that folder")
        return
    replace_text(path, json.dumps({"key": job.key, "settings": job.settings}, indent=1))


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, (list, tuple)) else None
    if items is None:
        return {name: value}
    return {key: leaf for part, inner in items for key, leaf in _flat(inner, f"{name}.{part}".lstrip(".")).items()}


def read_result(folder: Path, key: str) -> Result | None:
    path = folder / "result.json"
    if not path.exists():
        return None
    result: Result = json.loads(path.read_text(encoding="utf-8"))
    return result if result["key"] == key else None


# -- one trial, in this process -----------------------------------------------------------------------------------------


def attempt(folder: Path, sources: Sources, lost: Callable[[], None] = lambda: os.kill(os.getpid(), signal.SIGTERM)) -> int:
    """Train and measure unless that is done or another is at it; returns how it ended: 0, BUSY, STOPPED. `lost`: see `Claim`."""
    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    claim = claims.Claim.take(folder, lost)
    if claim is None:
        return BUSY
    with claim:
        if read_result(folder, settings["key"]) is None:
            try:
                result = perform(settings["settings"], folder, sources)
            except Stopped:
                return STOPPED
            replace_text(folder / "result.json", json.dumps({"key": settings["key"], **result}, indent=1))
    return 0


def perform(settings: Mapping[str, Any], folder: Path, sources: Sources) -> Result:
    """Both halves of a trial. Raises Stopped when training was told to stop, and what training raises."""
    from ..training import checkpoint, train

    config = TrainConfig.from_dict(settings["recipe"])
    check_counted(config.codec)
    run, cache = folder / "run", Path(sources.cache) if sources.cache else None
    trained_by = _trained_by(folder, config.steps)
    train.run(config, sources.data, run, sources.validation, 1, 1, cache, noise=sources.noise, init=sources.init)
    about = checkpoint.load_about(run)
    if about["trained_steps"] < config.steps:
        raise Stopped(f"{folder}: stopped at step {about['trained_steps']} of {config.steps}")
    codec, used = config.codec, min(settings["codebooks"], config.codec.num_codebooks)
    return {
        "trial": settings["trial"],
        "seed": config.seed,
        "steps": about["trained_steps"],
        "audio_seconds": about["trained_audio_seconds"],
        "parameters": sum(cost.parameters for cost in codec.costs(used)),
        "macs_per_second": codec.macs_per_second,
        "table_numbers": codec.table_numbers,
        "channels": list(codec.channels),
        "bitrate": codec.bitrates[used - 1],
        **measure(run, used, sources, folder),
        "environment": {**environment(), "code": trained_by},
    }


def _trained_by(folder: Path, steps: int) -> str:
    """The states of the code that trained the trial in a folder, this one among them unless it has all its steps already."""
    from ..training import checkpoint

    path, config = folder / "code.txt", folder / "run" / "config.json"
    states = path.read_text(encoding="utf-8").split() if path.exists() else []
    done = config.exists() and (checkpoint.load_about(config.parent)["trained_steps"] or 0) >= steps
    if code() not in states and not (done and states):
        states.append(code())
        replace_text(path, "\n".join(states) + "\n")
    return "+".join(states)


def check_measurable(sources: Sources) -> None:
    """Raises ConfigError for metrics that are not installed and clips that cannot be found: after hours of training is too late."""
    absent = [f"{name}: {reason}" for name in METRICS if (reason := registry.METRICS[name].absence())]
    if absent:
        raise ConfigError(f"an experiment measures {', '.join(METRICS)}, but {'; '.join(absent)}")
    ev.find_clips(sources.validation, sources.limit)


def check_counted(codec: CodecConfig) -> None:
    """Raises ConfigError unless the network has as many parameters as `costs`, from which the table's figure comes, counts."""
    from ..model.spectokenizer import build, parameters

    counted, there = sum(cost.parameters for cost in codec.costs()), parameters(build(codec))
    if counted != there:
        raise ConfigError(f"'{codec.name}' is counted as {counted} parameters, but the network has {there}: one of them ignores a setting")


def environment() -> dict[str, str]:
    """What the figures may depend on, and nothing of the machine."""
    libraries = ("torch", "numpy", "pesq", "pystoi")
    versions = {name: importlib.metadata.version(name) for name in libraries if importlib.util.find_spec(name)}
    measuring = code("experiments/run.py", "evaluation/evaluate.py", "evaluation/metrics.py", "evaluation/report.py")
    return {"spectokenizer": __version__, "code": code(), "measured_by": measuring, "python": platform.python_version(), **versions}


def code(*parts: str) -> str:
    """A digest of the codec, the model and its training, or of other parts: two trials that differ in it may differ because of it."""
    package, digest = Path(__file__).parents[1], hashlib.sha256()
    paths = [package / part for part in parts]
    paths = paths or [package / "config.py", *(path for part in ("model", "training") for path in (package / part).iterdir())]
    for path in sorted(path for path in paths if path.suffix in (".py", ".c")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


@functools.lru_cache(maxsize=1)
def _model(folder: str, fingerprint: str) -> Any:
    """Loaded once per process and set of weights."""
    import torch

    from ..model import kernels
    from ..training.checkpoint import load_model

    kernels.enable(cache_folder())
    return load_model(folder).to("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class TorchSystem:
    """A trained network as `evaluate` takes it, without an export, which not every variant has."""

    folder: str
    codebooks: int
    name: str
    bitrate: int
    fingerprint: str
    codebook_size: int
    aligned: bool = True

    @classmethod
    def load(cls, folder: Path, codebooks: int, name: str | None = None) -> TorchSystem:
        codec = CodecConfig.from_json(folder / "config.json")
        return cls(str(folder), codebooks, name or codec.name, codec.bitrates[codebooks - 1], weights_hash(folder), codec.codebook_size)

    def process(self, audio: Audio, sample_rate: int) -> ev.Processed:
        import torch

        model = _model(self.folder, self.fingerprint)
        c, device = model.config, next(model.parameters()).device
        heard = resample(audio, sample_rate, c.sample_rate)
        padded = ev.fit(heard, num_frames(len(heard), c.frame_size, c.delay_samples) * c.frame_size)
        with torch.inference_mode():
            codes, _ = model.encode(torch.from_numpy(padded)[None].to(device))
            codes = codes[:, : self.codebooks]
            decoded, _ = model.decode(codes)
        samples = decoded[0, c.delay_samples : c.delay_samples + len(heard)].cpu().numpy()
        array = codes[0].cpu().numpy()
        return ev.Processed(ev.fit(resample(samples, c.sample_rate, sample_rate), len(audio)), array.size * c.bits_per_code, array)


def measure(run: Path, codebooks: int, sources: Sources, folder: Path) -> Result:
    """Means, and values per clip, on held-out clips, and how the codebooks are used."""
    system = TorchSystem.load(run, codebooks)
    clips = ev.find_clips(sources.validation, sources.limit)
    absent = {name: reason for name in METRICS if (reason := registry.METRICS[name].absence())}
    names = [name for name in METRICS if name not in absent]
    columns = [column for name in names for column in registry.METRICS[name].columns]
    table_path = folder / "results.csv"
    with ev.Table(table_path, [column.name for column in columns]) as table:  # mends what a crash left
        stale = any(row["fingerprint"] != system.fingerprint for row in table.rows)
    if stale:
        table_path.unlink()  # of weights that were trained further since
    failures = []
    with ev.Table(table_path, [column.name for column in columns]) as table:
        done = {row["clip"] for row in table.rows}
        for clip in clips:
            if clip.name not in done:
                row = ev.measure(clip, system, names, folder / "codes")
                if isinstance(row, ev.Failure):
                    failures.append(f"{row.clip}: {row.reason}")
                else:
                    table.append(row)
        wanted = {clip.name for clip in clips}
        rows = sorted((row for row in table.rows if row["clip"] in wanted), key=lambda row: str(row["clip"]))
    if not rows:
        raise TrainingError(f"none of the {len(clips)} held-out clips could be measured: {failures[0]}")
    return {
        "values": {c.name: [row[c.name] if np.isfinite(row[c.name]) else None for row in rows] for c in columns},
        "clips": [row["clip"] for row in rows],
        "seconds": round(sum(row["seconds"] for row in rows), 2),
        "usage": usage(system, folder, sources),
        "absent": absent,
        "failed_clips": failures,
    }


def usage(system: TorchSystem, folder: Path, sources: Sources) -> dict[str, Any]:
    """How evenly entries are used, means over the codebooks: on the held-out clips or, when their tokens are too few, on training clips."""
    size = system.codebook_size
    where = folder / "codes" / evaluation_report.system_folder(system.name, system.bitrate)
    codes, on = np.concatenate([np.load(path, allow_pickle=False) for path in sorted(where.glob("*.npy"))], 1), "held-out clips"
    if codes.shape[1] < TOKENS_PER_ENTRY * size:
        codes, on = _training_codes(system, TOKENS_PER_ENTRY * size, sources), "training clips"
    books = codebook_usage(codes, size)
    return {
        "utilisation": 100 * float(np.mean([book.utilisation for book in books])),
        "perplexity": float(np.mean([book.perplexity for book in books])),
        "entropy": float(np.mean([book.entropy for book in books])),
        "entries": size,
        "tokens": codes.shape[1],
        "on": on,
    }


def _training_codes(system: TorchSystem, tokens: int, sources: Sources, together: int = 8, longest: float = 20.0) -> np.ndarray[Any, Any]:
    """Codes [K, T] of training clips in random order, T at least `tokens` where there are as many. Long clips are cut at 20 s.

    Clips of one batch are as long as the longest of them; what is behind a clip's own end is not counted: silence has few codes.
    """
    import torch

    model = _model(system.folder, system.fingerprint)
    c, device = model.config, next(model.parameters()).device
    clips = Clips.open(sources.data, c.sample_rate, Path(sources.cache) if sources.cache else None)
    piece = round(longest * c.frame_rate) * c.frame_size
    bounds = zip(clips.starts.tolist(), clips.ends.tolist(), strict=True)
    pieces = [(at, min(piece, end - at) // c.frame_size) for start, end in bounds for at in range(start, end - c.frame_size + 1, piece)]
    pieces = [pieces[i] for i in np.random.default_rng(0).permutation(len(pieces))]
    enough = int(np.searchsorted(np.cumsum([frames for _, frames in pieces]), tokens)) + 1
    pieces = sorted(pieces[:enough], key=lambda place: place[1])
    parts = list[np.ndarray[Any, Any]]()
    for some in (pieces[i : i + together] for i in range(0, len(pieces), together)):
        segments = np.zeros((len(some), some[-1][1] * c.frame_size), np.float32)
        for row, (at, frames) in zip(segments, some, strict=True):
            row[: frames * c.frame_size] = clips.samples[at : at + frames * c.frame_size] / np.float32(32768)
        with torch.inference_mode():
            codes, _ = model.encode(torch.from_numpy(segments).to(device))  # [B, K, T]
        heard = codes[:, : system.codebooks].cpu().numpy()
        parts += [of_clip[:, :frames] for of_clip, (_, frames) in zip(heard, some, strict=True)]
    return np.concatenate(parts, 1)


def main(arguments: Sequence[str]) -> int:
    """A worker process: FOLDER and `Sources` as JSON. Ends when told to, and when its parent is gone."""

    def leave(*_: object) -> NoReturn:
        raise SystemExit(STOPPED)

    signal.signal(signal.SIGTERM, leave)
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(2)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
    try:
        # Whoever has taken the trial over is further: nothing may be saved any more.
        return attempt(Path(arguments[0]), Sources(**json.loads(arguments[1])), lost=lambda: os._exit(BUSY))
    except SpecTokenizerError as error:
        print(str(error).replace("\n", " "), file=sys.stderr)
        return 1


# -- all trials, side by side --------------------------------------------------------------------------------------------

WORKER = (sys.executable, "-m", "spectokenizer.experiments.run")


def devices() -> list[str]:
    """What CUDA_VISIBLE_DEVICES may be, one GPU each; none without any."""
    import torch

    count = torch.cuda.device_count()
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return visible[:count] if visible else [str(i) for i in range(count)]


def run(
    todo: Sequence[Job], sources: Sources, workers: int, gpus: Sequence[str] = (), show: bool = True, command: Sequence[str] = WORKER
) -> Outcome:
    """Do what is not done yet, `workers` at a time, and wait for what others do; with 0 workers one after another in this process.

    What goes wrong with a trial is in the outcome, and the others go on. Ctrl-C and SIGTERM let the trials save and end.
    Raises ConfigError when a folder holds a trial with other settings.
    """
    for job in todo:
        prepare(job)
    missing = [job for job in todo if job.result() is None]
    failures: list[Failure] = []
    with _bars(todo, show) as bars:
        if workers:
            _side_by_side(missing, sources, workers, gpus, command, bars, failures)
        else:
            for job in missing:
                _in_this_process(job, sources, bars, failures)
    return Outcome([result for job in todo if (result := job.result())], failures)


def _in_this_process(job: Job, sources: Sources, bars: Bars, failures: list[Failure]) -> None:
    bars.say(job, "training")
    reason = ""
    with (job.folder / "log.txt").open("a", encoding="utf-8") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        try:
            ended = attempt(job.folder, sources)
        except Exception as error:  # one trial: the others go on, the report names it
            traceback.print_exc()
            ended, reason = 1, str(error) if isinstance(error, SpecTokenizerError) else f"{type(error).__name__}: {error}"
    if ended == STOPPED:
        raise KeyboardInterrupt
    if ended:
        failures.append(Failure(job.folder.name, reason or "another process works on it", job.folder / "log.txt"))
    bars.say(job, "failed" if ended else "done")


def _side_by_side(
    missing: list[Job], sources: Sources, workers: int, gpus: Sequence[str], command: Sequence[str], bars: Bars, failures: list[Failure]
) -> None:
    waiting, running = list(missing), dict[int, tuple[Job, subprocess.Popen[bytes]]]()  # slot: what runs there
    for rate in {TrainConfig.from_dict(job.settings["recipe"]).codec.sample_rate for job in missing}:  # decoded once, not by each
        for source in filter(None, (sources.data, sources.validation, sources.noise)):
            Clips.open(source, rate, Path(sources.cache) if sources.cache else None)
    with _terminated_as_interrupted():
        try:
            while waiting or running:
                for slot, (job, process) in list(running.items()):
                    if process.poll() is not None:
                        del running[slot]
                        if process.returncode == BUSY:
                            waiting.append(job)
                        elif process.returncode or job.result() is None:
                            failures.append(Failure(job.folder.name, _last_words(job.folder, process.returncode), job.folder / "log.txt"))
                        bars.say(job, "waiting" if process.returncode == BUSY else "failed" if process.returncode else "done")
                for job in list(waiting):
                    free = next((slot for slot in range(workers) if slot not in running), None)
                    if job.result() is not None:
                        waiting.remove(job)
                        bars.say(job, "done")
                    elif free is None:
                        continue
                    elif other := claims.holder(job.folder):
                        bars.say(job, f"at {other}")
                    else:
                        waiting.remove(job)
                        running[free] = job, _start(job, sources, gpus[free % len(gpus)] if gpus else None, command)
                        bars.say(job, "starting")
                for job, _ in running.values():
                    bars.say(job)
                time.sleep(0.2 if len(running) == workers or not waiting else 1.0)
        finally:
            _end([process for _, process in running.values()])


def _start(job: Job, sources: Sources, gpu: str | None, command: Sequence[str]) -> subprocess.Popen[bytes]:
    extra = dict.fromkeys(ev.THREAD_VARIABLES, "1") | ({"CUDA_VISIBLE_DEVICES": gpu} if gpu is not None else {})
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "TORCHELASTIC_"))}  # a trial is one process
    with (job.folder / "log.txt").open("ab") as log:
        arguments = [*command, str(job.folder), json.dumps(dataclasses.asdict(sources))]
        return subprocess.Popen(  # in a session of its own: Ctrl-C is for us, who then ask it to save
            arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**ours, **extra}, start_new_session=True
        )


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask them to save, wait, and insist."""
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + PATIENCE
    for process in processes:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """A cluster's SIGTERM ends us as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _last_words(folder: Path, code: int) -> str:
    lines = (folder / "log.txt").read_text(encoding="utf-8", errors="replace").split("\n") if (folder / "log.txt").exists() else []
    words = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
    return f"killed by signal {-code}" if code < 0 else words


class Bars:
    """A bar of steps per trial on a terminal, a line per trial that ends elsewhere; says nothing where it shall not."""

    def __init__(self, todo: Sequence[Job], progress: Any):
        self._progress, self._states = progress, dict[str, str]()
        self._tasks = {}
        if progress is not None:
            for job in todo:
                state = "done" if job.result() else "waiting"
                steps = job.steps if state == "done" else job.steps_done()
                self._tasks[job.folder.name] = progress.add_task(job.folder.name, total=job.steps, completed=steps, state=state)

    def say(self, job: Job, state: str | None = None) -> None:
        if self._progress is None:
            return
        name, steps = job.folder.name, job.steps_done()
        if state is None:
            state = "measuring" if steps >= job.steps else "training" if steps else "starting"
        self._progress.update(self._tasks[name], completed=job.steps if state == "done" else steps, state=state)
        if self._states.get(name) != state and state in ("done", "failed"):
            self._progress.console.print(f"{name}: {state}")
        self._states[name] = state


@contextlib.contextmanager
def _bars(todo: Sequence[Job], show: bool) -> Iterator[Bars]:
    if not show:
        yield Bars(todo, None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), "{task.fields[state]}")
    parts = [TextColumn(column) if isinstance(column, str) else column for column in columns]
    console = Console(file=sys.stderr)
    with Progress(*parts, console=console, refresh_per_second=1, redirect_stdout=False, redirect_stderr=False) as progress:
        yield Bars(todo, progress)


# -- audio for the smoke test ----------------------------------------------------------------------------------------------


def make_voices(folder: Path) -> Sources:
    """A few seconds that sound a little like speech: enough to see that everything runs."""
    import soundfile

    for part, count in (("train", 6), ("held-out", 2)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            path = folder / part / f"{i}.wav"
            if not path.exists():
                temporary = path.with_name(f".{i}.{os.getpid()}.part")
                soundfile.write(temporary, voice(np.random.default_rng([count, i])), registry.SAMPLE_RATE, format="WAV")
                temporary.replace(path)
    return Sources(str(folder / "train"), str(folder / "held-out"), cache=str(folder / "cache"))


def voice(rng: np.random.Generator, syllables: int = 6) -> Audio:
    """Syllables of 0.3 s: a hiss, then harmonics of a gliding pitch under three formants."""
    rate, parts, order = registry.SAMPLE_RATE, [], np.arange(1, 30)[:, None]
    for _ in range(syllables):
        hiss, n = 0.05 * rng.standard_normal(rate // 20), rate // 4
        t = np.arange(n) / rate
        pitch = rng.uniform(90, 220) * (1 + rng.uniform(-0.3, 0.3) * t / t[-1])
        formants = rng.uniform([300, 900, 2200], [800, 2000, 3200])
        level = sum(1 / (1 + ((order * pitch.mean() - f) / 150) ** 2) for f in formants)
        tone = (level * np.sin(order * 2 * np.pi * np.cumsum(pitch) / rate)).sum(0)
        parts += [hiss, 0.2 * np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 0.5 * tone / np.abs(tone).max()]
    return np.concatenate(parts).astype(np.float32)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
