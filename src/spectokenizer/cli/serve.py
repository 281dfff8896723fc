"""serve: many calls over WebSockets."""

from __future__ import annotations

import click

from .common import model_option, say


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

    async def run() -> None:
        server = Server(codec, limits, origins)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                loop.add_signal_handler(number, server.stop)
            except NotImplementedError:  # Windows
                signal.signal(number, lambda *_: loop.call_soon_threadsafe(server.stop))
        shown = f"[{host}]" if ":" in host else host
        await server.serve(host, port, lambda bound: say(f"ws://{shown}:{bound}/   {codec.info.name}, {slots} streams; /health, /metrics"))

    asyncio.run(run())
