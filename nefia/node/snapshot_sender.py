"""The leader's part in bringing a snapshot to a follower that needs what is compacted away (5.3).

The core asks for it once (`SendSnapshot`) and then waits: it repeats `InstallSnapshot` with each
heartbeat until the follower answers. So whoever loses a follower on the way has to say so
(`Raft.snapshot_sent` with None), and the core finds out anew what the follower needs.

As long as a follower is brought a snapshot, and until it has caught up from there, the entries
behind that snapshot stay in the log; else a cluster that is busy could compact them away before
the follower came to ask for them, and it would be brought one snapshot after the other for ever.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

import structlog
import trio

from nefia.clock import NodeClock, sleep
from nefia.errors import DataDamaged, NefiaError, NotFound
from nefia.net.transfer import Read
from nefia.node.replica import Replica
from nefia.raft.effects import SendSnapshot
from nefia.raft.leader import PROMOTION_LAG_ENTRIES, Leader
from nefia.storage.snapshot_format import INFOS, Records, SnapshotInfo
from nefia.storage.snapshots import SnapshotStore

RETRY_SECONDS = 1.0
"""From one failed attempt to the next."""
WATCH_SECONDS = 0.25
"""How often is looked whether the follower has caught up."""

_log = structlog.get_logger("nefia.node")


class Bring(Protocol):
    """`Mesh.send_snapshot`."""

    async def __call__(self, peer: str, offer: bytes, total_bytes: int, read: Read) -> None: ...


class SnapshotSender:
    """`patience_seconds`: how long a follower may stand still before it is given up."""

    def __init__(
        self,
        *,
        replica: Replica,
        snapshots: SnapshotStore,
        take: Callable[[], Awaitable[SnapshotInfo]],
        bring: Bring,
        clock: NodeClock,
        patience_seconds: float,
    ) -> None:
        self._replica = replica
        self._snapshots = snapshots
        self._take = take
        self._bring = bring
        self._clock = clock
        self._patience_seconds = patience_seconds
        self._scopes: dict[str, trio.CancelScope] = {}
        self._held: dict[str, int] = {}

    def held(self) -> float:
        """The entries behind this index are needed by a follower; infinity: none are."""
        return min(self._held.values(), default=math.inf)

    async def send(self, order: SendSnapshot) -> None:
        """Bring `order.node_id` a snapshot and tell the core; an earlier attempt ends."""
        leader, peer = self._replica.raft.leader, order.node_id
        if leader is None:
            return
        if earlier := self._scopes.get(peer):
            earlier.cancel()
        with trio.CancelScope() as scope:
            self._scopes[peer] = scope
            try:
                await self._send(leader, peer, order.minimum_index)
            finally:
                if self._scopes[peer] is scope:
                    del self._scopes[peer]
                    self._held.pop(peer, None)

    async def _send(self, leader: Leader, peer: str, minimum_index: int) -> None:
        info: SnapshotInfo | None = None
        try:
            info = await self._choose(minimum_index)
            self._held[peer] = info.place.index
            _log.info("snapshot_sending", peer=peer, snapshot=info.id, bytes=info.data_bytes)
            began = self._clock.now()
            await self._transfer(leader, peer, info)
        except NefiaError as error:
            _log.warning("snapshot_not_sent", peer=peer, reason=error.message)
            if isinstance(error, DataDamaged) and info is not None:
                await self._examine(info)
            await sleep(self._clock, RETRY_SECONDS)
            self._replica.post(partial(self._failed, peer))
            return
        seconds = round(self._clock.now() - began, 3)
        _log.info("snapshot_sent", peer=peer, snapshot=info.id, seconds=seconds)
        self._replica.post(lambda now: self._replica.raft.snapshot_sent(now, peer, info.place))
        await self._follow(leader, peer, info.place.index)

    def _failed(self, peer: str, now: float) -> None:
        self._replica.raft.snapshot_sent(now, peer, None)

    async def _choose(self, minimum_index: int) -> SnapshotInfo:
        found = self._snapshots.found
        if found and found[0].place.index >= minimum_index:
            return found[0]
        return await self._take()  # the newest was damaged

    async def _transfer(self, leader: Leader, peer: str, info: SnapshotInfo) -> None:
        reader = await self._snapshots.reader(info)

        async def read(offset: int, size_bytes: int) -> bytes:
            if self._replica.raft.leader is not leader:
                raise self._replica.not_leader()
            return await reader.read(offset, size_bytes)

        try:
            await self._bring(peer, INFOS.encode(info), info.data_bytes, read)
        finally:
            reader.close()

    async def _examine(self, info: SnapshotInfo) -> None:
        """The follower says that the data are damaged. If they are so here, take another."""
        try:
            await self._snapshots.restore(info, _read_through)
        except DataDamaged:
            await self._snapshots.set_aside(info)
        except NotFound:
            pass  # so another is taken anyway

    async def _follow(self, leader: Leader, peer: str, index: int) -> None:
        """Until it has installed the snapshot and caught up, or stands still."""
        reached_index, reached_at = -1, self._clock.now()
        while self._replica.raft.leader is leader and peer in leader.progress:
            match_index = leader.progress[peer].match_index
            now = self._clock.now()
            if match_index > reached_index:
                reached_index, reached_at = match_index, now
            if now - reached_at > self._patience_seconds:
                _log.warning("snapshot_not_installed", peer=peer, match_index=match_index)
                self._replica.post(partial(self._failed, peer))
                return
            if match_index >= self._replica.raft.log.last_index - PROMOTION_LAG_ENTRIES:
                return
            self._held[peer] = max(index, match_index)
            await sleep(self._clock, WATCH_SECONDS)


def _read_through(records: Records) -> None:
    for _ in records:
        pass
