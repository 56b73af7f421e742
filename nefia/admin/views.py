"""Records of the replicated state as JSON for people and programs (SPEC 4, 8)."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from msgspec import Raw, Struct

from nefia.admin.values import json_bytes
from nefia.state.happenings import Happening
from nefia.state.limits import MAX_ANSWER_BYTES
from nefia.state.records import Event, QueueRates, QueueStats, Session, Task, TaskState

MAX_REMEMBERED_INSTANTS = 1024

_EPOCH = datetime(1970, 1, 1)  # In UTC, and naive so that it shows no offset.


def instant(wall_ms: int) -> str:
    """RFC 3339 in UTC, of milliseconds since 1970."""
    seconds, ms = divmod(wall_ms, 1000)
    return f"{_second(seconds)}.{ms:03}Z"


@lru_cache(maxsize=1024)
def _second(seconds: int) -> str:
    """Kept, since most instants of an answer are within a few seconds of each other."""
    return (_EPOCH + timedelta(seconds=seconds)).isoformat()


def event_view(event: Event) -> dict[str, Any]:
    """An event of the history. Its time is the wall clock's of then, not cluster time."""
    return {
        "number": event.number,
        "at": instant(event.utc_ms),
        "kind": event.kind,
        "node_id": event.node_id,
        "term": event.term,
        "index": event.index,
        "detail": event.detail,
        "reason": event.reason,
    }


class _Instants(dict[int, str]):
    """By cluster time: the tasks of a batch share most of theirs."""

    def __init__(self, offset_ms: int) -> None:
        super().__init__()
        self._offset_ms = offset_ms

    def __missing__(self, cluster_ms: int) -> str:
        if len(self) >= MAX_REMEMBERED_INSTANTS:
            self.clear()
        shown = self[cluster_ms] = instant(cluster_ms + self._offset_ms)
        return shown


class TaskView(Struct, gc=False):
    """A task in an answer, in this order. Instants are RFC 3339, `payload` and `result` JSON."""

    id: str
    queue: str
    host: str
    payload: Raw
    priority: int
    run_at: str
    attempt: int
    max_attempts: int
    key: str
    state: TaskState
    worker: str
    token: int
    lease_expires_at: str | None
    result: Raw | None
    error: str
    created_at: str
    updated_at: str
    finished_at: str | None


class PushedView(Struct, gc=False):
    """What a push of one task has come to."""

    task: TaskView
    changed: bool


class Views:
    """`offset_ms` is the wall clock minus the cluster time, now: instants are shown with it."""

    def __init__(self, offset_ms: int) -> None:
        self.offset_ms = offset_ms
        self._instants = _Instants(offset_ms)

    def session(self, session: Session) -> dict[str, Any]:
        return {
            "id": session.id,
            "host": session.host,
            "root": session.root,
            "cwd": session.cwd,
            "user": session.user,
            "shell": session.shell,
            "labels": session.labels,
            "created_at": self._instants[session.created_ms],
            "last_used_at": self._instants[session.last_used_ms],
            "expires_at": self._instants[session.expires_ms],
        }

    def task(self, task: Task) -> TaskView:
        instants = self._instants
        return TaskView(
            str(task.number),
            task.queue,
            task.host,
            Raw(task.payload),
            task.priority,
            instants[task.run_at_ms],
            task.attempt,
            task.max_attempts,
            task.key,
            task.state,
            task.worker,
            task.token,
            instants[task.lease_expires_ms] if task.lease_expires_ms else None,
            Raw(task.result) if task.result else None,
            task.error,
            instants[task.created_ms],
            instants[task.updated_ms],
            instants[task.finished_ms] if task.finished_ms else None,
        )

    def pushed(self, tasks: tuple[Task, ...]) -> list[TaskView] | list[dict[str, Any]]:
        """Tasks of one push: whole, or their ids and states alone if that were too much to send."""
        whole = self.tasks(tasks)
        # The sizes of records are upper bounds; most batches need no closer look.
        if sum([task.size_bytes for task in tasks]) <= MAX_ANSWER_BYTES:
            return whole
        if len(json_bytes(whole)) <= MAX_ANSWER_BYTES:
            return whole
        return [{"id": task.id, "state": task.state} for task in whole]

    def stats(self, stats: QueueStats, rates: QueueRates) -> dict[str, Any]:
        oldest_ms, ready_ms = stats.oldest_pending_ms, stats.oldest_ready_ms
        return {
            "pending": stats.pending,
            "leased": stats.leased,
            "done": stats.done,
            "dead": stats.dead,
            "cancelled": stats.cancelled,
            "oldest_pending_at": None if oldest_ms is None else self._instants[oldest_ms],
            "ready": stats.ready,
            "oldest_ready_at": None if ready_ms is None else self._instants[ready_ms],
            "per_minute": {
                "pushed": round(rates.pushed, 1),
                "claimed": round(rates.claimed, 1),
                "done": round(rates.completed, 1),
                "failed": round(rates.failed, 1),
            },
        }

    def event(self, event: Happening | dict[str, Any]) -> dict[str, Any]:
        """One of `watch`. A task is without its payload and result."""
        if isinstance(event, dict):
            return event
        record = event.record
        if isinstance(record, Session):
            session = self.session(record)
            return {"event": "session", "change": event.change, "session": session}
        shown = {
            "id": record.id,
            "queue": record.queue,
            "host": record.host,
            "key": record.key,
            "state": record.state.value,
            "attempt": record.attempt,
            "worker": record.worker,
            "token": record.token,
            "run_at": self._instants[record.run_at_ms],
            "lease_expires_at": self._instant_or_none(record.lease_expires_ms),
            "error": record.error,
            "updated_at": self._instants[record.updated_ms],
        }
        return {"event": "queue", "change": event.change, "task": shown}

    def sessions(self, sessions: Iterable[Session]) -> list[dict[str, Any]]:
        return [self.session(session) for session in sessions]

    def tasks(self, tasks: Iterable[Task]) -> list[TaskView]:
        return [self.task(task) for task in tasks]

    def _instant_or_none(self, cluster_ms: int) -> str | None:
        return self._instants[cluster_ms] if cluster_ms else None
