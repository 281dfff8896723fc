"""What a server counts, as Prometheus reads it."""

from __future__ import annotations

from typing import Any

from .engine import MODES, Tick

STEP_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
CLOSED = ("end", "left", "refused", "full", "idle", "slow", "oversize", "shutdown", "error")


class Metrics:
    """A registry of its own, so that several servers in one process do not mix. `docs/server.md` lists the names."""

    def __init__(self) -> None:
        import prometheus_client as prometheus

        self.registry = prometheus.CollectorRegistry()
        common: dict[str, Any] = {"registry": self.registry}
        prometheus.ProcessCollector(**common)
        self.connections = prometheus.Gauge("spectok_connections", "Open WebSocket connections", **common)
        self.streams = prometheus.Gauge("spectok_streams", "Calls that hold a slot", ["mode"], **common)
        self.slots = prometheus.Gauge("spectok_slots", "Calls possible per direction", **common)
        self.frames = prometheus.Counter("spectok_frames", "Frames of 20 ms stepped", ["side"], **common)
        self.step = prometheus.Histogram(
            "spectok_step_seconds", "Time of one network call for all streams that were due", ["side"], buckets=STEP_SECONDS, **common
        )
        self.batch = prometheus.Histogram("spectok_batch_streams", "Streams in one network call", ["side"], buckets=BATCH_SIZES, **common)
        self.concealed = prometheus.Counter("spectok_concealed_frames", "Frames of lost packets", **common)
        self.recovered = prometheus.Counter("spectok_recovered_frames", "Frames taken from the redundancy of the next packet", **common)
        self.late = prometheus.Counter("spectok_late_packets", "Packets dropped because their time had passed", **common)
        self.waiting = prometheus.Gauge("spectok_waiting_frames", "Frames that wait to be stepped", **common)
        self.outgoing = prometheus.Gauge("spectok_outgoing_messages", "Messages that clients have yet to read", **common)
        self.throttled = prometheus.Counter("spectok_throttled", "Times a client that was ahead was not read from", **common)
        self.closed = prometheus.Counter("spectok_closed", "Calls that ended", ["reason"], **common)
        for mode in MODES:
            self.streams.labels(mode)
        for reason in CLOSED:
            self.closed.labels(reason)
        for side in ("encoder", "decoder"):
            self.frames.labels(side)
            self.step.labels(side)
            self.batch.labels(side)

    def tick(self, tick: Tick) -> None:
        for side, (streams, seconds) in tick.batches.items():
            if streams:
                self.frames.labels(side).inc(streams)
                self.step.labels(side).observe(seconds)
                self.batch.labels(side).observe(streams)
        self.concealed.inc(tick.concealed)
        self.recovered.inc(tick.recovered)
        self.late.inc(tick.late)

    def text(self) -> tuple[str, str]:
        """Everything in the text format, and its content type."""
        import prometheus_client as prometheus

        return prometheus.generate_latest(self.registry).decode(), prometheus.CONTENT_TYPE_LATEST
