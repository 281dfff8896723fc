"""The server over real connections on loopback: many at once, and clients of every bad kind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spectokenizer import Codec, ConfigError
from spectokenizer.bitstream.packets import unpack_packet
from spectokenizer.live.protocol import Limits
from spectokenizer.live.server import Pace, Server
from spectokenizer.runtime.sinks import to_int16

websockets = pytest.importorskip("websockets")
pytest.importorskip("prometheus_client")

from prometheus_client.parser import text_string_to_metric_families  # noqa: E402
from websockets.asyncio.client import connect  # noqa: E402
from websockets.exceptions import ConnectionClosed, InvalidStatus  # noqa: E402

FRAME, RATE = 320, 16000
DOCUMENT = Path(__file__).parents[2] / "docs" / "server.md"
Scenario = Callable[[Server, str], Awaitable[Any]]


def served(codec: Codec, scenario: Scenario, **limits: Any) -> Any:
    """What `scenario` makes of a server, which is stopped then."""

    async def main() -> Any:
        server = Server(codec, Limits(**{"ahead": 1e6, "grace": 0.0, **limits}), ["https://page.example"])
        port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        running = asyncio.create_task(server.serve("127.0.0.1", 0, port.set_result))
        try:
            async with asyncio.timeout(120):
                return await scenario(server, f"127.0.0.1:{await port}")
        finally:
            server.stop()
            await running

    return asyncio.run(main())


async def call(where: str, messages: list[bytes | str], **settings: Any) -> tuple[dict[str, Any], list[bytes], dict[str, Any]]:
    """The server's first message, everything until its last, and that."""
    async with connect(f"ws://{where}", compression=None) as line:
        await line.send(json.dumps(settings))
        about = json.loads(await line.recv())

        async def talk() -> None:
            for message in messages:
                await line.send(message)
            await line.send(json.dumps({"end": True}))

        talking = asyncio.create_task(talk())
        heard = [message async for message in line]
        await talking
        assert line.close_code == 1000
        return about, [message for message in heard[:-1] if isinstance(message, bytes)], json.loads(heard[-1])


async def closing(where: str, *messages: bytes | str) -> tuple[int, str]:
    """How the server closes on who says this."""
    async with connect(f"ws://{where}", compression=None) as line:
        with pytest.raises(ConnectionClosed):
            for message in messages:
                await line.send(message)
            while True:
                await line.recv()
        return line.close_code or 0, line.close_reason or ""


async def get(where: str, path: str) -> tuple[int, str, str]:
    def fetch() -> tuple[int, str, str]:
        try:
            with urllib.request.urlopen(f"http://{where}{path}", timeout=30) as answer:
                return answer.status, answer.headers["Content-Type"], answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.headers["Content-Type"], error.read().decode()

    return await asyncio.to_thread(fetch)


