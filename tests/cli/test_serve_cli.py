"""`spectok serve` as a process: it says where it is, serves, and ends on SIGTERM."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from click.testing import CliRunner

from spectokenizer import Codec
from spectokenizer.bitstream.packets import unpack_packet
from spectokenizer.cli.serve import serve
from spectokenizer.runtime.sinks import to_int16

pytest.importorskip("websockets")
pytest.importorskip("prometheus_client")


@pytest.mark.skipif(sys.platform == "win32", reason="SIGTERM is not a request there")
def test_serves_until_it_is_told_to_stop(codec: Codec, speech: np.ndarray, subprocess_environment: dict[str, str]) -> None:
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect

    command = [sys.executable, "-m", "spectokenizer", "serve", "--port", "0", "--grace", "0", "-m", str(codec.network.folder)]
    with subprocess.Popen(command, env=subprocess_environment, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            said = server.stderr.readline()
            found = re.match(r"(ws://127\.0\.0\.1:\d+/) ", said)
            assert found and f"{codec.info.name}, 64 streams" in said, said + server.stderr.read()
            with connect(found[1]) as call:
                call.send(json.dumps({"mode": "encode", "bitrate": codec.info.bitrates[-1]}))
                assert json.loads(call.recv())["model_hash"] == codec.info.model_hash
                call.send(to_int16(speech[:640]).tobytes())
                codes = [unpack_packet(bytes(call.recv())[2:], codec.info.bits_per_code).codes for _ in range(2)]
                expected = codec.encode(to_int16(speech[:640]), 16000, codec.info.bitrates[-1]).array
                np.testing.assert_array_equal(np.concatenate(codes, 1), expected[:, :2])
                server.send_signal(signal.SIGTERM)
                with pytest.raises(ConnectionClosed):
                    call.recv()
                assert call.close_code == 1001
            _, rest = server.communicate(timeout=60)
            assert (server.returncode, rest) == (0, "")
        finally:
            server.kill()


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, codec: Codec) -> None:
    from spectokenizer.errors import ConfigError
    from spectokenizer.live.server import Server

    for name in ("websockets.asyncio.server", "prometheus_client"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, None)
            with pytest.raises(ConfigError, match=r'pip install "spectokenizer\[serve\]"'):
                Server(codec)


@pytest.mark.parametrize("arguments", [["--slots", "0"], ["--idle", "0"], ["--port", "70000"], ["--message-kib", "0"], ["--tick", "50"]])
def test_wrong_usage(arguments: list[str]) -> None:
    assert CliRunner().invoke(serve, arguments).exit_code == 2


def test_more_slots_than_this_machine_can_step_are_told(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    from spectokenizer.cli import serve as module

    assert 0 < module.full_step(codec, 3) < 60
    monkeypatch.setattr(module, "full_step", lambda *_: 0.036)
    monkeypatch.setattr("spectokenizer.live.server.Server.serve", serve_nothing)
    said = CliRunner().invoke(serve, ["--slots", "64", "-m", str(codec.network.folder)]).output
    assert said.startswith("ws://127.0.0.1:1/ ") and "Warning: 64 calls both ways take 36 of every 20 ms here; give fewer --slots" in said


async def serve_nothing(self: object, host: str, port: int, listening: Callable[[int], None]) -> None:
    listening(1)
