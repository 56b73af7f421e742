"""Request ids that were used lately, so that a repetition answers as the first did (SPEC 4).

What counts as the same content is what the caller asked for: what the leader added to it (a new
session's id and lifetimes) may differ at the second try, and so may how long a claim would wait.

Refusals are outcomes and remembered like any other, except two that are no outcome yet: a change
refused as `overloaded` is tried again in earnest, and so is a claim that found nothing and is
still waiting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from operator import attrgetter

from msgspec.structs import astuple, replace

from nefia.state import commands
from nefia.state.commands import ClaimTasks, Command
from nefia.state.digest import canonical_plain
from nefia.state.limits import MAX_EXPIRIES_PER_APPLY, MAX_REQUESTS, REQUEST_MEMORY_MS
from nefia.state.numbered import Numbered
from nefia.state.records import Outcome, Refusal, Request, Task, TasksOutcome, TaskState

FINGERPRINT_BYTES = 16


def _named_tasks(command: commands.PushTasks) -> object:
    return [("NewTask", astuple(new)) for new in command.tasks]


_CONTENT: dict[type[Command], tuple[str, Callable[..., object]]] = {
    commands.OpenSession: (
        "session_open",
        attrgetter("host", "root", "cwd", "user", "shell", "labels"),
    ),
    commands.TouchSession: ("session_touch", attrgetter("id")),
    commands.UpdateSession: ("session_update", attrgetter("id", "cwd", "labels")),
    commands.CloseSession: ("session_close", attrgetter("id")),
    commands.PushTasks: ("queue_push", _named_tasks),
    commands.ClaimTasks: (
        "queue_claim",
        attrgetter("worker", "queue", "host", "lease_ms", "limit"),
    ),
    commands.ExtendTask: ("queue_extend", attrgetter("id", "token", "lease_ms")),
    commands.AckTask: ("queue_ack", attrgetter("id", "token", "result")),
    commands.FailTask: ("queue_fail", attrgetter("id", "token", "error", "retry_after_ms")),
    commands.CancelTask: ("queue_cancel", attrgetter("id")),
    commands.RetryTask: ("queue_retry", attrgetter("id")),
    commands.AdvanceTime: ("advance_time", lambda _: ()),
    commands.BeginRestore: ("begin_restore", attrgetter("restore_id")),
    commands.RestorePart: ("restore_part", attrgetter("restore_id", "number")),
    commands.EndRestore: ("end_restore", attrgetter("restore_id", "parts")),
    commands.SetRetention: ("set_retention", attrgetter("task_retention_ms", "session_gc_ms")),
    commands.AcquireTenure: ("acquire_tenure", attrgetter("term")),
    commands.ReleaseTenure: ("release_tenure", attrgetter("term")),
    commands.Remember: ("remember", attrgetter("service", "key", "value")),
    commands.ApplicationCommand: ("apply", attrgetter("machine", "body")),
    commands.RecordEvent: (
        "record_event",
        attrgetter("kind", "node_id", "term", "detail", "reason"),
    ),
}
"""By command: the action it stands for, and the caller's part of it."""


def fingerprint(command: Command) -> bytes:
    action, content = _CONTENT[type(command)]
    encoded = canonical_plain((action, content(command)))
    return blake2b(encoded, digest_size=FINGERPRINT_BYTES).digest()


class Requests:
    """The remembered requests by the order of their coming, which is that of their expiry.

    Everything but `table` is derived from it, the numbers in it too.
    """

    def __init__(self, requests: Iterable[Request]) -> None:
        self.table: Numbered[Request] = Numbered(enumerate(requests))
        self._numbers = {request.id: n for n, request in enumerate(self.table.snapshot())}
        self._first, self._next = 0, len(self.table)
        """No number below the first has a request; the next one is the next to be given."""

    def first_outcome(self, request_id: str, command: Command, now: int) -> Outcome | None:
        """What to answer instead of performing `command`, or None if it is to be performed."""
        number = self._numbers.get(request_id)
        first = None if number is None else self.table[number]
        if first is None or first.expires_ms <= now:
            if len(self.table) < MAX_REQUESTS:
                return None
            return Refusal(
                "overloaded", f"{MAX_REQUESTS} request ids are remembered, the most allowed."
            )
        if first.fingerprint == fingerprint(command):
            return first.outcome
        return Refusal(
            "conflict", f'The request id "{request_id}" was used for another request before.'
        )

    def remember(self, request_id: str, command: Command, outcome: Outcome, now: int) -> None:
        if not _is_final(command, outcome):
            return
        expired = self._numbers.get(request_id)
        if expired is not None:
            self._forget(expired)
        request = Request(request_id, fingerprint(command), now + REQUEST_MEMORY_MS, outcome)
        number, self._next = self._next, self._next + 1
        self.table.put(number, request, None)
        self._numbers[request_id] = number

    def expire(self, now: int) -> bool:
        """Whether nothing is overdue any more."""
        for _ in range(MAX_EXPIRIES_PER_APPLY):
            oldest = self._oldest()
            if oldest is None or oldest.expires_ms > now:
                return True
            self._forget(self._first)
        return False

    @property
    def next_expiry_ms(self) -> int | None:
        oldest = self._oldest()
        return None if oldest is None else oldest.expires_ms

    def _oldest(self) -> Request | None:
        while self._first < self._next:
            oldest = self.table.get(self._first)
            if oldest is not None:
                return oldest
            self._first += 1
        return None

    def _forget(self, number: int) -> None:
        del self._numbers[self.table.remove(number).id]


def _is_final(command: Command, outcome: Outcome) -> bool:
    if isinstance(outcome, Refusal):
        return outcome.code != "overloaded"
    if isinstance(command, ClaimTasks) and isinstance(outcome, TasksOutcome):
        return bool(outcome.tasks) or not command.wait
    return True


# In a snapshot, an outcome need not repeat what the task itself holds. A payload never changes,
# and neither does the result of a task that is done.


def without_texts(request: Request, task_of: Callable[[int], Task | None]) -> Request:
    """`request` without payloads and results that the state at the same time has too.

    `task_of` gives the task of a number there.
    """

    def strip(task: Task) -> Task:
        if task_of(task.number) is None:
            return task
        result = b"" if task.state is TaskState.DONE else task.result
        return replace(task, payload=b"", result=result)

    return _with_tasks(request, strip)


def with_texts(request: Request, tasks: Mapping[int, Task]) -> Request:
    """The inverse of `without_texts`; a task that is still as it was is there only once."""

    def restore(task: Task) -> Task:
        if (current := tasks.get(task.number)) is None:
            return task
        result = current.result if task.state is TaskState.DONE else task.result
        whole = replace(task, payload=current.payload, result=result)
        return current if whole == current else whole

    return _with_tasks(request, restore)


def _with_tasks(request: Request, change: Callable[[Task], Task]) -> Request:
    outcome = request.outcome
    if not isinstance(outcome, TasksOutcome):
        return request
    tasks = tuple([change(task) for task in outcome.tasks])
    return replace(request, outcome=replace(outcome, tasks=tasks))
