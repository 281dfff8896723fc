"""The server's engine, without a server: whatever the schedule, each call gets what it would get alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectokenizer import Codec, StreamError
from spectokenizer.bitstream.packets import Packetizer, unpack_packet
from spectokenizer.live.engine import MOST_CONCEALED, Bitrate, Call, CallError, End, Engine, Leave, Open, Reply, Settings
from spectokenizer.runtime.sinks import to_int16

FRAME = 320


class Run:
    """An engine, and what each call got."""

    def __init__(self, codec: Codec, slots: int = 8):
        self.engine, self.got = Engine(codec, slots), {}  # type: ignore[var-annotated]

    def __call__(self, *requests: tuple) -> None:
        tick = self.engine.tick(requests)
        while True:
            for call, reply in tick.replies:
                self.got.setdefault(call, []).append(reply)
            if not tick.more:
                return
            tick = self.engine.tick()

    def open(self, mode: str, **settings: object) -> Call:
        call = Call(Settings(mode, **{"bitrate": None, **settings}))  # type: ignore[arg-type]
        self((call, Open()))
        return call

    def last(self, call: Call) -> Reply:
        return self.got[call][-1]


def pcm(samples: np.ndarray) -> bytes:
    return to_int16(samples).tobytes()


def packets(codec: Codec, codes: np.ndarray, redundancy: int = 0, frames: int = 1, start: int = 65530) -> list[bytes]:
    packetizer = Packetizer(codec.info.bits_per_code, frames, redundancy)
    return [((start + i) % 65536).to_bytes(2) + packet for i, packet in enumerate(packetizer.push(codes) + packetizer.flush())]


def sound(replies: list[Reply]) -> np.ndarray:
    return np.frombuffer(b"".join(reply for reply in replies if isinstance(reply, bytes)), "<i2")


def alone(codec: Codec, samples: np.ndarray) -> np.ndarray:
    return codec.encode(np.frombuffer(pcm(samples), "<i2"), 16000, codec.info.bitrates[-1]).array


@given(
    schedule=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 900)), max_size=30),
    frames=st.integers(1, 4),
    modes=st.lists(st.sampled_from(["encode", "echo"]), min_size=5, max_size=5),
)
def test_any_schedule(tiny_codec: Codec, speech: np.ndarray, schedule: list[tuple[int, int]], frames: int, modes: list[str]) -> None:
    run, at, calls = Run(tiny_codec), [0] * 5, {}
    for who, count in schedule:
        if who not in calls:
            calls[who] = run.open(modes[who], packet_frames=frames)
        run((calls[who], pcm(np.roll(speech, 999 * who)[at[who] : at[who] + count])))
        at[who] += count
    run(*((call, End()) for call in calls.values()))
    for who, call in calls.items():
        codes = alone(tiny_codec, np.roll(speech, 999 * who)[: at[who]])
        *replies, end = run.got[call][1:]
        assert end == End(codes.shape[1], at[who])
        if modes[who] == "echo":
            np.testing.assert_array_equal(sound(replies), to_int16(tiny_codec.decoder().push(codes)))
            continue
        found = [unpack_packet(reply[2:], tiny_codec.info.bits_per_code).codes for reply in replies]
        assert [int.from_bytes(reply[:2]) for reply in replies] == list(range(len(found)))
        np.testing.assert_array_equal(np.concatenate([np.zeros((4, 0), int), *found], 1), codes)
    assert len(run.engine.encoders) == len(run.engine.decoders) == 0


@given(lost=st.sets(st.integers(1, 30)), redundancy=st.integers(0, 1), told=st.booleans())
def test_lost_packets(tiny_codec: Codec, speech: np.ndarray, lost: set[int], redundancy: int, told: bool) -> None:
    """Gaps are filled when the next packet comes, or at once when an empty one says so."""
    codes = tiny_codec.encode(speech[:10000], 16000, tiny_codec.info.bitrates[-1]).array
    sent = packets(tiny_codec, codes, redundancy)
    lost -= {len(sent) - 1}
    run = Run(tiny_codec)
    call = run.open("decode")
    for i, message in enumerate(sent):
        if i not in lost:
            run((call, message))
        elif told:
            run((call, message[:2]))
            run((call, message))  # too late then
    run((call, End()))
    decoder = tiny_codec.decoder()
    expected = [
        decoder.push(codes[:, i : i + 1])
        if i not in lost
        else decoder.push(codes[:1, i : i + 1])
        if redundancy and not told and i + 1 not in lost
        else decoder.conceal(1)
        for i in range(len(sent))
    ]
    np.testing.assert_array_equal(sound(run.got[call]), to_int16(np.concatenate(expected)))
    assert run.last(call) == End(len(sent), len(sent) * FRAME)


def test_a_short_packet_behind_a_gap(tiny_codec: Codec, speech: np.ndarray) -> None:
    """The last packet is short; the one lost before it was not."""
    sent = packets(tiny_codec, alone(tiny_codec, speech[: 8 * FRAME])[:, :9], frames=4)
    assert len(sent) == 3
    run = Run(tiny_codec)
    call = run.open("decode")
    run((call, sent[0]), (call, sent[2]), (call, End()))
    assert run.last(call) == End(9, 9 * FRAME)


def test_a_long_gap_is_a_pause(tiny_codec: Codec, speech: np.ndarray) -> None:
    codes = tiny_codec.encode(speech[:16000], 16000, tiny_codec.info.bitrates[-1]).array
    sent = packets(tiny_codec, codes, frames=4)
    run = Run(tiny_codec)
    call = run.open("decode")
    run((call, sent[0]), (call, ((65530 + 1 + MOST_CONCEALED // 4) % 65536).to_bytes(2) + sent[5][2:]))
    assert len(sound(run.got[call])) == (8 + MOST_CONCEALED // 4 * 4) * FRAME
    run((call, (5000).to_bytes(2) + sent[6][2:]), (call, (65000).to_bytes(2) + sent[7][2:]))
    assert len(sound(run.got[call])) == (12 + MOST_CONCEALED // 4 * 4) * FRAME
    assert call.seconds == pytest.approx((12 + MOST_CONCEALED // 4 * 4) / 50)


def test_the_bitrate_changes(codec: Codec, speech: np.ndarray) -> None:
    low, high = codec.info.bitrates[0], codec.info.bitrates[-1]
    run = Run(codec)
    call, decoding = run.open("encode", bitrate=high), run.open("decode")
    run((call, pcm(speech[: 3 * FRAME])))
    run((call, Bitrate(low)), (call, pcm(speech[3 * FRAME : 5 * FRAME])))
    counts = [len(unpack_packet(reply[2:], codec.info.bits_per_code).codes) for reply in run.got[call][1:]]
    assert counts == [codec.info.num_codebooks] * 3 + [1] * 2
    run((decoding, Bitrate(low)))
    assert isinstance(run.last(decoding), CallError)


@pytest.mark.parametrize(
    ("mode", "message", "reason"),
    [
        ("encode", b"123", "3 bytes of PCM are not whole"),
        ("decode", b"", "a message of 0 bytes"),
        ("decode", b"1", "a message of 1 bytes"),
        ("decode", b"\0\0\xf0\1", "the packet says 16 codebooks"),
        ("decode", b"\0\0\0\0\0\0", "bytes"),
    ],
)
def test_a_mistake_ends_its_call_only(tiny_codec: Codec, speech: np.ndarray, mode: str, message: bytes, reason: str) -> None:
    run = Run(tiny_codec)
    good, bad = run.open("encode"), run.open(mode)
    run((good, pcm(speech[:1000])), (bad, message), (bad, message), (good, pcm(speech[1000:2000])), (good, End()))
    error = run.last(bad)
    assert isinstance(error, CallError) and error.code == 1007 and reason in error.reason
    assert len(run.got[bad]) == 2
    assert run.last(good) == End(alone(tiny_codec, speech[:2000]).shape[1], 2000)
    run((bad, Leave()), (good, Leave()))
    assert len(run.engine.encoders) == len(run.engine.decoders) == 0


def test_room_for_so_many(tiny_codec: Codec) -> None:
    run = Run(tiny_codec, slots=2)
    first, second, third = run.open("encode"), run.open("echo"), run.open("encode")
    error = run.last(third)
    assert isinstance(error, CallError) and (error.code, error.kind) == (1013, "full")
    run((first, Leave()))
    assert run.last(run.open("echo")) == Open()
    assert isinstance(run.last(run.open("echo")), CallError)
    assert (len(run.engine.encoders), len(run.engine.decoders)) == (2, 2)
    run((second, Leave()))
    assert (len(run.engine.encoders), len(run.engine.decoders)) == (1, 1)
    with pytest.raises(StreamError, match="give a whole number from 1"):
        Engine(tiny_codec, 0)


def test_who_brings_much_is_served_as_often_as_who_brings_little(tiny_codec: Codec, speech: np.ndarray) -> None:
    engine = Engine(tiny_codec, 2)
    much, little = Call(Settings("encode", None)), Call(Settings("encode", None))
    engine.tick([(much, Open()), (little, Open()), (much, pcm(speech))])
    tick = engine.tick([(little, pcm(speech[:FRAME]))])
    assert {call for call, _ in tick.replies} == {much, little}
    assert tick.batches["encoder"][0] == 2 and tick.more
    assert (much.waiting, little.waiting) == (len(speech) // FRAME - 2, 0)


@pytest.mark.parametrize("mode", ["encode", "echo"])
def test_what_waits_is_known(tiny_codec: Codec, speech: np.ndarray, mode: str) -> None:
    """It is what holds a client back that sends too much."""
    engine, call = Engine(tiny_codec, 1), Call(Settings(mode, None))
    engine.tick([(call, Open()), (call, pcm(speech[: 10 * FRAME]))])
    assert call.waiting == 9
    engine.tick([(call, pcm(speech[: 5 * FRAME]))])
    assert call.waiting == 13
