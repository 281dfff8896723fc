"""Where output goes: files that appear only when complete, files that grow, pipes; and samples as audio files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import SEEK_END, FileIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile

from ..bitstream import Reader
from ..bitstream.repair import Repair, repair
from ..disk import lock
from ..errors import AudioError, ConfigError, ModelError, TruncatedError
from .audio import Audio
from .checkpoint import Checkpoint
from .codec import Codec


def part_of(sink: str | Path | BinaryIO) -> Path | None:
    """Where a named file is while it is being written; None for a stream, a device or a named pipe. Raises AudioError."""
    if not isinstance(sink, (str, Path)):
        return None
    path = Path(sink)
    if path.is_dir():
        raise AudioError(f"{path}: is a folder; give a file's name")
    if not path.parent.is_dir():
        raise AudioError(f"{path}: its folder does not exist")
    if path.exists() and not path.is_file():  # /dev/null must not be replaced by a file
        return None
    return path.with_name(f".{path.name}.part")


def _open_or_make(name: str, flags: int) -> int:
    return os.open(name, flags | os.O_CREAT, 0o666)


def open_sink(stack: ExitStack, sink: str | Path | BinaryIO, resume: bool = False) -> BinaryIO:
    """A file that appears under its name only when complete; a stream, device or named pipe as it is.

    To `resume`, what is there of the file is kept, and it is kept again when the work is broken off. Raises ConfigError when another
    process is writing it.
    """
    if not isinstance(sink, (str, Path)):
        stack.push(lambda kind, *_: None if kind else sink.flush())  # a full disk may show only here
        return sink
    path, part = Path(sink), part_of(sink)
    if part is None:
        return stack.enter_context(path.open("wb"))
    file = stack.enter_context(open(part, "r+b", opener=_open_or_make))  # noqa: SIM115
    busy = f"{path}: another process is writing it; wait for it, or give another name"
    lock(file, busy)
    if not part.exists() or not os.path.samestat(part.stat(), os.fstat(file.fileno())):  # the other one was done just now
        raise ConfigError(busy)
    if not resume:
        file.truncate()
    if os.name == "posix":
        stack.callback(os.close, os.dup(file.fileno()))  # the lock lasts until the file has its name

    def finish(kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            part.replace(path)
        elif not resume:
            part.unlink(missing_ok=True)
        if kind is None or not resume:
            Checkpoint(part).remove()

    stack.push(finish)
    stack.callback(file.close)
    return file


@contextmanager
def open_to_append(path: str | Path, codec: Codec) -> Iterator[tuple[BinaryIO, Repair | None]]:
    """A .stk of this model, at its end, and what had to be mended before. Broken off by an error it is as long as it was.

    Raises ModelError when another model made it, FormatError when it is none or is damaged, ConfigError when another process is at it.
    """
    with open(path, "r+b") as file:
        lock(file, f"{path}: another process is writing it; wait for it")
        header = None
        with suppress(TruncatedError):  # broken off in the header: nothing is there yet
            header = Reader(file).header
        if header and header.model_hash != codec.info.model_hash:
            raise ModelError(
                f"{path}: holds codes of model '{header.model}' ({header.model_hash}), to which those of '{codec.info.name}' "
                f"({codec.info.model_hash}) cannot be appended; encode with that model or into another file"
            )
        repaired = repair(file, codec.info.delay_samples)
        size = file.seek(0, SEEK_END)
        try:
            yield file, repaired
        except BaseException:
            file.raw.truncate(size)  # past the buffer, which may hold what could not be written,
            file.raw.close()  # and which closing would try to write again
            raise


class _Watched(FileIO):
    """A file that keeps the first error of writing: libsndfile does not report those of closing, nor of files that are Python objects."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        view, done = memoryview(data), 0
        try:
            while done < len(view):
                done += super().write(view[done:]) or 0
        except OSError as error:
            self.error = self.error or error
        return len(view)


class AudioSink:
    """Audio file writer; WAV with an open-ended header when the sink is a pipe, which soundfile would seek in."""

    def __init__(self, file: BinaryIO, sink: str | Path | BinaryIO, rate: int):
        self.num_samples = 0
        self._pipe = None
        self._file = None
        self._watched: _Watched | None = None
        self._sink = sink
        if isinstance(sink, (str, Path)) and file.seekable():
            suffix = Path(sink).suffix.lower().lstrip(".") or "wav"
            kind = {"opus": "OGG", "ogg": "OGG", "oga": "OGG", "aif": "AIFF"}.get(suffix, suffix.upper())
            subtype = "OPUS" if suffix == "opus" else None
            try:
                self._watched = _Watched(file.name, "r+")
                self._file = soundfile.SoundFile(self._watched, "w", rate, 1, format=kind, subtype=subtype)
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
            for start in range(0, len(samples), self._file.samplerate):  # libvorbis dies of two minutes at once
                piece = samples[start : start + self._file.samplerate]
                self._file.write(to_int16(piece) if self._file.subtype == "PCM_16" else np.clip(piece, -1, 1))
            self._check()
        elif self._pipe is not None:
            self._pipe.write(to_int16(samples).tobytes())

    def __enter__(self) -> AudioSink:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._file is not None and self._watched is not None:
            self._file.close()
            self._watched.close()
            if kind is None:
                self._check()
        elif self._pipe is not None and kind is None:
            self._pipe.flush()

    def _check(self) -> None:
        if self._watched and self._watched.error:
            error = self._watched.error
            raise AudioError(f"{self._sink}: cannot be written; is the disk full? ({error.strerror})") from error


def to_int16(samples: Audio) -> np.ndarray[tuple[int, ...], np.dtype[np.int16]]:
    """float32 in −1…1, clipped, to little-endian int16."""
    return np.round(np.clip(samples, -1, 1 - 2**-15) * 32768).astype("<i2")
