"""The task queue: pending -> leased -> done | pending (again) | dead, and cancelled (SPEC 8).

| from               | by                               | to                            |
|--------------------|----------------------------------|-------------------------------|
|                    | push                             | pending                       |
| pending            | claim, when it is ready          | leased                        |
| leased             | extend                           | leased                        |
| leased             | ack                              | done                          |
| leased             | fail, or the lease runs out      | pending; dead at max_attempts |
| pending, leased    | cancel                           | cancelled                     |
| dead, cancelled    | retry                            | pending, with attempt 0       |
| done, dead, canc.  | the retention after its end      |                               |

A task is ready when it is pending and its `run_at_ms` has come. Of those that are ready a claim
takes the highest priority first, then the oldest: the smallest number, whenever it became ready.

A key names one task of its queue while that task lives and for `KEY_MEMORY_MS` after. A push under
a key that is taken answers with that task, unchanged, even if what it pushes is different: whoever
uses a key says that it is the same task. So a task with a key is kept that long in any case; one
that is kept longer holds its key no more, and cannot be retried while another has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from sys import intern

from msgspec.structs import replace

from nefia.state import commands
from nefia.state.commands import DEFAULT_QUEUE, NewTask
from nefia.state.limits import (
    MAX_ANSWER_BYTES,
    MAX_CLAIM_TASKS,
    MAX_EXPIRIES_PER_APPLY,
    MAX_TASKS_BYTES,
    task_number,
)
from nefia.state.numbered import Numbered
from nefia.state.pages import page_of
from nefia.state.records import (
    RECORD_OVERHEAD_BYTES,
    Counters,
    Outcome,
    QueueStats,
    Refusal,
    Task,
    TasksOutcome,
    TaskState,
)
from nefia.state.task_index import DELAYED, KEY_MEMORY_MS, TaskIndex, turn_ms, turn_number

BACKOFF_FIRST_MS = 1_000
BACKOFF_MAX_MS = 600_000
BACKOFF_MAX_DOUBLINGS = 10
"""Enough for the maximum; without it a power of two would be computed from any attempt."""


def backoff_ms(number: int, attempt: int) -> int:
    """How long a task waits after its failure at `attempt`, which counts from 1.

    Half of the exponential delay and a part of the other half that depends on task and attempt
    only: tasks that failed together do not come back together, and all nodes agree.
    """
    doublings = min(max(attempt - 1, 0), BACKOFF_MAX_DOUBLINGS)
    delay_ms = min(BACKOFF_FIRST_MS << doublings, BACKOFF_MAX_MS)
    jitter = blake2b(f"{number} {attempt}".encode(), digest_size=4).digest()
    half_ms = delay_ms // 2
    return half_ms + int.from_bytes(jitter) % (half_ms + 1)


def shared(task: Task) -> Task:
    """The same, with names that are kept once for all tasks that have them."""
    queue, host, worker = intern(task.queue), intern(task.host), intern(task.worker)
    return replace(task, queue=queue, host=host, worker=worker)


class Queue:
    """All tasks; everything but `table` and the two counters is derived from them.

    `now` is always the time of the state. `last_task` and `last_token`: see `Counters`.
    """

    def __init__(self, tasks: Sequence[Task], counters: Counters) -> None:
        self.table: Numbered[Task] = Numbered((task.number, task) for task in tasks)
        self.last_task = counters.last_task
        self.last_token = counters.last_token
        self.retention_ms = counters.task_retention_ms
        ready_before = (counters.ready_before_ms, counters.ready_before_task)
        self.index = TaskIndex(tasks, ready_before)
        self._pushed: list[Task] = []
        """Not yet where it is found (see `settle`)."""

    def insert(self, tasks: Sequence[Task]) -> None:
        """Tasks whose numbers are not here yet."""
        tasks = [shared(task) for task in tasks]
        for task in tasks:
            self.table.put(task.number, task, None)
        self.index.insert(tasks)

    # Commands.

    def push(self, command: commands.PushTasks, now: int) -> Outcome:
        """All tasks or none. Before anything but another push, `settle` has to follow."""
        added_bytes = 0
        for new in command.tasks:
            added_bytes += RECORD_OVERHEAD_BYTES + len(new.payload)
        if self.index.size_bytes + added_bytes > MAX_TASKS_BYTES:
            return Refusal(
                "overloaded",
                f"All tasks, finished ones too, take {MAX_TASKS_BYTES} bytes, the most allowed.",
            )
        if len(command.tasks) == 1:
            task, added = self._push_one(command.tasks[0], now)
            return TasksOutcome((task,), (added,))
        pushed = [self._push_one(new, now) for new in command.tasks]
        return TasksOutcome(
            tuple([task for task, _ in pushed]), tuple([added for _, added in pushed])
        )

    def _push_one(self, new: NewTask, now: int) -> tuple[Task, bool]:
        queue = intern(new.queue or DEFAULT_QUEUE)
        if new.key and (holder := self._holder(queue, new.key, now)) is not None:
            return holder, False
        self.last_task = number = self.last_task + 1
        task = Task(
            number,
            queue,
            intern(new.host),
            new.payload,
            new.priority,
            now + new.delay_ms if new.delay_ms else now,
            0,  # attempt
            new.max_attempts,
            new.key,
            TaskState.PENDING,
            "",  # worker
            0,  # token
            0,  # lease_expires_ms
            b"",  # result
            "",  # error
            now,
            now,
            0,  # finished_ms
        )
        self._pushed.append(task)
        self.index.size_bytes += RECORD_OVERHEAD_BYTES + len(new.payload)
        if new.key:
            self.index.hold_key(task)
        return task, True

    def settle(self) -> None:
        """Put what was pushed into the table and on its shelves: all at once costs half as much."""
        if self._pushed:
            self.table.extend(self._pushed[0].number, self._pushed)
            self.index.add(self._pushed)
            self._pushed = []

    def _holder(self, queue: str, key: str, now: int) -> Task | None:
        """The task that has this key now."""
        number = self.index.by_key.get((queue, key))
        if number is None:
            return None
        self.settle()
        task = self.table[number]
        released = task.is_finished and task.finished_ms + KEY_MEMORY_MS <= now
        return None if released else task

    def claim(self, command: commands.ClaimTasks, now: int) -> Outcome:
        """Fewer than `limit` tasks where an answer would get too big, but at least one."""
        shelf = self.index.shelf(command.queue, command.host)
        worker = intern(command.worker)
        claimed: list[Task] = []
        claimed_bytes = 0
        for _ in range(min(command.limit, MAX_CLAIM_TASKS)):
            number = shelf.ready.next()
            if number is None:
                break
            task = self.table[number]
            claimed_bytes += task.size_bytes
            if claimed and claimed_bytes > MAX_ANSWER_BYTES:
                break
            self.last_token += 1
            leased = replace(
                task,
                state=TaskState.LEASED,
                attempt=task.attempt + 1,
                worker=worker,
                token=self.last_token,
                lease_expires_ms=now + command.lease_ms,
                updated_ms=now,
            )
            self._replace(task, leased)
            claimed.append(leased)
        return TasksOutcome(tuple(claimed), (True,) * len(claimed))

    def extend(self, command: commands.ExtendTask, now: int) -> Outcome:
        """The lease lasts `lease_ms` from now on, or as long as it did if that is longer."""
        task = self._leased(command.id, command.token, now)
        if isinstance(task, Refusal):
            return task
        end_ms = max(task.lease_expires_ms, now + command.lease_ms)
        return self._change(task, replace(task, lease_expires_ms=end_ms, updated_ms=now))

    def ack(self, command: commands.AckTask, now: int) -> Outcome:
        task = self._leased(command.id, command.token, now)
        if isinstance(task, Refusal):
            return task
        return self._finish(task, TaskState.DONE, now, result=command.result, error="")

    def fail(self, command: commands.FailTask, now: int) -> Outcome:
        task = self._leased(command.id, command.token, now)
        if isinstance(task, Refusal):
            return task
        if task.attempt >= task.max_attempts:
            return self._finish(task, TaskState.DEAD, now, result=b"", error=command.error)
        delay_ms = command.retry_after_ms
        if delay_ms is None:
            delay_ms = backoff_ms(task.number, task.attempt)
        waiting = replace(
            task,
            state=TaskState.PENDING,
            run_at_ms=now + delay_ms,
            lease_expires_ms=0,
            error=command.error,
            updated_ms=now,
        )
        return self._change(task, waiting)

    def cancel(self, command: commands.CancelTask, now: int) -> Outcome:
        """A task that is cancelled already stays as it is."""
        task = self.find(command.id)
        if isinstance(task, Refusal):
            return task
        if task.state is TaskState.CANCELLED:
            return TasksOutcome((task,), (False,))
        if task.state in (TaskState.DONE, TaskState.DEAD):
            return Refusal("conflict", f"Task {task.id} is {task.state.value} already.")
        return self._finish(task, TaskState.CANCELLED, now, result=b"", error=task.error)

    def retry(self, command: commands.RetryTask, now: int) -> Outcome:
        task = self.find(command.id)
        if isinstance(task, Refusal):
            return task
        if task.state not in (TaskState.DEAD, TaskState.CANCELLED):
            return Refusal(
                "conflict", f"Task {task.id} is {task.state.value}, not dead or cancelled."
            )
        if task.key:
            holder = self._holder(task.queue, task.key, now)
            if holder is not None and holder is not task:
                return Refusal("conflict", f"Task {holder.id} has the key of task {task.id} now.")
            self.index.hold_key(task)
        reborn = replace(
            task,
            state=TaskState.PENDING,
            run_at_ms=now,
            attempt=0,
            lease_expires_ms=0,
            error="",
            updated_ms=now,
            finished_ms=0,
        )
        return self._change(task, reborn)

    # Time.

    def expire(self, now: int) -> bool:
        """Delayed tasks get ready, lost leases end, finished tasks go; a bounded number of each.

        Whether nothing is overdue any more.
        """
        later = self.index.later
        all_ready = False
        for _ in range(MAX_EXPIRIES_PER_APPLY):
            if not later or turn_ms(turn := later[0]) > now:
                self.index.ready_before = (now + 1, 0)
                all_ready = True
                break
            task = self.table[turn_number(turn)]
            if task.state is TaskState.LEASED:
                self._lose_lease(task, now)
            else:
                self.index.promote(task)
        all_removed = [self._remove_finished(has_key, now) for has_key in self.index.finished]
        return all_ready and all(all_removed)

    def _kept_ms(self, has_key: bool) -> int:
        return max(self.retention_ms, KEY_MEMORY_MS) if has_key else self.retention_ms

    def _remove_finished(self, has_key: bool, now: int) -> bool:
        """Whether none is overdue any more."""
        finished = self.index.finished[has_key]
        kept_ms = self._kept_ms(has_key)
        for _ in range(MAX_EXPIRIES_PER_APPLY):
            if not finished or turn_ms(turn := finished[0]) + kept_ms > now:
                return True
            task = self.table.remove(turn_number(turn))
            self.index.remove(task)
        return False

    @property
    def next_expiry_ms(self) -> int | None:
        times = [turn_ms(self.index.later[0])] if self.index.later else []
        for has_key, finished in self.index.finished.items():
            if finished:
                times.append(turn_ms(finished[0]) + self._kept_ms(has_key))
        return min(times, default=None)

    def _lose_lease(self, task: Task, now: int) -> None:
        """Its attempt is counted. The token stays known, for the worker may yet be heard."""
        error = f'The lease of worker "{task.worker}" has expired.'
        if task.attempt >= task.max_attempts:
            end = TaskState.DEAD
            self._replace(
                task, replace(task, state=end, error=error, updated_ms=now, finished_ms=now)
            )
        else:
            waiting = replace(task, state=TaskState.PENDING, error=error, updated_ms=now)
            self._replace(task, waiting)

    # Reading.

    def find(self, task_id: str) -> Task | Refusal:
        number = task_number(task_id)
        task = None if number is None else self.table.get(number)
        return task or Refusal("not_found", f"There is no task {task_id}.")

    def page(
        self, queue: str, state: TaskState | None, host: str, limit: int, after: int
    ) -> tuple[tuple[Task, ...], str | None]:
        """See `Machine.list_tasks`; `after` is the number of the last task of the page before."""
        numbers = self.index.numbers_after(after, queue, state, host)
        page, more = page_of((self.table[number] for number in numbers), limit)
        return page, page[-1].id if more else None

    def stats(self, queue: str) -> QueueStats:
        shelf = self.index.shelf(queue, "")
        ready, delayed = shelf.ready, shelf.places[DELAYED]
        oldest = [place.first() for place in (ready, delayed) if place]
        return QueueStats(
            **{state.value: shelf.count(state) for state in TaskState},
            oldest_pending_ms=self.table[min(oldest)].created_ms if oldest else None,
            ready=len(ready),
            oldest_ready_ms=self.table[ready.first()].run_at_ms if ready else None,
        )

    # Keeping the records and what is derived from them together.

    def _leased(self, task_id: str, token: int, now: int) -> Task | Refusal:
        """The task, if `token` is that of its newest claim and the lease has not run out."""
        task = self.find(task_id)
        if isinstance(task, Refusal):
            return task
        if token != task.token or not task.lease_expires_ms:
            return Refusal(
                "conflict", f"Token {token} is not, or no longer, the one of task {task_id}."
            )
        if task.lease_expires_ms <= now or task.state is not TaskState.LEASED:
            return Refusal("lease_lost", f"The lease of task {task_id} has expired.")
        return task

    def _finish(
        self, task: Task, state: TaskState, now: int, result: bytes, error: str
    ) -> TasksOutcome:
        finished = replace(
            task,
            state=state,
            lease_expires_ms=0,
            result=result,
            error=error,
            updated_ms=now,
            finished_ms=now,
        )
        return self._change(task, finished)

    def _change(self, old: Task, new: Task) -> TasksOutcome:
        self._replace(old, new)
        return TasksOutcome((new,), (True,))

    def _replace(self, old: Task, new: Task) -> None:
        self.table.put(new.number, new, old)
        self.index.replace(old, new)
