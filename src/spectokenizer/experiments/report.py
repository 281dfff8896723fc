"""From the trials' results to <experiment>.json, .md and .png. The page and the picture are made from the JSON alone: `render`.

Noise of a difference to the reference model is the larger of two half widths of 95 % intervals: of what two runs that differ in nothing but
the seed are apart, by Student's t from the standard deviation of the reference's seeds, and of the difference over clips, pair by pair. A
difference that is not larger is marked ≈.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..disk import replace_text, replacing
from ..evaluation.metrics import METRICS, Column
from ..evaluation.report import MARKERS, PALETTE, estimate, markdown_table, student_t
from .run import METRICS as MEASURED
from .run import Job, Outcome, Result
from .trials import Experiment

COLUMNS = tuple(column for name in MEASURED for column in METRICS[name].columns)
UTILISATION = Column("utilisation", "utilisation %", "codebooks", "higher", 1)
PERPLEXITY = Column("perplexity", "perplexity", "codebooks", "higher", 0)
ARROWS = {"higher": "↑", "lower": "↓"}


class Peer(NamedTuple):
    """A codec at 4 kbit/s that somebody measured; MMAC/s and M parameters."""

    name: str
    macs: float
    parameters: float
    values: Mapping[str, float]


MEASURED_PEERS = (Peer("Lyra v2", 199.5, 1.32, {"pesq_wb": 2.570, "stoi": 0.909, "si_sdr": 4.614}),)
MEASURED_SOURCE = "measured here at 4 kbit/s on 92 clips of LibriSpeech, LibriTTS and VCTK (`spectok compare`)"
PUBLISHED_PEERS = (  # as published: the paper's "GFLOPs" are multiply-accumulates; mini and base are as `CodecConfig` counts
    Peer("SpecTokenizer mini, paper", 234.2, 0.45, {"pesq_wb": 2.51}),
    Peer("SpecTokenizer base, paper", 29585.4, 70.61, {"pesq_wb": 3.04, "stoi": 0.935}),
    Peer("FreqCodec", 2180.0, 4.50, {"pesq_wb": 2.46, "stoi": 0.814}),
    Peer("DAC", 55660.0, 74.06, {"pesq_wb": 2.47, "stoi": 0.902}),
)
PUBLISHED_SOURCE = (
    "published (Wan et al., INTERSPEECH 2025) for 4 kbit/s on Codec-SUPERB, other clips than ours; their GFLOPs taken for what mini's are, "
    "multiply-accumulates; mini's and base's are our count"
)


# -- the document ------------------------------------------------------------------------------------------------------


def collect(experiment: Experiment, jobs: Sequence[Job], outcome: Outcome) -> dict[str, Any]:
    """All that the page says, as JSON: settings, figures per seed, means, differences and what they are worth."""
    by_trial: dict[str, list[Result]] = {}
    for result in outcome.results:
        by_trial.setdefault(result["trial"], []).append(result)
    reference = by_trial.get(experiment.reference, [])
    spreads = {c.name: _spread([_mean(result, c.name) for result in reference]) for c in (*COLUMNS, UTILISATION, PERPLEXITY)}
    first, settings = next(iter(outcome.results), None), jobs[0].settings
    trials = []
    for trial in experiment.trials:
        results = by_trial.get(trial.name, [])
        if results:
            trials.append(
                {
                    "name": trial.name,
                    "label": trial.label,
                    "changed": {**trial.codec, **trial.training},
                    **{key: results[0][key] for key in ("parameters", "macs_per_second", "table_numbers", "channels", "bitrate", "steps")},
                    "seeds": [_without_clips(result) for result in results],
                    "mean": {c.name: _finite(_over_seeds(results, c.name)) for c in (*COLUMNS, UTILISATION, PERPLEXITY)},
                    "difference": {} if trial.name == experiment.reference else _differences(results, reference, spreads),
                    "paper": dict(trial.paper),
                }
            )
    return {
        "experiment": experiment.name,
        "title": experiment.title,
        "question": experiment.question,
        "reference": experiment.reference,
        "paper": experiment.paper,
        "budget": {
            "steps": experiment.budget.steps,
            "batch_size": experiment.budget.batch_size,
            "segment_seconds": experiment.budget.segment_seconds,
            "audio_seconds": experiment.budget.audio_seconds,
            "stages": {stage["name"]: stage["steps"] for stage in settings["recipe"]["stage"]},
        },
        "seeds": list(dict.fromkeys(job.seed for job in jobs)),
        "settings": {key: value for key, value in settings.items() if key != "trial"},
        "measured": {"clips": len(first["clips"]), "seconds": first["seconds"]} if first else {},
        "environments": _distinct(result["environment"] for result in outcome.results),
        "absent": {name: reason for result in outcome.results for name, reason in result["absent"].items()},
        "spread": {name: _finite(value) for name, value in spreads.items()},
        "trials": trials,
        "failed": [{"trial": failure.trial, "reason": failure.reason} for failure in outcome.failures],
        "missing": sorted({job.folder.name for job in jobs} - {f"{r['trial']}-seed{r['seed']}" for r in outcome.results}),
    }


def _distinct(values: Iterable[dict[str, str]]) -> list[dict[str, str]]:
    return [dict(pairs) for pairs in dict.fromkeys(tuple(sorted(value.items())) for value in values)]


def _without_clips(result: Result) -> dict[str, Any]:
    """A seed's figures: means ± 95 % over clips rather than the clips."""
    values = {}
    for name in result["values"]:
        mean, ci, clips = estimate(_clips(result, name))
        values[name] = {"mean": _finite(mean), "ci95": _finite(ci), "clips": clips}
    kept = ("seed", "steps", "audio_seconds", "usage", "failed_clips")
    return {**{key: result[key] for key in kept}, "values": values}


