"""Many streams in one call: whatever the schedule, each gets what it would get alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectokenizer import Codec, StreamError
from spectokenizer.runtime.batch import DecoderBatch, EncoderBatch

FRAME = 320
# What may happen to one of the streams of a batch, in turn: samples to push, and whether the batch steps after it.
Events = list[tuple[int, int, bool]]  # (stream, samples or frames, step)
events = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 900), st.booleans()), max_size=40)


def voice(speech: np.ndarray, stream: int) -> np.ndarray:
    return np.roll(speech, 1717 * stream)


@given(schedule=events, rates=st.lists(st.sampled_from([500, 2000]), min_size=5, max_size=5))
def test_encoders_in_any_schedule(tiny_codec: Codec, speech: np.ndarray, schedule: Events, rates: list[int]) -> None:
    rates = [rate * tiny_codec.info.bitrates[0] // 500 for rate in rates]
    batch = EncoderBatch(tiny_codec, slots=5)
    slots, at, got = {}, [0] * 5, {stream: [] for stream in range(5)}  # type: ignore[var-annotated]

    def step() -> None:
        for slot, codes in batch.step().items():
            got[next(stream for stream, s in slots.items() if s == slot)].append(codes)

    for stream, samples, now in schedule:
        if stream not in slots:
            slots[stream] = batch.join(min(rates[stream], tiny_codec.info.bitrates[-1]))
        batch.push(slots[stream], voice(speech, stream)[at[stream] : at[stream] + samples])
        at[stream] = min(at[stream] + samples, len(speech))
        if now:
            step()
    for slot in slots.values():
        batch.flush(slot)
    while batch.ready:
        step()
    for stream in slots:
        alone = tiny_codec.encode(voice(speech, stream)[: at[stream]], 16000, min(rates[stream], tiny_codec.info.bitrates[-1])).array
        found = np.concatenate([np.zeros((len(alone), 0), np.int16), *got[stream]], 1)
        assert np.array_equal(found, alone)


@given(schedule=st.lists(st.tuples(st.integers(0, 3), st.integers(-2, 3), st.booleans()), max_size=40))
def test_decoders_in_any_schedule(tiny_codec: Codec, speech: np.ndarray, schedule: Events) -> None:
    """Negative numbers of frames are lost ones."""
    codes = [tiny_codec.encode(voice(speech, stream), 16000, tiny_codec.info.bitrates[-1]).array for stream in range(4)]
    batch = DecoderBatch(tiny_codec, slots=4)
    slots = [batch.join() for _ in range(4)]
    alone = [tiny_codec.decoder() for _ in range(4)]
    at, expected, got = [0] * 4, [[np.zeros(0)] for _ in range(4)], [[np.zeros(0)] for _ in range(4)]

    def step() -> None:
        for slot, samples in batch.step().items():
            got[slots.index(slot)].append(samples)

    for stream, frames, now in schedule:
        if frames < 0:
            batch.conceal(slots[stream], -frames)
            expected[stream].append(alone[stream].conceal(-frames))
        else:
            part = codes[stream][:, at[stream] : at[stream] + frames]
            at[stream] += part.shape[1]
            batch.push(slots[stream], part)
            expected[stream].append(alone[stream].push(part))
        if now:
            step()
    while batch.ready:
        step()
    for stream in range(4):
        assert np.array_equal(np.concatenate(got[stream]), np.concatenate(expected[stream]))


def test_two_hundred_desynchronised_streams(codec: Codec, speech: np.ndarray) -> None:
    batch, rng = EncoderBatch(codec, slots=200), np.random.default_rng(0)
    clips = [voice(speech, i)[: rng.integers(1, 7 * FRAME)] for i in range(200)]
    got: dict[int, list[np.ndarray]] = {}
    slots = {}
    waiting = list(range(200))
    fed = [0] * 200
    while waiting or batch.ready:
        for i in rng.permutation(waiting)[:50]:
            if i not in slots:
                slots[i] = batch.join(4000)
                got[slots[i]] = []
            n = int(rng.integers(1, 500))
            batch.push(slots[i], clips[i][fed[i] : fed[i] + n])
            fed[i] += n
            if fed[i] >= len(clips[i]):
                batch.flush(slots[i])
                waiting.remove(i)
        for slot, codes in batch.step().items():
            got[slot].append(codes)
    for i in range(200):
        np.testing.assert_array_equal(np.concatenate(got[slots[i]], 1), codec.encode(clips[i], 16000, 4000).array)


def test_slots_are_reused_and_begin_clean(tiny_codec: Codec, speech: np.ndarray) -> None:
    batch = EncoderBatch(tiny_codec, slots=2)
    first, second = batch.join(None), batch.join(None)
    with pytest.raises(StreamError, match="all 2 slots are taken"):
        batch.join(None)
    batch.push(first, speech[:FRAME])
    batch.push(second, -speech[:FRAME])
    batch.step()
    batch.reset(first, None)
    batch.push(first, speech[FRAME : 2 * FRAME])
    np.testing.assert_array_equal(batch.step()[first], tiny_codec.encoder(tiny_codec.info.bitrates[-1]).push(speech[FRAME : 2 * FRAME]))
    batch.leave(second)
    assert (len(batch), batch.ready) == (1, 0)
    with pytest.raises(StreamError, match="holds no stream"):
        batch.push(second, speech[:10])


def test_a_stream_moves_between_batch_and_single(tiny_codec: Codec, speech: np.ndarray) -> None:
    whole = tiny_codec.encode(speech, 16000, tiny_codec.info.bitrates[-1]).array
    alone = tiny_codec.encoder(tiny_codec.info.bitrates[-1])
    codes = [alone.push(speech[:5000])]
    batch = EncoderBatch(tiny_codec, slots=3)
    batch.join(None)
    slot = batch.join(None)
    batch[slot].restore(alone.snapshot())
    batch.push(slot, speech[5000:9000])
    while batch.ready:
        codes.append(batch.step()[slot])
    last = tiny_codec.encoder(tiny_codec.info.bitrates[-1]).restore(batch[slot].snapshot())
    codes += [last.push(speech[9000:]), last.flush()]
    np.testing.assert_array_equal(np.concatenate(codes, 1), whole)
    fork = batch[slot].copy()
    np.testing.assert_array_equal(np.concatenate([fork.push(speech[9000:]), fork.flush()], 1), np.concatenate(codes[-2:], 1))


def test_no_slots(tiny_codec: Codec) -> None:
    for slots in (0, 1.5):
        with pytest.raises(StreamError, match="give a whole number from 1"):
            EncoderBatch(tiny_codec, slots=slots)  # type: ignore[arg-type]
