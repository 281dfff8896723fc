"""Files and pipes: audio → .stk → audio, block by block, in constant memory whatever the length."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile

from ..bitstream import Entropy, Header, Reader, Writer, streams
from ..bitstream.reader import MAX_PROBLEMS
from ..bitstream.repair import Repair, repair
from ..bitstream.seek import Part, Parts
from ..disk import lock, printable
from ..errors import AudioError, ConfigError, CorruptedError, FormatError, ModelError, StreamError, TruncatedError
from .audio import Audio, Resampler, blocks, cut_off, open_audio
from .checkpoint import Checkpoint, State
from .codec import Codec, load
from .sinks import AudioSink, open_sink, open_to_append, part_of, to_int16
from .streams import Encoder

__all__ = [
    "Report",
    "codec_for",
    "decode_file",
    "decode_packets",
    "encode_file",
    "entropy_of",
    "header_of",
    "repair_file",
    "to_int16",
    "told",
]

Progress = Callable[[float | None, float], None]  # (share done or None, seconds of audio done)

GAP_SECONDS = 600.0  # of silence in place of lost packets, in all: a forged counter must not fill a disk
WARM_UP_SECONDS = 8.0  # decoded before a range and not heard, until the decoder has forgotten where it began; docs/format.md
ENDLESS = 1e12  # seconds: behind the end of every recording
CHECKPOINT_SECONDS = 60.0  # of audio between two of them


@dataclass
class Report:
    """What was done. `bitrate` counts every byte of the .stk, or of a part of it every one that was read."""

    seconds: float = 0.0  # of audio
    num_bytes: int = 0  # of the .stk
    wall_seconds: float = 0.0
    warnings: list[str] = field(default_factory=list)
    lost_seconds: float = 0.0  # of silence in place of lost packets

    @property
    def bitrate(self) -> float:
        return 8 * self.num_bytes / self.seconds if self.seconds else 0.0

    @property
    def real_time_factor(self) -> float:
        """Computing time over audio time: below 1 is faster than live."""
        return self.wall_seconds / self.seconds if self.seconds else 0.0

    def warn(self, text: str) -> None:
        if len(self.warnings) < MAX_PROBLEMS:
            self.warnings.append(text)


def header_of(codec: Codec, num_codebooks: int) -> Header:
    info = codec.info
    return Header(info.name, info.model_hash, info.sample_rate, info.frame_size, num_codebooks, info.bits_per_code)


def entropy_of(codec: Codec) -> Entropy:
    """The model's entropy coder. Raises ModelError when it has no tables."""
    coder: Entropy | None = getattr(codec, "entropy", None)
    if coder is None:
        raise ModelError(f"model '{codec.info.name}' has no tables for entropy coding; encode without it, or take a model that has them")
    return coder


# -- encoding ------------------------------------------------------------------------------------------------------------------


