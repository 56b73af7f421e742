"""How large, long and many things of the replicated state may be, and the checks of commands.

`validate` is asked before a command is proposed, so a limit here may change between versions. The
limits under "Of the whole state" are different: the machine itself applies them, so all nodes of a
cluster must have the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from nefia.errors import InvalidArgument, TooLarge
from nefia.state import commands
from nefia.state.commands import Command
from nefia.units import format_duration

SECOND_MS = 1_000
HOUR_MS = 3_600 * SECOND_MS
DAY_MS = 24 * HOUR_MS

# Of a command.

MAX_PAYLOAD_BYTES = 256 * 1024
MAX_RESULT_BYTES = 256 * 1024
MAX_ERROR_BYTES = 16 * 1024
MAX_NAME_BYTES = 128
"""A queue, a user, a worker, a label's name."""
MAX_HOST_BYTES = 255
MAX_KEY_BYTES = 256
MAX_PATH_BYTES = 4096
MAX_LABELS = 64
MAX_LABEL_BYTES = 1024
MAX_REQUEST_ID_BYTES = 128
MAX_PUSH_TASKS = 1_000
MAX_PUSH_BYTES = 1024 * 1024
MAX_CLAIM_TASKS = 1_000
MAX_RESTORE_PART_BYTES = 1024 * 1024
MAX_PAGE_RECORDS = 1_000
MAX_MEMORY_BYTES = 4096
"""Of what a service has learned about one key."""
MAX_MACHINE_NAME_BYTES = 40
"""Of a program's own state machine; the handshake has no room for more."""
MAX_APPLICATION_BYTES = 512 * 1024
"""Of a command for a program's own state machine."""
MAX_PRIORITY = 1_000_000
"""Either side of 0."""
MAX_NUMBER = 2**53 - 1
"""In a state that is restored: times and counters go on from there."""
MAX_DELAY_MS = 365 * DAY_MS
MIN_LEASE_MS = SECOND_MS
MAX_LEASE_MS = DAY_MS
MAX_ATTEMPTS = 1_000
MIN_SESSION_ID_DIGITS = 8
MAX_SESSION_ID_DIGITS = 64
MAX_TASK_ID_DIGITS = 20
MAX_LIFETIME_MS = 10 * 365 * DAY_MS
MIN_RETENTION_MS = 60 * SECOND_MS
MAX_RETENTION_MS = 365 * DAY_MS

# Of an answer.

MAX_ANSWER_BYTES = 512 * 1024
"""Where a page of a list or a batch of claims ends early, so that no answer exceeds 1 MiB."""

# Of the whole state.

MAX_MEMORIES = 4_096
MAX_SESSIONS = 100_000
MAX_TASKS_BYTES = 4 * 1024**3
"""Of all tasks, finished ones too, as `Task.size_bytes` counts them: two million small ones."""
MAX_REQUESTS = 1_000_000
REQUEST_MEMORY_MS = HOUR_MS
MAX_EXPIRIES_PER_APPLY = 1_000
"""Of each kind. As much as one command can add, so that what is overdue cannot pile up."""

assert max(MAX_PUSH_TASKS, MAX_CLAIM_TASKS) <= MAX_EXPIRIES_PER_APPLY

_SESSION_ID = re.compile(rf"[0-9a-f]{{{MIN_SESSION_ID_DIGITS},{MAX_SESSION_ID_DIGITS}}}")
_TASK_ID = re.compile(rf"[1-9][0-9]{{0,{MAX_TASK_ID_DIGITS - 1}}}")


MAX_EVENTS = 1_000
"""Of the history; the oldest goes when one more comes."""
MAX_REASON_CHARACTERS = 200
"""What an operator may give as the reason of a change."""
MAX_DETAIL_CHARACTERS = 500


def validate(command: Command, request_id: str = "") -> None:
    """Raise InvalidArgument or TooLarge for what no leader should propose."""
    _text("request_id", request_id, MAX_REQUEST_ID_BYTES)
    _CHECKS[type(command)](command)


def task_number(task_id: str) -> int | None:
    """The number of a task whose id is `task_id`, or None if that cannot be a task's id."""
    return int(task_id) if _TASK_ID.fullmatch(task_id) else None


# Single values. `label` is what the operator calls it.


