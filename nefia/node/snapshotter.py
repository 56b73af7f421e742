"""Takes snapshots of the state while it goes on changing, and lets the log before them go (5.1).

One is due when `snapshot_threshold` entries have been applied since the last one, which is looked
at every `snapshot_interval`; when the log since then exceeds `MAX_LOG_BYTES`; and when somebody
asks. The records come from a reference to the state (`Machine.snapshot_records`) and are encoded
in the event loop a chunk at a time, some 0.5 ms each; a thread compresses and writes each chunk,
and meanwhile the loop does other things. Encoding in the thread too would be no better: it would
make the loop wait for the interpreter at each of its system calls.

Nothing waits for a snapshot: one that cannot be written is tried again when the next is due.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from functools import partial

import structlog
import trio
from attrs import frozen

import nefia
from nefia.clock import NodeClock, sleep
from nefia.config import RaftConfig
from nefia.errors import ChangeInProgress, DiskFailed, MachineFailed, NotInitialized
from nefia.node.replica import Replica
from nefia.raft.entries import SnapshotMeta
from nefia.storage.snapshot_format import Described, Encoder, SnapshotInfo
from nefia.storage.snapshots import SnapshotStore

MAX_LOG_BYTES = 64 * 1024 * 1024
"""Of entries since the last snapshot (SPEC 6), and of those that are kept behind it."""
MAX_MARKS = 64
RETRY_SECONDS = 30.0
LOOK_SECONDS = 1.0
"""How often that is looked at, while there are changes."""

_log = structlog.get_logger("nefia.node")


@frozen
class SnapshotSettings:
    """See SPEC 1 for each. `interval` in seconds."""

    retain: int = 2
    threshold: int = 8192
    interval: float = 120.0
    trailing_logs: int = 10240
    max_log_bytes: int = MAX_LOG_BYTES

    @classmethod
    def of(cls, raft: RaftConfig) -> SnapshotSettings:
        return cls(
            retain=raft.snapshot_retain,
            threshold=raft.snapshot_threshold,
            interval=raft.snapshot_interval,
            trailing_logs=raft.trailing_logs,
        )


DEFAULT_SNAPSHOTS = SnapshotSettings()


class Snapshotter:
    """`run` it beside the replica. `held` says which entries a running install still needs."""

    def __init__(
        self,
        replica: Replica,
        snapshots: SnapshotStore,
        clock: NodeClock,
        settings: SnapshotSettings,
        cluster_id: Callable[[], str],
    ) -> None:
        self.held: Callable[[], float] = lambda: math.inf
        """The index behind which entries must stay; infinity: all may go."""
        self._replica = replica
        self._snapshots = snapshots
        self._clock = clock
        self._settings = settings
        self._cluster_id = cluster_id
        self._taking = trio.Lock()
        self._logged_bytes = replica.raft.log.appended_bytes
        self._marks: deque[tuple[int, int]] = deque(maxlen=MAX_MARKS)
        """Of the latest snapshots: the index, and how many bytes the log had had until then."""

    async def run(self) -> None:
        """Take one whenever one is due, for ever."""
        interval_seconds = self._settings.interval
        look_at, looked_index = self._clock.now() + interval_seconds, -1
        while True:
            if self._clock.now() >= look_at or self._log_is_long:
                if self._entries_since >= self._settings.threshold or self._log_is_long:
                    await self._take_one()
                look_at = self._clock.now() + interval_seconds
                looked_index = self._applied_index
            # An idle node has nothing to look at, and does not wake up for it.
            changed = self._applied_index != looked_index
            with self._clock.deadline_scope(look_at if changed else math.inf):
                await self._replica.applier.applied.wait()
                await sleep(self._clock, LOOK_SECONDS)

    async def _take_one(self) -> None:
        try:
            await self.take()
        except (ChangeInProgress, DiskFailed, MachineFailed) as error:
            _log.error("snapshot_failed", error=error.message)
            await sleep(self._clock, min(self._settings.interval, RETRY_SECONDS))

    @property
    def _applied_index(self) -> int:
        return self._replica.applier.machine.applied_index

    @property
    def _entries_since(self) -> int:
        found = self._snapshots.found
        return self._applied_index - (found[0].place.index if found else 0)

    @property
    def _log_is_long(self) -> bool:
        logged_bytes = self._replica.raft.log.appended_bytes - self._logged_bytes
        return logged_bytes > self._settings.max_log_bytes and self._entries_since > 0

    async def take(self) -> SnapshotInfo:
        """A snapshot of the state as it is when this is called, or newer.

        Raises NotInitialized, ChangeInProgress during a restore, and DiskFailed or MachineFailed,
        after which all is as it was.
        """
        wanted_index = self._applied_index
        if wanted_index == 0:
            raise NotInitialized(
                "there is nothing to take a snapshot of: this node belongs to no cluster yet",
                hint="run nefia cluster init here for a new one, or add-peer on the leader of one",
            )
        async with self._taking:
            if self._replica.applier.machine.restoring:
                raise ChangeInProgress("a snapshot is being restored; try again when that is done")
            found = self._snapshots.found
            if found and found[0].place.index >= wanted_index:
                return found[0]  # somebody else has asked for it meanwhile, or nothing has changed
            info = await self._write()
            self._replica.post(partial(self._compact, info.place.index))
            await self._snapshots.prune(self._settings.retain)
            return info

    async def _write(self) -> SnapshotInfo:
        """Everything that must be of one moment comes before the first checkpoint."""
        began, machine = self._clock.now(), self._replica.applier.machine
        encoder = Encoder(machine.snapshot_records())
        place = self._place(machine.applied_index)
        logged_bytes = self._replica.raft.log.appended_bytes
        described = Described(place, self._cluster_id(), machine.time_ms, nefia.__version__)
        writer = await self._snapshots.create(described)
        try:
            while records := encoder.next_chunk():
                await writer.add(records)
            info = await writer.finish(encoder.kinds)
        except (DiskFailed, MachineFailed):
            await writer.abandon()
            raise
        self._logged_bytes = logged_bytes
        self._marks.append((place.index, logged_bytes))
        _log.info(
            "snapshot_taken",
            snapshot=info.id,
            bytes=info.data_bytes,
            seconds=round(self._clock.now() - began, 3),
        )
        return info

    def _place(self, index: int) -> SnapshotMeta:
        log = self._replica.raft.log
        term = log.term_at(index)
        assert term is not None, "what is applied is not compacted yet"
        configuration_index, configuration = log.configuration_at(index)
        return SnapshotMeta(index, term, configuration, configuration_index)

    def _compact(self, index: int, now: float) -> None:
        """Entries are kept for slow followers, but a few large ones make a long log too."""
        limit_bytes = self._logged_bytes - self._settings.max_log_bytes
        old = [mark for mark, logged_bytes in self._marks if logged_bytes <= limit_bytes]
        enough = max([index - self._settings.trailing_logs, *old])
        through = min(enough, self.held())
        if through > 0:
            self._replica.raft.compact(now, int(through))
