"""serve: many calls over WebSockets."""

from __future__ import annotations

import time
from statistics import median
from typing import TYPE_CHECKING

import click

from .common import model_option, say

if TYPE_CHECKING:
    from ..runtime.codec import Codec


@click.command()
@model_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 is all.")
@click.option("--port", type=click.IntRange(0, 65535), default=8422, show_default=True, help="0 is any free one.")
@click.option("--slots", type=click.IntRange(1, 10000), default=64, show_default=True, help="Streams per direction at once.")
@click.option("--idle", type=click.FloatRange(0.1), default=30.0, show_default=True, help="Seconds without a message to the end of a call.")
@click.option("--stall", type=click.FloatRange(0.1), default=10.0, show_default=True, help="Seconds that a client may not read.")
@click.option("--ahead", type=click.FloatRange(0.1), default=2.0, show_default=True, help="Seconds ahead of real time a client may send.")
@click.option("--message-kib", type=click.IntRange(1, 1024), default=64, show_default=True, help="Largest message.")
@click.option("--tick", type=click.FloatRange(0, 20), default=5.0, show_default=True, help="ms to gather streams for one network call.")
@click.option("--grace", type=click.FloatRange(0), default=10.0, show_default=True, help="Seconds that calls may go on after SIGTERM.")
@click.option("--origin", "origins", multiple=True, metavar="URL", help="Web page that may connect; may be repeated. None may otherwise.")
@click.option("--threads", type=click.IntRange(1, 64), default=1, show_default=True, help="For one network call.")
def serve(
    model: str, host: str, port: int, slots: int, idle: float, stall: float, ahead: float, message_kib: int, tick: float, grace: float,
    origins: tuple[str, ...], threads: int,
) -> None:  # fmt: skip
    """Encode and decode many calls at once, over WebSockets. The protocol is in docs/server.md.

    Also GET /health and /metrics (Prometheus). There is no password and no encryption: put a proxy in front of it that has both.
    """
    import asyncio
    import signal

    from ..live.protocol import Limits
    from ..live.server import Server
    from ..runtime.codec import load

    limits = Limits(slots, 1024 * message_kib, ahead, idle=idle, stall=stall, tick=tick / 1000, grace=grace)
    codec = load(model, threads)
    step, frame = full_step(codec, slots), 1 / codec.info.frame_rate

    def listening(bound: int) -> None:
        say(f"ws://{shown}:{bound}/   {codec.info.name}, {slots} streams; /health, /metrics")
        if step > frame:
            say(f"Warning: {slots} calls both ways take {1000 * step:.0f} of every {1000 * frame:.0f} ms here; give fewer --slots")

    shown = f"[{host}]" if ":" in host else host

    async def run() -> None:
        server = Server(codec, limits, origins)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                loop.add_signal_handler(number, server.stop)
            except NotImplementedError:  # Windows
                signal.signal(number, lambda *_: loop.call_soon_threadsafe(server.stop))
        await server.serve(host, port, listening)

    asyncio.run(run())


def full_step(codec: Codec, slots: int, rounds: int = 5, most: int = 128) -> float:
    """Seconds that a frame of all streams takes when all slots are taken in both directions, median; of more than `most`, which from some
    16 on cost the same each, by proportion."""
    import numpy as np

    from ..runtime.batch import DecoderBatch, EncoderBatch

    tried = min(slots, most)
    encoders, decoders = EncoderBatch(codec, tried), DecoderBatch(codec, tried)
    for batch in (encoders, decoders):
        for _ in range(tried):
            batch.join()
    samples = 0.1 * np.random.default_rng(0).standard_normal((tried, codec.info.frame_size)).astype(np.float32)
    taken = []
    for _ in range(1 + rounds):  # the first one allocates
        for slot in range(tried):
            encoders.push(slot, samples[slot])
        start = time.perf_counter()
        for slot, codes in encoders.step().items():
            decoders.push(slot, codes)
        decoders.step()
        taken.append(time.perf_counter() - start)
    return median(taken[1:]) * slots / tried
