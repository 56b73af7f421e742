"""Many jobs on many cores; one that hangs or dies costs its own outcome and nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from typing import Generic, TypeVar

from attrs import frozen

START_LIMIT_SECONDS = 120.0
"""For a process to start and import what it needs."""

PROCESSES = get_context("spawn")
"""A forked process would keep its siblings' pipes open."""

J = TypeVar("J")
R = TypeVar("R")


@frozen
class Cut:
    """Instead of a result: why there is none."""

    reason: str


def outcomes(
    task: Callable[[J], R], jobs: Iterable[J], processes: int, limit_seconds: float
) -> Iterator[tuple[J, R | Cut]]:
    """`task` of each job, as they end. No more is kept than one job and one result a process.

    A job that takes longer than `limit_seconds` of real time is cut, with its process. `task` and
    jobs have to be picklable. Raises RuntimeError if a process does not even start.
    """
    left = iter(jobs)
    workers = [_Worker(task) for _ in range(processes)]
    try:
        while busy := [worker for worker in workers if worker.deadline is not None]:
            for worker in _ended(busy):
                job, outcome = worker.job, worker.outcome()
                if isinstance(outcome, Cut):
                    worker.end()
                    workers[workers.index(worker)] = _Worker(task)
                    if job is None:
                        raise RuntimeError(f"a worker does not start: {outcome.reason}")
                else:
                    worker.begin(next(left, None), limit_seconds)
                if job is not None:
                    assert outcome is not None
                    yield job, outcome
    finally:
        for worker in workers:
            worker.end()


class _Worker(Generic[J, R]):
    """A process. `job` is None while it starts; `deadline` is None when it has nothing to do."""

    def __init__(self, task: Callable[[J], R]) -> None:
        self.connection, far_end = PROCESSES.Pipe()
        self.job: J | None = None
        self.deadline: float | None = time.monotonic() + START_LIMIT_SECONDS
        self._process = PROCESSES.Process(target=_work, args=(task, far_end), daemon=True)
        self._process.start()
        far_end.close()

    def begin(self, job: J | None, limit_seconds: float) -> None:
        self.job = job
        self.deadline = None
        if job is not None:
            self.connection.send(job)
            self.deadline = time.monotonic() + limit_seconds

    def outcome(self) -> R | Cut | None:
        """Of its job; None once it has started."""
        if not self.connection.poll():
            return Cut("it took too long and was cut")
        try:
            result: R | None = self.connection.recv()
        except EOFError:
            self._process.join()
            return Cut(f"its process ended with exit code {self._process.exitcode}")
        return result

    def end(self) -> None:
        self._process.kill()
        self._process.join()
        self.connection.close()


def _ended(busy: list[_Worker[J, R]]) -> list[_Worker[J, R]]:
    """Those that have something to say, or whose time is over."""
    nearest = min(worker.deadline for worker in busy if worker.deadline is not None)
    ready = connection.wait(
        [worker.connection for worker in busy], max(0.0, nearest - time.monotonic())
    )
    now = time.monotonic()
    return [
        worker
        for worker in busy
        if worker.connection in ready or (worker.deadline is not None and worker.deadline <= now)
    ]


def _work(task: Callable[[J], R], to_parent: Connection) -> None:
    """The process: says that it has started, then performs jobs until nobody sends any."""
    with suppress(EOFError, KeyboardInterrupt, BrokenPipeError):
        to_parent.send(None)
        while True:
            to_parent.send(task(to_parent.recv()))
