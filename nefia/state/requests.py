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

from attrs import evolve

from nefia.state import commands
from nefia.state.commands import ClaimTasks, Command
from nefia.state.digest import Table, canonical
from nefia.state.limits import MAX_EXPIRIES_PER_APPLY, MAX_REQUESTS, REQUEST_MEMORY_MS
from nefia.state.ordered import SortedList
from nefia.state.records import Outcome, Refusal, Request, Task, TasksOutcome, TaskState

FINGERPRINT_BYTES = 16

_CONTENT: dict[type[Command], tuple[str, Callable[[Command], object]]] = {
    commands.OpenSession: (
        "session_open",
        attrgetter("host", "root", "cwd", "user", "shell", "labels"),
    ),
    commands.TouchSession: ("session_touch", attrgetter("id")),
    commands.UpdateSession: ("session_update", attrgetter("id", "cwd", "labels")),
    commands.CloseSession: ("session_close", attrgetter("id")),
    commands.PushTasks: ("queue_push", attrgetter("tasks")),
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
}
"""By command: the action it stands for, and the caller's part of it."""


def fingerprint(command: Command) -> bytes:
    action, content = _CONTENT[type(command)]
    encoded = canonical((action, content(command)))
    return blake2b(encoded, digest_size=FINGERPRINT_BYTES).digest()


class Requests:
    """The remembered requests; everything but `table` is derived from it."""

    def __init__(self, requests: Iterable[Request]) -> None:
        self.table: Table[str, Request] = Table((request.id, request) for request in requests)
        self.by_expiry: SortedList[tuple[int, str]] = SortedList(
            (request.expires_ms, request.id) for request in self.table.records.values()
        )

    def first_outcome(self, request_id: str, command: Command, now: int) -> Outcome | None:
        """What to answer instead of performing `command`, or None if it is to be performed."""
        first = self.table.records.get(request_id)
        if first is None or first.expires_ms <= now:
            if len(self.by_expiry) < MAX_REQUESTS:
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
        expired = self.table.records.get(request_id)
        if expired is not None:
            self._forget(expired)
        request = Request(request_id, fingerprint(command), now + REQUEST_MEMORY_MS, outcome)
        self.table.put(request_id, request)
        self.by_expiry.add((request.expires_ms, request_id))

    def expire(self, now: int) -> None:
        for _ in range(MAX_EXPIRIES_PER_APPLY):
            if not self.by_expiry or self.by_expiry[0][0] > now:
                return
            self._forget(self.table.records[self.by_expiry[0][1]])

    @property
    def next_expiry_ms(self) -> int | None:
        return self.by_expiry[0][0] if self.by_expiry else None

    def _forget(self, request: Request) -> None:
        self.table.remove(request.id)
        self.by_expiry.remove((request.expires_ms, request.id))


def _is_final(command: Command, outcome: Outcome) -> bool:
    if isinstance(outcome, Refusal):
        return outcome.code != "overloaded"
    if isinstance(command, ClaimTasks) and isinstance(outcome, TasksOutcome):
        return bool(outcome.tasks) or not command.wait
    return True


# In a snapshot, an outcome need not repeat what the task itself holds. A payload never changes,
# and neither does the result of a task that is done.


def without_texts(request: Request, tasks: Mapping[int, Task]) -> Request:
    """`request` without payloads and results that `tasks`, the state at the same time, has too."""

    def strip(task: Task) -> Task:
        if task.number not in tasks:
            return task
        result = b"" if task.state is TaskState.DONE else task.result
        return evolve(task, payload=b"", result=result)

    return _with_tasks(request, strip)


def with_texts(request: Request, tasks: Mapping[int, Task]) -> Request:
    """The inverse of `without_texts`."""

    def restore(task: Task) -> Task:
        if (current := tasks.get(task.number)) is None:
            return task
        result = current.result if task.state is TaskState.DONE else task.result
        return evolve(task, payload=current.payload, result=result)

    return _with_tasks(request, restore)


def _with_tasks(request: Request, change: Callable[[Task], Task]) -> Request:
    outcome = request.outcome
    if not isinstance(outcome, TasksOutcome):
        return request
    tasks = tuple([change(task) for task in outcome.tasks])
    return evolve(request, outcome=evolve(outcome, tasks=tasks))
