"""Clips to codes: several files at a time through one network call, each with its own state, so that none waits for the longest.

A lane holds one file; when it ends, the next one takes its place. The network is causal and its rows do not touch each other, so
the zeros that fill up a file's last call change nothing: the codes are those of `codec.encode` on the file alone.
Memory: ten seconds of samples per lane and the codes themselves, whatever the files' lengths.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from ..codes import CodeArray
from ..errors import AudioError
from ..runtime.audio import Resampler, blocks, open_audio
from ..runtime.codec import Codec
from ..runtime.network import State
from ..runtime.streams import Encoder
from .sources import Item

LANES = 8
FRAMES_PER_CALL = 128  # lanes × frames: with more, the activations leave the cache; with fewer, the calls cost
MOST_CHANNELS = 32

Told = Callable[[float, float], None]  # (bytes, seconds of audio) done since the last time


@dataclass(frozen=True)
class Encoded:
    """A clip's codes [K, T] and what it was."""

    item: Item
    codes: CodeArray
    samples: int  # at the model's rate; 0 makes no frame at all
    sample_rate_in: int
    sha256: str  # of the file, or of the tar member


@dataclass(frozen=True)
class Failed:
    item: Item
    reason: str


class Window(io.RawIOBase):
    """A readable, seekable part of a file: a tar member where it lies."""

    def __init__(self, path: str, offset: int, size: int):
        self._file: BinaryIO = open(path, "rb")  # noqa: SIM115  closed with this object
        self._offset, self._size, self._at = offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = min(max(0, start + offset), self._size)
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        wanted = min(len(buffer), self._size - self._at)
        self._file.seek(self._offset + self._at)
        data = self._file.read(wanted)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


class Lane:
    """One clip on its way. Raises AudioError or OSError when it cannot be opened or read."""

    def __init__(self, codec: Codec, item: Item, bitrate: float | None, told: Told):
        if item.problem:
            raise AudioError(f"{item.path}: {item.problem}")
        self.item, self._told = item, told
        self.encoder = Encoder(codec, bitrate, state={})  # only its bookkeeping: the states of all lanes lie side by side
        self.codes: list[CodeArray] = []
        self._stack = ExitStack()
        with ExitStack() as opening:  # closes what is open when something below fails
            source: str | BinaryIO = item.path
            if item.offset >= 0:
                source = opening.enter_context(io.BufferedReader(Window(item.path, item.offset, item.size), 2**16))
            self.sha256 = _digest(source)
            self._file = opening.enter_context(open_audio(source))
            if self._file.channels > MOST_CHANNELS:
                raise AudioError(f"{item.path}: {self._file.channels} channels; at most {MOST_CHANNELS} are mixed")
            self.sample_rate_in: int = self._file.samplerate
            self._resampler = Resampler(self.sample_rate_in, codec.info.sample_rate)
            self._blocks = blocks(self._file)
            self._stack = opening.pop_all()
        self.read = 0  # samples at the file's rate
        self._bytes = 0
        self.ended = False

    def fill(self, frames: int) -> None:
        """Read until `frames` frames are ready, or all that are left."""
        while self.encoder.ready < frames and not self.ended:
            block = next(self._blocks, None)
            if block is None:
                self._check_length()
                self.encoder.feed(self._resampler.push(np.zeros(0, np.float32), last=True))
                self.encoder.finish()
                self.ended = True
                self.tell(self.item.size, 0.0)
            else:
                self.read += len(block)
                self.encoder.feed(self._resampler.push(block))
                share = min(1.0, self.read / max(1, self._file.frames))
                self.tell(round(share * self.item.size), len(block) / self.sample_rate_in)

    def _check_length(self) -> None:
        """A file that ends early is broken, not short. Of MP3 the length is only estimated."""
        claimed = self._file.frames
        if self.read < claimed < 2**60 and self._file.format not in {"MP3", "MPEG"}:
            raise AudioError(f"{self.item.path}: ends early, {claimed} samples are promised")

    def tell(self, size: int, seconds: float) -> None:
        """`size` of its bytes are done, all in all, and `seconds` of audio more than before."""
        self._told(size - self._bytes, seconds)
        self._bytes = size

    def result(self, num_codebooks: int) -> Encoded:
        codes = np.concatenate(self.codes, 1) if self.codes else np.zeros((num_codebooks, 0), np.int16)
        return Encoded(self.item, codes, self.encoder.num_samples, self.sample_rate_in, self.sha256)

    def close(self) -> None:
        self._stack.close()


def encode_clips(
    codec: Codec, items: Iterable[Item], bitrate: float | None = None, told: Told = lambda size, seconds: None, lanes: int = LANES
) -> Iterator[Encoded | Failed]:
    """Each clip's codes, or why there are none, as they are done; not in order."""
    num_codebooks, size = codec.codebooks_for(bitrate), codec.info.frame_size
    waiting, active = iter(items), list[Lane]()
    state = codec.network.initial_state("encoder", 0)

    def drop(gone: Lane) -> State:
        at = active.index(gone)
        active.pop(at)
        gone.close()
        return {name: np.delete(rows, at, 0) for name, rows in state.items()}

    try:
        while True:
            while len(active) < lanes and (item := next(waiting, None)) is not None:
                try:
                    active.append(Lane(codec, item, bitrate, told))
                except (AudioError, OSError) as error:
                    told(item.size, 0.0)
                    yield Failed(item, _reason(error))
                    continue
                state = {name: np.concatenate([rows, np.zeros_like(rows, shape=(1, *rows.shape[1:]))]) for name, rows in state.items()}
            if not active:
                return
            frames = FRAMES_PER_CALL // len(active)
            for lane in list(active):
                try:
                    lane.fill(frames)
                except (AudioError, OSError) as error:
                    lane.tell(lane.item.size, 0.0)
                    state = drop(lane)
                    yield Failed(lane.item, _reason(error) + (f"; counted from sample {lane.read} on" if lane.read else ""))
            frames = min(frames, max((lane.encoder.ready for lane in active), default=0))
            if frames:
                audio = np.zeros((len(active), frames * size), np.float32)
                due = [min(frames, lane.encoder.ready) for lane in active]
                for row, lane, count in zip(audio, active, due, strict=True):
                    row[: count * size] = lane.encoder.take(count)
                codes, state = codec.network.encode(audio, state)
                for lane, count, row_codes in zip(active, due, codes, strict=True):
                    lane.codes.append(lane.encoder.give(row_codes[:, :count]))
            for lane in [lane for lane in active if lane.ended and not lane.encoder.ready]:
                state = drop(lane)
                yield lane.result(num_codebooks)
    finally:
        for lane in active:
            lane.close()


def _digest(source: str | BinaryIO) -> str:
    if isinstance(source, str):
        with open(source, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.file_digest(source, "sha256").hexdigest()  # type: ignore[arg-type]
    source.seek(0)
    return digest


def _reason(error: AudioError | OSError) -> str:
    """Without the path, which is told beside it."""
    if isinstance(error, AudioError):
        return str(error).partition(": ")[2] or str(error)
    return error.strerror or str(error)
