"""`spectok serve`: calls over WebSockets, all in one process; `docs/server.md` is the protocol.

    client ─► websockets ─► _read ─► requests ─┐                              ┌─► outbox ─► _write ─► websockets ─► client
                                               └─► _work: Engine.tick, in one thread ─┘

Nothing piles up: `_read` takes the next message only when the call's frames and its outbox are short and it is not ahead of real
time, so that TCP holds a client back that sends too fast; and one that does not read what it is sent is closed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from socket import SO_RCVBUF, SO_SNDBUF, SOL_SOCKET
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from . import protocol
from .engine import NORMAL, POLICY, Call, CallError, End, Engine, Leave, Open, Reply, Request
from .protocol import Limits

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection
    from websockets.http11 import Request as HttpRequest
    from websockets.http11 import Response

    from ..runtime.codec import Codec

logger = logging.getLogger(__name__)

GOING_AWAY, OVERSIZE, FAILED = 1001, 1009, 1011
MESSAGES_IN_FLIGHT = 4  # of one call, read but not yet taken by the engine
SPARE_CONNECTIONS = 16  # besides a call for every slot: those that have not said what they want
SILENT_CONNECTIONS = 64  # besides all these: those that have not sent a request yet
SOCKET_BYTES = 65536  # that the kernel buffers per direction; left to itself it may be minutes of sound
CLOSE_SECONDS = 2.0  # for the closing handshake; then the connection is cut


class Pace:
    """How far a client is ahead of real time. Being behind earns nothing."""

    def __init__(self, now: float):
        self._start = now

    def lead(self, seconds: float, now: float) -> float:
        """Of a client that has sent `seconds` of audio until `now`."""
        self._start = max(self._start, now - seconds)
        return seconds - (now - self._start)


class Client:
    """A connection's side of a call."""

    def __init__(self, call: Call):
        self.call = call
        self.sent = 0  # messages given to the engine
        self.outbox: asyncio.Queue[Reply] = asyncio.Queue()
        self.changed = asyncio.Event()  # the engine has taken something, or something was sent
        self.pace: Pace | None = None
        self.ended = False  # all is out, and the client has been told


