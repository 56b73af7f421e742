"""What a change of a session or task means, for those who watch (SPEC 4, `watch`)."""

from __future__ import annotations

from attrs import frozen
from msgspec.structs import replace

from nefia.state.records import Session, Task, TaskState

MAX_ERROR_CHARACTERS = 200
"""Of a task's error, in a happening."""

PENDING, LEASED, DONE, DEAD, CANCELLED = TaskState

_TASK_CHANGES: dict[tuple[TaskState, TaskState], str] = {
    (PENDING, LEASED): "claimed",
    (LEASED, LEASED): "extended",
    (LEASED, DONE): "done",
    (LEASED, PENDING): "failed",
    (LEASED, DEAD): "dead",
    (PENDING, CANCELLED): "cancelled",
    (LEASED, CANCELLED): "cancelled",
    (DEAD, PENDING): "retried",
    (CANCELLED, PENDING): "retried",
}


@frozen
class Happening:
    """`change` happened to a record, which is as it is since; one that is gone, as it was.

    A task is without its payload and its result, and with the beginning of its error.
    """

    change: str
    record: Session | Task


def of_task(old: Task | None, new: Task | None) -> Happening:
    task = new or old
    assert task is not None
    if old is None:
        change = "pushed"
    elif new is None:
        change = "removed"
    elif new.state in (PENDING, DEAD) and old.state is LEASED and new.lease_expires_ms:
        change = "lease_lost"  # the end of a lease stays to be seen only if it ran out
    else:
        change = _TASK_CHANGES[old.state, new.state]
    error = task.error[:MAX_ERROR_CHARACTERS]
    return Happening(change, replace(task, payload=b"", result=b"", error=error))


def of_session(old: Session | None, new: Session | None, now: int) -> Happening:
    session = new or old
    assert session is not None
    if old is None:
        change = "opened"
    elif new is None:
        change = "expired" if old.expires_ms <= now else "closed"
    elif (old.cwd, old.labels) == (new.cwd, new.labels):
        change = "used"
    else:
        change = "updated"
    return Happening(change, session)
