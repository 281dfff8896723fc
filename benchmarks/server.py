"""What a server costs and how long it keeps a frame: callers in real time against `spectok serve`, over loopback.

    python benchmarks/server.py --calls 1,8,32 --seconds 10

Every caller sends 20 ms of speech every 20 ms and notes when the answer to it comes: of `encode` the packet, of `echo` the samples. The
server is a process of its own, whose CPU time is read from its metrics. Callers begin at random moments. Prints JSON and a table.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import click
import numpy as np
import soundfile
from websockets.asyncio.client import connect

FRAME, FRAME_SECONDS = 640, 0.02  # bytes
SPEECH = Path(__file__).parents[1] / "examples" / "speech.flac"


def metric(address: str, name: str) -> float:
    with urllib.request.urlopen(f"http://{address}/metrics") as answer:
        found = re.search(rf"^{name} (\S+)$", answer.read().decode(), re.MULTILINE)
    assert found, name
    return float(found[1])


async def caller(address: str, mode: str, pcm: bytes, seconds: float, delay: float) -> list[float]:
    """Seconds from each frame that was sent to the answer to it."""
    await asyncio.sleep(delay)
    sent: list[float] = []
    waited: list[float] = []
    async with connect(f"ws://{address}", compression=None) as call:
        await call.send(json.dumps({"mode": mode}))
        await call.recv()

        async def listen() -> None:
            async for message in call:
                if isinstance(message, bytes) and len(waited) < len(sent):
                    waited.append(time.perf_counter() - sent[len(waited)])

        listening = asyncio.create_task(listen())
        start = time.perf_counter()
        for i in range(round(seconds / FRAME_SECONDS)):
            await asyncio.sleep(max(0.0, start + i * FRAME_SECONDS - time.perf_counter()))
            at = i * FRAME % (len(pcm) - FRAME)
            sent.append(time.perf_counter())
            await call.send(pcm[at : at + FRAME])
        await call.send(json.dumps({"end": True}))
        await listening
    return waited


async def measure(address: str, mode: str, calls: int, seconds: float) -> dict[str, object]:
    pcm = (soundfile.read(SPEECH, dtype="int16")[0]).astype("<i2").tobytes()
    rng = np.random.default_rng(0)
    names = ("process_cpu_seconds_total", 'spectok_batch_streams_sum{side="encoder"}', 'spectok_batch_streams_count{side="encoder"}')
    before = [await asyncio.to_thread(metric, address, name.replace("{", r"\{").replace("}", r"\}")) for name in names]
    waited = await asyncio.gather(*(caller(address, mode, pcm, seconds, rng.uniform(0, 1)) for _ in range(calls)))
    after = [await asyncio.to_thread(metric, address, name.replace("{", r"\{").replace("}", r"\}")) for name in names]
    cpu, streams, steps = (b - a for a, b in zip(before, after, strict=True))
    p50, p99 = np.percentile(np.concatenate(waited), [50, 99])
    return {
        "mode": mode,
        "calls": calls,
        "latency_ms_p50": round(1000 * p50, 1),
        "latency_ms_p99": round(1000 * p99, 1),
        "cpu_percent": round(100 * cpu / seconds, 1),  # of one core
        "cpu_percent_per_call": round(100 * cpu / seconds / calls, 2),
        "streams_per_step": round(streams / max(steps, 1), 2),
    }


@click.command()
@click.option("--calls", default="1,8,32", show_default=True)
@click.option("--modes", default="encode,echo", show_default=True)
@click.option("--seconds", default=10.0, show_default=True)
@click.option("--model", default="mini", show_default=True)
@click.option("--tick", default="5", show_default=True, help="Of the server, ms.")
def main(calls: str, modes: str, seconds: float, model: str, tick: str) -> None:
    """Measure and say."""
    counts = [int(count) for count in calls.split(",")]
    command = [sys.executable, "-m", "spectokenizer", "serve", "--port", "0", "-m", model, "--slots", str(max(counts)), "--tick", tick]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            address = server.stderr.readline().split("/")[2]
            rows = [asyncio.run(measure(address, mode, count, seconds)) for mode in modes.split(",") for count in counts]
        finally:
            server.terminate()
    print(json.dumps(rows))
    print("| " + " | ".join(rows[0]) + " |\n" + "|---" * len(rows[0]) + "|")
    for row in rows:
        print("| " + " | ".join(map(str, row.values())) + " |")


if __name__ == "__main__":
    main()