class Server:
    """Serves one model. Raises ConfigError when the library is missing."""

    def __init__(self, codec: Codec, limits: Limits | None = None, origins: Sequence[str] = ()):
        self.limits, self.info = limits or Limits(), codec.info
        try:
            import websockets.asyncio.server

            from .metrics import Metrics

            self.metrics = Metrics()
            self._websockets = websockets
        except ImportError as error:
            raise ConfigError(f'{error.name} is not installed; a server needs: pip install "spectokenizer[serve]"') from error
        self.engine = Engine(codec, self.limits.slots)
        self.metrics.slots.set(self.limits.slots)
        self._origins: Any = [None, *origins]  # None: not a browser
        self._clients: dict[Call, Client] = {}
        self._requests: list[tuple[Call, Request]] = []
        self._work_to_do = asyncio.Event()
        self._stopping = asyncio.Event()
        self._empty = asyncio.Event()  # no calls while stopping

    # -- life ------------------------------------------------------------------------------------------------------------------

    async def serve(self, host: str, port: int, started: Callable[[int], object] = lambda port: None) -> None:
        """Until `stop`; `started` is told the port. Raises OSError when it cannot be bound, and what the engine raises."""
        loop = asyncio.get_running_loop()
        quiet = logging.getLogger(f"{__name__}.connections")  # strangers' broken handshakes are no news
        quiet.addHandler(logging.NullHandler())
        quiet.propagate = False
        there: set[Any] = set()
        most = 2 * self.limits.slots + SPARE_CONNECTIONS + SILENT_CONNECTIONS

        class Connection(self._websockets.asyncio.server.ServerConnection):  # type: ignore[name-defined,misc]
            """Cut at once where there are too many that have not even asked for anything."""

            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                there.add(self)
                super().connection_made(transport)
                if len(there) > most:
                    transport.abort()  # type: ignore[attr-defined]

            def connection_lost(self, exc: Exception | None) -> None:
                there.discard(self)
                super().connection_lost(exc)

        with ThreadPoolExecutor(1, "engine") as thread:
            server = await self._websockets.asyncio.server.serve(
                self._handle,
                host,
                port,
                origins=self._origins,
                create_connection=Connection,
                compression=None,  # codes do not shrink
                process_request=self._http,
                max_size=self.limits.message_bytes,
                max_queue=4,
                open_timeout=self.limits.hello,
                close_timeout=CLOSE_SECONDS / 2,
                ping_timeout=None,  # who is held back answers late, behind audio of his own; `idle` and `stall` find the dead
                logger=quiet,
            )
            worker = loop.create_task(self._work(thread))
            stopping = loop.create_task(self._stopping.wait())
            try:
                started(server.sockets[0].getsockname()[1])
                await asyncio.wait({worker, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if not worker.done() and self._clients:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._empty.wait(), self.limits.grace)
                if worker.done():
                    worker.result()
            finally:
                code, reason = (FAILED, "the server failed") if worker.done() else (GOING_AWAY, "the server shuts down")
                self._stopping.set()
                await asyncio.gather(*(self._close(connection, code, reason) for connection in list(server.connections)))
                server.close()
                await server.wait_closed()
                for task in (worker, stopping):
                    task.cancel()
                await asyncio.gather(worker, stopping, return_exceptions=True)

    def stop(self) -> None:
        """Take no new calls, let the others go on for the time of grace, then close them; the second time at once.

        To be called in the server's loop.
        """
        if self._stopping.is_set():
            self._empty.set()
        self._stopping.set()

    async def _work(self, thread: ThreadPoolExecutor) -> None:
        """The engine's heart: a tick whenever there is something to do, and a pause after it for others to come."""
        loop, more = asyncio.get_running_loop(), False
        while True:
            if not more:
                await self._work_to_do.wait()
            self._work_to_do.clear()
            requests, self._requests = self._requests, []
            start = loop.time()
            tick = await loop.run_in_executor(thread, self.engine.tick, requests)
            self.metrics.tick(tick)
            for call, reply in tick.replies:
                if client := self._clients.get(call):
                    client.outbox.put_nowait(reply)
            for call in {call for call, _ in (*requests, *tick.replies)}:
                if client := self._clients.get(call):
                    client.changed.set()
            more = tick.more
            if not more:
                await asyncio.sleep(max(0.0, start + self.limits.tick - loop.time()))

    def _ask(self, call: Call, request: Request) -> None:
        self._requests.append((call, request))
        self._work_to_do.set()

    # -- plain HTTP ------------------------------------------------------------------------------------------------------------

    def _http(self, connection: ServerConnection, request: HttpRequest) -> Response | None:
        path = request.path.partition("?")[0]
        if path == "/metrics":
            self.metrics.connections.set(len(connection.server.connections))
            self.metrics.waiting.set(sum(client.call.waiting for client in self._clients.values()))
            self.metrics.outgoing.set(sum(client.outbox.qsize() for client in self._clients.values()))
            text, kind = self.metrics.text()
            return self._answer(connection, 200, text, kind)
        if path == "/health":
            state = {"status": "stopping" if self._stopping.is_set() else "ok", "streams": len(self._clients), "slots": self.limits.slots}
            return self._answer(connection, 503 if self._stopping.is_set() else 200, json.dumps(state) + "\n", "application/json")
        if path != "/":
            return self._answer(connection, 404, "there are /, /health and /metrics\n")
        if self._stopping.is_set():
            return self._answer(connection, 503, "the server shuts down\n")
        if len(connection.server.connections) >= 2 * self.limits.slots + SPARE_CONNECTIONS:
            return self._answer(connection, 503, "too many connections\n")
        return None

    @staticmethod
    def _answer(connection: ServerConnection, status: int, text: str, kind: str = "text/plain; charset=utf-8") -> Response:
        response = connection.respond(status, text)
        del response.headers["Content-Type"]
        response.headers["Content-Type"] = kind
        return response

    # -- calls -----------------------------------------------------------------------------------------------------------------

    async def _handle(self, socket: ServerConnection) -> None:
        """One connection, from the first message to the close."""
        closed = self._websockets.exceptions.ConnectionClosed
        kind = "error"
        try:
            with suppress(OSError):  # it may be closed already
                for option in (SO_RCVBUF, SO_SNDBUF):
                    socket.transport.get_extra_info("socket").setsockopt(SOL_SOCKET, option, SOCKET_BYTES)
            kind = await self._call(socket)
        except CallError as error:
            kind = error.kind
            await self._close(socket, error.code, error.reason)
        except closed as error:
            oversize = error.sent is not None and error.sent.code == OVERSIZE
            kind = "oversize" if oversize else "shutdown" if self._stopping.is_set() else "left"
        except Exception:
            logger.exception("a call failed")
            raise
        finally:
            self.metrics.closed.labels(kind).inc()

    async def _call(self, socket: ServerConnection) -> str:
        try:
            async with asyncio.timeout(self.limits.hello):
                settings = protocol.first_message(self.info, await socket.recv())
        except TimeoutError:
            raise CallError(POLICY, f"no first message within {self.limits.hello:g} s", "idle") from None
        if self._stopping.is_set():
            raise CallError(GOING_AWAY, "the server shuts down", "shutdown")
        client = Client(Call(settings))
        self._clients[client.call] = client
        self._ask(client.call, Open())
        streams = self.metrics.streams.labels(settings.mode)
        streams.inc()
        tasks = [asyncio.create_task(self._read(socket, client)), asyncio.create_task(self._write(socket, client))]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            return "end"
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            del self._clients[client.call]
            self._ask(client.call, Leave())
            streams.dec()
            if self._stopping.is_set() and not self._clients:
                self._empty.set()

    async def _read(self, socket: ServerConnection, client: Client) -> None:
        call = client.call
        while True:
            await self._room(client)
            try:
                async with asyncio.timeout(self.limits.idle):
                    message = await socket.recv()
            except TimeoutError:
                raise CallError(POLICY, f"idle for {self.limits.idle:g} s", "idle") from None
            client.sent += 1
            if isinstance(message, bytes):
                self._ask(call, message)
                continue
            request = protocol.text_message(self.info, message)
            self._ask(call, request)
            if isinstance(request, End):
                await socket.wait_closed()
                if client.ended:
                    return

    async def _room(self, client: Client) -> None:
        """Wait until the client may go on: what it sent is taken and stepped, what it is sent is read, and it is not ahead."""
        call, limits = client.call, self.limits
        client.pace = client.pace or Pace(time.monotonic())
        throttled = False
        while True:
            lead = client.pace.lead(call.seconds, time.monotonic())
            full = client.sent - call.taken >= MESSAGES_IN_FLIGHT or call.waiting > limits.waiting or client.outbox.qsize() > limits.outbox
            if not full and lead <= limits.ahead:
                return
            if lead > limits.ahead and not throttled:
                throttled = True
                self.metrics.throttled.inc()
            client.changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(max(lead - limits.ahead, 0.001) if not full else None):
                    await client.changed.wait()

    async def _write(self, socket: ServerConnection, client: Client) -> None:
        while True:
            reply = await client.outbox.get()
            client.changed.set()
            if isinstance(reply, CallError):
                raise reply
            message: str | bytes
            if isinstance(reply, Open):
                message = protocol.welcome(self.info, client.call.settings, self.limits)
            elif isinstance(reply, End):
                message = protocol.farewell(reply)
            else:
                message = reply
            try:
                async with asyncio.timeout(self.limits.stall):
                    await socket.send(message)
            except TimeoutError:
                raise CallError(POLICY, f"nothing was read for {self.limits.stall:g} s", "slow") from None
            if isinstance(reply, End):
                client.ended = True
                await self._close(socket, NORMAL, "")
                return

    @staticmethod
    async def _close(socket: ServerConnection, code: int, reason: str) -> None:
        """With a handshake if the client takes part in it, else without."""
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await socket.close(code, protocol.shortened(reason))
        except TimeoutError:  # it waits for room to write to a client that does not read
            socket.transport.abort()
