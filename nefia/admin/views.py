"""Records of the replicated state as JSON for people and programs (SPEC 4, 8)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from nefia.admin.values import json_bytes
from nefia.state.limits import MAX_ANSWER_BYTES
from nefia.state.records import QueueStats, Session, Task

_EPOCH = datetime(1970, 1, 1)  # In UTC, and naive so that it shows no offset.


def instant(wall_ms: int) -> str:
    """RFC 3339 in UTC, of milliseconds since 1970."""
    seconds, ms = divmod(wall_ms, 1000)
    return f"{_second(seconds)}.{ms:03}Z"


@lru_cache(maxsize=1024)
def _second(seconds: int) -> str:
    """Kept, since most instants of an answer are within a few seconds of each other."""
    return (_EPOCH + timedelta(seconds=seconds)).isoformat()


class Views:
    """`offset_ms` is the wall clock minus the cluster time, now: instants are shown with it."""

    def __init__(self, offset_ms: int) -> None:
        self._offset_ms = offset_ms

    def session(self, session: Session) -> dict[str, Any]:
        return {
            "id": session.id,
            "host": session.host,
            "root": session.root,
            "cwd": session.cwd,
            "user": session.user,
            "shell": session.shell,
            "labels": session.labels,
            "created_at": self._instant(session.created_ms),
            "last_used_at": self._instant(session.last_used_ms),
            "expires_at": self._instant(session.expires_ms),
        }

    def task(self, task: Task) -> dict[str, Any]:
        return {
            "id": task.id,
            "queue": task.queue,
            "host": task.host,
            "payload": json.loads(task.payload),
            "priority": task.priority,
            "run_at": self._instant(task.run_at_ms),
            "attempt": task.attempt,
            "max_attempts": task.max_attempts,
            "key": task.key,
            "state": task.state.value,
            "worker": task.worker,
            "token": task.token,
            "lease_expires_at": self._instant_or_none(task.lease_expires_ms),
            "result": json.loads(task.result) if task.result else None,
            "error": task.error,
            "created_at": self._instant(task.created_ms),
            "updated_at": self._instant(task.updated_ms),
            "finished_at": self._instant_or_none(task.finished_ms),
        }

    def pushed(self, tasks: tuple[Task, ...]) -> list[dict[str, Any]]:
        """Tasks of one push: whole, or their ids and states alone if that were too much to send."""
        whole = [self.task(task) for task in tasks]
        # The sizes of records are upper bounds; most batches need no closer look.
        if sum(task.size_bytes for task in tasks) <= MAX_ANSWER_BYTES:
            return whole
        if len(json_bytes(whole)) <= MAX_ANSWER_BYTES:
            return whole
        return [{"id": task["id"], "state": task["state"]} for task in whole]

    def stats(self, stats: QueueStats) -> dict[str, Any]:
        oldest_ms = stats.oldest_pending_ms
        return {
            "pending": stats.pending,
            "leased": stats.leased,
            "done": stats.done,
            "dead": stats.dead,
            "cancelled": stats.cancelled,
            "oldest_pending_at": None if oldest_ms is None else self._instant(oldest_ms),
        }

    def sessions(self, sessions: Iterable[Session]) -> list[dict[str, Any]]:
        return [self.session(session) for session in sessions]

    def tasks(self, tasks: Iterable[Task]) -> list[dict[str, Any]]:
        return [self.task(task) for task in tasks]

    def _instant(self, cluster_ms: int) -> str:
        return instant(cluster_ms + self._offset_ms)

    def _instant_or_none(self, cluster_ms: int) -> str | None:
        return self._instant(cluster_ms) if cluster_ms else None
