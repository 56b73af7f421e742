"""Everything of a node that has to do with snapshots, in one piece: taking, sending, installing."""

from __future__ import annotations

from functools import partial
from typing import NoReturn

from nefia.clock import NodeClock
from nefia.errors import NewerFormat
from nefia.net.interface import Inlet
from nefia.node.installer import Installer
from nefia.node.replica import Replica
from nefia.node.settings import Settings
from nefia.node.snapshot_sender import Bring, SnapshotSender
from nefia.node.snapshotter import Snapshotter
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
        settings: Settings,
        bring: Bring,
    ) -> None:
        self._replica = replica
        snapshots = store.snapshots
        self._snapshotter = Snapshotter(
            replica, snapshots, clock, settings.snapshots, lambda: store.identity.cluster_id
        )
        self._installer = Installer(
            replica.raft,
            store,
            settings.snapshots.retain,
            settings.features,
            replica.applier.machine.host,
        )
        self._sender = SnapshotSender(
            replica=replica,
            snapshots=snapshots,
            take=self._snapshotter.take,
            bring=bring,
            clock=clock,
            patience_seconds=settings.transport_timeout,
        )
        self._snapshotter.held = self._sender.held
        replica.snapshots = self

    async def run(self) -> None:
        await self._snapshotter.run()

    async def take(self) -> SnapshotInfo:
        """See `Snapshotter.take`."""
        return await self._snapshotter.take()

    async def incoming(self, peer: str, offer: bytes) -> Inlet:
        """See `Installer.incoming`. NewerFormat ends this node too."""
        try:
            return await self._installer.incoming(peer, offer)
        except NewerFormat as error:
            self._replica.post(partial(_end, error))
            raise

    def may_install(self, place: SnapshotMeta) -> bool:
        return self._installer.may_install(place)

    def install(self, place: SnapshotMeta) -> Machine:
        return self._installer.install(place)

    async def send(self, order: SendSnapshot) -> None:
        await self._sender.send(order)


def _end(error: NewerFormat, now: float) -> NoReturn:
    raise error
