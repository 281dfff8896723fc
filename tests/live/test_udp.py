"""Calls over real sockets on loopback, with a clock that does not wait."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from spectokenizer import Codec, ConfigError
from spectokenizer.live import udp
from spectokenizer.live.call import MAX_DATAGRAM, Incoming, Outgoing
from spectokenizer.live.clock import Clock

FRAME = 320


@pytest.fixture
def line() -> Iterator[tuple[socket.socket, socket.socket, udp.Address]]:
    """A socket to send from, one to receive at, and its address."""
    there, address = udp.open_socket("127.0.0.1", 0, listen=True)
    here, _ = udp.open_socket("127.0.0.1", 1)
    with here, there:
        yield here, there, address


def blocks(speech: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(speech), size):
        yield speech[start : start + size]


@pytest.mark.parametrize("size", [100, 320, 4000])
def test_there_and_recorded(tiny_codec: Codec, speech: np.ndarray, line: tuple, size: int) -> None:
    here, there, address = line
    ticks = []
    clock = Clock(0.02, now=lambda: 0.0, sleep=ticks.append)
    sent = udp.send(Outgoing(tiny_codec, None), blocks(speech, size), here, address, clock)
    incoming, heard = Incoming(tiny_codec), []
    udp.record(incoming, there, heard.append, idle=5)
    codes = tiny_codec.encode(speech, 16000, tiny_codec.info.bitrates[-1]).array
    np.testing.assert_array_equal(np.concatenate(heard), tiny_codec.decoder().push(codes))
    frames = codes.shape[1]
    assert (sent.packets, sent.seconds, sent.dropped, sent.refused) == (frames, frames / 50, 0, 0)
    assert len(ticks) >= frames  # one wait per frame, and between the good-byes
    assert incoming.ended and incoming.arrivals.garbage == 0
    assert f"{frames} packets, {frames / 50:.2f} s" in sent.summary()


def test_loss_on_purpose_is_the_same_for_the_same_seed(tiny_codec: Codec, speech: np.ndarray, line: tuple) -> None:
    here, there, address = line
    outcomes = []
    for seed in (2, 2, 3):  # none of them drops the first packet
        sent = udp.send(Outgoing(tiny_codec, None), iter([speech[:32000]]), here, address, None, loss=0.2, seed=seed)
        incoming, heard = Incoming(tiny_codec), []
        udp.record(incoming, there, heard.append, idle=5)
        seen = incoming.receiver.statistics
        assert (incoming.arrivals.expected, sent.packets - sent.dropped) == (sent.packets, seen.received)
        assert len(np.concatenate(heard)) == 101 * FRAME
        assert f"{sent.dropped} dropped on purpose" in sent.summary()
        outcomes.append((sent.dropped, seen.concealed, len(np.concatenate(heard))))
    assert outcomes[0] == outcomes[1] and 5 <= outcomes[0][0] <= 40


def test_playing_at_the_clock(tiny_codec: Codec, speech: np.ndarray, line: tuple) -> None:
    """The clock's wait is where the next packets come: the frames are played in their order, one per tick."""
    here, there, address = line
    outgoing = Outgoing(tiny_codec, None)
    datagrams = [*outgoing.push(speech[:9600]), *outgoing.finish(), outgoing.goodbye()]
    waiting = iter(datagrams)

    def sleep(_: float) -> None:
        if data := next(waiting, None):
            here.sendto(data, address)

    sleep(0)
    incoming, heard = Incoming(tiny_codec, depth=2), []
    udp.play(incoming, there, heard.append, Clock(0.02, now=lambda: 0.0, sleep=sleep), idle=30)
    codes = tiny_codec.encode(speech[:9600], 16000, tiny_codec.info.bitrates[-1]).array
    np.testing.assert_array_equal(np.concatenate(heard), tiny_codec.decoder().push(codes))
    assert all(len(frame) == FRAME for frame in heard)
    assert incoming.receiver.statistics.concealed == 0


