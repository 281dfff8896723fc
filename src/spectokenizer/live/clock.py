"""A steady clock: one tick per frame, however long the work between two ticks takes."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE = 0.5  # seconds: further behind, the schedule moves on instead of making up for it


class Clock:
    """`period` seconds between ticks, divided by `speed`.

    Who comes late is let through at once until the schedule is met again, for up to half a second of delay; what is beyond that
    (a machine that slept, a source that stalled) is gone, and nothing is hurried through for it.
    """

    def __init__(
        self,
        period: float,
        speed: float = 1.0,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self.period, self._now, self._sleep = period / speed, now, sleep
        self.patience = PATIENCE / speed
        self._due: float | None = None

    def tick(self) -> None:
        """Wait for the next tick; the first comes one period after the first call."""
        now = self._now()
        due = now + self.period if self._due is None else self._due
        if due > now:
            self._sleep(due - now)
        self._due = max(due, now - self.patience) + self.period
