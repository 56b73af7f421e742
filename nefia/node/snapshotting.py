"""Everything of a node that has to do with snapshots, in one piece: taking, sending, installing."""

from __future__ import annotations

from nefia.clock import NodeClock
from nefia.net.interface import Inlet
from nefia.node.installer import Installer
from nefia.node.replica import Replica
from nefia.node.snapshot_sender import Bring, SnapshotSender
from nefia.node.snapshotter import SnapshotSettings, Snapshotter
from nefia.raft.effects import SendSnapshot
from nefia.raft.entries import SnapshotMeta
from nefia.state.machine import Machine
from nefia.storage.snapshot_format import SnapshotInfo
from nefia.storage.store import LogStore


class Snapshotting:
    """The replica's `Snapshots`; becomes so when it is made. `run` it beside the replica."""

    def __init__(
        self,
        *,
        replica: Replica,
        store: LogStore,
        clock: NodeClock,
        settings: SnapshotSettings,
        bring: Bring,
        patience_seconds: float,
    ) -> None:
        snapshots = store.snapshots
        self._snapshotter = Snapshotter(
            replica, snapshots, clock, settings, lambda: store.identity.cluster_id
        )
        host = replica.applier.machine.host
        self._installer = Installer(replica.raft, store, settings.retain, host)
        self._sender = SnapshotSender(
            replica=replica,
            snapshots=snapshots,
            take=self._snapshotter.take,
            bring=bring,
            clock=clock,
            patience_seconds=patience_seconds,
        )
        self._snapshotter.held = self._sender.held
        replica.snapshots = self

    async def run(self) -> None:
        await self._snapshotter.run()

    async def take(self) -> SnapshotInfo:
        """See `Snapshotter.take`."""
        return await self._snapshotter.take()

    async def incoming(self, peer: str, offer: bytes) -> Inlet:
        """See `Installer.incoming`."""
        return await self._installer.incoming(peer, offer)

    def may_install(self, place: SnapshotMeta) -> bool:
        return self._installer.may_install(place)

    def install(self, place: SnapshotMeta) -> Machine:
        return self._installer.install(place)

    async def send(self, order: SendSnapshot) -> None:
        await self._sender.send(order)
