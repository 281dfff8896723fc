"""docs/rtp.md and docs/server.md against the code."""

from __future__ import annotations

import re
from pathlib import Path

import click
import numpy as np
import pytest

from spectokenizer import Codec
from spectokenizer.bitstream.packets import pack_packet
from spectokenizer.cli.serve import serve
from spectokenizer.live.protocol import Limits
from spectokenizer.live.udp import OVERHEAD

DOCS = Path(__file__).parents[2] / "docs"
RTP, SERVER = ((DOCS / name).read_text(encoding="utf-8") for name in ("rtp.md", "server.md"))


def rows(text: str, header: str) -> list[list[str]]:
    """The cells of the table under this header."""
    lines = text[text.index(header) :].splitlines()[2:]
    end = next((i for i, line in enumerate(lines) if not line.startswith("|")), len(lines))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[:end]]


def size(k: int, frames: int, redundancy: int = 0) -> int:
    return len(pack_packet(np.zeros((k, frames), int), 10, np.zeros((redundancy, frames), int)))


def test_bandwidth() -> None:
    table = rows(RTP, "| codec | bytes |")
    assert len(table) == 7
    for rate, *cells in table:
        k = round(float(rate) * 2)
        expected = []
        for frames, redundancy in ((1, 0), (2, 0), (4, 0), (1, 1)):
            count = size(k, frames, redundancy)
            expected += [str(count), f"{8 * (count + OVERHEAD) * 50 / frames / 1000:.1f}"]
        assert cells == expected


def test_example_packet_and_signalling(codec: Codec) -> None:
    codes = np.array([[1], [1023], [0], [0], [0], [0], [0], [2]])
    assert pack_packet(codes, 10, [[512]]).hex(" ") in RTP
    if codec.info.name == "mini":
        assert f"codebooks={codec.info.num_codebooks}; bits={codec.info.bits_per_code}" in RTP
        assert f"model={codec.info.model_hash};" in RTP  # a receiver rejects another


def test_limits_and_options() -> None:
    options = {name: option for option in serve.params if isinstance(option, click.Option) for name in option.opts}
    for cells in rows(SERVER, "| option | default |"):
        for name, default in zip(re.findall(r"`(--[\w-]+)`", cells[0]), cells[1].split(","), strict=True):
            option = options.pop(name)
            assert str(option.default or ()).rstrip("0").rstrip(".") in (default.split()[0], "()") or default == "none"
    assert set(options) == {"--model", "-m", "--host", "--port"}
    defaults = Limits()
    assert (defaults.waiting, defaults.outbox, defaults.hello) == (100, 100, 10.0)
    assert "100 frames waiting, or has not read more than 100 messages" in SERVER and "within 10 seconds" in SERVER
    given = {option.name: option.default for option in serve.params}
    for name in ("slots", "idle", "stall", "ahead", "grace"):
        assert given[name] == getattr(defaults, name)


def test_metrics_are_listed() -> None:
    pytest.importorskip("prometheus_client")
    from spectokenizer.live.metrics import CLOSED, Metrics

    text = Metrics().text()[0]
    names = set(re.findall(r"^# TYPE (spectok_\w+) ", text, re.MULTILINE)) - set(re.findall(r"^# TYPE (\w+_created) ", text, re.MULTILINE))
    listed = {name for cells in rows(SERVER, "| metric | |") for name in re.findall(r"`(spectok_\w+)", cells[0])}
    assert listed == names
    assert f"`{'`, `'.join(CLOSED)}`" in SERVER
