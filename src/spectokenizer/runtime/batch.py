"""Many streams, one network call: what a server does with a hundred calls.

    batch = EncoderBatch(codec, slots=64)
    slot = batch.join(bitrate=4000)          # any time; `leave` frees the slot
    batch.push(slot, samples)                # any number, whenever they come: only buffered
    for slot, codes in batch.step().items()  # one frame of every stream that has one

The streams are ordinary `Encoder`s and `Decoder`s whose states are rows of the batch's arrays, so they can be copied, saved and
restored like any other, and what comes out is to the bit what each would give alone. Not for several threads at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from ..codes import CodeArray
from ..errors import StreamError
from .audio import Audio
from .network import State
from .streams import Decoder, Encoder

if TYPE_CHECKING:
    from .codec import Codec

S = TypeVar("S", Encoder, Decoder)


class _Batch(Generic[S]):
    def __init__(self, codec: Codec, slots: int = 64):
        """Room for `slots` streams at once. Raises StreamError when that is none."""
        if not isinstance(slots, int | np.integer) or slots < 1:
            raise StreamError(f"a batch of {slots!r} slots; give a whole number from 1")
        self.codec, self.slots = codec, slots
        self.streams: dict[int, S] = {}
        self._states: State = {}  # [slots, ...]
        self._free = list(range(slots - 1, -1, -1))

    def __len__(self) -> int:
        return len(self.streams)

    def __getitem__(self, slot: int) -> S:
        """The stream in a slot: its counters, `snapshot`, `restore`, `set_bitrate`. Raises StreamError for an empty slot."""
        if slot not in self.streams:
            raise StreamError(f"slot {slot} holds no stream; join gives one")
        return self.streams[slot]

    @property
    def ready(self) -> int:
        """Streams that have a frame waiting."""
        return sum(1 for stream in self.streams.values() if stream.ready)

    def leave(self, slot: int) -> None:
        """Free a slot; what its stream has not given out is dropped. Raises StreamError for an empty slot."""
        self[slot]
        del self.streams[slot]
        self._free.append(slot)

    def _room(self, side: str) -> tuple[int, State]:
        """A free slot and its row of states, zeroed."""
        if not self._free:
            raise StreamError(f"all {self.slots} slots are taken; make a batch with more, or wait for one to leave")
        self._states = self._states or self.codec.network.initial_state(side, self.slots)
        slot = self._free.pop()
        row = {name: state[slot : slot + 1] for name, state in self._states.items()}
        for state in row.values():
            state[...] = 0
        return slot, row

    def _due(self) -> tuple[list[int], State]:
        """The slots that have a frame waiting, and their states."""
        due = [slot for slot, stream in self.streams.items() if stream.ready]
        return due, {name: state[due] for name, state in self._states.items()} if due else {}

    def _keep(self, due: list[int], states: State) -> None:
        for name, state in states.items():
            self._states[name][due] = state


class EncoderBatch(_Batch[Encoder]):
    """Samples of many streams in, codes out."""

    def join(self, bitrate: float | None = None) -> int:
        """A slot with a new stream. Raises StreamError when all are taken, BitrateError as `Codec.encoder`."""
        self.codec.codebooks_for(bitrate)
        slot, row = self._room("encoder")
        self.streams[slot] = Encoder(self.codec, bitrate, row)
        return slot

    def reset(self, slot: int, bitrate: float | None = None) -> None:
        """Begin a new stream in the same slot."""
        self.codec.codebooks_for(bitrate)
        self.leave(slot)
        self.join(bitrate)  # takes the slot freed last

    def push(self, slot: int, samples: npt.ArrayLike) -> None:
        """Mono samples [n] at the model's rate."""
        self[slot].feed(samples)

    def flush(self, slot: int) -> None:
        """No more samples will come; `step` gives the last frames while `batch[slot].ready`."""
        self[slot].finish()

    def step(self) -> dict[int, CodeArray]:
        """One frame of every stream that has one: codes [K, 1] by slot."""
        due, states = self._due()
        if not due:
            return {}
        audio = np.stack([self.streams[slot].take(1) for slot in due])
        codes, states = self.codec.network.encode(audio, states)
        self._keep(due, states)
        return {slot: self.streams[slot].give(row) for slot, row in zip(due, codes, strict=True)}


class DecoderBatch(_Batch[Decoder]):
    """Codes of many streams in, samples out."""

    def join(self) -> int:
        """A slot with a new stream. Raises StreamError when all are taken."""
        slot, row = self._room("decoder")
        self.streams[slot] = Decoder(self.codec, row)
        return slot

    def reset(self, slot: int) -> None:
        """Begin a new stream in the same slot."""
        self.leave(slot)
        self.join()

    def push(self, slot: int, codes: npt.ArrayLike) -> None:
        """Codes [K, t]."""
        self[slot].feed(codes)

    def conceal(self, slot: int, frames: int) -> None:
        """Frames that were lost."""
        self[slot].feed_lost(frames)

    def step(self) -> dict[int, Audio]:
        """One frame of every stream that has one: samples [frame_size] by slot."""
        due, states = self._due()
        if not due:
            return {}
        codes = np.stack([self.streams[slot].take(1) for slot in due])
        audio, states = self.codec.network.decode(codes, states)
        self._keep(due, states)
        return {slot: self.streams[slot].give(audio[i], codes[i]) for i, slot in enumerate(due)}
