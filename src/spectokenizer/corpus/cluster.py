"""The engine for a cluster: the same function on Ray Data actors. The output's folder must be one that all machines share."""

from __future__ import annotations

import logging
import math
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError, SpecTokenizerError
from .engine import Told
from .shard import Report

SPARE = 1  # cores that Ray Data's own tasks need: actors that reserve every one leave it waiting for ever, without a word
PATIENCE = 15.0  # seconds until cores that were just in use are free again


@dataclass(frozen=True)
class Ray:
    """An engine as `job.tokenize` takes it. `address` is a running cluster's ("auto", "ray://head:10001"); None starts one here."""

    address: str | None = None

    def __call__(
        self, work: Callable[[Any, Told], Report], tasks: Sequence[Any], workers: int | None, moving: Callable[[float, float], None]
    ) -> Iterator[Report]:
        """Raises ConfigError when Ray or the cluster is not there, or has too few cores, SpecTokenizerError when the work fails."""
        try:
            import ray
            import ray.data
        except ImportError as error:
            raise ConfigError('--engine ray needs Ray: pip install "ray[data]"') from error
        mine = not ray.is_initialized()
        if mine:
            self._connect(ray)
        try:
            total = ray.cluster_resources().get("CPU", 0.0)
            workers = min(workers or max(1, math.floor(total) - SPARE), len(tasks))
            deadline = time.monotonic() + PATIENCE
            while workers + SPARE > ray.available_resources().get("CPU", 0.0) and workers + SPARE <= total and time.monotonic() < deadline:
                time.sleep(0.5)
            check_cores(total, ray.available_resources().get("CPU", 0.0), workers)
            yield from _run(ray, work, tasks, workers, moving)
        finally:
            if mine:
                ray.shutdown()

    def _connect(self, ray: Any) -> None:
        try:
            ray.init(address=self.address or "local", log_to_driver=False, configure_logging=False, include_dashboard=False)
        except Exception as error:  # Ray raises the bare class, too: a node that does not start in time
            where = f"no Ray cluster at '{self.address}'" if self.address else "Ray did not start on this machine"
            remedy = "start one with 'ray start --head'" if self.address else "try again when it is less busy, or use --engine local"
            raise ConfigError(f"{where} ({error}); {remedy}") from error


def check_cores(total: float, free: float, workers: int) -> None:
    """Raises ConfigError when `workers` actors of a core each would leave none of the `free` ones for Ray Data itself, which then hangs."""
    if workers + SPARE <= free:
        return
    most = math.floor(free) - SPARE
    remedy = f"give --workers {most}" if most >= 1 else "wait for cores, add a machine, or use --engine local"
    raise ConfigError(
        f"Ray has {free:g} of {total:g} cores free; {workers} workers need one each, and Ray Data {SPARE} more, "
        f"without which it would wait for ever: {remedy}"
    )


class _Actor:
    """A worker: the model stays loaded between shards."""

    def __init__(self, work: Callable[[Any, Told], Report]):
        self.work = work

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            report = self.work(pickle.loads(row["task"]), lambda size, seconds: None)  # pickled by `_run`, a moment ago
        except (SpecTokenizerError, OSError) as error:
            return {"report": "", "failure": pickle.dumps(error)}
        return {"report": report.to_json(), "failure": b""}


def _run(
    ray: Any, work: Callable[[Any, Told], Report], tasks: Sequence[Any], workers: int, moving: Callable[[float, float], None]
) -> Iterator[Report]:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # ours shows hours of audio
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    rows = ray.data.from_items([{"task": pickle.dumps(task)} for task in tasks], override_num_blocks=len(tasks))
    done = rows.map(_Actor, fn_constructor_args=(work,), compute=ray.data.ActorPoolStrategy(size=workers), num_cpus=1)
    size = seconds = 0.0
    results = iter(done.iter_rows())
    while True:
        try:
            row = next(results, None)
        except ray.exceptions.RayError as error:
            raise SpecTokenizerError(f"Ray gave up: {error}; finished shards are kept and the same command goes on") from error
        if row is None:
            return
        if row["failure"]:
            raise pickle.loads(row["failure"])
        report = Report.from_json(row["report"])
        size, seconds = size + report.size, seconds + report.seconds
        moving(size, seconds)
        yield report
