"""The mesh: everything that this node says to others and hears from them.

mesh = Mesh(clock=..., network=..., local=..., events=..., max_pool=3, ...)
nursery.start_soon(mesh.run, await network.listen(bind_addr))
mesh.set_peers({"node-2": PeerTarget("10.99.0.2:9700")})
mesh.send(message)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random

import trio
from attrs import evolve
from trio.abc import Listener, Stream

from nefia.clock import NodeClock
from nefia.errors import PeerUnreachable
from nefia.net import dialling
from nefia.net.acceptor import Acceptor
from nefia.net.frames import Kind
from nefia.net.handshake import LocalIdentity, Welcome
from nefia.net.interface import MeshEvents, PeerTarget, Setting
from nefia.net.link import Lane, Link, PeerStatus
from nefia.net.network import Network
from nefia.net.transfer import Read, send_snapshot
from nefia.raft.messages import Message

GOODBYE_SECONDS = 0.5


class Mesh:
    """`run` it in a nursery; all other methods may be called from tasks of the same loop."""

    def __init__(
        self,
        *,
        clock: NodeClock,
        network: Network,
        local: Callable[[], LocalIdentity],
        events: MeshEvents,
        max_pool: int,
        transport_timeout_seconds: float,
        random: Random,
    ) -> None:
        self._setting = Setting(
            clock=clock,
            network=network,
            local=local,
            events=events,
            random=random,
            lane_count=min(max_pool, len(Lane)),
            transport_timeout_seconds=transport_timeout_seconds,
        )
        self._links: dict[str, Link] = {}
        self._acceptor = Acceptor(self._setting, self._links)
        self._nursery: trio.Nursery | None = None

    async def run(
        self,
        listeners: Sequence[Listener[Stream]],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Until cancelled; closes the listeners. No fault of a peer ends it."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for link in self._links.values():
                nursery.start_soon(link.run)
            task_status.started()
            try:
                await self._acceptor.run(listeners)
            finally:
                self._nursery = None

    def set_peers(self, targets: Mapping[str, PeerTarget]) -> None:
        """Exactly these are the peers from now on; this node itself may be among them.

        Lanes to whoever is gone or has moved are ended.
        """
        me = self._setting.local().node_id
        for peer in [*self._links]:
            target = targets.get(peer)
            if target is None or target.address != self._links[peer].target.address:
                self._links.pop(peer).scope.cancel()
        for peer, target in targets.items():
            if peer in self._links:
                self._links[peer].target = target
            elif peer != me:
                self._start(Link(self._setting, peer, target))

    def _start(self, link: Link) -> None:
        self._links[link.peer] = link
        for inbound in self._acceptor.lanes_of(link.peer):
            link.opened(inbound, inbound.hello.incarnation)
            link.announced = inbound.hello.address
        if self._nursery is not None:
            self._nursery.start_soon(link.run)

    def send(self, message: Message) -> bool:
        """Queue it for its recipient; never waits. False if it is dropped at once.

        Raft tolerates the loss, and this is the hot path: one encoding, one append.
        """
        link = self._links.get(message.recipient)
        return link is not None and link.send(message)

    async def send_snapshot(self, peer: str, offer: bytes, total_bytes: int, read: Read) -> None:
        """Bring a snapshot to `peer`; see `transfer.send_snapshot` for what it raises."""
        link = self._links.get(peer)
        if link is None:
            raise PeerUnreachable(f"no address of {peer} is known")
        target = evolve(link.target, address=link.reached_at)
        await send_snapshot(self._setting, peer, target, offer, total_bytes, read)

    async def ask(
        self, peer: str, request: bytes, timeout_seconds: float, address: str | None = None
    ) -> bytes:
        """One request, one answer; `address` overrides where `peer` is known to be.

        Raises PeerUnreachable, OtherNode, OtherCluster and NewerFormat when the request has not
        been sent, TooLarge, and OutcomeUnknown when it may have arrived.
        """
        link = self._links.get(peer)
        if address:
            target = PeerTarget(address)
        elif link:
            target = evolve(link.target, address=link.reached_at)
        else:
            raise PeerUnreachable(f"no address of {peer} is known")
        return await dialling.ask(self._setting, peer, target, request, timeout_seconds)

    async def probe(self, address: str, expected_id: str | None, timeout_seconds: float) -> Welcome:
        """Who answers at `address`, and what cluster it sees (`Welcome.view`).

        Raises PeerUnreachable, OtherNode (also a wiped data directory), OtherCluster, NewerFormat.
        """
        return await dialling.probe(self._setting, address, expected_id or "", timeout_seconds)

    async def renew(self) -> None:
        """Make all lanes anew, peer by peer, so that they rest on the present certificates.

        Lanes to a peer that would now refuse this node stay as they are, and the log says so.
        """
        for link in [*self._links.values()]:
            if link.channels:
                await link.renew()

    async def goodbye(self) -> None:
        """Tell all peers that this process ends on purpose, and make no new connections.

        Returns when that is on its way, or after `GOODBYE_SECONDS`. To be followed by the
        cancellation of `run`.
        """
        self._acceptor.leaving = True
        for link in self._links.values():
            link.leaving = True
        channels = [*self._acceptor.channels]
        for link in self._links.values():
            channels += link.channels
        clock = self._setting.clock
        with clock.deadline_scope(clock.now() + GOODBYE_SECONDS):
            for channel in channels:
                channel.post(Kind.GOODBYE)
            for channel in channels:
                await channel.flush()

    def met(self, peer: str) -> Welcome | None:
        """Who `peer` is by its latest handshake, as long as a lane to it is up."""
        link = self._links.get(peer)
        return link.welcome if link and link.channels else None

    def status(self) -> dict[str, PeerStatus]:
        return {peer: link.status() for peer, link in sorted(self._links.items())}
