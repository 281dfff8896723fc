"""The engine for one machine: a pool of processes, one core each."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any

from ..errors import SpecTokenizerError
from .engine import Told
from .shard import Report

POLL = 0.5  # seconds between two looks at how far the workers are
BYTES, SECONDS, STOP = 0, 1, 2  # places in what the processes share

_shared: Any = None


class _StopError(Exception):
    """The parent has given up."""


def pool(
    work: Callable[[Any, Told], Report], tasks: Sequence[Any], workers: int | None, moving: Callable[[float, float], None]
) -> Iterator[Report]:
    """`work` on each task, somewhere; reports as they are finished. Closing it stops the workers within seconds.

    `moving` hears how many bytes and seconds of audio all of them have done. Raises SpecTokenizerError when a worker dies, and
    what `work` raises.
    """
    workers = min(workers or cores(), len(tasks))
    if workers == 1:
        yield from _alone(work, tasks, moving)
        return
    context = multiprocessing.get_context("spawn")  # forked threads of onnxruntime would hang
    shared = context.Array("d", 3)
    with ProcessPoolExecutor(workers, context, _begin, (shared,)) as executor:
        waiting, running = iter(tasks), set[Future[Report]]()
        try:
            while True:
                for task in islice(waiting, 2 * workers - len(running)):  # two each, so that none waits for the list
                    running.add(executor.submit(_work, work, task))
                if not running:
                    return
                done, running = wait(running, POLL, FIRST_COMPLETED)
                moving(shared[BYTES], shared[SECONDS])
                for future in done:
                    yield future.result()
        except BrokenProcessPool as error:
            raise SpecTokenizerError(
                "a worker process died: out of memory, killed, or a file that crashes its decoder; finished shards are kept and "
                "the same command goes on, with fewer --workers it needs less memory"
            ) from error
        finally:
            shared[STOP] = 1
            executor.shutdown(wait=True, cancel_futures=True)


def _alone(work: Callable[[Any, Told], Report], tasks: Sequence[Any], moving: Callable[[float, float], None]) -> Iterator[Report]:
    """One worker is this process."""
    done = [0.0, 0.0]

    def told(size: float, seconds: float) -> None:
        done[BYTES] += size
        done[SECONDS] += seconds
        moving(*done)

    for task in tasks:
        yield work(task, told)


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _begin(shared: Any) -> None:
    global _shared
    _shared = shared
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    """A killed parent cannot stop its workers, and they would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(work: Callable[[Any, Told], Report], task: Any) -> Report:
    pending, last = [0.0, 0.0], time.monotonic()

    def told(size: float, seconds: float) -> None:
        nonlocal last
        if _shared[STOP]:
            raise _StopError
        pending[BYTES] += size
        pending[SECONDS] += seconds
        now = time.monotonic()
        if now - last > POLL / 2:
            with _shared.get_lock():
                _shared[BYTES] += pending[BYTES]
                _shared[SECONDS] += pending[SECONDS]
            pending[:], last = [0.0, 0.0], now

    report = work(task, told)
    with _shared.get_lock():
        _shared[BYTES] += pending[BYTES]
        _shared[SECONDS] += pending[SECONDS]
    return report
