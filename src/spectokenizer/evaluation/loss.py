"""Quality when packets are lost: our packets, redundancy and concealment beside Opus with its own, at the same bytes per packet.

    systems = lossy_systems("mini", bitrate=6000, redundancies=(0, 2), losses=(0, 0.1, 0.3), opus=True)
    outcome = evaluate(systems, find_clips("speech"), ["pesq_wb", "stoi"], "loss"); write("loss", systems, outcome.rows)

Every system loses the same packets of the same clip. Redundancy costs what it takes away: with r codebooks of the frame before
in each packet, the frame's own codebooks are r fewer, so that all curves of one picture have one bitrate.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..bitstream.packets import MAX_REDUNDANCY, Packetizer, unpack_packet
from ..errors import ConfigError
from ..runtime.audio import Audio
from ..runtime.files import to_int16
from ..training.augment import bursts
from . import report
from .evaluate import Clip, Processed, Row, _codec, fit
from .metrics import METRICS, Column

Lost = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Channel:
    """Which packets are lost: Gilbert–Elliott with all or nothing in its two states, or a recorded trace, repeated.

    `loss` is the share of packets, `burst` the mean number lost in a row.
    """

    loss: float
    burst: float = 2.0
    trace: tuple[bool, ...] = ()

    @property
    def fingerprint(self) -> str:
        """What `loss` does not tell."""
        return f"trace {zlib.crc32(bytes(self.trace)):08x}" if self.trace else f"burst {self.burst:g}"

    def lost(self, packets: int, audio: Audio) -> Lost:
        """[packets], the same for the same audio, even where a codec's delay makes one packet more."""
        seed = zlib.crc32(to_int16(audio).tobytes())
        if self.trace:
            return np.resize(np.roll(self.trace, -(seed % len(self.trace))), packets)
        drawn = len(audio) // 80 + 100  # of the audio alone, and more packets than it has with any codec
        return bursts(drawn, np.array([self.loss]), np.array([self.burst]), np.random.default_rng(seed))[:packets, 0]


def read_trace(path: str | Path) -> tuple[bool, ...]:
    """A text file of 0 (arrived) and 1 (lost) per packet, white space ignored. Raises ConfigError."""
    text = "".join(Path(path).read_text(encoding="utf-8", errors="replace").split())
    if not text or set(text) - {"0", "1"}:
        raise ConfigError(f"{path}: no trace; give a 0 for each packet that arrived and a 1 for each that was lost")
    return tuple(c == "1" for c in text)


@dataclass(frozen=True)
class OverPackets:
    """Our codec over a channel; one frame per packet. `bitrate` is that of the packets, their header byte included."""

    model: str
    codebooks: int
    redundancy: int
    channel: Channel
    series: str
    bitrate: int
    model_hash: str
    aligned: bool = True

    @property
    def name(self) -> str:
        return f"{self.series}, {100 * self.channel.loss:.3g} % lost"

    @property
    def fingerprint(self) -> str:
        return f"{self.model_hash}, {self.channel.fingerprint}"

    def process(self, audio: Audio, sample_rate: int) -> Processed:
        codec = _codec(self.model)
        info = codec.info
        codes = codec.encode(audio, sample_rate, info.bitrates[self.codebooks - 1])
        packets = Packetizer(info.bits_per_code, redundancy=self.redundancy).push(codes.array)
        lost = self.channel.lost(len(packets), audio)
        decoder, parts = codec.decoder(), []
        for i, packet in enumerate(packets):
            if not lost[i]:
                parts.append(decoder.push(unpack_packet(packet, info.bits_per_code).codes))
            elif i + 1 < len(packets) and not lost[i + 1] and self.redundancy:
                parts.append(decoder.push(unpack_packet(packets[i + 1], info.bits_per_code).previous))
            else:
                parts.append(decoder.conceal(1))
        heard = np.concatenate(parts)[info.delay_samples :]
        return Processed(fit(heard, len(audio)), 8 * sum(map(len, packets)))


