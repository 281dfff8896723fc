"""The receiving end of a call: whatever the network does, there is a frame to play every 20 ms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectokenizer import Codec, StreamError
from spectokenizer.bitstream.packets import Packetizer
from spectokenizer.runtime.receiver import Receiver

FRAME, RATE = 320, 16000
START = 2**32 - 1600  # the timestamps wrap around after five frames


@pytest.fixture(scope="module")
def codes(tiny_codec: Codec, speech: np.ndarray) -> np.ndarray:
    return tiny_codec.encode(speech[:RATE], RATE, tiny_codec.info.bitrates[-1]).array


def packets(codec: Codec, codes: np.ndarray, frames: int = 1, redundancy: int = 0) -> list[tuple[int, bytes]]:
    packetizer = Packetizer(codec.info.bits_per_code, frames, redundancy)
    payloads = packetizer.push(codes) + packetizer.flush()
    return [((START + i * frames * FRAME) % 2**32, payload) for i, payload in enumerate(payloads)]


@pytest.mark.parametrize("frames", [1, 2, 4])
def test_a_perfect_network_changes_nothing(tiny_codec: Codec, codes: np.ndarray, frames: int) -> None:
    receiver = Receiver(tiny_codec, depth=3)
    heard = []
    for timestamp, payload in packets(tiny_codec, codes, frames):
        receiver.put(timestamp, payload)
        heard += [receiver.pull() for _ in range(min(frames, codes.shape[1] - len(heard)))]
    heard.append(receiver.drain())
    audio = np.concatenate(heard)
    expected = tiny_codec.decoder().push(codes)
    silent = len(audio) - len(expected)
    assert not audio[:silent].any() and silent <= 4 * FRAME
    np.testing.assert_array_equal(audio[silent:], expected)
    assert receiver.statistics.loss == 0


@given(
    order=st.lists(st.integers(-2, 2), min_size=51, max_size=51),
    lost=st.sets(st.integers(0, 50), max_size=20),
    twice=st.sets(st.integers(0, 50), max_size=5),
    redundancy=st.integers(0, 1),
)
def test_disorder_within_the_depth_costs_nothing_and_loss_only_its_frames(
    tiny_codec: Codec, codes: np.ndarray, order: list[int], lost: set[int], twice: set[int], redundancy: int
) -> None:
    sent = packets(tiny_codec, codes, 1, redundancy)
    arriving = sorted((i + 2 * shift, i) for i, shift in enumerate(order[: len(sent)]) if i not in lost)
    arriving += [(when + 1, i) for when, i in arriving if i in twice]
    receiver = Receiver(tiny_codec, depth=12)
    heard = []
    for now in range(-4, len(sent) + 30):
        for when, i in arriving:
            if when == now:
                receiver.put(*sent[i])
        heard.append(receiver.pull())
        assert heard[-1].shape == (FRAME,)
    there = sorted(set(range(len(sent))) - lost)
    decoder, expected = tiny_codec.decoder(), [np.zeros(0, np.float32)]
    if len(there) > 12:
        for i in range(there[0], there[-1] + 1):
            if i not in lost:
                expected.append(decoder.push(codes[:, i : i + 1]))
            elif redundancy and i + 1 not in lost:
                expected.append(decoder.push(codes[:1, i : i + 1]))
            else:
                expected.append(decoder.conceal(1))
        wanted = np.concatenate(expected)
        audio = np.concatenate(heard)
        start = next(i for i in range(0, len(audio), FRAME) if audio[i : i + FRAME].any()) if wanted.any() else 0
        assert np.array_equal(audio[start:][: len(wanted)], wanted)


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.binary(max_size=12), st.booleans()), max_size=30))
def test_anything_may_arrive(tiny_codec: Codec, arrivals: list[tuple[int, bytes, bool]]) -> None:
    receiver = Receiver(tiny_codec, depth=2)
    for timestamp, payload, play in arrivals:
        receiver.put(timestamp, payload)
        if play:
            assert np.isfinite(receiver.pull()).all()
        assert len(receiver._frames) < 200
    assert receiver.statistics.received == len(arrivals)


def test_a_delay_that_grows_is_followed(tiny_codec: Codec, codes: np.ndarray) -> None:
    """A second passes without packets, and the sender's clock stood still meanwhile: without starting over, all would be late."""
    receiver = Receiver(tiny_codec, depth=2)
    sent = packets(tiny_codec, np.tile(codes, 3))
    for packet in sent[:20]:
        receiver.put(*packet)
        receiver.pull()
    for _ in range(30):
        receiver.pull()
    before = receiver.statistics.concealed
    for packet in sent[20:120]:
        receiver.put(*packet)
        receiver.pull()
    assert receiver.statistics.restarts == 1
    assert receiver.statistics.concealed - before < 20


def test_packets_that_pile_up_are_skipped(tiny_codec: Codec, codes: np.ndarray) -> None:
    receiver = Receiver(tiny_codec, depth=2)
    for packet in packets(tiny_codec, codes)[:50]:
        receiver.put(*packet)
    receiver.pull()
    assert receiver.buffered <= 2
    assert receiver.statistics.restarts == 1