def encode_file(
    codec: Codec,
    source: str | Path | BinaryIO,
    sink: str | Path | BinaryIO,
    bitrate: float | None = None,
    progress: Progress | None = None,
    *,
    metadata: Mapping[str, str] | None = None,
    entropy: bool = False,
    append: bool = False,
    resume: bool = False,
) -> Report:
    """Any audio soundfile reads, at any rate and number of channels (mixed to mono), to a .stk.

    `metadata` is text by key (`title`, `created`, …); `entropy` makes the file smaller without changing what it decodes to.
    A named output is replaced only when all of it is written. With `append` the recording is chained on to what the file
    holds, which is mended first if a crash has cut it off. With `resume` the work goes on where a killed one was, if it was the
    same, and the file becomes what it would have become.

    Raises AudioError for audio that cannot be read, BitrateError for a bitrate the model does not have, ConfigError for
    impossible metadata, ModelError for a model without entropy tables and for appending to another model's file.
    """
    report, start = Report(), time.perf_counter()
    info = codec.info
    if append and resume:
        raise ConfigError("a recording is appended, or an unfinished file gone on with: one of the two")
    encoder = codec.encoder(bitrate)
    header = header_of(codec, encoder.num_codebooks)
    options: dict[str, Any] = {"metadata": metadata, "index": True, "entropy": entropy_of(codec) if entropy else None}
    with ExitStack() as stack:
        audio = stack.enter_context(open_audio(source))
        total = audio.frames / audio.samplerate if audio.frames < 2**60 else 0.0
        part, checkpoint, state = part_of(sink), None, None
        if part is None and (append or resume):
            raise ConfigError("only a file with a name can be appended to, or be gone on with")
        if append and part and part.with_name(Path(str(sink)).name).exists():
            file, repaired = stack.enter_context(open_to_append(str(sink), codec))
            if repaired:
                report.warn(f"{sink}: {told(repaired)}")
        else:
            checkpoint = Checkpoint(part) if part else None
            state = checkpoint.load() if checkpoint and resume else None
            file = open_sink(stack, sink, resume)
        pieces = _Pieces(audio, info.sample_rate)
        writer = _go_on(file, header, options, encoder, pieces, state) if state else None
        if writer is None:
            if part and resume and file.seek(0, 2):
                report.warn("the unfinished file is of other audio, options or model, or too short; encoded from the start")
            encoder, pieces = codec.encoder(bitrate), _Pieces(audio, info.sample_rate)
            if checkpoint:
                checkpoint.remove()  # of another encoding
                file.seek(0)
                file.truncate()
            writer = Writer(file, header, **options)
        saved = encoder.num_samples
        for samples in pieces:
            writer.write(encoder.push(samples))
            report.seconds = encoder.num_samples / info.sample_rate
            if progress and len(samples):
                progress(min(1.0, report.seconds / total) if total else None, report.seconds)
            if checkpoint and encoder.num_samples - saved >= CHECKPOINT_SECONDS * info.sample_rate:
                checkpoint.save({"encoder": encoder.snapshot(), "writer": writer.snapshot(), "audio": {"hash": pieces.hash}})
                saved = encoder.num_samples
        writer.write(encoder.flush())
        writer.close(encoder.num_samples)
        report.num_bytes = writer.num_bytes
        if missing := cut_off(audio, pieces.read):
            report.warn(f"{printable(str(source)) if isinstance(source, (str, Path)) else 'the audio'}: {missing}")
    report.seconds = encoder.num_samples / info.sample_rate
    report.wall_seconds = time.perf_counter() - start
    return report


class _Pieces:
    """An audio file's samples at the model's rate, from its start, piece by piece, and the hash of all so far."""

    def __init__(self, audio: soundfile.SoundFile, rate: int) -> None:
        self.count = 0  # at the model's rate
        self.read = 0  # at the file's
        self._digest = hashlib.sha256()
        if audio.tell():
            audio.seek(0)
        self._samples = self._read(audio, rate)

    @property
    def hash(self) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
        return np.frombuffer(self._digest.digest(), np.uint8)

    def __iter__(self) -> Iterator[Audio]:
        """Goes on where it was."""
        return self._samples

    def _read(self, audio: soundfile.SoundFile, rate: int) -> Iterator[Audio]:
        resampler = Resampler(audio.samplerate, rate)
        for block in blocks(audio):
            self.read += len(block)
            yield self._count(resampler.push(block))
        yield self._count(resampler.push(np.zeros(0, np.float32), last=True))

    def _count(self, samples: Audio) -> Audio:
        self.count += len(samples)
        self._digest.update(samples.tobytes())
        return samples


def _go_on(file: BinaryIO, header: Header, options: dict[str, Any], encoder: Encoder, pieces: _Pieces, state: State) -> Writer | None:
    """Bring file, encoder and audio to where the state was saved. None when they do not belong together."""
    try:
        encoder.restore(state["encoder"])
        writer = Writer(file, header, **options, snapshot=state["writer"])
        wanted = state["audio"]["hash"]
    except (KeyError, StreamError):
        return None
    file.seek(0)
    if file.read(len(writer.front)) != writer.front or not _holds(file, writer.num_bytes, writer.num_frames):
        return None
    for _ in pieces:
        if pieces.count >= encoder.num_samples:
            break
    if pieces.count != encoder.num_samples or not np.array_equal(pieces.hash, wanted):
        return None
    file.seek(writer.num_bytes)
    file.truncate()
    return writer


