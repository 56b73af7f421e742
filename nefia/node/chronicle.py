"""What a leader writes into the history by itself: that it was elected, and why (SPEC 3)."""

from __future__ import annotations

from collections.abc import Callable

import structlog
from attrs import frozen

from nefia.clock import NodeClock
from nefia.errors import NefiaError
from nefia.node.replica import Replica
from nefia.state.commands import RecordEvent
from nefia.state.features import HISTORY
from nefia.state.limits import MAX_DETAIL_CHARACTERS, MAX_REASON_CHARACTERS

ELECTED = "elected"
TRANSFER = "transfer"

RETRY_SECONDS = 1.0
"""How soon, at the latest, that is tried again where a voter does not understand it yet, or the
leader has too much to do."""

_log = structlog.get_logger("nefia.node")


@frozen
class Chronicle:
    """`utc_ms` reads this node's wall clock."""

    replica: Replica
    clock: NodeClock
    utc_ms: Callable[[], int]

    async def run(self) -> None:
        """Runs in the leadership scope."""
        raft = self.replica.raft
        while not await self.record(ELECTED, raft.node_id, raft.campaign_reason):
            with self.clock.deadline_scope(self.clock.now() + RETRY_SECONDS):
                await self.replica.changed.wait()

    @property
    def _may_record(self) -> bool:
        """Whether every voter understands such an entry (SPEC 6)."""
        raft = self.replica.raft
        return raft.log.configuration_at(raft.commit_index)[1].features >= HISTORY

    async def record(self, kind: str, node_id: str, detail: str, reason: str = "") -> bool:
        """Whether the event is certainly in the history; it may come to be there if not."""
        if not self._may_record:
            return False
        event = RecordEvent(
            kind=kind,
            node_id=node_id,
            term=self.replica.raft.term,
            detail=detail[:MAX_DETAIL_CHARACTERS],
            reason=reason[:MAX_REASON_CHARACTERS],
            utc_ms=self.utc_ms(),
        )
        try:
            await self.replica.change(event)
        except NefiaError as error:
            _log.info("event_not_recorded", kind=kind, reason=error.message)
            return False
        return True