def _clips(result: Result, column: str) -> np.ndarray[Any, Any]:
    return np.array([math.nan if value is None else value for value in result["values"].get(column, [])], np.float64)


def _mean(result: Result, column: str) -> float:
    return float(result["usage"][column]) if column in result["usage"] else estimate(_clips(result, column)).mean


def _over_seeds(results: Sequence[Result], column: str) -> float:
    return float(np.mean([_mean(result, column) for result in results]))


def _spread(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 and all(map(math.isfinite, values)) else math.nan


def _seed_noise(spread: float, seeds: int, pairs: int) -> float:
    """Where only seeds differ, 95 % of differences between means over `pairs` runs are within this; `spread` was seen in `seeds` runs."""
    return student_t(seeds - 1) * spread * math.sqrt(2 / pairs) if seeds > 1 else math.nan


def _finite(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _differences(results: Sequence[Result], reference: Sequence[Result], spreads: Mapping[str, float]) -> dict[str, Any]:
    """Per column: the difference to the reference on the seeds that both have, its noise, and whether it is larger."""
    there = {result["seed"]: result for result in reference}
    pairs = [(result, there[result["seed"]]) for result in results if result["seed"] in there]
    out: dict[str, Any] = {}
    for column in (*COLUMNS, UTILISATION, PERPLEXITY) if pairs else ():
        difference, ci = float(np.mean([_mean(a, column.name) - _mean(b, column.name) for a, b in pairs])), 0.0
        if column in COLUMNS:
            paired = [_paired(a, b, column.name) for a, b in pairs]
            clips = sorted(set.intersection(*map(set, paired)))  # that all could be measured on
            difference, ci, _ = estimate([np.mean([by_clip[clip] for by_clip in paired]) for clip in clips])
        if math.isfinite(difference):
            seeds = _seed_noise(spreads[column.name], len(reference), len(pairs))
            noise = max(seeds, 0.0 if math.isnan(ci) else ci)  # NaN, with one seed, stays
            out[column.name] = {
                "difference": _finite(difference),
                "seeds_ci95": _finite(seeds),
                "clips_ci95": _finite(ci),
                "distinguishable": bool(abs(difference) > noise),
            }
    return out


def _paired(a: Result, b: Result, column: str) -> dict[str, float]:
    """The difference by clip, over the clips of both."""
    other = dict(zip(b["clips"], _clips(b, column), strict=False))
    return {clip: value - other[clip] for clip, value in zip(a["clips"], _clips(a, column), strict=False) if clip in other}


# -- page --------------------------------------------------------------------------------------------------------------


def write(experiment: Experiment, jobs: Sequence[Job], outcome: Outcome, out: Path) -> Path:
    """Write the three files into `out`; returns the page's path."""
    return render(collect(experiment, jobs, outcome), out)


def render(document: dict[str, Any], out: Path) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    name = document["experiment"]
    replace_text(out / f"{name}.json", json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    reason = draw(document, out / f"{name}.png")
    replace_text(out / f"{name}.md", markdown(document, reason) + "\n")
    return out / f"{name}.md"


def _shown(document: dict[str, Any]) -> list[Column]:
    """What was measured; utilisation where it is the question."""
    usage = [UTILISATION, PERPLEXITY] if document["experiment"] == "single-codebook" else []
    return [*usage, *(c for c in COLUMNS if any(trial["mean"][c.name] is not None for trial in document["trials"]))]


def signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")


def _cell(document: dict[str, Any], trial: dict[str, Any], column: Column) -> str:
    value = trial["mean"][column.name]
    if value is None:
        return "–"
    text = f"{value:.{column.digits}f}".replace("-", "−")
    if trial["name"] == document["reference"]:
        spread = document["spread"][column.name]
        return text if spread is None else f"{text} ± {spread:.{column.digits}f}"
    entry = trial["difference"].get(column.name)
    if entry is None:
        return text
    return f"{text} ({'' if entry['distinguishable'] else '≈ '}{signed(entry['difference'], column.digits)})"


def _paper_cell(document: dict[str, Any], trial: dict[str, Any], column: Column) -> str:
    value = trial["paper"].get(column.name)
    if value is None:
        return "–"
    whole = next((t["paper"].get(column.name) for t in document["trials"] if t["name"] == document["reference"]), None)
    digits = 1 if column is UTILISATION else 2
    change = "" if whole is None or trial["name"] == document["reference"] else f" ({signed(value - whole, digits)})"
    return f"{value:.{digits}f}{change}"


def markdown(document: dict[str, Any], no_picture: str | None = None) -> str:
    columns, trials = _shown(document), document["trials"]
    papers = [c for c in (UTILISATION, *COLUMNS) if any(c.name in trial["paper"] for trial in trials)]
    header = ["trial", "kbit/s", *(f"{c.label} {ARROWS[c.better]}" for c in columns)]
    tables = ["numbers in tables"] if document["experiment"] == "single-codebook" else []
    header += [f"paper: {'SDR dB' if c.name == 'si_sdr' else c.label}" for c in papers] + ["parameters", *tables, "MMAC/s"]
    body = [
        [
            f"**{trial['label']}**" if trial["name"] == document["reference"] else trial["label"],
            f"{trial['bitrate'] / 1000:g}",
            *(_cell(document, trial, c) for c in columns),
            *(_paper_cell(document, trial, c) for c in papers),
            _thousands(trial["parameters"]),
            *(_thousands(trial["table_numbers"]) for _ in tables),
            f"{trial['macs_per_second'] / 1e6:.1f}",
        ]
        for trial in trials
    ]
    name = document["experiment"]
    parts = [
        f"# {document['title']}",
        document["question"],
        budget(document),
        markdown_table(header, body) if trials else "No trial has ended yet.",
        f"![{document['title']}]({name}.png)" if no_picture is None else f"No picture was drawn: {no_picture}.",
        reading(document),
        *([f"The paper's columns: {document['paper']}."] if papers else []),
        _peers() if name == "miniaturise" else "",
        _usage(document),
        _gaps(document),
        f"Made by `spectok experiment {name}`; all settings and figures, seed by seed, are in [{name}.json]({name}.json).",
    ]
    return "\n\n".join(part for part in parts if part)


def _thousands(number: int) -> str:
    return f"{number:,}".replace(",", " ")


def budget(document: dict[str, Any]) -> str:
    b, settings, measured = document["budget"], document["settings"], document["measured"]
    stages = ", ".join(f"{steps} {name}" for name, steps in b["stages"].items())
    seeds = {trial["name"]: tuple(seed["seed"] for seed in trial["seeds"]) for trial in document["trials"]}
    of_reference = seeds.pop(document["reference"], ())
    others = " or ".join(map(_listed, sorted({*seeds.values()})))
    told = f"{_listed(of_reference) or 'none yet'} for the reference ({document['reference']}), {others} for the others"
    if others in ("", _listed(of_reference)):
        told = f"{_listed(of_reference)} for every trial"
    text = (
        f"**Budget**: {b['steps']} steps per trial ({stages}) of {b['batch_size']} × {b['segment_seconds']:g} s, "
        f"{b['audio_seconds'] / 3600:.2f} h of audio seen each; seeds {told}; trained on {settings['data']['files']} files"
    )
    if settings["init"]:
        network = settings["init"]
        text += (
            f", all from the network of {network['name']} ({(network['audio_seconds'] or 0) / 3600:.0f} h of audio, {network['weights']})"
        )
    if settings["recipe"].get("augment"):
        text += f", a share of {settings['recipe']['augment']['noise']:g} with noise"
    if measured:
        text += f"; measured on {measured['clips']} held-out clips, {measured['seconds'] / 60:.1f} min, with the averaged weights"
    return text + "."


def _listed(seeds: Iterable[int]) -> str:
    return ", ".join(map(str, seeds))


def reading(document: dict[str, Any]) -> str:
    """What ± and ≈ mean."""
    text = "In brackets: the difference to the model in bold, on the same seeds and clips. "
    reference = next((trial for trial in document["trials"] if trial["name"] == document["reference"]), None)
    if reference is None:
        return "The reference has no result: there is nothing to compare with."
    if len(reference["seeds"]) < 2:
        return text + "**One seed alone: no difference can be told from noise**, and all are marked ≈."
    return text + (
        f"± is the standard deviation of its {(n := len(reference['seeds']))} seeds. **≈: not distinguishable**, that is no larger than "
        f"the 95 % interval of what seeds alone make of two runs ({_seed_noise(1.0, n, 1):.1f} of that deviation, by Student's t), or than "
        "the 95 % confidence interval of the difference over clips."
    )


def _peers() -> str:
    return f"Peers in the picture: Lyra v2, {MEASURED_SOURCE}; hollow: {PUBLISHED_SOURCE}."


def _usage(document: dict[str, Any]) -> str:
    if document["experiment"] != "single-codebook" or not document["trials"]:
        return ""
    lines = []
    for trial in document["trials"]:
        use = trial["seeds"][0]["usage"]
        per_entry = use["tokens"] / use["entries"]
        few = "" if per_entry > 4 else f": **too few**, an even use would show {100 * (1 - math.exp(-per_entry)):.0f} %"
        lines.append(f"- {trial['label']}: {use['tokens']} tokens of {use['on']}, {per_entry:.1f} per entry{few}")
    return (
        "Utilisation and perplexity, of training clips where the held-out ones have too few tokens (no code is as frequent as another, so "
        "more tokens show more codes):\n\n" + "\n".join(lines) + "\n\nParameters and MMAC/s are the network's; the search multiplies each "
        "number of the tables once per code."
    )


def _gaps(document: dict[str, Any]) -> str:
    lines = [f"- {name}: absent, {reason}" for name, reason in document["absent"].items()]
    lines += [f"- **failed**: {failure['trial']}: {failure['reason']}" for failure in document["failed"]]
    for key, what in (
        ("code", "made by different code** ({} states of the model and its training"),
        ("measured_by", "measured by different code** ({} states"),
    ):
        if len(states := {environment.get(key) for environment in document["environments"]}) > 1:
            lines.append(f"- **{what.format(len(states))}): differences may come from that")
    lines += [f"- not done: {name}" for name in document["missing"] if name not in {failure["trial"] for failure in document["failed"]}]
    for trial in document["trials"]:
        for seed in trial["seeds"]:
            lines += [f"- {trial['name']}-seed{seed['seed']}, clip {reason}" for reason in seed["failed_clips"]]
    return "## Not measured\n\n" + "\n".join(lines) if lines else ""


# -- picture -----------------------------------------------------------------------------------------------------------


def draw(document: dict[str, Any], path: Path) -> str | None:
    """Returns why nothing was drawn, or None."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        return f"{error} (pip install matplotlib)"
    if not document["trials"]:
        return "no trial has ended yet"
    if not _shown(document):
        return "none of the metrics could be measured on any clip"
    figure = Figure(dpi=110, layout="constrained")
    match document["experiment"]:
        case "miniaturise":
            _draw_costs(figure, document)
        case "ablation":
            _draw_differences(figure, document)
        case _:
            _draw_values(figure, document)
    with replacing(path) as file:
        figure.savefig(file, format="png")
    return None


def _draw_costs(figure: Any, document: dict[str, Any]) -> None:
    """Quality over multiply-accumulates and over parameters, peers beside it."""
    columns = [c for c in COLUMNS if c.name in ("pesq_wb", "stoi") and c in _shown(document)] or _shown(document)[:1]
    figure.set_size_inches(11, 3.9 * len(columns) + 0.6)
    axes = figure.subplots(len(columns), 2, squeeze=False)
    costs = {  # label: (a trial's field, in millions; a peer's)
        "MMAC per second of audio": ("macs_per_second", "macs"),
        "million parameters, tables not counted": ("parameters", "parameters"),
    }
    for row, column in zip(axes, columns, strict=True):
        for panel, (label, (cost, field)) in zip(row, costs.items(), strict=True):
            points = sorted((t[cost] / 1e6, t["mean"][column.name]) for t in document["trials"] if t["mean"][column.name] is not None)
            panel.plot(*zip(*points, strict=True), color=PALETTE[0], marker=MARKERS[0], label="ours, equal budget")
            for trial in document["trials"]:
                values = [seed["values"][column.name]["mean"] for seed in trial["seeds"] if column.name in seed["values"]]
                if len(values) > 1:
                    panel.plot([trial[cost] / 1e6] * len(values), values, color=PALETTE[0], marker="_", linestyle="-", alpha=0.6)
            for i, peer in enumerate((*MEASURED_PEERS, *PUBLISHED_PEERS)):
                if column.name in peer.values:
                    measured, colour = peer in MEASURED_PEERS, PALETTE[1 + i % (len(PALETTE) - 1)]
                    panel.plot(
                        getattr(peer, field), peer.values[column.name], color=colour, marker=MARKERS[1 + i], linestyle="",
                        markerfacecolor=colour if measured else "none", label=peer.name if measured else f"{peer.name} (published)",
                    )  # fmt: skip
            panel.set_xscale("log")
            panel.set(xlabel=label, ylabel=column.label)
            panel.grid(alpha=0.3, which="both")
    handles = {label: handle for panel in axes.ravel() for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, fontsize=8)
    figure.suptitle(f"{document['title']}: {_budget_line(document)}", fontsize=9)


def _draw_differences(figure: Any, document: dict[str, Any]) -> None:
    """Bars of the difference to the reference, what seeds alone do shaded; what cannot be told from it is pale."""
    columns = _shown(document)
    trials = [trial for trial in document["trials"] if trial["name"] != document["reference"]]
    figure.set_size_inches(3.4 * len(columns) + 2.2, 0.42 * len(trials) + 1.8)
    panels = figure.subplots(1, max(1, len(columns)), squeeze=False, sharey=True)[0]
    for panel, column in zip(panels, columns, strict=False):
        for y, trial in enumerate(trials):
            entry = trial["difference"].get(column.name)
            if entry:
                good = (entry["difference"] > 0) == (column.better == "higher")
                colour = PALETTE[2] if good else PALETTE[1]
                panel.barh(y, entry["difference"], color=colour, alpha=1.0 if entry["distinguishable"] else 0.35)
                panel.errorbar(entry["difference"], y, xerr=entry["clips_ci95"] or 0.0, color="black", linewidth=0.8, capsize=2)
        entries = [trial["difference"][column.name] for trial in trials if column.name in trial["difference"]]
        noise = max((entry["seeds_ci95"] or 0.0 for entry in entries), default=0.0)
        panel.axvspan(-noise, noise, color="grey", alpha=0.25, linewidth=0)
        panel.axvline(0, color="black", linewidth=0.8)
        panel.set_yticks(range(len(trials)), [trial["label"] for trial in trials], fontsize=9)
        panel.set_title(f"Δ {column.label} ({column.better} is better)", fontsize=9)
        panel.grid(alpha=0.3, axis="x")
    panels[0].invert_yaxis()
    figure.suptitle(f"{document['title']}: {_budget_line(document)}\ngrey: what seeds alone do; pale: not distinguishable", fontsize=9)


def _draw_values(figure: Any, document: dict[str, Any]) -> None:
    """A bar per trial, utilisation and PESQ first; hollow bars are the paper's."""
    columns = [c for c in _shown(document) if c.name in ("utilisation", "pesq_wb", "stoi")]
    trials = document["trials"]
    figure.set_size_inches(4.2 * len(columns) + 1, 4.6)
    for panel, column in zip(figure.subplots(1, len(columns), squeeze=False)[0], columns, strict=True):
        values = [trial["mean"][column.name] or 0.0 for trial in trials]
        panel.bar(range(len(trials)), values, 0.7, color=[PALETTE[i % len(PALETTE)] for i in range(len(trials))])
        for x, trial in enumerate(trials):
            seeds = [
                s["usage"][column.name] if column is UTILISATION else s["values"].get(column.name, {}).get("mean") for s in trial["seeds"]
            ]
            panel.plot([x] * len(seeds), [math.nan if s is None else s for s in seeds], color="black", marker="_", linestyle="-")
            if column.name in trial["paper"]:
                panel.bar(x, trial["paper"][column.name], 0.85, fill=False, linestyle="--", edgecolor="grey", label="paper")
        panel.set_xticks(range(len(trials)), [trial["label"] for trial in trials], rotation=30, ha="right", fontsize=8)
        if column.name in ("pesq_wb", "stoi") and any(values):
            panel.set_ylim(bottom=max(0.0, 0.9 * min(value for value in values if value)))
        panel.set_title(column.label, fontsize=10)
        panel.grid(alpha=0.3, axis="y")
        handles = dict(zip(*reversed(panel.get_legend_handles_labels()), strict=True))
        if handles:
            panel.legend(handles.values(), handles.keys(), fontsize=8)
    figure.suptitle(f"{document['title']}: {_budget_line(document)}", fontsize=9)


def _budget_line(document: dict[str, Any]) -> str:
    b = document["budget"]
    return f"{b['steps']} steps, {b['audio_seconds'] / 3600:.2f} h of audio per trial, {document['measured'].get('clips', 0)} clips"
