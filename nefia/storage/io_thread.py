"""A thread that lives as long as its store and waits for the disk in the event loop's place.

`trio.to_thread` starts or wakes a worker for each call and costs some 150 us; this costs a queue
and a wake-up of the loop.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import TypeVar

import outcome
import trio

MAX_WAITING_JOBS = 1024
"""More means that somebody asks without waiting for answers."""

T = TypeVar("T")


class IoThread:
    """Jobs are done one at a time, in the order in which they were asked for."""

    def __init__(self, name: str) -> None:
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._stopped = False
        # A daemon thread: one that hangs in a dead disk must not keep the process alive.
        threading.Thread(target=self._work, name=name, daemon=True).start()

    async def run(self, job: Callable[[], T]) -> T:
        """What `job` returns or raises, done in the thread.

        A caller that is cancelled stops waiting; its job is done nevertheless, in its turn.
        """
        assert not self._stopped, "the store is closed"
        assert self._jobs.qsize() < MAX_WAITING_JOBS, "jobs without end"
        await trio.lowlevel.checkpoint_if_cancelled()
        task = trio.lowlevel.current_task()
        token = trio.lowlevel.current_trio_token()
        waiting = True

        def done(result: outcome.Outcome[T]) -> None:
            nonlocal waiting
            if waiting:
                waiting = False
                trio.lowlevel.reschedule(task, result)

        def perform() -> None:
            result = outcome.capture(job)
            with suppress(trio.RunFinishedError):  # then nobody is left who could be told
                token.run_sync_soon(done, result)

        def abandon(_: object) -> trio.lowlevel.Abort:
            nonlocal waiting
            waiting = False
            return trio.lowlevel.Abort.SUCCEEDED

        self._jobs.put(perform)
        result: T = await trio.lowlevel.wait_task_rescheduled(abandon)
        return result

    def stop(self) -> None:
        """The thread ends after the jobs that it has been given; it takes no more."""
        self._stopped = True
        self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
