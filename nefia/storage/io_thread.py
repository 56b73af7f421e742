"""A thread that lives as long as its store and waits for the disk in the event loop's place.

`trio.to_thread` starts or wakes a worker for each call and costs some 150 us; this costs a queue
and a wake-up of the loop.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import Generic, TypeAlias, TypeVar

import outcome
import trio

MAX_WAITING_JOBS = 1024
"""More means that somebody asks without waiting for answers."""

T = TypeVar("T")
Then: TypeAlias = Callable[[outcome.Outcome[T]], None]


class Job(Generic[T]):
    """Something that an `IoThread` has been told to do. Made by `IoThread.begin`."""

    def __init__(self, work: Callable[[], T], then: Then[T]) -> None:
        self._work = work
        self._then = then
        self._token = trio.lowlevel.current_trio_token()
        self._result: outcome.Outcome[T] | None = None
        self._waiting: trio.lowlevel.Task | None = None

    async def wait(self) -> T:
        """What the work returns or raises; for one task.

        A caller that is cancelled stops waiting; its job is done nevertheless, in its turn.
        """
        if self._result is not None:
            await trio.lowlevel.checkpoint()
            return self._result.unwrap()
        self._waiting = trio.lowlevel.current_task()
        result: T = await trio.lowlevel.wait_task_rescheduled(self._abandon)
        return result

    def perform(self) -> None:
        """In the thread."""
        result = outcome.capture(self._work)
        with suppress(trio.RunFinishedError):  # then nobody is left who could be told
            self._token.run_sync_soon(self._done, result)

    def _done(self, result: outcome.Outcome[T]) -> None:
        self._result = result
        self._then(result)
        if self._waiting is not None:
            trio.lowlevel.reschedule(self._waiting, result)

    def _abandon(self, _: object) -> trio.lowlevel.Abort:
        self._waiting = None
        return trio.lowlevel.Abort.SUCCEEDED


class IoThread:
    """Jobs are done one at a time, in the order in which they were asked for."""

    def __init__(self, name: str) -> None:
        self._unfinished = 0
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._stopped = False
        # A daemon thread: one that hangs in a dead disk must not keep the process alive.
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def begin(self, work: Callable[[], T], then: Then[T] = lambda result: None) -> Job[T]:
        """Have `work` done, whether anybody waits for it or not.

        In the end `then` is called in the event loop, and must not raise.
        """
        assert not self._stopped, "the store is closed"
        assert self._jobs.qsize() < MAX_WAITING_JOBS, "jobs without end"
        job = Job(work, partial(self._finished, then))
        self._unfinished += 1
        self._jobs.put(job.perform)
        return job

    def _finished(self, then: Then[T], result: outcome.Outcome[T]) -> None:
        self._unfinished -= 1
        then(result)

    @property
    def unfinished(self) -> int:
        """How many jobs the event loop does not yet know to be done."""
        return self._unfinished

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` returns or raises, done in the thread. See `Job.wait`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        return await self.begin(work).wait()

    def stop(self) -> None:
        """The thread ends after the jobs that it has been given; it takes no more."""
        self._stopped = True
        self._jobs.put(None)

    def _work(self) -> None:
        while (perform := self._jobs.get()) is not None:
            perform()