def _holds(file: BinaryIO, num_bytes: int, num_frames: int) -> bool:
    """Whether exactly so many frames are intact in the first bytes."""
    file.seek(0)
    reader = Reader(file)
    try:
        for packet in reader.raw():
            if packet.offset + packet.size >= num_bytes:
                return (packet.offset + packet.size, packet.stop_frame) == (num_bytes, num_frames)
    except FormatError:
        pass
    return False


def repair_file(path: str | Path, codec: Codec | None = None) -> Repair | None:
    """Give a .stk that a crash cut off an end; None when it has one and is whole.

    Raises CorruptedError when something else than its end is damaged, other FormatErrors, and ModelError without the model.
    """
    with _open_binary(path) as file:
        try:
            header = Reader(file).header
        except TruncatedError:
            header = None
    delay = codec_for(header, codec).info.delay_samples if header else 0
    with open(path, "r+b") as file:
        lock(file, f"{path}: another process is writing it; what is not complete yet needs no repair")
        if mended := repair(file, delay):
            return mended
        file.seek(0)
        for reader in streams(file):
            for _ in reader.raw():
                pass
    return None


def told(mended: Repair) -> str:
    """A line about it."""
    kept = "" if mended.num_frames is None else f"; {mended.num_frames} frames of the recording that was broken off are kept"
    return f"mended: {mended.dropped} bytes behind the last intact packet are dropped{kept}"


# -- decoding ------------------------------------------------------------------------------------------------------------------


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


def decode_packets(
    codec: Codec, stream: Reader | Part, report: Report, first: int = 0, stop: int | None = None, skip: int | None = None
) -> Iterator[Audio]:
    """Samples aligned with what was encoded, packet by packet; lost packets (salvage only) become silence of their length.

    Of the frames from `first` up to `stop` (None: all), without the first `skip` samples (None: the decoder's delay).
    """
    info = codec.info
    decoder, frames = codec.decoder(), first
    left = info.delay_samples if skip is None else skip

    def aligned(samples: Audio) -> Audio:
        nonlocal left
        dropped, left = min(left, len(samples)), max(0, left - len(samples))
        return samples[dropped:]

    def gap(lost: int) -> Audio:
        silent = min(lost, max(0, round((GAP_SECONDS - report.lost_seconds) * info.frame_rate)))
        report.lost_seconds += silent / info.frame_rate
        shortened = f", shortened to {silent / info.frame_rate:.2f} s" if silent < lost else ""
        report.warn(f"{lost / info.frame_rate:.2f} s lost at {frames / info.frame_rate:.2f} s{shortened}")
        return np.zeros(silent * info.frame_size, np.float32)

    for packet in stream.packets(first, stop):
        if packet.first_frame > frames:
            yield aligned(gap(packet.first_frame - frames))
            decoder = codec.decoder()
        frames = packet.first_frame + packet.codes.shape[1]
        yield aligned(decoder.push(packet.codes))
    lost = min(stream.num_frames or 0, 2**63 if stop is None else stop) - frames
    if lost > 0:
        yield aligned(gap(lost))


