"""Ours and the peers in one table: bits, parameters, multiply-accumulates, latency, speed and every metric, on the same clips.

    compare([Original(), *codec_systems("mini"), *peers], find_clips("speech"), "all", out="comparison", results="docs/results.md")

measures with `evaluate` (resumable in `out`), then each system's speed, and writes the page and its pictures beside it, in img/.
The page says what it takes to get it again, and holds no date and no path.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import platform
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from .. import __version__
from ..runtime import audio
from ..runtime.audio import Audio
from ..runtime.codec import load
from . import report
from .baselines import Cost
from .evaluate import SAMPLE_RATE, Clip, CodecSystem, Outcome, Row, System, evaluate
from .metrics import METRICS, Column

SPEED_SECONDS = 1, 10  # lengths whose difference in time counts, so that starting a program and loading a model do not
SPEED_TRIALS = 3
COSTS = ("kbps", "parameters", "tables", "MMAC/s", "latency ms", "RTF")


def cost_of(system: System) -> Cost:
    """What a system says of itself; of ours, what the model says."""
    if isinstance(system, CodecSystem):
        info = load(system.model).info
        return Cost(info.parameters, info.macs_per_second, 1000 * info.latency_samples / info.sample_rate, info.table_numbers)
    return getattr(system, "cost", Cost())


# -- speed -------------------------------------------------------------------------------------------------------------


def processor_seconds() -> float:
    """Time that this process and its finished children have spent computing; on Windows, which does not tell, time as it passes."""
    try:
        import resource
    except ImportError:
        return time.perf_counter()
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def real_time_factor(system: System, speech: Audio) -> float:
    """Processor seconds per second of audio, encoding and decoding, whatever the number of threads: as if on one.

    Taken between a short and a long piece of `speech`, least of some trials each, with the resampling that the codec needs.
    """
    least = []
    for seconds in SPEED_SECONDS:
        piece = np.resize(speech, seconds * SAMPLE_RATE)  # repeated when there is less
        trials = []
        for _ in range(SPEED_TRIALS):
            start = processor_seconds()
            system.process(piece, SAMPLE_RATE)
            trials.append(processor_seconds() - start)
        least.append(min(trials))
    return max(0.0, least[1] - least[0]) / (SPEED_SECONDS[1] - SPEED_SECONDS[0])


def speech_of(clips: Sequence[Clip]) -> Audio:
    """The first seconds of the clips, joined."""
    parts: list[Audio] = []
    for clip in clips:
        if sum(map(len, parts)) >= SPEED_SECONDS[1] * SAMPLE_RATE:
            break
        parts.append(audio.read(clip.path, SAMPLE_RATE)[0])
    return np.concatenate(parts)


def processor() -> str:
    """The processor's name as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


# -- the page ----------------------------------------------------------------------------------------------------------


def compare(
    systems: Sequence[System],
    clips: Sequence[Clip],
    metrics: str | list[str] = "all",
    out: str | Path = "comparison",
    results: str | Path | None = None,
    absent: Mapping[str, str] | None = None,
    command: str = "spectok compare",
    workers: int = 1,
    progress: bool = True,
) -> tuple[Outcome, Path]:
    """Measure, and write the page `results` (out/results.md by default); `absent` peers are listed on it with their reasons.

    Raises what `evaluate` raises.
    """
    outcome = evaluate(systems, clips, metrics, out, workers, progress)
    names = {clip.name for clip in clips}
    rows = [row for row in outcome.rows if row["clip"] in names]
    measured, scored = {row["clip"] for row in rows}, {(row["system"], row["bitrate"]) for row in rows}
    timed = [s for s in systems if s.name != report.ORIGINAL and (s.name, s.bitrate) in scored]
    speech = speech_of([clip for clip in clips if clip.name in measured]) if timed else np.zeros(0, np.float32)
    speeds: dict[report.Key, float] = {}
    for system in timed:
        with contextlib.suppress(Exception):  # it may break here as on the clips that the page lists; its figure is then a dash
            speeds[system.name, system.bitrate] = real_time_factor(system, speech)
    page = Path(results or Path(out) / "results.md")
    return outcome, write(page, Path(out), systems, clips, speeds, outcome, absent or {}, command)


def write(
    page: Path,
    out: Path,
    systems: Sequence[System],
    clips: Sequence[Clip],
    speeds: Mapping[report.Key, float],
    outcome: Outcome,
    absent: Mapping[str, str],
    command: str,
) -> Path:
    """Write the page and its pictures from the rows of these systems on these clips; `out` may hold more."""
    run = json.loads((out / "run.json").read_text(encoding="utf-8"))
    keys, names = [(system.name, system.bitrate) for system in systems], {clip.name for clip in clips}
    rows = [row for row in outcome.rows if (row["system"], row["bitrate"]) in set(keys) and row["clip"] in names]
    columns = [column for name in run["metrics"] for column in METRICS[name].columns]
    found = report.summarise(rows, columns)
    summary = {key: found[key] for key in keys if key in found}  # in the order given: ours before the peers
    lines = [f"- {name}: {reason}" for name, reason in absent.items()]
    parts = [
        "# Results",
        f"Written by `spectok compare`; change nothing here by hand.\n\n{_overview(rows, summary)}",
        _table(systems, speeds, summary, columns),
        *_pictures(page, summary, columns),
        report.alignment(rows, run),
        "## Peers that did not run\n\n" + "\n".join(lines) if lines else "",
        report.unmeasured(rows, run, [failure._asdict() for failure in outcome.failures]),
        _provenance(systems, clips, rows, command),
        report.definitions(run),
    ]
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")
    return page


