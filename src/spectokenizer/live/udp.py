"""Calls over UDP: sending in real time, playing in real time, and recording."""

from __future__ import annotations

import random
import select
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ConfigError
from ..runtime.audio import Audio
from ..runtime.receiver import MAX_DEPTH
from .call import MAX_DATAGRAM, Incoming, Outgoing
from .clock import Clock

OVERHEAD = 12 + 8 + 20  # bytes of RTP, UDP and IPv4 in front of each payload
GOODBYES = 3  # one may be lost
MOST_AT_ONCE = 500  # datagrams between two frames; a flood must not stop the sound

Address = tuple[Any, ...]


def parse_address(text: str, default_host: str | None = None) -> tuple[str, int]:
    """HOST:PORT, or [HOST]:PORT for IPv6, or a bare PORT where there is a default host. Raises ConfigError."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") or default_host or ""
    if not (host and port.isascii() and port.isdigit() and int(port) < 65536):
        raise ConfigError(f"'{text}' is no address; give {'[HOST:]PORT' if default_host else 'HOST:PORT'}, e.g. 127.0.0.1:5004")
    return host, int(port)


def open_socket(host: str, port: int, listen: bool = False) -> tuple[socket.socket, Address]:
    """A UDP socket, bound to the address to `listen` there, and the address. Raises ConfigError when that cannot be."""
    sock = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        sock = socket.socket(family, kind, protocol)
        if listen:
            sock.bind(address)
            address = sock.getsockname()
    except (OSError, UnicodeError) as error:  # a host's name that cannot be one
        if sock is not None:
            sock.close()
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{host}:{port} cannot be {'listened to' if listen else 'reached'}: {reason}") from error
    return sock, address


@dataclass
class Sent:
    """What `send` did."""

    packets: int = 0
    payload_bytes: int = 0
    seconds: float = 0.0  # of audio
    dropped: int = 0  # on purpose
    refused: int = 0  # by this machine's network
    problem: str = ""  # why

    def summary(self) -> str:
        """One line of statistics."""
        seconds = self.seconds or 1.0
        rates = [8 * count / seconds / 1000 for count in (self.payload_bytes, self.payload_bytes + OVERHEAD * self.packets)]
        text = f"{self.packets} packets, {self.seconds:.2f} s, {rates[0]:.2f} kbit/s, {rates[1]:.2f} kbit/s with RTP, UDP and IPv4"
        text += f"; {self.dropped} dropped on purpose" if self.dropped else ""
        return text + (f"; {self.refused} not sent ({self.problem})" if self.refused else "")


def send(
    outgoing: Outgoing,
    source: Iterable[Audio],
    sock: socket.socket,
    address: Address,
    clock: Clock | None,
    loss: float = 0.0,
    seed: int = 0,
) -> Sent:
    """All of `source`, frame after frame, to `address`, and a good-bye; on KeyboardInterrupt, the good-bye at once.

    `clock` ticks once per frame; None for a source that waits by itself, like a microphone. A share of `loss` of the packets is
    left out, the same for the same `seed`.
    """
    sent, rng, info = Sent(), random.Random(seed), outgoing.encoder.codec.info

    def out(data: bytes) -> None:
        try:
            sock.sendto(data, address)
        except OSError as error:  # the network may come back
            sent.refused, sent.problem = sent.refused + 1, error.strerror or str(error)

    def media(datagrams: list[bytes]) -> None:
        for data in datagrams:
            if rng.random() < loss:
                sent.dropped += 1
            else:
                out(data)

    def tick() -> None:
        if clock is not None:
            clock.tick()

    try:
        for frame in _frames(source, info.frame_size):
            tick()
            media(outgoing.push(frame))
        tick()
    except KeyboardInterrupt:
        clock = None
    media(outgoing.finish())
    for _ in range(GOODBYES):
        tick()
        out(outgoing.goodbye())
    sent.packets, sent.payload_bytes = outgoing.packets, outgoing.payload_bytes
    sent.seconds = outgoing.encoder.num_frames / info.frame_rate
    return sent


def play(
    incoming: Incoming, sock: socket.socket, write: Callable[[Audio], object], clock: Clock | None, idle: float, silence: bool = False
) -> None:
    """A frame to `write` at every tick, from the first packet until the good-bye, `idle` seconds of silence, or KeyboardInterrupt.

    `clock` is None for a `write` that waits by itself, like a speaker's. Before the jitter buffer is full there is nothing to
    play: `silence` writes it.
    """
    receiver = incoming.receiver
    try:
        while incoming.heard is None:
            select.select([sock], [], [])
            _take(incoming, sock)
        while time.monotonic() - incoming.heard < idle:
            _take(incoming, sock)
            if incoming.ended and not receiver.buffered:
                break
            before = receiver.statistics.played
            samples = receiver.pull()
            if silence or receiver.statistics.played > before:
                write(samples)
            if clock is not None:
                clock.tick()
    except KeyboardInterrupt:
        return


def record(incoming: Incoming, sock: socket.socket, write: Callable[[Audio], object], idle: float) -> None:
    """The same without a clock, for a file: frames are written when those of a second behind them are there, however late they come.

    So frames are lost only if the network lost them, or let a second of others pass, and the file has every one in its place; but a jump
    of more than two seconds of the timestamp, by a pause or an outage, is left out.
    """
    receiver = incoming.receiver
    try:
        while not incoming.ended and (incoming.heard is None or time.monotonic() - incoming.heard < idle):
            select.select([sock], [], [], None if incoming.heard is None else idle)
            _take(incoming, sock, 1)  # each by itself: many at once would look like a jump in time
            write(receiver.drain(MAX_DEPTH))
    except KeyboardInterrupt:
        pass
    write(receiver.drain())


def _take(incoming: Incoming, sock: socket.socket, most: int = MOST_AT_ONCE) -> None:
    """What has come until now, but no more than `most` datagrams of a flood."""
    sock.setblocking(False)
    for _ in range(most):
        try:
            data, address = sock.recvfrom(MAX_DATAGRAM + 1)
        except BlockingIOError:
            return
        except OSError:  # Windows says so of a datagram that is too long
            incoming.arrivals.garbage += 1
            continue
        incoming.take(data, address, time.monotonic())


def _frames(source: Iterable[Audio], size: int) -> Iterator[Audio]:
    """The same samples, `size` at a time; the last may be fewer."""
    rest = np.zeros(0, np.float32)
    for samples in source:
        rest = np.concatenate([rest, samples])
        for start in range(0, len(rest) - size + 1, size):
            yield rest[start : start + size]
        rest = rest[len(rest) // size * size :]
    if len(rest):
        yield rest
