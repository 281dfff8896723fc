"""Files and pipes: audio → .stk → audio, block by block, in constant memory whatever the length."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from ..bitstream import Header, Reader, Writer
from ..errors import AudioError, FormatError, ModelError
from .audio import Audio, Resampler, blocks, open_audio
from .codec import Codec, load

Progress = Callable[[float | None, float], None]  # (share done or None, seconds of audio done)

GAP_SECONDS = 600.0  # of silence in place of lost packets, in all: a forged counter must not fill a disk


@dataclass
class Report:
    """What was done. `bitrate` counts every byte of the .stk."""

    seconds: float = 0.0  # of audio
    num_bytes: int = 0  # of the .stk
    wall_seconds: float = 0.0
    warnings: list[str] = field(default_factory=list)

    @property
    def bitrate(self) -> float:
        return 8 * self.num_bytes / self.seconds if self.seconds else 0.0

    @property
    def real_time_factor(self) -> float:
        """Computing time over audio time: below 1 is faster than live."""
        return self.wall_seconds / self.seconds if self.seconds else 0.0


def header_of(codec: Codec, num_codebooks: int) -> Header:
    info = codec.info
    return Header(info.name, info.model_hash, info.sample_rate, info.frame_size, num_codebooks, info.bits_per_code)


def _sink(stack: ExitStack, sink: str | Path | BinaryIO) -> BinaryIO:
    """A file that appears under its name only when complete; a stream, device or named pipe as it is."""
    if not isinstance(sink, (str, Path)):
        return sink
    path = Path(sink)
    if path.is_dir():
        raise AudioError(f"{path}: is a folder; give a file's name")
    if not path.parent.is_dir():
        raise AudioError(f"{path}: its folder does not exist")
    if path.exists() and not path.is_file():  # /dev/null must not be replaced by a file
        return stack.enter_context(path.open("wb"))
    part = path.with_name(f".{path.name}.part")
    file = stack.enter_context(part.open("wb"))
    stack.push(lambda kind, *_: _finish(part, path, kind is None))
    stack.callback(file.close)
    return file


def _finish(part: Path, path: Path, complete: bool) -> None:
    if complete:
        part.replace(path)
    else:
        part.unlink(missing_ok=True)


def encode_file(
    codec: Codec, source: str | Path | BinaryIO, sink: str | Path | BinaryIO, bitrate: float | None = 4000, progress: Progress | None = None
) -> Report:
    """Any audio soundfile reads, at any rate and number of channels (mixed to mono), to a .stk.

    Raises AudioError for audio that cannot be read, BitrateError for a bitrate the model does not have.
    A named output is replaced only when all of it is written.
    """
    report, start = Report(), time.perf_counter()
    info = codec.info
    encoder = codec.encoder(bitrate)
    with ExitStack() as stack:
        audio = stack.enter_context(open_audio(source))
        resampler = Resampler(audio.samplerate, info.sample_rate)
        total = audio.frames / audio.samplerate if audio.seekable() and audio.frames < 2**60 else 0.0
        file = _sink(stack, sink)
        writer = Writer(file, header_of(codec, encoder.num_codebooks))
        for block in blocks(audio):
            writer.write(encoder.push(resampler.push(block)))
            report.seconds = encoder.num_samples / info.sample_rate
            if progress:
                progress(min(1.0, report.seconds / total) if total else None, report.seconds)
        writer.write(encoder.push(resampler.push(np.zeros(0, np.float32), last=True)))
        writer.write(encoder.flush())
        writer.close(encoder.num_samples)
        report.num_bytes = writer.num_bytes
    report.seconds = encoder.num_samples / info.sample_rate
    report.wall_seconds = time.perf_counter() - start
    return report


def codec_for(header: Header, codec: Codec | None = None, threads: int = 1) -> Codec:
    """The codec that wrote a file: `codec` if it is the one, else the bundled model of that name. Raises ModelError."""
    if codec is None:
        try:
            codec = load(header.model, threads)
        except ModelError as error:
            raise ModelError(f"the file was made by model '{header.model}' ({header.model_hash}); give its folder with --model") from error
    if codec.info.model_hash != header.model_hash:
        raise ModelError(
            f"the file was made by model '{header.model}' ({header.model_hash}), not by this '{codec.info.name}' "
            f"({codec.info.model_hash}); give the folder of the right one with --model"
        )
    return codec


def decode_packets(codec: Codec, reader: Reader, report: Report) -> Iterator[Audio]:
    """Samples aligned with what was encoded, packet by packet; lost packets (salvage only) become silence of their length."""
    info = codec.info
    decoder, skip, frames = codec.decoder(), info.delay_samples, 0
    budget = round(GAP_SECONDS * info.frame_rate)

    def aligned(samples: Audio) -> Audio:
        nonlocal skip
        dropped, skip = min(skip, len(samples)), max(0, skip - len(samples))
        return samples[dropped:]

    def gap(lost: int) -> Audio:
        nonlocal budget
        silent = min(lost, budget)
        budget -= silent
        shortened = f", shortened to {silent / info.frame_rate:.2f} s" if silent < lost else ""
        report.warnings.append(f"{lost / info.frame_rate:.2f} s lost at {frames / info.frame_rate:.2f} s{shortened}")
        return np.zeros(silent * info.frame_size, np.float32)

    for packet in reader:
        if packet.first_frame > frames:
            yield aligned(gap(packet.first_frame - frames))
            decoder = codec.decoder()
        frames = packet.first_frame + packet.codes.shape[1]
        yield aligned(decoder.push(packet.codes))
    lost = (reader.num_frames or 0) - frames
    if lost > 0:
        yield aligned(gap(lost))


def decode_file(
    codec: Codec | None,
    source: str | Path | BinaryIO,
    sink: str | Path | BinaryIO,
    salvage: bool = False,
    progress: Progress | None = None,
    threads: int = 1,
) -> Report:
    """A .stk to audio at the model's rate; the format follows the sink's suffix, WAV for a stream.

    Raises FormatError and its kinds for a damaged file unless `salvage`, which keeps every intact packet and puts silence
    in place of the others; ModelError when the file is another model's.
    """
    report, start = Report(), time.perf_counter()
    with ExitStack() as stack:
        stream = source if not isinstance(source, (str, Path)) else stack.enter_context(_open_binary(source))
        fallback = header_of(codec, codec.info.num_codebooks) if codec else None  # a damaged header is no loss when the model is named
        reader = Reader(stream, salvage, fallback)
        codec = codec_for(reader.header, codec, threads)
        rate = codec.info.sample_rate
        file = _sink(stack, sink)
        out = stack.enter_context(_AudioSink(file, sink, rate))
        held: Audio = np.zeros(0, np.float32)  # the last packet waits: only the end record says where the audio ends
        for samples in decode_packets(codec, reader, report):
            out.write(held)
            held = samples
            if progress:
                progress(None, out.num_samples / rate)
        if reader.num_samples is not None:
            held = held[: max(0, reader.num_samples - out.num_samples)]
        out.write(held)
        report.num_bytes = reader.num_bytes
        report.warnings += [str(problem) for problem in reader.problems]
        if salvage and reader.num_samples is None:
            report.warnings.append("the end of the file is missing; the exact length is unknown")
    report.seconds = out.num_samples / rate
    report.wall_seconds = time.perf_counter() - start
    return report


def _open_binary(path: str | Path) -> BinaryIO:
    try:
        return open(path, "rb")
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror})") from error


class _AudioSink:
    """Audio file writer; WAV with an open-ended header when the sink is a pipe, which soundfile would seek in."""

    def __init__(self, file: BinaryIO, sink: str | Path | BinaryIO, rate: int):
        self.num_samples = 0
        self._pipe = None
        self._file = None
        self._sink = sink
        if isinstance(sink, (str, Path)) and file.seekable():
            suffix = Path(sink).suffix.lower().lstrip(".") or "wav"
            kind = {"opus": "OGG", "ogg": "OGG", "oga": "OGG", "aif": "AIFF"}.get(suffix, suffix.upper())
            subtype = "OPUS" if suffix == "opus" else None
            try:
                # By name: libsndfile reports a full disk, which is lost on the way when it writes through a Python object.
                self._file = soundfile.SoundFile(file.name, "w", rate, 1, format=kind, subtype=subtype)
            except (soundfile.LibsndfileError, ValueError, TypeError) as error:
                kinds = ", ".join(sorted(k.lower() for k in soundfile.available_formats() if k in {"WAV", "FLAC", "OGG", "MP3", "AIFF"}))
                raise AudioError(f"{sink}: audio cannot be written as '.{suffix}'; use one of {kinds}, opus") from error
        else:
            self._pipe = file
            size = 0xFFFFFFFF.to_bytes(4, "little")  # as sox and ffmpeg write WAV of unknown length
            fmt = b"fmt " + (16).to_bytes(4, "little") + (1).to_bytes(2, "little") + (1).to_bytes(2, "little")
            fmt += rate.to_bytes(4, "little") + (2 * rate).to_bytes(4, "little") + (2).to_bytes(2, "little") + (16).to_bytes(2, "little")
            file.write(b"RIFF" + size + b"WAVE" + fmt + b"data" + size)

    def write(self, samples: Audio) -> None:
        self.num_samples += len(samples)
        if self._file is not None:
            try:
                self._file.write(to_int16(samples) if self._file.subtype == "PCM_16" else np.clip(samples, -1, 1))
            except soundfile.LibsndfileError as error:
                raise AudioError(f"{self._sink}: cannot be written; is the disk full? ({error.error_string})") from error
        elif self._pipe is not None:
            self._pipe.write(to_int16(samples).tobytes())

    def __enter__(self) -> _AudioSink:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()


def to_int16(samples: Audio) -> np.ndarray[tuple[int, ...], np.dtype[np.int16]]:
    """float32 in −1…1, clipped, to little-endian int16."""
    return np.round(np.clip(samples, -1, 1 - 2**-15) * 32768).astype("<i2")
