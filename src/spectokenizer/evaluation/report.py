"""From results.csv to what people read: summary.csv (mean ± 95 % confidence), curves.png (quality over rate), report.md.

Everything is made from the files in one folder, so a report can be written again without measuring again: `write(folder)`.
"""

from __future__ import annotations

import csv
import json
import math
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import NormalDist, median
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..codes import codebook_usage
from ..disk import replace_text
from .metrics import METRICS, Column, Metric

if TYPE_CHECKING:
    from .evaluate import Clip, System

TRUSTED_CORRELATION = 0.5  # below it the peak says nothing about time: at low bitrates phase is made up
ORIGINAL = "original"  # the name of the system that leaves clips as they are
TEXT_FIELDS = {"system", "clip", "audio", "fingerprint", "notes"}
GROUPS = {
    "signal": "Signal: against the original",
    "opinion": "Opinion: neural scores of the decoded clip alone",
    "speech": "Speech: speaker, words, tone",
}
Row = dict[str, Any]
Key = tuple[str, int]  # system, bitrate


def _file_name(text: str) -> str:
    """One of its own for each text: what had to be replaced counts by its checksum."""
    safe = re.sub(r"[^\w.-]+", "_", text)
    return safe if safe == text else f"{safe}-{zlib.crc32(text.encode()):08x}"


def system_folder(name: str, bitrate: int) -> str:
    """Where the codes of one system lie below codes/."""
    return _file_name(f"{name}-{bitrate}")


def codes_file(clip: str) -> str:
    """Where the codes of one clip lie in a system's folder."""
    return _file_name(clip) + ".npy"


def read_rows(path: Path) -> list[Row]:
    """results.csv with its figures as numbers."""

    def value(field: str, text: str) -> str | int | float:
        return text if field in TEXT_FIELDS else int(text) if field == "bitrate" else float(text)

    with path.open(newline="", encoding="utf-8") as file:
        return [{field: value(field, text) for field, text in row.items()} for row in csv.DictReader(file)]


# -- what was run ------------------------------------------------------------------------------------------------------


def describe(out: Path, systems: Sequence[System], clips: Sequence[Clip], metrics: Sequence[Metric], absent: dict[str, str]) -> None:
    """Write run.json: what rows alone do not tell. Systems of earlier runs into the same folder stay listed."""
    path = out / "run.json"
    known = json.loads(path.read_text(encoding="utf-8"))["systems"] if path.is_file() else {}
    for system in systems:
        known[system_folder(system.name, system.bitrate)] = {
            "name": system.name,
            "bitrate": system.bitrate,
            "fingerprint": getattr(system, "fingerprint", ""),
            "aligned": getattr(system, "aligned", False),
            "codebook_size": getattr(system, "codebook_size", None),
        }
    description = {
        "systems": known,
        "clips": [clip.name for clip in clips],
        "transcripts": sum(clip.text.is_file() for clip in clips),
        "metrics": {metric.name: metric.version for metric in metrics},
        "absent": absent,
    }
    replace_text(path, json.dumps(description, indent=1, ensure_ascii=False))


# -- statistics --------------------------------------------------------------------------------------------------------


class Estimate(NamedTuple):
    """A mean over clips, the half width of its 95 % confidence interval (NaN for one clip), and of how many clips."""

    mean: float
    ci: float
    clips: int


def student_t(freedom: int) -> float:
    """The 97.5 % point of Student's t: exact for 1 and 2 degrees of freedom, else by Cornish and Fisher's expansion (within 1 %)."""
    p = 0.975
    if freedom == 1:
        return math.tan(math.pi * (p - 0.5))
    if freedom == 2:
        return (2 * p - 1) / math.sqrt(2 * p * (1 - p))
    z = NormalDist().inv_cdf(p)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return float(sum(term / freedom**i for i, term in enumerate(terms)))