def _path(label: str, text: str, limit_bytes: int = MAX_PATH_BYTES) -> None:
    """Free text that becomes part of a command line: anything but a NUL."""
    if "\0" in text:
        raise InvalidArgument(f'"{label}" must not hold a NUL character.')
    _fits(label, text, limit_bytes)


def _text(label: str, text: str, limit_bytes: int = MAX_NAME_BYTES) -> None:
    if not text:
        return
    if not text.isprintable():
        raise InvalidArgument(f'"{label}" must hold printable characters only.')
    _fits(label, text, limit_bytes)


def _name(label: str, text: str, limit_bytes: int = MAX_NAME_BYTES) -> None:
    if not text:
        raise InvalidArgument(f'"{label}" must not be empty.')
    _text(label, text, limit_bytes)


def _fits(label: str, text: str, limit_bytes: int) -> None:
    try:
        size_bytes = len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError:
        raise InvalidArgument(f'"{label}" must be valid Unicode.') from None
    _at_most(label, size_bytes, limit_bytes)


def _at_most(label: str, size_bytes: int, limit_bytes: int) -> None:
    if size_bytes > limit_bytes:
        raise TooLarge(f'"{label}" has {size_bytes} bytes; at most {limit_bytes} are allowed.')


def _json(label: str, text: bytes, limit_bytes: int) -> None:
    if not text:
        raise InvalidArgument(f'"{label}" must be JSON; nothing at all is not.')
    _at_most(label, len(text), limit_bytes)


