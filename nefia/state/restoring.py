"""Another state in place of this one, brought by the log piece by piece (`nefia snapshot restore`).

The pieces build up a second state beside the first, entry by entry, on every node alike; the last
step puts it in place of the first between two changes. It is all or nothing, whoever leads
meanwhile, and a node that was away gets it like any other entries. What has come in so far is in no
snapshot and no digest: while there is any, no snapshot is taken, so it is always in the log.
"""

from __future__ import annotations

from itertools import pairwise

import msgspec

from nefia.state.commands import BeginRestore, RestorePart
from nefia.state.limits import MAX_NUMBER
from nefia.state.queue import Queue
from nefia.state.records import Counters, Session, Task
from nefia.state.sessions import Sessions

PATIENCE_MS = 10 * 60_000
"""What has come in is dropped when nothing follows for so long."""

_sessions = msgspec.msgpack.Decoder(list[Session]).decode
_tasks = msgspec.msgpack.Decoder(list[Task]).decode


class Restoring:
    """`parts` have come in, the last at `touched_ms`. `queue` and `sessions` are what they held."""

    def __init__(self, begin: BeginRestore, now: int) -> None:
        self.begin = begin
        self.touched_ms = now
        self.parts = 0
        self._last_number = 0
        counters = Counters(
            applied_index=0,
            time_ms=begin.time_ms,
            last_task=begin.last_task,
            last_token=begin.last_token,
            ready_before_ms=begin.ready_before_ms,
            ready_before_task=begin.ready_before_task,
        )
        self.sessions = Sessions(())
        self.queue = Queue((), counters)

    def add(self, part: RestorePart, now: int) -> bool:
        """Whether it was the next one, and made sense: every record once, tasks in order."""
        if (part.restore_id, part.number) != (self.begin.restore_id, self.parts):
            return False
        try:
            sessions, tasks = _sessions(part.sessions), _tasks(part.tasks)
        except (msgspec.MsgspecError, ValueError):  # the latter for text that is not UTF-8
            return False
        if not all(map(_is_countable, sessions)) or not all(map(_is_countable, tasks)):
            return False
        ids = [session.id for session in sessions]
        numbers = [self._last_number, *(task.number for task in tasks)]
        if any(session_id in self.sessions.table.records for session_id in ids):
            return False
        if len(set(ids)) < len(ids) or any(a >= b for a, b in pairwise(numbers)):
            return False
        if numbers[-1] > self.begin.last_task:
            return False
        self._last_number = numbers[-1]
        for session in sessions:
            self.sessions.insert(session)
        self.queue.insert(tasks)
        self.parts += 1
        self.touched_ms = now
        return True

    @property
    def end_ms(self) -> int:
        """When it is given up."""
        return self.touched_ms + PATIENCE_MS


def _is_countable(record: Session | Task) -> bool:
    """Whether its numbers leave room to count on from, and can still be written down then."""
    values = msgspec.structs.astuple(record)
    return all(abs(value) <= MAX_NUMBER for value in values if isinstance(value, int))
