"""The replicated state machine (SPEC 8): sessions, task queue and request ids under one time.

Same log, same state, byte for byte: nothing here reads a clock, draws a random number or iterates
in an order that depends on hashes. `apply` first moves the time, then removes or releases what has
expired, a bounded number each time, then performs the command. Whatever is overdue beyond the
bound has its turn with the next change; until then an expired session is hidden, an expired lease
is refused, and a delayed task is not ready.

`digest` and `snapshot_records` stand for exactly the same records, `Counters` among them, so two
nodes with the same applied index have the same digest, or one of them is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from nefia.errors import DataDamaged, InvalidArgument
from nefia.state import commands
from nefia.state.commands import Change, Command
from nefia.state.digest import DIGEST_BYTES, DIGEST_MODULUS, hash_of
from nefia.state.limits import task_number
from nefia.state.queue import Queue
from nefia.state.records import (
    Counters,
    Outcome,
    QueueStats,
    Record,
    Refusal,
    Request,
    Session,
    Task,
    TaskState,
    TimeOutcome,
)
from nefia.state.requests import Requests, with_texts, without_texts
from nefia.state.sessions import Sessions

T = TypeVar("T")

BEFORE_THE_FIRST_ENTRY = Counters(0, 0, 0, 0, 0, 0)


class Machine:
    """The state after `applied_index`, at `time_ms` of cluster time. Changed only by its owner."""

    def __init__(
        self,
        counters: Counters = BEFORE_THE_FIRST_ENTRY,
        sessions: Iterable[Session] = (),
        tasks: Sequence[Task] = (),
        requests: Iterable[Request] = (),
    ) -> None:
        self.applied_index = counters.applied_index
        self.time_ms = counters.time_ms
        self._sessions = Sessions(sessions)
        self._queue = queue = Queue(tasks, counters)
        self._requests = Requests(requests)
        self._handlers: dict[type[Command], Callable[..., Outcome]] = {
            commands.OpenSession: self._sessions.open,
            commands.TouchSession: self._sessions.touch,
            commands.UpdateSession: self._sessions.update,
            commands.CloseSession: self._sessions.close,
            commands.PushTasks: queue.push,
            commands.ClaimTasks: queue.claim,
            commands.ExtendTask: queue.extend,
            commands.AckTask: queue.ack,
            commands.FailTask: queue.fail,
            commands.CancelTask: queue.cancel,
            commands.RetryTask: queue.retry,
            commands.AdvanceTime: _advance_time,
        }

    # Changes.

    def apply(self, index: int, change: Change) -> Outcome:
        """Perform the change of entry `index`, the one after `applied_index`. Never raises.

        What a command may not do is answered with a `Refusal`, and then nothing has changed but
        the time.
        """
        self.skip(index)
        self.time_ms = now = max(self.time_ms, change.time_ms)
        self._sessions.expire(now)
        self._queue.expire(now)
        self._requests.expire(now)
        command, request_id = change.command, change.request_id
        if not request_id:
            return self._handlers[type(command)](command, now)
        outcome = self._requests.first_outcome(request_id, command, now)
        if outcome is None:
            outcome = self._handlers[type(command)](command, now)
            self._requests.remember(request_id, command, outcome, now)
        return outcome

    def skip(self, index: int) -> None:
        """Entry `index` holds no command but a no-op or a configuration."""
        assert index == self.applied_index + 1, (index, self.applied_index)
        self.applied_index = index

    # Reading.

    def digest(self) -> str:
        """64 hex digits. Takes time for the records that have changed since it was asked last."""
        total = (
            hash_of(self._counters())
            + self._sessions.table.digest()
            + self._queue.table.digest()
            + self._requests.table.digest()
        )
        return f"{total % DIGEST_MODULUS:0{2 * DIGEST_BYTES}x}"

    def next_expiry_ms(self) -> int | None:
        """From when on `AdvanceTime` would do something; at or before `time_ms` if it is overdue.

        None if nothing can expire. Expiries: of sessions, leases, delays, request ids, and of the
        time for which finished tasks are kept.
        """
        parts = (self._sessions, self._queue, self._requests)
        times = [part.next_expiry_ms for part in parts]
        return min((time for time in times if time is not None), default=None)

    def get_session(self, session_id: str) -> Session:
        """The session with this id or, from 8 digits on, the only one whose id begins so.

        Raises NotFound, or Conflict if there are several.
        """
        return _found(self._sessions.find(session_id, self.time_ms))

    def list_sessions(
        self, host: str = "", limit: int = 100, cursor: str = ""
    ) -> tuple[tuple[Session, ...], str | None]:
        """A page in the order of ids, and the cursor for the next page or None.

        `host` "" means all. A page may end early (see `pages`). Raises InvalidArgument.
        """
        return self._sessions.page(host, limit, cursor, self.time_ms)

    def get_task(self, task_id: str) -> Task:
        """Raises NotFound."""
        return _found(self._queue.find(task_id))

    def list_tasks(
        self,
        queue: str = "",
        state: TaskState | None = None,
        host: str = "",
        limit: int = 100,
        cursor: str = "",
    ) -> tuple[tuple[Task, ...], str | None]:
        """A page, oldest first, and the cursor for the next page or None.

        `queue` and `host` "" and `state` None mean all. A page may end early (see `pages`).
        Raises InvalidArgument.
        """
        after = task_number(cursor) if cursor else 0
        if after is None:
            raise InvalidArgument(f'"{cursor}" is not a cursor of an earlier page.')
        return self._queue.page(queue, state, host, limit, after)

    def queue_stats(self, queue: str = "") -> dict[str, QueueStats]:
        """By the name of the queue, in order; of all queues that hold any task, or of `queue`."""
        names = [queue] if queue else self._queue.index.queues()
        return {name: self._queue.stats(name) for name in names}

    def next_ready_ms(self, queue: str = "", host: str = "") -> int | None:
        """When a claim of `queue` and `host` ("": any) may next find a task, as far as is known.

        `time_ms` if one is ready. Else it is when a delay or a lease ends; it takes a change at
        that time or later for it to happen. None if there is no pending or leased task.
        """
        shelf = self._queue.index.shelf(queue, host)
        if shelf.ready:
            return self.time_ms
        return shelf.later[0][0] if shelf.later else None

    # Snapshots.

    def snapshot_records(self) -> Iterator[tuple[str, Record]]:
        """The whole state as it is now, as (kind, record), in an order that all nodes share.

        The call itself takes references only, some milliseconds at a million records; the records
        come as they are asked for, and changes made meanwhile do not show in them.
        """
        tasks, numbers = self._queue.table.records, self._queue.index.numbers()
        sessions, session_ids = self._sessions.table.records, list(self._sessions.ids)
        requests, expiries = self._requests.table.records, list(self._requests.by_expiry)
        counters = self._counters()

        def records() -> Iterator[tuple[str, Record]]:
            yield "counters", counters
            for session_id in session_ids:
                yield "session", sessions[session_id]
            for number in numbers:
                yield "task", tasks[number]
            for _, request_id in expiries:
                yield "request", without_texts(requests[request_id], tasks)

        return records()

    @classmethod
    def from_records(cls, records: Iterable[tuple[str, Record]]) -> Machine:
        """The machine whose `snapshot_records` these were. Raises DataDamaged if they are not."""
        counters: Counters | None = None
        sessions: list[Session] = []
        tasks: list[Task] = []
        requests: list[Request] = []
        for _, record in records:
            match record:
                case Counters():
                    counters = record
                case Session():
                    sessions.append(record)
                case Task():
                    tasks.append(record)
                case Request():
                    requests.append(record)
        if counters is None:
            raise DataDamaged("The snapshot is incomplete: it holds no counters.")
        by_number = {task.number: task for task in tasks}
        whole = (with_texts(request, by_number) for request in requests)
        return cls(counters, sessions, tasks, whole)

    def _counters(self) -> Counters:
        queue = self._queue
        before_ms, before_task = queue.index.ready_before
        return Counters(
            applied_index=self.applied_index,
            time_ms=self.time_ms,
            last_task=queue.last_task,
            last_token=queue.last_token,
            ready_before_ms=before_ms,
            ready_before_task=before_task,
        )


def _advance_time(_: commands.AdvanceTime, __: int) -> Outcome:
    return TimeOutcome()


def _found(result: T | Refusal) -> T:
    if isinstance(result, Refusal):
        raise result.to_error()
    return result
