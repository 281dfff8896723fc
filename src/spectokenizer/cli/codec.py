"""encode, decode, repair, roundtrip, info."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..disk import printable
from ..errors import ConfigError
from .common import bitrate_option, chosen_bitrate, load, model_option, named, progress, say, sink, source

if TYPE_CHECKING:
    from ..bitstream import Reader
    from ..errors import FormatError
    from ..runtime.files import Report

MAX_TOLD = 1000  # recordings of a chain, each by itself

force_option = click.option("--force", "-f", is_flag=True, help="Replace an existing output.")


def _summary(report: Report, part: bool) -> str:
    size = f"{report.num_bytes} bytes" + (" read" if part else f", {report.bitrate / 1000:.3f} kbit/s with all overhead")
    return f"{report.seconds:.2f} s of audio, {size}, real-time factor {report.real_time_factor:.3f}"


def _tell(report: Report, part: bool = False) -> None:
    for warning in report.warnings:
        say(f"Warning: {warning}")
    say(_summary(report, part))


@click.command()
@click.argument("audio")
@click.argument("output")
@model_option
@bitrate_option
@click.option("--title", help="Kept in the file, like --meta title=…")
@click.option("--meta", multiple=True, metavar="KEY=VALUE", help="Kept in the file, e.g. created=2026-01-31T12:00:00Z; may be repeated.")
@click.option("--entropy", is_flag=True, help="Entropy-coded: smaller, and decodes to the same. Needs a model with tables for it.")
@click.option("--append", is_flag=True, help="Put the recording behind those in OUTPUT, which is mended first if a crash cut it off.")
@click.option("--resume", is_flag=True, help="Go on with the same encoding that was killed.")
@force_option
def encode(
    audio: str,
    output: str,
    model: str,
    bitrate: float | None,
    title: str | None,
    meta: tuple[str, ...],
    entropy: bool,
    append: bool,
    resume: bool,
    force: bool,
) -> None:
    """Encode AUDIO (WAV, FLAC, Ogg, MP3 …; any rate, channels are mixed) into the .stk file OUTPUT."""
    from ..runtime import files

    if append and resume:
        raise click.UsageError("--append and --resume exclude each other: an appended recording is mended and appended again")
    codec = load(model)
    bitrate = chosen_bitrate(codec, bitrate)
    with progress("encoding") as update:
        report = files.encode_file(
            codec,
            source(audio),
            sink(output, force or append, audio),
            bitrate,
            update,
            metadata=_metadata(title, meta),
            entropy=entropy,
            append=append,
            resume=resume,
        )
    _tell(report)


def _metadata(title: str | None, pairs: tuple[str, ...]) -> dict[str, str]:
    metadata = {} if title is None else {"title": title}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or key in metadata:
            raise click.BadParameter(f"'{pair}' {'repeats a key' if equals else 'is not KEY=VALUE'}", param_hint="--meta")
        metadata[key] = value
    return metadata


@click.command()
@click.argument("file")
@click.argument("output")
@click.option("--model", "-m", help="Folder of the model, when it is not a bundled one.")
@click.option("--salvage", is_flag=True, help="Keep what is intact of a damaged file; silence stands for the rest.")
@click.option("--start", type=float, help="Seconds from the beginning; what is before is not decoded.")
@click.option("--end", type=float, help="Seconds from the beginning, too.")
@force_option
def decode(file: str, output: str, model: str | None, salvage: bool, start: float | None, end: float | None, force: bool) -> None:
    """Decode the .stk FILE to OUTPUT (.wav, .flac, .ogg, .opus, .mp3; "-" writes WAV)."""
    from ..runtime import files

    codec = load(model) if model else None
    with named(file), progress("decoding") as update:
        report = files.decode_file(codec, source(file), sink(output, force, file), salvage, update, start=start, end=end)
    _tell(report, part=start is not None or end is not None)


@click.command()
@click.argument("file")
@click.option("--model", "-m", help="Folder of the model, when it is not a bundled one.")
def repair(file: str, model: str | None) -> None:
    """Give the .stk FILE an end, in place, when a crash has cut it off; the rest of its last packet goes."""
    from ..runtime import files

    codec = load(model) if model else None
    with named(file):
        mended = files.repair_file(file, codec)
    say(f"{file}: {files.told(mended) if mended else 'has its end, nothing to do'}")


@click.command()
@click.argument("audio")
@click.argument("output", required=False)
@model_option
@bitrate_option
@click.option("--plot", type=click.Path(dir_okay=False), help="Write a picture of both spectrograms (needs matplotlib).")
@click.option("--keep", type=click.Path(dir_okay=False), help="Keep the .stk under this name.")
@force_option
def roundtrip(audio: str, output: str | None, model: str, bitrate: float | None, plot: str | None, keep: str | None, force: bool) -> None:
    """Send AUDIO through a .stk and back to OUTPUT (default: AUDIO's name with the bitrate) and say what it cost."""
    import tempfile

    from ..runtime import files

    codec = load(model)
    bitrate = chosen_bitrate(codec, bitrate)
    if "-" in (audio, output, keep):
        raise click.BadParameter("roundtrip works on files, not on standard input or output", param_hint="-")
    output = output or f"{Path(audio).stem}-{bitrate / 1000:g}kbps.wav"
    target, info = sink(output, force, audio, keep, plot), codec.info
    if keep:
        sink(keep, force, audio, plot)
    with tempfile.TemporaryDirectory() as folder:
        stk = keep or str(Path(folder) / "audio.stk")
        with progress("encoding") as update:
            encoded = files.encode_file(codec, audio, stk, bitrate, update)
        with progress("decoding") as update:
            decoded = files.decode_file(codec, stk, target, progress=update)
    size = Path(audio).stat().st_size
    pcm = encoded.seconds * 32000
    rows = {
        "audio": f"{encoded.seconds:.2f} s at {info.sample_rate} Hz mono",
        "bitrate": f"{bitrate / 1000:g} kbit/s payload, {encoded.bitrate / 1000:.3f} kbit/s with all overhead",
        "size": f"{encoded.num_bytes} bytes; 1/{size / max(1, encoded.num_bytes):.0f} of the input file, "
        f"1/{pcm / max(1, encoded.num_bytes):.0f} of 16-bit PCM",
        "latency": f"{1000 * info.latency_samples / info.sample_rate:.0f} ms algorithmic "
        f"({1000 * info.frame_size / info.sample_rate:.0f} ms frame + {1000 * info.delay_samples / info.sample_rate:.0f} ms overlap)",
        "real-time factor": f"{encoded.real_time_factor:.3f} encoding, {decoded.real_time_factor:.3f} decoding, one thread",
        "model": f"{info.name}: {info.parameters / 1e6:.2f} M parameters, {info.macs_per_second / 1e6:.0f} MMAC/s",
    }
    for key, value in rows.items():
        click.echo(f"{key + ':':18}{value}")
    if plot:
        _plot({"original": audio, f"{bitrate / 1000:g} kbit/s": output}, plot, info.sample_rate)
    click.echo(f"{'listen:':18}{output}" + (f"   look: {plot}" if plot else "") + (f"   file: {keep}" if keep else ""))


def _plot(files: dict[str, str], path: str, rate: int, seconds: float = 20.0) -> None:
    """The first `seconds` of audio files by title. Raises ModelError without matplotlib, ConfigError for an unknown kind of picture."""
    from ..runtime import audio
    from ..spectrogram import spectrograms

    figure = spectrograms({title: audio.read(name, rate)[0][: int(seconds * rate)] for title, name in files.items()}, rate)
    try:
        figure.savefig(path, dpi=110)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error


@click.command()
@click.argument("what", default="mini")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.option("--layers", is_flag=True, help="Parameters and multiply-accumulates of every layer.")
def info(what: str, as_json: bool, layers: bool) -> None:
    """Tell about WHAT: a bundled model, a model's folder, or a .stk file."""
    problems: list[FormatError] = []
    if what.lower().endswith(".stk") or Path(what).is_file():
        with named(what):
            rows, problems = _file_info(what)
    else:
        rows = _model_info(what, layers)
    if as_json:
        click.echo(json.dumps(rows, indent=1))
    else:
        _print(rows)
    if problems:  # what is intact has been told
        with named(what):
            raise problems[0]


def _print(rows: dict[str, Any]) -> None:
    width = max(len(key) for key in rows) + 2
    for key, value in rows.items():
        if key == "streams":
            for number, stream in enumerate(value, 1):
                click.echo(f"\nrecording {number}:")
                _print(stream)
        elif key == "layers":
            click.echo(f"{key}:")
            for name, parameters, macs in value:
                click.echo(f"  {name:24}{parameters:>12,} parameters {macs / 1e6:>10.2f} MMAC/s")
        elif isinstance(value, dict):
            for name, text in value.items():  # whoever made the file wrote them: nothing of it may steer a terminal
                click.echo(f"{key}: {name} = {printable(text)}")
        else:
            click.echo(f"{key + ':':{width}}{', '.join(map(str, value)) if isinstance(value, (list, tuple)) else value}")


def _model_info(name: str, layers: bool) -> dict[str, Any]:
    codec = load(name)
    rows: dict[str, Any] = dataclasses.asdict(codec.info)
    network = codec.network
    rows["latency_ms"] = 1000 * codec.info.latency_samples / codec.info.sample_rate
    rows["size_bytes"] = sum(f.stat().st_size for f in network.folder.iterdir())
    rows |= {key: value for key, value in network.about.items() if isinstance(value, (str, int, float))}
    if layers:
        rows["layers"] = [list(cost) for cost in network.config.costs(min(8, codec.info.num_codebooks))]  # as `parameters` are counted
    return rows


def _file_info(path: str) -> tuple[dict[str, Any], list[FormatError]]:
    """What all recordings in the file have in common and in sum, each by itself when there are several; and what is damaged."""
    from ..bitstream import streams

    with open(path, "rb") as file:
        problems: list[FormatError] = []
        told, total = [], {"num_samples": 0, "seconds": 0.0, "packets": 0, "frames": 0}
        count = 0
        for reader in streams(file, salvage=True):
            one = _stream_info(reader)
            problems += reader.problems
            count += 1
            if count <= MAX_TOLD:
                told.append(one)
            total = {key: value + (one[key] or 0) for key, value in total.items()}
        size = reader.num_bytes
    if count == 1:
        return {**told[0], **_rate(size, total["seconds"])}, problems
    return {"recordings": count, **total, **_rate(size, total["seconds"]), "streams": told}, problems


def _stream_info(reader: Reader) -> dict[str, Any]:
    header, codebooks = reader.header, set()
    packets = frames = coded = 0
    for packet in reader.raw():
        codebooks.add(packet.num_codebooks)
        packets, frames, coded = packets + 1, frames + packet.num_frames, coded + packet.coded
    return {
        **dataclasses.asdict(header),
        **({"metadata": reader.metadata} if reader.metadata else {}),
        "num_samples": reader.num_samples,
        "seconds": (frames * header.frame_size if reader.num_samples is None else reader.num_samples) / header.sample_rate,
        "packets": packets,
        **({"entropy_coded_packets": coded, "entropy_tables": reader.tables.hex()} if reader.tables else {}),
        "frames": frames,
        "index": reader.indexed,
        "payload_bitrates": [round(k * header.bits_per_code * header.frame_rate) for k in sorted(codebooks)],
    }


def _rate(size: int, seconds: float) -> dict[str, Any]:
    return {"num_bytes": size, "bitrate": round(8 * size / seconds) if seconds else 0}
