"""Streams: any number of samples or frames per push, the same codes whatever the cuts, state that can be carried elsewhere."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from ..codes import CodeArray, check_codes, num_frames
from ..errors import StreamError
from .audio import Audio, to_mono
from .network import State

if TYPE_CHECKING:
    from .codec import Codec

Snapshot = dict[str, npt.NDArray[Any]]


class Stream:
    """What both directions share: the network's state, counters, and their snapshot as plain arrays."""

    side: str
    counters: tuple[str, ...]

    def __init__(self, codec: Codec):
        self.codec = codec
        self._state: State = codec.network.initial_state(self.side)
        self._flushed = False

    def _open(self) -> None:
        if self._flushed:
            raise StreamError(f"this {self.side} was flushed; open a new one")

    def snapshot(self) -> Snapshot:
        """Everything that a stream elsewhere needs to go on exactly here (see `restore`)."""
        counters = {name: np.array(getattr(self, name)) for name in (*self.counters, "_flushed")}
        states = {f"state.{name}": value.copy() for name, value in self._state.items()}
        return {"model": np.array(self.codec.info.model_hash), **counters, **states}

    def restore(self, snapshot: Snapshot) -> Self:
        """Continue where `snapshot` was taken. Raises StreamError when it is not one of this model and direction."""
        wanted = {name: value.shape for name, value in self.snapshot().items() if name.startswith("state.")}
        found = {name: np.shape(value) for name, value in snapshot.items() if name.startswith("state.")}
        missing = {*self.counters, "_flushed"} - set(snapshot)
        if wanted != found or missing or str(snapshot.get("model")) != self.codec.info.model_hash:
            raise StreamError(f"the snapshot is not of a '{self.codec.info.name}' {self.side}: it holds {sorted(snapshot)}")
        self._state = {name.removeprefix("state."): np.array(snapshot[name], np.float32) for name in wanted}
        for name in (*self.counters, "_flushed"):
            value = np.array(snapshot[name])
            setattr(self, name, value if value.ndim else value.item())
        return self

    def copy(self) -> Self:
        """An independent stream that continues from here."""
        return copy.copy(self).restore(self.snapshot())


class Encoder(Stream):
    """Samples in, codes out. `num_samples` counts what was pushed."""

    side, counters = "encoder", ("num_samples", "num_frames", "num_codebooks", "_pending")

    def __init__(self, codec: Codec, bitrate: float | None = None):
        super().__init__(codec)
        self.num_samples, self.num_frames = 0, 0
        self.num_codebooks = codec.codebooks_for(bitrate)
        self._pending: Audio = np.zeros(0, np.float32)

    def set_bitrate(self, bitrate: float) -> None:
        """From the next frame on; the network's state goes on as it is."""
        self.num_codebooks = self.codec.codebooks_for(bitrate)

    def push(self, samples: npt.ArrayLike) -> CodeArray:
        """Mono samples [n] at the model's rate, any n, to the codes [K, t] of all frames that are now complete."""
        self._open()
        new = to_mono(samples)
        self.num_samples += len(new)
        audio = np.concatenate([self._pending, new])
        whole = len(audio) // self.codec.info.frame_size * self.codec.info.frame_size
        self._pending = audio[whole:]
        return self._encode(audio[:whole])

    def flush(self) -> CodeArray:
        """The codes of what is left, after which the stream is over. All frames together decode to all samples."""
        self._open()
        info = self.codec.info
        left = num_frames(self.num_samples, info.frame_size, info.delay_samples) - self.num_frames
        audio = np.zeros(left * info.frame_size, np.float32)
        audio[: len(self._pending)] = self._pending
        codes = self._encode(audio)
        self._pending, self._flushed = self._pending[:0], True
        return codes

    def _encode(self, audio: Audio) -> CodeArray:
        if not len(audio):
            return np.zeros((self.num_codebooks, 0), np.int16)
        codes, self._state = self.codec.network.encode(audio[None], self._state)
        self.num_frames += codes.shape[2]
        return codes[0, : self.num_codebooks].astype(np.int16)


class Decoder(Stream):
    """Codes in, samples out, `delay_samples` later than they went into the encoder; frames × frame_size in all."""

    side, counters = "decoder", ("num_frames",)

    def __init__(self, codec: Codec):
        super().__init__(codec)
        self.num_frames = 0

    @property
    def delay_samples(self) -> int:
        return self.codec.info.delay_samples

    def push(self, codes: npt.ArrayLike) -> Audio:
        """Codes [K, t], any K the model has and any t, to float32 samples [t·frame_size]. K may change between calls."""
        self._open()
        info = self.codec.info
        array = check_codes(codes, info.num_codebooks, info.codebook_size)
        if not array.shape[1]:
            return np.zeros(0, np.float32)
        full = np.full((1, info.num_codebooks, array.shape[1]), info.codebook_size, np.int64)  # absent
        full[0, : len(array)] = array
        audio, self._state = self.codec.network.decode(full, self._state)
        self.num_frames += array.shape[1]
        return np.asarray(audio[0], np.float32)

    def flush(self) -> Audio:
        """End the stream. Nothing is held back: an encoder's `flush` made the frames that carry the last samples."""
        self._open()
        self._flushed = True
        return np.zeros(0, np.float32)
