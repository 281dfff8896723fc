"""Streams: any number of samples or frames per push, the same codes whatever the cuts, state that can be carried elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from ..codes import CodeArray, check_codes, num_frames
from ..errors import StreamError
from .audio import Audio, to_mono
from .conceal import Concealment
from .network import State, Stepper

if TYPE_CHECKING:
    from .codec import Codec

Snapshot = dict[str, npt.NDArray[Any]]


class Stream:
    """What both directions share: the network's state, counters, and their snapshot as plain arrays.

    `state` is for a batch, which keeps the states of its streams in arrays of its own and hands each stream a view of one row.
    """

    side: str
    counters: tuple[str, ...]

    def __init__(self, codec: Codec, state: State | None = None):
        self.codec = codec
        self._stepper = Stepper(codec.network, self.side) if state is None else None
        self._row: State = {} if state is None else state
        self._flushed = False

    @property
    def _state(self) -> State:
        """The network's state now: arrays to read and to write into, not to keep."""
        return self._row if self._stepper is None else self._stepper.state

    def _run(self, x: npt.NDArray[Any], frames: int) -> npt.NDArray[Any]:
        """The network on the input of some frames, without the batch axis."""
        if frames == 1 and self._stepper is not None:  # a live stream: states stay where they are
            result: npt.NDArray[Any] = self._stepper.step(x[None])[0]
            return result
        network = self.codec.network
        y, after = (network.encode if self.side == "encoder" else network.decode)(x[None], self._state)
        self._write(after)
        first: npt.NDArray[Any] = y[0]
        return first

    def _write(self, state: State) -> None:
        for name, value in self._state.items():
            value[...] = state[name]

    def _open(self) -> None:
        if self._flushed:
            raise StreamError(f"this {self.side} was flushed; open a new one")

    def _counters(self) -> dict[str, tuple[Any, str]]:
        """Snapshot name of everything but the network's state: the object that holds it, and its name there."""
        return {name: (self, name) for name in (*self.counters, "_flushed")}

    def snapshot(self) -> Snapshot:
        """Everything that a stream elsewhere needs to go on exactly here (see `restore`)."""
        counters = {key: np.array(getattr(*place)) for key, place in self._counters().items()}
        states = {f"state.{name}": value.copy() for name, value in self._state.items()}
        return {"model": np.array(self.codec.info.model_hash), **counters, **states}

    def restore(self, snapshot: Snapshot) -> Self:
        """Continue where `snapshot` was taken. Raises StreamError when it is not one of this model and direction."""
        wanted = {f"state.{name}": value.shape for name, value in self._state.items()}
        found = {name: np.shape(value) for name, value in snapshot.items() if name.startswith("state.")}
        missing = set(self._counters()) - set(snapshot)
        if wanted != found or missing or str(snapshot.get("model")) != self.codec.info.model_hash:
            raise StreamError(f"the snapshot is not of a '{self.codec.info.name}' {self.side}: it holds {sorted(snapshot)}")
        if not 0 <= int(snapshot.get("num_codebooks", 0)) <= self.codec.info.num_codebooks:
            raise StreamError(f"the snapshot is of {snapshot['num_codebooks']} codebooks; this model has {self.codec.info.num_codebooks}")
        self._write({name: snapshot[f"state.{name}"] for name in self._state})
        for key, (holder, name) in self._counters().items():
            value = np.array(snapshot[key])
            setattr(holder, name, value if value.ndim else value.item())
        return self

    def copy(self) -> Self:
        """An independent stream that continues from here."""
        return type(self)(self.codec).restore(self.snapshot())


