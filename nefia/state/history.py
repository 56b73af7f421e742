"""What has become of the cluster: elections, changes of members, recoveries (SPEC 3, `history`).

Two sources, both in the log. Every configuration says in its `Note` what it changed, so a change
of members cannot be committed without its event. All else is a `RecordEvent` of the leader's: first
of all, in each term, that it was elected and why. That tells its wall clock too, with which the
cluster time of the notes that follow is shown as UTC. Later jumps of clocks, and outages of the
whole cluster, during which cluster time stands still, move no event of the past.
"""

from __future__ import annotations

from collections.abc import Iterable

from nefia.raft.configuration import MOVED, Configuration
from nefia.state.commands import RecordEvent
from nefia.state.digest import Table
from nefia.state.limits import MAX_DETAIL_CHARACTERS, MAX_EVENTS
from nefia.state.pages import page_of
from nefia.state.records import Event, Outcome, TimeOutcome


class History:
    """The newest `MAX_EVENTS` events, by their numbers, which go up by one."""

    def __init__(self, events: Iterable[Event]) -> None:
        self.table: Table[int, Event] = Table((event.number, event) for event in events)
        self._newest = max(self.table.records, default=0)

    def record(self, index: int, time_ms: int, command: RecordEvent) -> Outcome:
        self._append(
            Event(
                number=self._newest + 1,
                index=index,
                term=command.term,
                kind=command.kind,
                node_id=command.node_id,
                detail=command.detail,
                reason=command.reason,
                time_ms=time_ms,
                utc_ms=command.utc_ms,
            )
        )
        return TimeOutcome()

    def configured(self, index: int, term: int, time_ms: int, configuration: Configuration) -> None:
        """A configuration was committed; one without a note is of no interest to anyone."""
        note = configuration.note
        if not note.kind:
            return
        made_ms = note.time_ms or time_ms
        self._append(
            Event(
                number=self._newest + 1,
                index=index,
                term=term,
                kind=note.kind,
                node_id=note.node_id,
                detail=_described(configuration)[:MAX_DETAIL_CHARACTERS],
                reason=note.reason,
                time_ms=made_ms,
                utc_ms=note.utc_ms or made_ms + self._utc_offset_ms,
            )
        )

    def newest(self, limit: int) -> list[Event]:
        """Up to `limit` events, and no more than an answer holds, the oldest of them first."""
        page, _ = page_of((self.table.records[n] for n in reversed(self.numbers())), limit)
        return list(reversed(page))

    def numbers(self) -> range:
        return range(self._newest - len(self.table.records) + 1, self._newest + 1)

    @property
    def _utc_offset_ms(self) -> int:
        newest = self.table.records.get(self._newest)
        return newest.utc_ms - newest.time_ms if newest else 0

    def _append(self, event: Event) -> None:
        self._newest = event.number
        self.table.put(event.number, event)
        if len(self.table.records) > MAX_EVENTS:
            self.table.remove(event.number - MAX_EVENTS)


def _described(configuration: Configuration) -> str:
    """Who votes now; where a member is that was moved."""
    moved = configuration.get(configuration.note.node_id)
    if configuration.note.kind == MOVED and moved:
        return f"now at {moved.address}"
    voters = ", ".join(sorted(configuration.voters)) or "none"
    learners = ", ".join(sorted(configuration.ids - configuration.voters))
    return f"voters: {voters}" + (f"; learners: {learners}" if learners else "")