def _between(label: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise InvalidArgument(f'"{label}" must be from {low} to {high}, not {value}.')


def _lasts(label: str, value_ms: int, low_ms: int, high_ms: int) -> None:
    if not low_ms <= value_ms <= high_ms:
        low, high = format_duration(low_ms / SECOND_MS), format_duration(high_ms / SECOND_MS)
        raise InvalidArgument(f'"{label}" must be from {low} to {high}.')


def _session_id(session_id: str) -> None:
    if not _SESSION_ID.fullmatch(session_id):
        raise InvalidArgument(
            f"A session id is {MIN_SESSION_ID_DIGITS} or more of the digits 0-9 and a-f."
        )


def _task_id(task_id: str) -> None:
    if not _TASK_ID.fullmatch(task_id):
        raise InvalidArgument("A task id is a decimal number.")


def _token(token: int) -> None:
    _between("token", token, 1, 2**63 - 1)


def _lease(lease_ms: int) -> None:
    _lasts("lease", lease_ms, MIN_LEASE_MS, MAX_LEASE_MS)


def _labels(labels: dict[str, str]) -> None:
    if len(labels) > MAX_LABELS:
        raise TooLarge(f"There are {len(labels)} labels; at most {MAX_LABELS} are allowed.")
    for name, text in labels.items():
        _name("labels", name)
        _path(f"labels.{name}", text, MAX_LABEL_BYTES)


# Commands.


def _open_session(command: commands.OpenSession) -> None:
    _session_id(command.id)
    _name("host", command.host, MAX_HOST_BYTES)
    _text("user", command.user)
    for label in ("root", "cwd", "shell"):
        _path(label, getattr(command, label))
    _labels(command.labels)
    _lasts("ttl", command.ttl_ms, 1, MAX_LIFETIME_MS)
    _lasts("idle timeout", command.idle_timeout_ms, 1, MAX_LIFETIME_MS)


def _one_session(command: commands.TouchSession | commands.CloseSession) -> None:
    _session_id(command.id)


def _update_session(command: commands.UpdateSession) -> None:
    _session_id(command.id)
    if command.cwd is not None:
        _path("cwd", command.cwd)
    if command.labels is not None:
        _labels(command.labels)


def _new_task(task: commands.NewTask) -> None:
    _json("payload", task.payload, MAX_PAYLOAD_BYTES)
    _text("key", task.key, MAX_KEY_BYTES)
    _terms(task.queue, task.host, task.priority, task.delay_ms, task.max_attempts)


@lru_cache(maxsize=1024)
def _terms(queue: str, host: str, priority: int, delay_ms: int, max_attempts: int) -> None:
    """What most tasks have in common with others, and so is looked at once for all of them."""
    _name("queue", queue)
    _text("host", host, MAX_HOST_BYTES)
    _between("priority", priority, -MAX_PRIORITY, MAX_PRIORITY)
    _lasts("delay", delay_ms, 0, MAX_DELAY_MS)
    _between("max_attempts", max_attempts, 1, MAX_ATTEMPTS)


def _push(command: commands.PushTasks) -> None:
    tasks = command.tasks
    if not tasks:
        raise InvalidArgument("There is no task to push.")
    if len(tasks) > MAX_PUSH_TASKS:
        raise TooLarge(f"At most {MAX_PUSH_TASKS} tasks can be pushed at once.")
    size_bytes = 0
    for task in tasks:
        size_bytes += len(task.payload)
    _at_most("tasks", size_bytes, MAX_PUSH_BYTES)
    for task in tasks:
        _new_task(task)


def _claim(command: commands.ClaimTasks) -> None:
    _name("worker", command.worker)
    _text("queue", command.queue)
    _text("host", command.host, MAX_HOST_BYTES)
    _lease(command.lease_ms)
    _between("limit", command.limit, 1, MAX_CLAIM_TASKS)


def _extend(command: commands.ExtendTask) -> None:
    _task_id(command.id)
    _token(command.token)
    _lease(command.lease_ms)


def _ack(command: commands.AckTask) -> None:
    _task_id(command.id)
    _token(command.token)
    _json("result", command.result, MAX_RESULT_BYTES)


def _fail(command: commands.FailTask) -> None:
    _task_id(command.id)
    _token(command.token)
    _fits("error", command.error, MAX_ERROR_BYTES)
    if command.retry_after_ms is not None:
        _lasts("retry_after", command.retry_after_ms, 0, MAX_DELAY_MS)


def _one_task(command: commands.CancelTask | commands.RetryTask) -> None:
    _task_id(command.id)


def _advance_time(_: commands.AdvanceTime) -> None:
    pass


def _record_event(command: commands.RecordEvent) -> None:
    if len(command.reason) > MAX_REASON_CHARACTERS:
        raise TooLarge(f"The reason is longer than {MAX_REASON_CHARACTERS} characters.")
    if len(command.detail) > MAX_DETAIL_CHARACTERS:
        raise TooLarge(f"The detail is longer than {MAX_DETAIL_CHARACTERS} characters.")


def _set_retention(command: commands.SetRetention) -> None:
    _lasts("task retention", command.task_retention_ms, MIN_RETENTION_MS, MAX_RETENTION_MS)
    _lasts("session gc interval", command.session_gc_ms, MIN_RETENTION_MS, MAX_LIFETIME_MS)


def _begin_restore(command: commands.BeginRestore) -> None:
    _name("restore_id", command.restore_id)


def _restore_part(command: commands.RestorePart) -> None:
    _name("restore_id", command.restore_id)
    _at_most("sessions", len(command.sessions), MAX_RESTORE_PART_BYTES)
    _at_most("tasks", len(command.tasks), MAX_RESTORE_PART_BYTES)


def _end_restore(command: commands.EndRestore) -> None:
    _name("restore_id", command.restore_id)


def _tenure(command: commands.AcquireTenure | commands.ReleaseTenure) -> None:
    if command.term < 1:
        raise InvalidArgument("A term is at least 1.")


def _remember(command: commands.Remember) -> None:
    _name("service", command.service)
    _at_most("key", len(command.key.encode()), MAX_KEY_BYTES)
    _at_most("value", len(command.value.encode()), MAX_MEMORY_BYTES)


def _application_command(command: commands.ApplicationCommand) -> None:
    _name("machine", command.machine, MAX_MACHINE_NAME_BYTES)
    _at_most("command", len(command.body), MAX_APPLICATION_BYTES)


_CHECKS: dict[type[Command], Callable[..., None]] = {
    commands.OpenSession: _open_session,
    commands.TouchSession: _one_session,
    commands.UpdateSession: _update_session,
    commands.CloseSession: _one_session,
    commands.PushTasks: _push,
    commands.ClaimTasks: _claim,
    commands.ExtendTask: _extend,
    commands.AckTask: _ack,
    commands.FailTask: _fail,
    commands.CancelTask: _one_task,
    commands.RetryTask: _one_task,
    commands.AdvanceTime: _advance_time,
    commands.RecordEvent: _record_event,
    commands.SetRetention: _set_retention,
    commands.BeginRestore: _begin_restore,
    commands.RestorePart: _restore_part,
    commands.EndRestore: _end_restore,
    commands.AcquireTenure: _tenure,
    commands.ReleaseTenure: _tenure,
    commands.Remember: _remember,
    commands.ApplicationCommand: _application_command,
}