def _overview(rows: list[Row], summary: Mapping[report.Key, Any]) -> str:
    seconds = {row["clip"]: row["seconds"] for row in rows}
    text = (
        f"{len(seconds)} clips, {sum(seconds.values()) / 60:.1f} minutes. Figures are means over clips; bands in the pictures are 95 % "
        "confidence intervals of the means, clips taken as independent. kbps are the bits of the codec's own frames, without a "
        "container's. Parameters are the network's; the numbers in its codebooks, which cost memory but no computation, are beside them "
        "as tables where they are known. Latency is algorithmic: a frame, and how much later than its input a sample leaves the decoder. "
        "RTF is processor "
        "time over the duration of the audio, encoding and decoding, as if on one thread. A dash: not published and not counted, or "
        "not measured. In brackets: on so many clips alone could it be measured."
    )
    counts = Counter((row["system"], row["bitrate"]) for row in rows)
    uneven = ", ".join(
        f"{name} {bitrate / 1000:g}: {counts[name, bitrate]}" for name, bitrate in summary if counts[name, bitrate] != len(seconds)
    )
    return text + (f"\n\n**Not all systems have run on all clips** ({uneven}): do not compare them across." if uneven else "")


def _table(systems: Sequence[System], speeds: Mapping[report.Key, float], summary: Mapping[report.Key, Any], columns: list[Column]) -> str:
    arrows = {"higher": "↑", "lower": "↓"}
    header = ["codec", *COSTS, *(f"{column.label} {arrows[column.better]}" for column in columns)]
    body = []
    for system in systems:
        key = system.name, system.bitrate
        if key not in summary:
            continue
        cost = cost_of(system)
        body.append(
            [
                system.name,
                f"{summary[key]['kbps'].mean:.2f}",
                _figure(cost.parameters and cost.parameters / 1e6, ".2f", " M"),
                _figure(cost.table_numbers and cost.table_numbers / 1e6, ".2f", " M"),
                _figure(cost.macs_per_second and cost.macs_per_second / 1e6, ".0f"),
                _figure(cost.latency_ms, ".3g"),
                _figure(speeds.get(key), ".3f"),
                *(report.cell(summary[key][c.name]._replace(ci=math.nan), c.digits, summary[key]["kbps"].clips) for c in columns),
            ]
        )
    return f"## All in one table\n\n{report.markdown_table(header, body)}"


def _figure(value: float | None, form: str, unit: str = "") -> str:
    return "–" if value is None else f"{value:{form}}{unit}"


def _pictures(page: Path, summary: dict[report.Key, Any], columns: list[Column]) -> list[str]:
    """One picture per group of metrics, and the Markdown that shows them; those of an earlier run that are not drawn now go."""
    folder = page.parent / "img"
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for group, title in report.GROUPS.items():
        path = folder / f"{page.stem}-{group}.png"
        chosen = [column for column in columns if column.group == group]
        trouble = report.draw_curves(path, summary, chosen) if chosen else "not measured"
        if trouble is None:
            parts.append(f"![{title}]({folder.name}/{path.name})")
        else:
            path.unlink(missing_ok=True)
            if chosen:
                parts.append(f"{title}: no picture, {trouble}.")
    return ["## Quality over rate", *parts] if parts else []


def _provenance(systems: Sequence[System], clips: Sequence[Clip], rows: list[Row], command: str) -> str:
    measured = {row["clip"] for row in rows}
    used = [clip for clip in clips if clip.name in measured]
    digest = hashlib.sha256()
    for clip in used:
        digest.update(f"{clip.name}\n{clip.digest}\n".encode())
    folders = Counter(str(PurePosixPath(clip.name).parent) for clip in used)
    listed = ", ".join(f"{count} from {folder}" for folder, count in sorted(folders.items()) if folder != ".")
    versions = dict.fromkeys(f"{system.name}: {getattr(system, 'fingerprint', '')}" for system in systems if system.name != report.ORIGINAL)
    libraries = ", ".join(f"{name} {_version(name)}" for name in ("numpy", "onnxruntime", "soxr", "soundfile"))
    lines = [
        f"- Command, folders by their last names: `{command}`",
        f"- Clips: {len(used)}{f' ({listed})' if listed else ''}; names and files hash to {digest.hexdigest()[:16]}",
        f"- spectokenizer {__version__}, Python {platform.python_version()}, {libraries}",
        f"- Processor of the real-time factors: {processor()}",
        *(f"- {version}" for version in versions),
    ]
    return "## How it was made\n\n" + "\n".join(lines)


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "of unknown version"