def test_a_new_talk_begins_anywhere(tiny_codec: Codec, codes: np.ndarray) -> None:
    receiver = Receiver(tiny_codec, depth=0)
    for base in (0, 10**9, 123456):
        for i in range(5):
            receiver.put(base + i * FRAME, Packetizer(tiny_codec.info.bits_per_code).push(codes[:, i : i + 1])[0])
            receiver.pull()
    assert (receiver.statistics.restarts, receiver.statistics.concealed) == (2, 0)


@pytest.mark.parametrize(("depth", "frames"), [(0, 1), (3, 1), (1, 4)])
def test_a_long_call_leaves_nothing_behind(tiny_codec: Codec, codes: np.ndarray, depth: int, frames: int) -> None:
    """The redundancy of what was played already, and the frames of a packet that came too late for some, are not kept."""
    receiver = Receiver(tiny_codec, depth)
    sent = packets(tiny_codec, np.tile(codes, 4), frames, redundancy=1)
    order = np.argsort(np.arange(len(sent)) + np.random.default_rng(0).uniform(0, 3, len(sent)))
    for i in order:
        receiver.put(*sent[i])
        for _ in range(frames):
            receiver.pull()
    for _ in range(50):
        receiver.pull()
    assert receiver._frames == {} and len(receiver._coarse) <= frames  # perhaps those before the first packet


@given(lost=st.integers(0, 60), played=st.integers(0, 20), claimed=st.one_of(st.none(), st.integers(0, 2**32 - 1)))
def test_the_end_of_a_call_is_known_though_it_was_lost(
    tiny_codec: Codec, codes: np.ndarray, lost: int, played: int, claimed: int | None
) -> None:
    receiver = Receiver(tiny_codec, depth=3)
    for i, packet in enumerate(packets(tiny_codec, codes[:, :20])):
        receiver.put(*packet)
        if i < played:
            receiver.pull()
    before = receiver.statistics.played
    end = START + (20 + lost) * FRAME if claimed is None else claimed
    receiver.finish(end % 2**32)
    count = receiver.buffered
    assert count - (20 - before) in range(51)
    if claimed is None:
        assert count == 20 - before + (lost if lost <= 50 else 0)
    assert receiver.drain().shape == (count * FRAME,)
    assert receiver.buffered == 0 and receiver.statistics.concealed == count - (20 - before)


def test_a_call_shorter_than_the_buffer_is_played_after_its_end(tiny_codec: Codec, codes: np.ndarray) -> None:
    receiver = Receiver(tiny_codec, depth=10)
    receiver.finish(5)  # of a call of which nothing came
    assert receiver.buffered == 0
    receiver = Receiver(tiny_codec, depth=10)
    for packet in packets(tiny_codec, codes[:, :4]):
        receiver.put(*packet)
    assert not receiver.pull().any() and receiver.statistics.played == 0
    receiver.finish()
    heard = np.concatenate([receiver.pull() for _ in range(4)])
    np.testing.assert_array_equal(heard, tiny_codec.decoder().push(codes[:, :4]))


def test_mistakes(tiny_codec: Codec) -> None:
    with pytest.raises(StreamError, match="give 0 to 50"):
        Receiver(tiny_codec, depth=51)
    receiver = Receiver(tiny_codec)
    receiver.put(0, b"")
    receiver.put(0, b"\xff")
    assert receiver.statistics.corrupted == 2
    assert not receiver.pull().any()


def test_a_call_longer_than_half_the_timestamps(tiny_codec: Codec, codes: np.ndarray) -> None:
    """2^31 samples are 37 hours: the frames between are taken as played."""
    receiver, (_, payload) = Receiver(tiny_codec, depth=3), packets(tiny_codec, codes)[0]
    for i in range(10):
        receiver.put((START + i * FRAME) % 2**32, payload)
        receiver.pull()
    skipped = 2**31 // FRAME - 20
    receiver._frames = {number + skipped: frame for number, frame in receiver._frames.items()}
    receiver._next += skipped
    played = receiver.statistics.played
    for i in range(10 + skipped, 50 + skipped):
        receiver.put((START + i * FRAME) % 2**32, payload)
        receiver.pull()
    assert receiver.statistics.played == played + 40 and receiver.statistics.restarts == receiver.statistics.concealed == 0


@pytest.mark.parametrize("depth", [3, 50])
@pytest.mark.parametrize("gap", [60, 150, 100_000])
def test_a_recording_keeps_what_came_before_a_pause(tiny_codec: Codec, codes: np.ndarray, depth: int, gap: int) -> None:
    receiver, heard = Receiver(tiny_codec, depth), 0
    for i, (timestamp, payload) in enumerate(packets(tiny_codec, codes)[:20]):
        receiver.put((timestamp + (gap * FRAME if i >= 10 else 0)) % 2**32, payload)
        heard += len(receiver.drain(receiver.depth)) // FRAME
    heard += len(receiver.drain()) // FRAME
    assert heard == 20 + receiver.statistics.concealed