class Encoder(Stream):
    """Samples in, codes out. `num_samples` counts what was pushed."""

    side, counters = "encoder", ("num_samples", "num_frames", "num_codebooks", "_pending")

    def __init__(self, codec: Codec, bitrate: float | None = None, state: State | None = None):
        super().__init__(codec, state)
        self.num_samples, self.num_frames = 0, 0
        self.num_codebooks = codec.codebooks_for(bitrate)
        self._pending: Audio = np.zeros(0, np.float32)

    @property
    def ready(self) -> int:
        """Whole frames that wait to be encoded: none after `push` and `flush`."""
        return len(self._pending) // self.codec.info.frame_size

    def set_bitrate(self, bitrate: float) -> None:
        """From the next frame on; the network's state goes on as it is."""
        self.num_codebooks = self.codec.codebooks_for(bitrate)

    def push(self, samples: npt.ArrayLike) -> CodeArray:
        """Mono samples [n] at the model's rate, any n, to the codes [K, t] of all frames that are now complete."""
        self.feed(samples)
        return self._encode()

    def flush(self) -> CodeArray:
        """The codes of what is left, after which the stream is over. All frames together decode to all samples."""
        self.finish()
        return self._encode()

    def feed(self, samples: npt.ArrayLike) -> None:
        """The first half of `push`: take samples in. A batch encodes them."""
        self._open()
        new = to_mono(samples)
        self.num_samples += len(new)
        self._pending = np.concatenate([self._pending, new])

    def finish(self) -> None:
        """The first half of `flush`: fill up the last frame."""
        self._open()
        info = self.codec.info
        left = num_frames(self.num_samples, info.frame_size, info.delay_samples) - self.num_frames
        self._pending = np.pad(self._pending, (0, left * info.frame_size - len(self._pending)))
        self._flushed = True

    def _encode(self) -> CodeArray:
        if not self.ready:
            return np.zeros((self.num_codebooks, 0), np.int16)
        frames = self.ready
        return self.give(self._run(self.take(frames), frames))

    def take(self, frames: int) -> Audio:
        """The next samples for the network, [frames · frame_size]."""
        size = frames * self.codec.info.frame_size
        audio, self._pending = self._pending[:size], self._pending[size:]
        return audio

    def give(self, codes: npt.NDArray[np.int64]) -> CodeArray:
        """Take the network's codes [all codebooks, t]; those of the stream's bitrate, [K, t]."""
        self.num_frames += codes.shape[1]
        return codes[: self.num_codebooks].astype(np.int16)


class Decoder(Stream):
    """Codes in, samples out, `delay_samples` later than they went into the encoder; frames × frame_size in all."""

    side, counters = "decoder", ("num_frames", "_pending")

    def __init__(self, codec: Codec, state: State | None = None):
        super().__init__(codec, state)
        info = codec.info
        self.num_frames = 0
        self._pending: npt.NDArray[np.int64] = np.zeros((info.num_codebooks, 0), np.int64)  # absent codes hold codebook_size
        self._concealment = Concealment(info.frame_size, info.frame_rate)

    def _counters(self) -> dict[str, tuple[Any, str]]:
        return super()._counters() | {f"concealment.{name}": (self._concealment, name) for name in Concealment.fields}

    @property
    def delay_samples(self) -> int:
        return self.codec.info.delay_samples

    @property
    def ready(self) -> int:
        """Frames that wait to be decoded: none after `push` and `conceal`."""
        return int(self._pending.shape[1])

    def push(self, codes: npt.ArrayLike) -> Audio:
        """Codes [K, t], any K the model has and any t, to float32 samples [t·frame_size]. K may change between calls."""
        self.feed(codes)
        return self._decode()

    def conceal(self, frames: int) -> Audio:
        """Samples [frames · frame_size] in place of frames that were lost: what probably came next, fading to background noise.

        The stream stays in step: the frame pushed next is the one after those. Raises StreamError for a negative number.
        """
        self.feed_lost(frames)
        return self._decode()

    def flush(self) -> Audio:
        """End the stream. Nothing is held back: an encoder's `flush` made the frames that carry the last samples."""
        self._open()
        self._flushed = True
        return np.zeros(0, np.float32)

    def feed(self, codes: npt.ArrayLike) -> None:
        """The first half of `push`: take codes in. A batch decodes them."""
        self._open()
        info = self.codec.info
        array = check_codes(codes, info.num_codebooks, info.codebook_size)
        self._append(array, array.shape[1])

    def feed_lost(self, frames: int) -> None:
        """The first half of `conceal`."""
        self._open()
        if not isinstance(frames, int | np.integer) or frames < 0:
            raise StreamError(f"{frames!r} frames to conceal; give a whole number from 0")
        self._append(np.zeros((0, frames), np.int16), frames)

    def _append(self, codes: CodeArray, frames: int) -> None:
        full = np.full((len(self._pending), frames), self.codec.info.codebook_size, np.int64)
        full[: len(codes)] = codes
        self._pending = np.concatenate([self._pending, full], 1) if self.ready else full

    def _decode(self) -> Audio:
        if not self.ready:
            return np.zeros(0, np.float32)
        codes = self.take(self.ready)
        return self.give(self._run(codes, codes.shape[1]), codes)

    def take(self, frames: int) -> npt.NDArray[np.int64]:
        """The next codes for the network, [all codebooks, frames]."""
        codes, self._pending = self._pending[:, :frames], self._pending[:, frames:]
        return codes

    def give(self, audio: Audio, codes: npt.NDArray[np.int64]) -> Audio:
        """Take the network's samples for `codes`; they are returned as they are to be heard."""
        lost = codes[0] == self.codec.info.codebook_size
        heard = self._concealment(audio, lost, self.num_frames)
        self.num_frames += codes.shape[1]
        return np.asarray(heard, np.float32)