def decode_file(
    codec: Codec | None,
    source: str | Path | BinaryIO,
    sink: str | Path | BinaryIO,
    salvage: bool = False,
    progress: Progress | None = None,
    threads: int = 1,
    *,
    start: float | None = None,
    end: float | None = None,
) -> Report:
    """A .stk to audio at the model's rate; the format follows the sink's suffix, WAV for a stream.

    Recordings that follow one another in the file follow one another in the audio. From `start` up to `end`, in seconds, only
    what is needed of a file is read, and eight seconds before it, on which the decoder warms up; of a pipe everything up to there.

    Raises FormatError and its kinds for a damaged file unless `salvage`, which keeps every intact packet and puts silence
    in place of the others; ModelError when the file is another model's; AudioError for a range that is not in the recording.
    """
    report, began = Report(), time.perf_counter()
    if not 0 <= (start or 0) < (inf if end is None else end):
        raise AudioError(f"from {start or 0} s to {end} s is no range; give a start of 0 or more and an end behind it")
    end = None if end is None or end > ENDLESS else end
    start = start and min(start, ENDLESS)
    with ExitStack() as stack:
        stream = source if not isinstance(source, (str, Path)) else stack.enter_context(_open_binary(source))
        fallback = header_of(codec, codec.info.num_codebooks) if codec else None  # a damaged header is no loss when the model is named

        def coder(model_hash: str, tables: bytes | None) -> Entropy | None:
            return getattr(codec, "entropy", None)

        parts: Iterator[Reader | Part]
        if (start is None and end is None) or salvage or not stream.seekable():
            parts = _readers(Reader(stream, salvage, fallback, coder), report)
        else:
            parts = iter(Parts(stream, coder))
        part = next(parts)
        codec = codec_for(part.header, codec, threads)
        rate = codec.info.sample_rate
        begin, finish = round((start or 0) * rate), None if end is None else round(end * rate)
        out = stack.enter_context(AudioSink(open_sink(stack, sink), sink, rate))
        length = 0  # of the parts so far
        while True:
            codec_for(part.header, codec)
            known = part.num_samples
            if known is None or begin < length + known:
                limit = None if finish is None else finish - length
                for samples in _decode_part(codec, part, report, max(0, begin - length), limit, salvage):
                    out.write(samples)
                    if progress:
                        progress(None, out.num_samples / rate)
            report.num_bytes = part.num_bytes
            if finish is not None and begin + out.num_samples >= finish:
                break
            known = part.num_samples
            length += max(0, part.frames * codec.info.frame_size - codec.info.delay_samples) if known is None else known
            following = next(parts, None)
            if following is None:
                break
            part = following
        if begin and begin >= length and not out.num_samples:
            raise AudioError(f"the recording is {length / rate:.2f} s long; a start at {start:g} s is behind its end")
    report.seconds = out.num_samples / rate
    report.wall_seconds = time.perf_counter() - began
    return report


def _readers(reader: Reader | None, report: Report) -> Iterator[Reader]:
    """Of all streams; what a salvaging reader had to leave out is reported."""
    while reader:
        following = None
        try:
            yield reader
            following = reader.next()
            if reader.num_samples is None:
                report.warn("the end of the file is missing; the exact length is unknown")
        finally:
            for problem in reader.problems:
                report.warn(str(problem))
        reader = following


def _decode_part(codec: Codec, part: Reader | Part, report: Report, begin: int, finish: int | None, salvage: bool) -> Iterator[Audio]:
    """The samples from `begin` up to `finish` (None: to the end) of one stream, exactly as many as it has there."""
    info = codec.info
    warm_up = round(WARM_UP_SECONDS * info.frame_rate)
    first = max(0, (begin + info.delay_samples) // info.frame_size - warm_up) if begin else 0
    skip = begin + info.delay_samples - first * info.frame_size
    stop = None if finish is None else -(-(finish + info.delay_samples) // info.frame_size)
    done, held = begin, np.zeros(0, np.float32)  # the last packet waits: only the end record says where the audio ends
    for samples in decode_packets(codec, part, report, first, stop, skip):
        yield held
        done += len(held)
        held = samples
    limits = [limit for limit in (finish, part.num_samples) if limit is not None]
    if limits and begin < done > min(limits):
        problem = CorruptedError(f"the end record counts {part.num_samples} samples, the frames before the last packet hold {done}")
        if not salvage:
            raise problem
        report.warn(str(problem))
    yield held[: max(0, min(limits) - done)] if limits else held


def _open_binary(path: str | Path) -> BinaryIO:
    try:
        return open(path, "rb")
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror})") from error