def estimate(values: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> Estimate:
    """Mean of the values that are not NaN. With weights it is a ratio of sums (errors over words), its variance linearised."""
    x = np.asarray(values, np.float64)
    w = np.ones_like(x) if weights is None else np.asarray(weights, np.float64)
    good = np.isfinite(x) & np.isfinite(w) & (w > 0)
    x, w, n = x[good], w[good], int(good.sum())
    if not n:
        return Estimate(math.nan, math.nan, 0)
    mean = float(np.sum(w * x) / np.sum(w))
    if n == 1:
        return Estimate(mean, math.nan, 1)
    error = math.sqrt(n / (n - 1) * float(np.sum((w * (x - mean)) ** 2))) / float(np.sum(w))
    return Estimate(mean, student_t(n - 1) * error, n)


def summarise(rows: Iterable[Row], columns: Sequence[Column]) -> dict[Key, dict[str, Estimate]]:
    """Estimates per (system, bitrate) and column, besides kbps; the original first, then by name and bitrate."""
    grouped: dict[Key, list[Row]] = {}
    for row in rows:
        grouped.setdefault((row["system"], row["bitrate"]), []).append(row)
    table = {}
    for key in sorted(grouped, key=lambda key: (key[0] != ORIGINAL, key)):
        group = grouped[key]
        values = {field: [row[field] for row in group] for field in group[0]}
        table[key] = {c.name: estimate(values[c.name], values[c.weight] if c.weight else None) for c in columns}
        table[key]["kbps"] = estimate(values["kbps"], values["seconds"])
    return table


# -- output ------------------------------------------------------------------------------------------------------------


def write(out: str | Path, failures: Sequence[dict[str, Any]] = ()) -> Path:
    """Write summary.csv, curves.png and report.md from results.csv, run.json and codes/; returns the path of report.md.

    Of all systems in the folder, but of the last run's clips alone: the table may hold more.
    """
    out = Path(out)
    run = json.loads((out / "run.json").read_text(encoding="utf-8"))
    chosen = set(run["clips"])
    rows = [row for row in read_rows(out / "results.csv") if row["clip"] in chosen]
    columns = [column for name in run["metrics"] for column in METRICS[name].columns]
    summary = summarise(rows, columns)
    _write_summary(out / "summary.csv", summary, columns)
    curves = draw_curves(out / "curves.png", summary, columns)
    parts = [
        "# Evaluation",
        _overview(rows, run, summary),
        *(_quality(title, [c for c in columns if c.group == group], summary) for group, title in GROUPS.items()),
        "## Quality over rate\n\n![Quality over rate](curves.png)" if curves is None else f"No curves were drawn: {curves}.",
        alignment(rows, run),
        _codebooks(out, run, rows),
        unmeasured(rows, run, failures),
        definitions(run),
    ]
    path = out / "report.md"
    path.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")
    return path


def _write_summary(path: Path, summary: dict[Key, dict[str, Estimate]], columns: Sequence[Column]) -> None:
    names = ["kbps", *(column.name for column in columns)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["system", "bitrate", *(f"{name}{suffix}" for name in names for suffix in ("", "_ci95", "_clips"))])
        for key, estimates in summary.items():
            cells = [cell for name in names for cell in estimates[name]]
            writer.writerow([*key, *(f"{cell:.6g}" for cell in cells)])


def markdown_table(header: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """The first column to the left, figures to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *body]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _overview(rows: list[Row], run: dict[str, Any], summary: dict[Key, dict[str, Estimate]]) -> str:
    seconds = {row["clip"]: row["seconds"] for row in rows}
    counts = Counter((row["system"], row["bitrate"]) for row in rows)
    names = sorted({(s["name"], s["fingerprint"]) for s in run["systems"].values() if (s["name"], s["bitrate"]) in summary})
    systems = ", ".join(name + (f" ({fingerprint})" if fingerprint else "") for name, fingerprint in names)
    text = (
        f"{len(seconds)} clips, {sum(seconds.values()) / 60:.1f} minutes at 16 kHz. Systems: {systems or 'none'}. "
        "Figures are means over clips ± the half width of the 95 % confidence interval, clips taken as independent; "
        "(n) where fewer clips than the system's could be measured. kbps are the bits of the payload, without a container's."
    )
    uneven = {key for key, count in counts.items() if count != len(seconds)}
    if uneven:
        listed = ", ".join(f"{name} {bitrate / 1000:g} kbps: {counts[name, bitrate]}" for name, bitrate in sorted(uneven))
        text += f"\n\n**Not all systems have run on all clips** ({listed}): do not compare them across."
    return text


def cell(value: Estimate, digits: int, clips: int) -> str:
    if not value.clips:
        return "–"
    ci = f" ± {value.ci:.{digits}f}" if math.isfinite(value.ci) else ""
    return f"{value.mean:.{digits}f}{ci}" + (f" ({value.clips})" if value.clips != clips else "")


def _quality(title: str, columns: list[Column], summary: dict[Key, dict[str, Estimate]]) -> str:
    if not columns:
        return ""
    arrows = {"higher": "↑", "lower": "↓"}
    header = ["system", "kbps", *(f"{c.label} {arrows[c.better]}" for c in columns)]
    body = []
    for (name, _), estimates in summary.items():
        clips = estimates["kbps"].clips
        body.append([name, f"{estimates['kbps'].mean:.2f}", *(cell(estimates[c.name], c.digits, clips) for c in columns)])
    return f"## {title}\n\n{markdown_table(header, body)}"


def alignment(rows: list[Row], run: dict[str, Any]) -> str:
    """Lags where the correlation can be believed (0.5 or more), and the change of level."""
    body = []
    for entry in run["systems"].values():
        group = [row for row in rows if (row["system"], row["bitrate"]) == (entry["name"], entry["bitrate"])]
        trusted = [row["lag_ms"] for row in group if row["correlation"] >= TRUSTED_CORRELATION]
        gains = [row["gain_db"] for row in group if math.isfinite(row["gain_db"])]
        if group and entry["name"] != ORIGINAL:
            body.append(
                [
                    entry["name"],
                    f"{entry['bitrate'] / 1000:g}",
                    f"{median(row['correlation'] for row in group):.2f}",
                    f"{len(trusted)} of {len(group)}",
                    f"{median(trusted):+.2f}" if trusted else "–",
                    str(sum(lag != 0 for lag in trusted)),
                    "promised" if entry["aligned"] else f"shifted {sum(int(row['shifted']) for row in group)} clips",
                    f"{median(gains):+.2f}" if gains else "–",
                ]
            )
    if not body:
        return ""
    header = ["system", "kbps", "median correlation", "clips ≥ 0.5", "their median lag ms", "not at 0", "alignment", "median gain dB"]
    text = "Lag is where the cross-correlation within ±40 ms peaks; below a correlation of 0.5 it says nothing and nothing is shifted."
    return f"## Time and level\n\n{text}\n\n{markdown_table(header, body)}"


def _codebooks(out: Path, run: dict[str, Any], rows: list[Row]) -> str:
    """Usage per codebook, at the highest bitrate of each system that hands out its codes."""
    highest: dict[str, dict[str, Any]] = {}
    for entry in sorted(run["systems"].values(), key=lambda entry: entry["bitrate"]):
        if entry["codebook_size"] and (out / "codes" / system_folder(entry["name"], entry["bitrate"])).is_dir():
            highest[entry["name"]] = entry
    parts = []
    for name, entry in highest.items():
        group = [row for row in rows if (row["system"], row["bitrate"]) == (name, entry["bitrate"])]
        folder = out / "codes" / system_folder(name, entry["bitrate"])
        files = [file for row in group if (file := folder / codes_file(row["clip"])).is_file()]
        if not files:
            continue
        codes = np.concatenate([np.load(file, allow_pickle=False) for file in files], axis=1)
        size = entry["codebook_size"]
        usage = codebook_usage(codes, size)
        seconds = sum(row["seconds"] for row in group)
        bits = sum(book.entropy for book in usage)
        text = (
            f"{name}, {len(usage)} × {size} codes, {codes.shape[1]} frames ({codes.shape[1] / size:.1f} per code). "
            f"An ideal entropy coder of single codes would need {bits:.1f} of {len(usage) * math.log2(size):.0f} bits per frame"
            + (f", {bits * codes.shape[1] / seconds / 1000:.2f} kbps." if seconds else ".")
        )
        if codes.shape[1] < 20 * size:
            text += " **Too few frames for that**: below some 20 per code, utilisation and entropy come out low."
        body = [
            [str(k), f"{100 * book.utilisation:.1f}", f"{book.perplexity:.0f}", f"{book.entropy:.2f}"] for k, book in enumerate(usage, 1)
        ]
        parts.append(f"{text}\n\n{markdown_table(['codebook', 'utilisation %', 'perplexity', 'entropy bits'], body)}")
    return "## Codebooks\n\n" + "\n\n".join(parts) if parts else ""


def unmeasured(rows: list[Row], run: dict[str, Any], failures: Sequence[dict[str, Any]]) -> str:
    lines = [f"- {name}: absent, {reason}" for name, reason in run["absent"].items()]
    notes = Counter((row["system"], note) for row in rows for note in row["notes"].split("; ") if note)
    lines += [f"- {system}: {note} ({count} clips)" for (system, note), count in sorted(notes.items())]
    lines += [f"- **failed**: {f['system']} at {f['bitrate'] / 1000:g} kbps on {f['clip']}: {f['reason']}" for f in failures]
    return "## Not measured\n\n" + "\n".join(lines) if lines else ""


def definitions(run: dict[str, Any]) -> str:
    lines = [
        f"- **{', '.join(c.label for c in METRICS[n].columns)}**: {METRICS[n].definition}. {v or 'Own code'}."
        for n, v in run["metrics"].items()
    ]
    if "wer" in run["metrics"]:
        lines.append(f"- {run['transcripts']} of the {len(run['clips'])} clips of the last run had a transcript.")
    lines.append("- Outputs are brought to the energy of their originals before they are scored; the gain above is what they had before.")
    return "## How it was measured\n\n" + "\n".join(lines)


PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe and Ito's, for all eyes
MARKERS = "osD^vPX"
ROUND_RATES = (0.5, 0.7, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128, 256)  # kbps, for axes with many points
SI_SDR_FLOOR = -15  # dB, of the picture


def draw_curves(path: Path, summary: dict[Key, dict[str, Estimate]], columns: Sequence[Column]) -> str | None:
    """One panel per column, one line per system over its measured rate; returns why nothing was drawn, or None."""
    systems = [name for name in dict.fromkeys(name for name, _ in summary) if name != ORIGINAL]
    shown = [c for c in columns if any(e[c.name].clips for (name, _), e in summary.items() if name != ORIGINAL)]
    if not shown:
        return "nothing was measured"
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import NullFormatter, NullLocator
    except ImportError as error:
        return f"{error} (pip install matplotlib)"
    across = min(3, len(shown))
    down = -(-len(shown) // across)
    figure = Figure(figsize=(4.6 * across, 3.3 * down + 0.5), dpi=110, layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).ravel()
    rates = sorted({round(e["kbps"].mean, 2) for (name, _), e in summary.items() if name != ORIGINAL})
    ticks = rates if len(rates) <= 8 else [rate for rate in ROUND_RATES if rates[0] <= rate <= rates[-1]]
    for panel, column in zip(panels, shown, strict=False):
        for i, system in enumerate(systems):
            points = sorted((e["kbps"].mean, *e[column.name][:2]) for (name, _), e in summary.items() if name == system)
            x, y, ci = np.array([p for p in points if math.isfinite(p[1])]).reshape(-1, 3).T
            colour, marker = PALETTE[i % len(PALETTE)], MARKERS[(i + i // len(PALETTE)) % len(MARKERS)]  # no two alike up to 49
            panel.plot(x, y, color=colour, marker=marker, markersize=4, label=system)
            panel.fill_between(x, y - np.nan_to_num(ci), y + np.nan_to_num(ci), color=colour, alpha=0.15, linewidth=0)
        for (name, _), e in summary.items():
            if name == ORIGINAL and column.absolute and e[column.name].clips:
                panel.axhline(e[column.name].mean, color="grey", linestyle="--", linewidth=1, label=ORIGINAL)
        panel.set_title(f"{column.label} ({column.better} is better)", fontsize=10)
        if rates[0] > 0:
            panel.set_xscale("log")
        bottom, top = panel.get_ylim()
        if column.name == "si_sdr" and bottom < SI_SDR_FLOOR < top:  # vocoders make up their phase and fall to any depth
            panel.set_ylim(bottom=SI_SDR_FLOOR)
        panel.set_xticks(ticks, [f"{rate:g}" for rate in ticks], fontsize=8)
        panel.xaxis.set_minor_locator(NullLocator())
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.set_xlabel("kbps", fontsize=9)
        panel.grid(alpha=0.3)
    for panel in panels[len(shown) :]:
        panel.set_axis_off()
    legend = {label: handle for panel in panels for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(legend.values(), legend.keys(), loc="outside upper center", ncols=min(6, len(legend)), fontsize=9)
    figure.savefig(path)
    return None
