"""A steady clock on a machine that is not: told here what the time is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectokenizer.live.clock import PATIENCE, Clock


class Machine:
    now = 100.0

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


def clock_of(machine: Machine, speed: float = 1.0) -> Clock:
    return Clock(0.02, speed, now=lambda: machine.now, sleep=machine.sleep)


@pytest.mark.parametrize("speed", [1.0, 4.0])
def test_work_does_not_shift_the_ticks(speed: float) -> None:
    machine = Machine()
    clock = clock_of(machine, speed)
    for i in range(1, 50):
        clock.tick()
        assert machine.now == pytest.approx(100 + 0.02 * i / speed)
        machine.now += 0.015 / speed  # work


@given(st.lists(st.floats(0, 3, allow_subnormal=False), min_size=1, max_size=60))  # onnxruntime was told to flush them, which lasts
def test_delays_are_made_up_for_within_patience_and_never_more(work: list[float]) -> None:
    machine = Machine()
    clock, ticks = clock_of(machine), []
    for seconds in work:
        clock.tick()
        ticks.append(machine.now)
        machine.now += seconds
    for i, first in enumerate(ticks):
        for j in range(i, len(ticks)):  # no more than the time between, and what may be made up for
            assert (j - i) * 0.02 <= ticks[j] - first + PATIENCE + 0.02 + 1e-9
    behind = Machine()
    clock = clock_of(behind)
    clock.tick()
    behind.now += 0.3
    for _ in range(20):
        clock.tick()
    assert behind.now == pytest.approx(100 + 21 * 0.02)
