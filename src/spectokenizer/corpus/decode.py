"""A corpus of tokens back to audio files, one per clip, in constant memory; files that are there are left as they are."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from ..disk import as_others_are
from ..errors import AudioError, CodesError, ConfigError, ModelError
from ..runtime.audio import Audio
from ..runtime.codec import Codec, bundled
from ..runtime.files import to_int16
from .engine import Told
from .formats import Row, read_shard, shards
from .job import CARD, Engine, closing
from .pool import pool
from .shard import Report, codec_of, portable
from .sources import safe

FRAMES = 1000  # decoded at a time
AUDIO = {  # suffix: soundfile's format and subtype
    "flac": ("FLAC", "PCM_16"),
    "wav": ("WAV", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", None),
}


class Task(NamedTuple):
    """One shard of tokens."""

    path: Path
    out: Path
    model: str
    suffix: str


@dataclass
class Decoded:
    """What came of it."""

    clips: int
    seconds: float  # of audio
    wall_seconds: float


def detokenize(
    source: str | Path,
    out: str | Path,
    model: str | Path | None = None,
    suffix: str = "flac",
    workers: int | None = None,
    engine: Engine = pool,
    show: Callable[[float, float], None] = lambda share, seconds: None,
) -> Decoded:
    """All clips of a corpus of tokens (see `formats.read`) to `out`/ID.`suffix`, at the model's rate.

    Without `model`, the bundled one that the corpus' card names. Raises ModelError when another model made the codes, FormatError for a
    shard that cannot be read, CodesError for codes that the model does not have.
    """
    if suffix not in AUDIO:
        raise ConfigError(f"audio format '{suffix}'; known are {', '.join(AUDIO)}")
    paths, start = shards(source), time.monotonic()
    tasks = [Task(path.absolute(), Path(out).absolute(), portable(model or _named(paths[0])), suffix) for path in paths]
    codec_of(tasks[0].model)  # a model that is not there is an error here and now
    total = Report()
    reports = engine(detokenize_shard, tasks, workers, lambda size, seconds: show(size / len(tasks), seconds))
    with closing(reports):
        for report in reports:
            total.add(report)
    return Decoded(total.clips, total.seconds, time.monotonic() - start)


def _named(shard: Path) -> str:
    for folder in shard.parents[:2]:
        try:
            name = str(json.loads((folder / CARD).read_text(encoding="utf-8"))["model"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue
        if name not in bundled():  # the card may be anybody's: nothing is fetched, and no folder opened, at its word
            raise ModelError(f"{folder / CARD}: made by model '{name}', which is not bundled; give its folder with --model")
        return name
    return "mini"


def detokenize_shard(task: Task, told: Told = lambda size, seconds: None) -> Report:
    codec, report = codec_of(task.model), Report()
    for row in read_shard(task.path):
        seconds = row.samples / codec.info.sample_rate
        path = task.out / f"{safe(row.id)}.{task.suffix}"
        if not path.exists():
            _decode(codec, row, path)
        report.clips += 1
        report.seconds += seconds
        told(0.0, seconds)
    told(1.0, 0.0)
    return report


def _decode(codec: Codec, row: Row, path: Path) -> None:
    """Raises ModelError, CodesError, AudioError (a full disk)."""
    info = codec.info
    if row.model_hash != info.model_hash:
        raise ModelError(
            f"clip {row.id}: made by model {row.model_hash}, not by '{info.name}' ({info.model_hash}); give its folder with --model"
        )
    held = row.codes.shape[1] * info.frame_size - info.delay_samples
    if not 0 <= row.samples <= max(0, held):
        raise CodesError(f"clip {row.id}: {row.codes.shape[1]} frames cannot hold its {row.samples} samples")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem[:100]}.", suffix=f".part{path.suffix}", dir=path.parent)
    os.close(handle)
    part = Path(name)
    kind, subtype = AUDIO[path.suffix[1:]]
    decoder, skip, left = codec.decoder(), info.delay_samples, row.samples
    try:
        with soundfile.SoundFile(part, "w", info.sample_rate, 1, format=kind, subtype=subtype) as file:
            for start in range(0, row.codes.shape[1], FRAMES):
                samples: Audio = decoder.push(row.codes[:, start : start + FRAMES])
                samples, skip = samples[skip:][:left], 0
                left -= len(samples)
                file.write(to_int16(samples) if subtype == "PCM_16" else np.clip(samples, -1, 1))
        as_others_are(part)
        part.replace(path)
    except soundfile.LibsndfileError as error:
        raise AudioError(f"{path}: cannot be written; is the disk full? ({error.error_string})") from error
    finally:
        part.unlink(missing_ok=True)
