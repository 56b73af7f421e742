"""The leader's own changes: cluster time goes on, so that what is due expires (SPEC 8).

And what this node's configuration says of how long things are kept comes into force.
"""

from __future__ import annotations

from contextlib import suppress

from nefia.clock import NodeClock, sleep
from nefia.errors import NefiaError
from nefia.node.replica import Replica
from nefia.state.commands import AdvanceTime, SetRetention
from nefia.state.features import RETENTION

TIME_ENTRY_SECONDS = 60.0
"""At most so far apart are the time entries while anything can expire: it is what a power cut of
all nodes costs at most."""
MIN_ADVANCE_SECONDS = 1.0
"""At least so far apart, however much expires: other changes bring the time along too."""
RETRY_SECONDS = 1.0


class Housekeeping:
    """Runs in the leadership scope. `retention` is what this node's configuration says."""

    def __init__(self, replica: Replica, clock: NodeClock, retention: SetRetention) -> None:
        self._replica = replica
        self._clock = clock
        self._retention = retention

    async def set_retention(self) -> None:
        """Once in each term, if what is in force is different and every voter understands it."""
        replica = self._replica
        raft = replica.raft
        while raft.log.configuration_at(raft.commit_index)[1].features < RETENTION:
            await replica.changed.wait()
        while True:
            with suppress(NefiaError):
                if (await replica.read().wait()).retention != self._retention:
                    await replica.change(self._retention)
                return
            await sleep(self._clock, RETRY_SECONDS)

    async def run(self) -> None:
        while True:
            await self._until_due()
            # Refused, it is no longer the leader or too busy: the scope ends, or the next is soon.
            with suppress(NefiaError):
                await self._replica.change(AdvanceTime())
            await sleep(self._clock, MIN_ADVANCE_SECONDS)

    async def _until_due(self) -> None:
        """Until something is due to expire, or the last time entry is old."""
        applier, machine = self._replica.applier, self._replica.applier.machine
        while True:
            now = self._clock.now()
            due_ms = machine.next_expiry_ms()
            if due_ms is None:
                await applier.applied.wait()
                continue
            next_ms = min(due_ms, machine.time_ms + TIME_ENTRY_SECONDS * 1000)
            wait_ms = next_ms - self._replica.cluster_ms(now)
            if wait_ms <= 0:
                return
            with self._clock.deadline_scope(now + wait_ms / 1000):
                await applier.applied.wait()
                # Other changes may come by the thousand; looking once in a while is enough.
                await sleep(self._clock, MIN_ADVANCE_SECONDS)
