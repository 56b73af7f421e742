"""Snapshots that come from the leader: staged, verified, made ready, and only then installed (5.3).

The state of a snapshot is built beside the present one, in a thread, while the node goes on. The
core is told that a snapshot has arrived (`InstallSnapshot`) only when its state is ready, so that
it can be put in place of the old one between two entries.
"""

from __future__ import annotations

from functools import partial

import structlog
from attrs import frozen

from nefia.errors import DataDamaged, MachineFailed, NotLeader, OtherCluster, OtherMachine
from nefia.net.interface import Inlet
from nefia.raft.core import Raft
from nefia.raft.entries import SnapshotMeta
from nefia.state.application import Host
from nefia.state.features import require_known
from nefia.state.machine import Machine
from nefia.storage.snapshot_format import INFOS, SnapshotInfo
from nefia.storage.snapshots import SnapshotStore
from nefia.storage.store import LogStore
from nefia.wire import Malformed

_log = structlog.get_logger("nefia.node")


@frozen
class _Ready:
    place: SnapshotMeta
    machine: Machine


class Installer:
    """One snapshot at a time is ready; the next takes its place.

    `features` is the newest feature level that this node understands; `host` makes
    a program's own machine.
    """

    def __init__(
        self, raft: Raft, store: LogStore, retain: int, features: int, host: Host | None
    ) -> None:
        self._raft = raft
        self._store = store
        self._retain = retain
        self._features = features
        self._build = partial(Machine.from_records, host=host)
        self._ready: _Ready | None = None

    # For the mesh.

    async def incoming(self, peer: str, offer: bytes) -> Inlet:
        """Where the data of the offered snapshot go.

        Raises NotLeader, OtherCluster, NewerFormat, DataDamaged for an offer that makes no sense,
        DiskFailed.
        """
        try:
            info = INFOS.decode(offer)
        except Malformed as error:
            raise DataDamaged(f"the offer of a snapshot does not decode: {error}") from error
        if peer != self._raft.leader_id:
            raise NotLeader(f"{peer} is not the leader that this node follows")
        if info.described.cluster_id != self._store.identity.cluster_id:
            raise OtherCluster(f"the snapshot is of the cluster {info.described.cluster_id}")
        require_known(info.place.configuration.features, self._features)
        if self.may_install(info.place):
            return _Arrival(self, info, info.data_bytes)
        staged_bytes = await self._store.snapshots.stage(info)
        _log.info("snapshot_arrives", snapshot=info.id, bytes=info.data_bytes, staged=staged_bytes)
        return _Arrival(self, info, staged_bytes)

    async def add(self, data: bytes) -> int:
        return await self._store.snapshots.add_staged(data)

    async def make_ready(self, info: SnapshotInfo) -> None:
        """Raises DataDamaged, and nothing of it is kept, if it is not what the leader has.

        Raises OtherMachine and MachineFailed too.
        """
        if self.may_install(info.place):
            return
        self._ready = None  # one state beside the present one is enough
        snapshots: SnapshotStore = self._store.snapshots
        await snapshots.adopt(info)
        try:
            machine = await snapshots.restore(info, self._build)
        except DataDamaged:
            await snapshots.set_aside(info)
            raise
        except (OtherMachine, MachineFailed) as error:
            _log.error("snapshot_not_installed", snapshot=info.id, error=error.message)
            raise
        self._ready = _Ready(info.place, machine)
        await snapshots.prune(self._retain)

    # For the replica.

    def may_install(self, place: SnapshotMeta) -> bool:
        """Whether the core may hear of it: its state is ready, or the log has it all anyway."""
        if self._ready is not None and self._ready.place == place:
            return True
        log = self._raft.log
        return place.index <= self._raft.commit_index or log.term_at(place.index) == place.term

    def install(self, place: SnapshotMeta) -> Machine:
        """The state to go on with, now that the core has begun its log anew behind `place`."""
        ready, self._ready = self._ready, None
        assert ready is not None, "the core has heard of a snapshot that is not ready"
        assert ready.place == place
        _log.info("snapshot_installed", index=place.index, term=place.term)
        return ready.machine


class _Arrival:
    """An `Inlet`."""

    def __init__(self, installer: Installer, info: SnapshotInfo, staged_bytes: int) -> None:
        self.staged_bytes = staged_bytes
        self.total_bytes = info.data_bytes
        self._installer = installer
        self._info = info

    async def add(self, data: bytes) -> None:
        self.staged_bytes = await self._installer.add(data)

    async def finish(self) -> None:
        await self._installer.make_ready(self._info)