@pytest.mark.parametrize("way", ["play", "record"])
def test_a_sender_that_vanishes(tiny_codec: Codec, speech: np.ndarray, line: tuple, way: str) -> None:
    here, there, address = line
    for data in Outgoing(tiny_codec, None).push(speech[: 10 * FRAME]):
        here.sendto(data, address)
    incoming, heard = Incoming(tiny_codec, depth=2), []
    if way == "play":
        udp.play(incoming, there, heard.append, Clock(0.02, speed=10), idle=0.2, silence=True)
    else:
        udp.record(incoming, there, heard.append, idle=0.2)
    assert not incoming.ended
    audio = np.concatenate(heard)
    codes = tiny_codec.encode(speech[:16000], 16000, tiny_codec.info.bitrates[-1]).array
    np.testing.assert_array_equal(audio[: 10 * FRAME], tiny_codec.decoder().push(codes[:, :10]))


def test_floods_and_giants_pass_by(tiny_codec: Codec, speech: np.ndarray, line: tuple) -> None:
    here, there, address = line
    outgoing = Outgoing(tiny_codec, None)
    first, *rest = [*outgoing.push(speech[:3200]), *outgoing.finish()]
    for data in (b"\x80" * MAX_DATAGRAM, bytes(2 * MAX_DATAGRAM), b"", first + bytes(MAX_DATAGRAM), first, *rest, outgoing.goodbye()):
        here.sendto(data, address)
    incoming, heard = Incoming(tiny_codec), []
    udp.record(incoming, there, heard.append, idle=5)
    assert incoming.arrivals.garbage == 4 and incoming.receiver.statistics.received == 1 + len(rest)


def test_nobody_listens(tiny_codec: Codec, speech: np.ndarray, line: tuple) -> None:
    here, there, address = line
    there.close()
    assert udp.send(Outgoing(tiny_codec, None), iter([speech[:3200]]), here, address, None).packets == 11
    sent = udp.send(Outgoing(tiny_codec, None), iter([speech[:3200]]), here, ("127.0.0.1", 0), None)
    assert sent.refused == 14 and f"; 14 not sent ({sent.problem})" in sent.summary()


def test_an_interrupted_sender_says_good_bye(tiny_codec: Codec, speech: np.ndarray, line: tuple) -> None:
    def microphone() -> Iterator[np.ndarray]:
        yield speech[:3300]
        raise KeyboardInterrupt

    here, there, address = line
    thread = threading.Thread(target=lambda: udp.send(Outgoing(tiny_codec, None), microphone(), here, address, None))
    thread.start()
    incoming, heard = Incoming(tiny_codec), []
    udp.record(incoming, there, heard.append, idle=20)
    thread.join()
    assert incoming.ended and len(np.concatenate(heard)) == 11 * FRAME


@pytest.mark.parametrize("text", ["", "5004", "host:", "host:x", "host:65536", "host:-1", ":5004"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ConfigError, match=r"give HOST:PORT"):
        udp.parse_address(text)


def test_addresses() -> None:
    assert udp.parse_address("example.org:5004") == ("example.org", 5004)
    assert udp.parse_address("[::1]:5004") == ("::1", 5004)
    assert udp.parse_address("5004", "127.0.0.1") == udp.parse_address(":5004", "127.0.0.1") == ("127.0.0.1", 5004)
    with pytest.raises(ConfigError, match="cannot be listened to"):
        udp.open_socket("192.0.2.1", 5004, listen=True)
    taken, address = udp.open_socket("127.0.0.1", 0, listen=True)
    with taken, pytest.raises(ConfigError, match="cannot be listened to"):
        udp.open_socket("127.0.0.1", address[1], listen=True)


@pytest.mark.parametrize("host", ["a..b", "x" * 70 + ".org"])
def test_a_name_that_no_host_can_have(host: str) -> None:
    with pytest.raises(ConfigError, match="cannot be reached"):
        udp.open_socket(host, 5004)