async def metrics(where: str) -> dict[tuple[str, str], float]:
    status, kind, text = await get(where, "/metrics")
    assert status == 200 and kind.startswith("text/plain")
    return {
        (sample.name, next(iter(sample.labels.values()), "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_bucket")
    }


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    while not await condition():
        await asyncio.sleep(0.02)


def pieces(samples: np.ndarray, rng: np.random.Generator) -> list[bytes | str]:
    cuts = np.sort(rng.integers(0, len(samples), len(samples) // 400))
    return [to_int16(part).tobytes() for part in np.split(samples, cuts)]


def codes_of(codec: Codec, messages: list[bytes]) -> np.ndarray:
    assert [int.from_bytes(message[:2]) for message in messages] == list(range(len(messages)))
    return np.concatenate([unpack_packet(message[2:], codec.info.bits_per_code).codes for message in messages], 1)


def hello(codec: Codec, mode: str, **more: Any) -> str:
    return json.dumps({"mode": mode, "bitrate": codec.info.bitrates[-1], **more})


def test_thirty_at_once_get_what_each_would_get_alone(tiny_codec: Codec, speech: np.ndarray) -> None:
    rng, top = np.random.default_rng(0), tiny_codec.info.bitrates
    clips = [np.roll(speech, 1234 * i)[: rng.integers(1, RATE)] for i in range(30)]
    modes = ["encode"] * 20 + ["echo"] * 5 + ["decode"] * 5

    async def scenario(server: Server, where: str) -> list[Any]:
        calls = []
        for i, clip in enumerate(clips):
            messages = pieces(clip, rng)
            if modes[i] == "decode":
                codes = tiny_codec.encode(clip, RATE, tiny_codec.info.bitrates[-1]).array
                packed = [pack(tiny_codec, codes[:, j : j + 1]) for j in range(codes.shape[1])]
                messages = [j.to_bytes(2) + packet for j, packet in enumerate(packed)]
            calls.append(call(where, messages, mode=modes[i], bitrate=top[i % len(top)] if i < 20 else top[-1], packet_frames=1 + i % 4))
        answers = await asyncio.gather(*calls)

        async def counted() -> bool:
            return (await metrics(where)).get(("spectok_closed_total", "end"), 0) == len(calls)

        await until(counted)
        return answers

    for i, (about, heard, end) in enumerate(served(tiny_codec, scenario, slots=32)):
        samples = to_int16(clips[i])
        if modes[i] == "encode":
            expected = tiny_codec.encode(samples, RATE, top[i % len(top)]).array
            np.testing.assert_array_equal(codes_of(tiny_codec, heard), expected)
            assert end == {"end": True, "frames": expected.shape[1], "samples": len(samples)}
        else:
            codes = tiny_codec.encode(samples if modes[i] == "echo" else clips[i], RATE, tiny_codec.info.bitrates[-1]).array
            np.testing.assert_array_equal(np.frombuffer(b"".join(heard), "<i2"), to_int16(tiny_codec.decoder().push(codes)))
        assert (about["mode"], about["model_hash"], about["frame_size"]) == (modes[i], tiny_codec.info.model_hash, FRAME)


def pack(codec: Codec, codes: np.ndarray) -> bytes:
    from spectokenizer.bitstream.packets import pack_packet

    return pack_packet(codes, codec.info.bits_per_code)


@pytest.mark.parametrize(
    ("messages", "code", "reason"),
    [
        ([b"\0\0"], 1003, "the first message must be JSON text"),
        (["nonsense"], 1008, "the first message must be a JSON object"),
        (["[" * 5000], 1008, "must be a JSON object"),
        (["[]"], 1008, "must be a JSON object"),
        (["{}"], 1008, "mode null; there are encode, decode, echo"),
        (['{"mode": "sing"}'], 1008, 'mode "sing"'),
        (['{"mode": "encode", "bitrate": 1}'], 1008, "bitrate 1; there are"),
        (['{"mode": "encode", "bitrate": true}'], 1008, "bitrate true"),
        (['{"mode": "encode", "bitrate": NaN}'], 1008, "bitrate NaN"),
        (['{"mode": "encode", "redundancy": 4}'], 1008, "redundancy 4; give 0 to 3"),
        (['{"mode": "encode", "packet_frames": 1.0}'], 1008, "packet_frames 1.0; give 1 to 4"),
        (['{"mode": "encode", "colour": "red", "' + "x" * 200 + '": 1}'], 1008, 'unknown: ["colour", "xxx'),
        (['{"mode": "encode", "\\ud800": 1}'], 1008, "unknown"),
        (['{"mode": "\\ud800"}'], 1008, "mode"),
        (['{"bitrate": ' + 5000 * "1" + "}"], 1008, "must be a JSON object"),
        (["ENCODE", b"123"], 1007, "3 bytes of PCM"),
        (["ENCODE", "[1]"], 1008, "a text message must be a JSON object"),
        (["ENCODE", '{"end": false}'], 1008, 'text in a call is {"end": true}'),
        (["ENCODE", '{"bitrate": "much"}'], 1008, 'bitrate "much"'),
        (["DECODE", b"1"], 1007, "a message of 1 bytes"),
        (["DECODE", b"\0\0\xff" + bytes(99)], 1007, "the packet says 16 codebooks"),
        (["ENCODE", bytes(65538)], 1009, ""),
        (["x" * 65537], 1009, ""),
    ],
)
def test_what_clients_do_wrong(tiny_codec: Codec, messages: list[bytes | str], code: int, reason: str) -> None:
    words = {"ENCODE": hello(tiny_codec, "encode"), "DECODE": hello(tiny_codec, "decode")}
    wrong = [words.get(message, message) if isinstance(message, str) else message for message in messages]

    async def scenario(server: Server, where: str) -> Any:
        found = await closing(where, *wrong)
        alive = await call(where, [bytes(640)], mode="encode", bitrate=tiny_codec.info.bitrates[-1])
        return found, alive, await metrics(where)

    (found, why), (_, heard, _), seen = served(tiny_codec, scenario, slots=1)
    assert found == code and reason in why
    assert len(heard) == 2  # the slot is free again
    assert seen["spectok_closed_total", "oversize" if code == 1009 else "refused"] == 1


def test_only_so_many(tiny_codec: Codec) -> None:
    async def scenario(server: Server, where: str) -> Any:
        async with connect(f"ws://{where}") as first:
            await first.send(hello(tiny_codec, "encode"))
            await first.recv()
            full = await closing(where, hello(tiny_codec, "encode"))
            decoding = await call(where, [], mode="decode")
            silent = [await connect(f"ws://{where}").__aenter__() for _ in range(17)]  # 2 · slots + 16 in all
            with pytest.raises(InvalidStatus) as refused:
                await connect(f"ws://{where}").__aenter__()
            health = await get(where, "/health")
            for other in silent:
                await other.close()
            return full, decoding, refused.value.response.status_code, health

    full, (_, _, end), refused, health = served(tiny_codec, scenario, slots=1)
    assert full[0] == 1013 and "all 1 streams are taken" in full[1]
    assert end == {"end": True, "frames": 0, "samples": 0}
    assert refused == 503 and health[0] == 200


def test_idle_clients_go(tiny_codec: Codec) -> None:
    async def scenario(server: Server, where: str) -> Any:
        return await asyncio.gather(closing(where, hello(tiny_codec, "encode")), closing(where)), await metrics(where)

    ways, seen = served(tiny_codec, scenario, idle=0.3, hello=0.3)
    assert ways == [(1008, "idle for 0.3 s"), (1008, "no first message within 0.3 s")]
    assert seen["spectok_closed_total", "idle"] == 2 and seen["spectok_streams", "encode"] == 0


def test_a_client_that_never_reads(tiny_codec: Codec) -> None:
    """It is not read from any more, others are served meanwhile, and it is closed; what it was sent is bounded all the time."""
    most = 0

    async def scenario(server: Server, where: str) -> Any:
        nonlocal most
        host, _, port = where.partition(":")
        line = socket.socket()
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # else the kernel would take in megabytes
        line.connect((host, int(port)))
        reader, writer = await asyncio.open_connection(sock=line)
        request = f"GET / HTTP/1.1\r\nHost: {where}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        writer.write((request + "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n").encode())
        await reader.readuntil(b"\r\n\r\n")
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(frame(hello(tiny_codec, "echo").encode(), text=True))
        block, sent = frame(bytes(32000)), 0
        with contextlib.suppress(OSError):  # cut off by the server
            while True:
                writer.write(block)
                await writer.drain()
                most = max([most, *(client.outbox.qsize() for client in server._clients.values())])
                sent = max([sent, *(client.sent for client in server._clients.values())])
        other = await call(where, [bytes(6400)], mode="encode", bitrate=tiny_codec.info.bitrates[-1])

        async def closed() -> bool:
            return (await metrics(where))["spectok_closed_total", "slow"] == 1

        await until(closed)
        writer.transport.abort()
        return sent, other

    sent, (_, heard, _) = served(tiny_codec, scenario, stall=0.5, outbox=20, waiting=50)
    assert sent < 100 and len(heard) == 11
    assert most <= 20 + 50 + 5 * 50 + 1  # four messages of 50 frames were on their way to the engine, and one to them


def frame(data: bytes, text: bool = False) -> bytes:
    """A client's WebSocket frame, masked with zeros."""
    size = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + len(data).to_bytes(2)
    return bytes([0x81 if text else 0x82]) + size + bytes(4) + data


def test_who_is_ahead_of_real_time_waits(tiny_codec: Codec) -> None:
    """Four seconds of audio at once, one of them in advance, are taken in no less than three."""

    async def scenario(server: Server, where: str) -> Any:
        start = asyncio.get_running_loop().time()
        await call(where, [bytes(3200)] * 40, mode="encode", bitrate=tiny_codec.info.bitrates[-1])
        return asyncio.get_running_loop().time() - start, await metrics(where)

    seconds, seen = served(tiny_codec, scenario, ahead=1.0)
    assert seconds > 2.4  # four messages more were on their way
    assert seen["spectok_throttled_total", ""] > 0


def test_pace() -> None:
    pace = Pace(100.0)
    assert pace.lead(0.0, 100.0) == 0
    assert pace.lead(1.0, 100.0) == 1
    assert pace.lead(1.0, 100.75) == 0.25
    assert pace.lead(1.0, 200.0) == 0  # silence earns nothing
    assert pace.lead(3.0, 201.0) == 1


def test_health_metrics_and_other_paths(tiny_codec: Codec) -> None:
    async def scenario(server: Server, where: str) -> Any:
        async with connect(f"ws://{where}") as line:
            await line.send(hello(tiny_codec, "echo"))
            await line.recv()
            await line.send(bytes(6400))
            for _ in range(10):
                await line.recv()
            open_now = await metrics(where)
            health = await get(where, "/health?deep")

        async def gone() -> bool:
            return (await metrics(where))["spectok_connections", ""] == 0

        await until(gone)
        return open_now, health, await metrics(where), await get(where, "/nothing"), await get(where, "/")

    open_now, health, later, nothing, root = served(tiny_codec, scenario, slots=5)
    assert health[:2] == (200, "application/json") and json.loads(health[2]) == {"status": "ok", "streams": 1, "slots": 5}
    assert (open_now["spectok_streams", "echo"], open_now["spectok_connections", ""], open_now["spectok_slots", ""]) == (1, 1, 5)
    for side in ("encoder", "decoder"):
        assert later["spectok_frames_total", side] == 10
        assert later["spectok_batch_streams_sum", side] == 10
        assert later["spectok_step_seconds_count", side] == 10
    assert (later["spectok_streams", "echo"], later["spectok_closed_total", "left"]) == (0, 1)
    assert nothing[0] == 404 and root[0] == 426


def test_pages_of_strangers_cannot_connect(tiny_codec: Codec) -> None:
    async def scenario(server: Server, where: str) -> Any:
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"ws://{where}", origin="https://evil.example").__aenter__()
        async with connect(f"ws://{where}", origin="https://page.example") as line:
            await line.send(hello(tiny_codec, "decode"))
            await line.recv()
        return refused.value.response.status_code

    assert served(tiny_codec, scenario) == 403


def test_garbage_instead_of_a_handshake(tiny_codec: Codec, capfd: pytest.CaptureFixture[str]) -> None:
    async def scenario(server: Server, where: str) -> Any:
        host, _, port = where.partition(":")
        for garbage in (b"\x16\x03\x01" + bytes(200), b"GET / HTTP/1.1\r\n\r\n", b"POST / HTTP/1.1\r\n\r\n", b"\n" * 70000, b""):
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(garbage)
            writer.close()
        return await call(where, [bytes(640)], mode="encode", bitrate=tiny_codec.info.bitrates[-1])

    assert len(served(tiny_codec, scenario)[1]) == 2
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("grace", [0.0, 30.0])
def test_stopping(tiny_codec: Codec, grace: float) -> None:
    """Calls may end within the grace; new ones are refused; what is left is closed as going away."""

    async def scenario(server: Server, where: str) -> Any:
        async with connect(f"ws://{where}") as line:
            await line.send(hello(tiny_codec, "encode"))
            await line.recv()
            server.stop()
            if grace:
                with pytest.raises(InvalidStatus) as refused:
                    await connect(f"ws://{where}").__aenter__()
                assert refused.value.response.status_code == 503
                status, _, text = await get(where, "/health")
                assert (status, json.loads(text)["status"]) == (503, "stopping")
                await line.send(bytes(640))
                assert len(await line.recv()) > 2
                await line.send('{"end": true}')
            heard = [message async for message in line]
            return line.close_code, len(heard)

    assert served(tiny_codec, scenario, grace=grace) == ((1000, 2) if grace else (1001, 0))


def test_a_failing_engine_ends_the_server(tiny_codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(server: Server, where: str) -> Any:
        monkeypatch.setattr(server.engine.encoders, "step", lambda: 1 / 0)
        return await closing(where, hello(tiny_codec, "encode"))

    with pytest.raises(ZeroDivisionError):
        served(tiny_codec, scenario)


def test_impossible_limits(tiny_codec: Codec) -> None:
    with pytest.raises(ConfigError, match="idle of a server must be positive"):
        Limits(idle=0.0)
    with pytest.raises(ConfigError, match="tick and grace"):
        Limits(tick=-1.0)


def test_the_documented_client(codec: Codec, speech: np.ndarray, tmp_path: Path) -> None:
    """The example in docs/server.md, as it stands there but for the port."""
    if not DOCUMENT.exists():
        pytest.skip("no document")
    code = re.search(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert code and len(code[1].strip().splitlines()) <= 12

    async def scenario(server: Server, where: str) -> Any:
        space: dict[str, Any] = {"pcm": to_int16(speech[:8000]).tobytes()}
        await asyncio.to_thread(exec, code[1].replace("127.0.0.1:8422", where), space)  # type: ignore[index]
        return space["packets"], space["about"]

    packets, about = served(codec, scenario)
    np.testing.assert_array_equal(codes_of(codec, packets), codec.encode(to_int16(speech[:8000]), RATE, 4000).array)
    assert about["bitrate"] == 4000


def test_who_does_not_even_ask_is_cut_off(tiny_codec: Codec, speech: np.ndarray) -> None:
    """Connections that send nothing, five times as many as there may be: the rest are closed at once, and who was there is served."""

    async def scenario(server: Server, where: str) -> Any:
        host, port = where.rsplit(":", 1)[0], int(where.rsplit(":", 1)[1].strip("/"))
        async with connect(f"ws://{where}") as first:
            await first.send(hello(tiny_codec, "encode"))
            await first.recv()
            lines = [await asyncio.open_connection(host, port) for _ in range(400)]

            async def cut(reader: asyncio.StreamReader) -> bool:
                try:
                    return not await asyncio.wait_for(reader.read(1), 1)
                except TimeoutError:
                    return False
                except OSError:
                    return True

            closed = sum(await asyncio.gather(*(cut(reader) for reader, _ in lines)))
            for _, writer in lines:
                writer.close()
            await asyncio.sleep(0.2)
            await first.send(to_int16(speech[:640]).tobytes())
            return closed, await first.recv(), await get(where, "/health")

    closed, packet, health = served(tiny_codec, scenario, slots=1)
    assert closed == 400 - (2 * 1 + 16 + 64 - 1)
    assert isinstance(packet, bytes) and health[0] == 200