@dataclass(frozen=True)
class OpusOverPackets:
    """libopus at a constant number of bytes per 20 ms, told what loss to expect: in-band FEC where it finds room, else concealment."""

    channel: Channel
    bitrate: int
    aligned: bool = True

    @property
    def series(self) -> str:
        return f"opus {self.bitrate / 1000:g} kbps"

    @property
    def name(self) -> str:
        return f"{self.series}, {100 * self.channel.loss:.3g} % lost"

    @property
    def fingerprint(self) -> str:
        import opuslib

        return f"{opuslib.api.info.get_version_string().decode()}, {self.channel.fingerprint}"

    def process(self, audio: Audio, sample_rate: int) -> Processed:
        import opuslib

        frame = sample_rate // 50
        encoder, decoder = opuslib.Encoder(sample_rate, 1, "voip"), opuslib.Decoder(sample_rate, 1)
        encoder.vbr, encoder.bitrate = 0, self.bitrate
        ctl = opuslib.api.ctl  # the setters of these two properties forget their value (opuslib 3.0.1)
        opuslib.api.encoder.encoder_ctl(encoder.encoder_state, ctl.set_inband_fec, 1)
        opuslib.api.encoder.encoder_ctl(encoder.encoder_state, ctl.set_packet_loss_perc, round(100 * self.channel.loss))
        delay = encoder.lookahead
        pcm = to_int16(fit(audio, -(-(len(audio) + delay) // frame) * frame))
        packets = [encoder.encode(block.tobytes(), frame) for block in pcm.reshape(-1, frame)]
        lost = self.channel.lost(len(packets), audio)
        parts = []
        for i, packet in enumerate(packets):
            if not lost[i]:
                parts.append(decoder.decode(packet, frame))
            elif i + 1 < len(packets) and not lost[i + 1]:
                parts.append(decoder.decode(packets[i + 1], frame, decode_fec=True))  # conceals when the packet has no FEC
            else:
                parts.append(decoder.decode(b"", frame))
        heard = np.frombuffer(b"".join(parts), "<i2").astype(np.float32)[delay:] / 32768
        return Processed(fit(heard, len(audio)), 8 * sum(map(len, packets)))


def opus_absence() -> str:
    """What it takes to run Opus here; empty when it runs."""
    try:
        import opuslib

        opuslib.Encoder(16000, 1, "voip")
    except Exception as error:  # the binding raises a bare Exception when it finds no library
        return f"{error} (apt install libopus0; pip install opuslib)"
    return ""


LossySystem = OverPackets | OpusOverPackets


def lossy_systems(
    model: str = "mini",
    bitrate: int = 6000,
    redundancies: Sequence[int] = (0, 2),
    losses: Sequence[float] = (0.0, 0.05, 0.1, 0.2, 0.3),
    burst: float = 2.0,
    trace: tuple[bool, ...] = (),
    opus: Sequence[int] = (),
) -> list[LossySystem]:
    """Every system at every loss; all of ours have packets of the size that `bitrate` without redundancy gives.

    `opus` are bitrates (bits/s) to run it at; 0 stands for that of our packets. Raises BitrateError, ConfigError.
    """
    codec = _codec(str(model))
    info = codec.info
    codebooks = codec.codebooks_for(bitrate)
    bad = [r for r in redundancies if not 0 <= r <= min(MAX_REDUNDANCY, codebooks - 1)]
    if bad or not all(0 <= loss < 1 for loss in losses) or not 1 <= burst < math.inf:
        raise ConfigError(
            f"redundancy {list(redundancies)}, losses {list(losses)}, burst {burst:g}: give redundancies of 0 to "
            f"{min(MAX_REDUNDANCY, codebooks - 1)} codebooks, shares of packets below 1 and a burst of at least 1"
        )
    if not trace and max(losses, default=0) > (most := burst / (burst + 1)):
        raise ConfigError(  # one packet at least arrives between two bursts
            f"{100 * max(losses):g} % of the packets cannot be lost {burst:g} in a row on average: at most {100 * most:.3g} %; "
            "give a longer burst"
        )
    total = round(8 * (1 + -(-codebooks * info.bits_per_code // 8)) * info.frame_rate)
    channels = [Channel(float(np.mean(trace)), burst, trace)] if trace else [Channel(loss, burst) for loss in losses]
    ours = [
        OverPackets(str(model), codebooks - r, r, c, f"{info.name} {info.bitrates[codebooks - r - 1] / 1000:g}"
                    + (f" + {r * info.bitrates[0] / 1000:g} kbps again" if r else " kbps"), total, info.model_hash)
        for r in redundancies for c in channels
    ]  # fmt: skip
    return [*ours, *(OpusOverPackets(c, rate or total) for rate in opus for c in channels)]


def write(out: str | Path, systems: Sequence[LossySystem], clips: Sequence[Clip], rows: Sequence[Row], metrics: Sequence[str]) -> Path:
    """loss.md and loss.png into `out`: each metric over the share of lost packets, a line per system; rows of other clips are left out."""
    out, wanted = Path(out), {clip.name for clip in clips}
    columns = [column for name in metrics for column in METRICS[name].columns]
    summary = report.summarise((row for row in rows if row["clip"] in wanted), columns)
    table: dict[str, dict[float, Any]] = {}
    for system in systems:
        table.setdefault(system.series, {})[system.channel.loss] = summary.get((system.name, system.bitrate))
    losses = sorted({system.channel.loss for system in systems})
    trouble = _draw(out / "loss.png", table, columns)
    parts = [
        f"# Lost packets\n\n{len(clips)} clips; means, (n) where only n could be measured. Packets of 20 ms, lost in bursts of "
        f"{systems[0].channel.burst:g} on average (Gilbert–Elliott) or by a trace; every system loses the same ones. The rate "
        "is that of the packets, headers included.",
        "![Quality over loss](loss.png)" if trouble is None else f"No picture: {trouble}.",
    ]
    for column in columns:
        header = [column.label, "kbps", *(f"{100 * loss:.3g} %" for loss in losses)]
        body = []
        for series, by_loss in table.items():
            kbps = next((e["kbps"].mean for e in by_loss.values() if e), float("nan"))
            found = [by_loss[loss] and by_loss[loss][column.name] for loss in losses]
            cells = [report.cell(value._replace(ci=math.nan), column.digits, len(clips)) if value else "–" for value in found]
            body.append([series, f"{kbps:.2f}", *cells])
        parts.append(report.markdown_table(header, body))
    path = out / "loss.md"
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return path


def _draw(path: Path, table: dict[str, dict[float, Any]], columns: Sequence[Column]) -> str | None:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        return f"{error} (pip install matplotlib)"
    figure = Figure(figsize=(4.2 * len(columns), 3.6), dpi=110, layout="constrained")
    for panel, column in zip(figure.subplots(1, len(columns), squeeze=False)[0], columns, strict=True):
        for i, (series, by_loss) in enumerate(table.items()):
            points = sorted((100 * loss, e[column.name].mean) for loss, e in by_loss.items() if e)
            panel.plot(*zip(*points, strict=True), color=report.PALETTE[i % 7], marker=report.MARKERS[i % 7], markersize=4, label=series)
        panel.set_title(f"{column.label} ({column.better} is better)", fontsize=10)
        panel.set_xlabel("packets lost, %", fontsize=9)
        panel.grid(alpha=0.3)
    handles, labels = panel.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, fontsize=9)
    figure.savefig(path)
    return None
