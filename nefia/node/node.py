"""One node, whole: what the admin floor asks, and the nursery in which its parts run."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import structlog
import trio
from attrs import evolve

from nefia.clock import NodeClock
from nefia.errors import DiskFailed, NefiaError, NewerFormat, NoQuorum
from nefia.net.handshake import LocalIdentity, View, Welcome
from nefia.net.interface import Inlet, Level
from nefia.net.mesh import Mesh
from nefia.net.network import Network
from nefia.node import report
from nefia.node.addresses import AddressBook, refusal_to
from nefia.node.applier import Applier
from nefia.node.caretaker import Caretaker
from nefia.node.chronicle import Chronicle
from nefia.node.comparison import Comparison, settings_differ
from nefia.node.discovery import Discovery
from nefia.node.forwarding import forward
from nefia.node.founding import first_configuration, found_cluster
from nefia.node.hosting import check_machine
from nefia.node.housekeeping import Housekeeping
from nefia.node.leading import LeaderServices, NoServices
from nefia.node.membership import Membership
from nefia.node.proposals import Settle
from nefia.node.replica import Replica
from nefia.node.settings import Settings
from nefia.node.snapshotting import Snapshotting
from nefia.node.waiters import Waiters
from nefia.node.watching import Watching
from nefia.node.witness import Witness
from nefia.raft.configuration import Configuration
from nefia.raft.core import Raft
from nefia.raft.epoch import first_of_next_epoch
from nefia.raft.messages import Message
from nefia.state.cluster_clock import ClusterClock
from nefia.state.commands import Command
from nefia.state.features import RESTORE
from nefia.state.machine import Machine
from nefia.state.records import Outcome
from nefia.storage.store import LogStore

RELAY_SECONDS = 1.0
"""How long a follower waits for the leader's view before it shows its own."""
HAND_OVER_SECONDS = 2.0
"""How long a node that stops waits for its successor."""

Answer = Callable[[bytes], Awaitable[bytes]]

_log = structlog.get_logger("nefia.node")


class Node:
    """Made by `open_node`. `run` it; the other methods are for tasks of the same event loop.

    `answer` performs a request that another node forwarded, as bytes of the admin protocol.
    """

    annotate: Callable[[dict[str, Any]], None] = staticmethod(lambda status: None)
    """Adds to the status what is known where the node is wired."""
    services: LeaderServices = NoServices()
    """To be set before `run`."""
    _nursery: trio.Nursery | None = None

    def __init__(
        self,
        *,
        settings: Settings,
        store: LogStore,
        raft: Raft,
        machine: Machine,
        clock: NodeClock,
        network: Network,
        random: Random,
        answer: Answer,
    ) -> None:
        self._settings = settings
        self._store = store
        self._clock = clock
        self._answer = answer
        self._comparison = Comparison()
        self._incarnation = secrets.token_hex(8)
        self._joining = trio.Lock()
        self._untried: set[str] = set()
        self._offset_ms = 0
        self._offset_read_at = -math.inf
        self._mesh = Mesh(
            clock=clock,
            network=network,
            local=self._identity,
            events=self,
            max_pool=settings.max_pool,
            transport_timeout_seconds=settings.transport_timeout,
            random=random,
        )
        self._addresses = AddressBook(raft.node_id, self._mesh.set_peers)
        self._applier = Applier(machine, settings.features)
        self._replica = Replica(
            raft=raft,
            store=store,
            clock=clock,
            cluster_clock=ClusterClock(clock.now(), machine.time_ms),
            applier=self._applier,
            apply_timeout=settings.apply_timeout,
            send=self._mesh.send,
            lead=self._lead,
            on_configuration=self._configured,
        )
        self._housekeeping = Housekeeping(self._replica, clock, settings.retention)
        self.watching = Watching(self._replica)
        self._waiters = Waiters(self._replica, clock)
        self.chronicle = Chronicle(self._replica, clock, _utc_ms)
        self._membership = Membership(
            replica=self._replica,
            clock=clock,
            cluster_id=lambda: store.identity.cluster_id,
            probe=self._mesh.probe,
            met=self._mesh.met,
            chronicle=self.chronicle,
            services=lambda: self.services,
            apply_timeout=settings.apply_timeout,
        )
        self._witness = Witness(self._membership, clock)
        self._caretaker = Caretaker(self._membership, settings.features, settings.dead_peer_cleanup)
        self._snapshotting = Snapshotting(
            replica=self._replica,
            store=store,
            clock=clock,
            settings=settings,
            bring=self._mesh.send_snapshot,
        )
        self._discovery = Discovery(raft.node_id, settings.address, settings.peers, clock)

    async def run(self, listeners: Sequence[trio.abc.Listener[trio.abc.Stream]]) -> None:
        """Until cancelled. Raises DiskFailed or DataDamaged when this node must start anew, and
        NewerFormat when the cluster has gone on to what this version does not understand."""
        self._replica.renewed = self.services.renewed
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await nursery.start(self._mesh.run, listeners)
            self._untried = set(self._raft.log.configuration.ids - {self._raft.node_id})
            nursery.start_soon(self._replica.run)
            nursery.start_soon(self._waiters.run)
            nursery.start_soon(self.watching.run)
            nursery.start_soon(self._snapshotting.run)
            nursery.start_soon(self._discovery.run, self._mesh.probe, self._is_waiting)

    async def leave(self) -> None:
        """A planned stop: services, then leadership, then goodbye. Then cancel `run`."""
        reason = "the daemon stops"
        if self._raft.leader is not None:
            await self.services.stand_down(reason)
        if self._raft.leader is not None and len(self._raft.log.configuration.voters) > 1:
            with self._clock.deadline_scope(self._clock.now() + HAND_OVER_SECONDS):
                await self._hand_over(reason)
        await self._mesh.goodbye()

    def hand_over(self, reason: str) -> None:
        """Begin to hand leadership over, in a task of the node's own."""
        if self._nursery is not None:
            self._nursery.start_soon(self._hand_over, reason)

    async def _hand_over(self, reason: str) -> None:
        try:
            await self._membership.transfer(None, reason)
        except NefiaError as error:
            _log.warning("hand_over_failed", reason=error.message)

    async def _lead(self, term: int) -> None:
        """What runs while this node may act as the leader, in the leadership scope."""
        _log.info("leadership_begins", term=term)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._housekeeping.run)
                nursery.start_soon(self._housekeeping.set_retention)
                nursery.start_soon(self._caretaker.run)
                nursery.start_soon(self.chronicle.run)
                nursery.start_soon(self.services.lead, term)
                if not self._settings.options.may_lead:
                    nursery.start_soon(self._witness.make_way)
        finally:
            _log.info("leadership_ends", term=term)

    @property
    def replica(self) -> Replica:
        return self._replica

    @property
    def cluster_id(self) -> str:
        return self._store.identity.cluster_id

    @property
    def _raft(self) -> Raft:
        return self._replica.raft

    @property
    def may_lead(self) -> bool:
        return self._settings.options.may_lead

    @property
    def leads(self) -> bool:
        return self._raft.leader is not None

    def _identity(self) -> LocalIdentity:
        identity = self._store.identity
        return LocalIdentity(
            node_id=identity.node_id,
            instance_id=identity.instance_id,
            cluster_id=identity.cluster_id,
            incarnation=self._incarnation,
            address=self._settings.address,
            settings=self._alike,
            lineage=identity.lineage,
            features=self._settings.features,
            may_lead=self._settings.options.may_lead,
            utc_ms=_utc_ms(),
        )

    @property
    def _alike(self) -> str:
        """What all nodes should have alike; see `LocalIdentity`."""
        machine = self._applier.machine.machine_name
        return self._settings.fingerprint + (f"/{machine}" if machine else "")

    # The shared state.

    def propose(self, command: Command, request_id: str, settle: Settle) -> None:
        """See `Replica.propose`."""
        self._replica.propose(command, request_id, settle)

    def proceed(self) -> None:
        """See `Replica.proceed`."""
        self._replica.proceed()

    async def change(self, command: Command, request_id: str) -> Outcome:
        """The outcome of `propose`, which may be a refusal; its errors are raised."""
        return await self._replica.change(command, request_id)

    async def machine(self, linearizable: bool) -> Machine:
        """The state to read from. Raises NotLeader, NoLeader, NoQuorum, Overloaded."""
        if not linearizable:
            return self._applier.machine
        self._replica.require_member()
        promise = self._replica.read()
        with self._clock.deadline_scope(self._clock.now() + self._settings.apply_timeout):
            return await promise.wait()
        raise NoQuorum("no majority has confirmed within the apply timeout that this node leads")

    def check_machine(self, name: str) -> None:
        """See `hosting.check_machine`; it is for the leader to know."""
        if self.leads:
            own, configuration = self._applier.machine.machine_name, self._raft.log.configuration
            check_machine(name, own, configuration, self._mesh.met)

    async def wait_for_task(self, queue: str, host: str, deadline_seconds: float) -> None:
        """Return when a task may be ready, or after the time. A hint, not a promise."""
        await self._waiters.wait(queue, host, self._clock.now() + deadline_seconds)

    def cluster_ms(self) -> int:
        return self._replica.cluster_ms(self._clock.now())

    def wall_offset_ms(self) -> int:
        """What to add to cluster time for UTC, by this node's wall clock.

        Read once a pass of the replica, all of whose answers then show the same instants.
        """
        if self._offset_read_at != self._raft.now:
            self._offset_read_at = self._raft.now
            self._offset_ms = _utc_ms() - self.cluster_ms()
        return self._offset_ms

    # The cluster.

    def status(self) -> dict[str, Any]:
        now = self._clock.now()
        shown = report.status(
            self._raft,
            now=now,
            cluster_id=self._store.identity.cluster_id,
            lineage=self._store.identity.lineage,
            reachable=self._reachable(now),
            digest=self._applier.machine.digest(),
            peers=self._mesh.status(),
        )
        if self._is_waiting():
            shown["hint"] = self._discovery.hint
        leader = self._mesh.met(self._raft.leader_id or "")
        if leader is not None and leader.settings != self._alike:
            shown["warning"] = settings_differ(leader.node_id)
        if services := self.services.status():
            shown["services"] = services
        self.annotate(shown)
        return shown

    def take_fingerprint(self, fingerprint: str) -> None:
        """Of settings that were reloaded; see `Settings`."""
        self._settings = evolve(self._settings, fingerprint=fingerprint)

    async def renew_connections(self) -> None:
        """See `Mesh.renew`."""
        await self._mesh.renew()

    async def pulse(self) -> None:
        """Return once the replica's loop has gone round: a sign that it still does."""
        await self._replica.ask(lambda now: None)

    def _reachable(self, now: float) -> frozenset[str]:
        """The leader goes by answers, a follower by connections."""
        if self._raft.leader is not None:
            return self._membership.answering(now)
        connected = {peer for peer, link in self._mesh.status().items() if link.lanes_up}
        return frozenset(connected | {self._raft.node_id})

    async def members(self) -> dict[str, Any]:
        """{"members": [...], "source": id, "services": [...], ...}: the leader's view, or one's own
        without it. `services` are those of the node whose view it is."""
        self._replica.require_member()
        note = None
        if self._raft.leader is None:
            try:
                return self._localized(await self.forward({"action": "members"}, RELAY_SECONDS))
            except NefiaError as error:
                note = f"this is {self._raft.node_id}'s own view: {error.message}"
        now = self._clock.now()
        shown = report.members(
            self._raft,
            now=now,
            reachable=self._reachable(now),
            estimate_ms=self._caretaker.estimate_ms,
        )
        return {
            "members": shown,
            "source": self._raft.node_id,
            "note": note,
            "services": self.service_status(),
        }

    def _localized(self, relayed: dict[str, Any]) -> dict[str, Any]:
        for member in relayed["members"]:
            member["local"] = member["id"] == self._raft.node_id
        return relayed

    async def initialize(self) -> str:
        """Make this node the first of a new cluster; returns the cluster's id.

        Raises AlreadyInitialized.
        """
        async with self._joins():
            first = first_configuration(
                self._store,
                self._settings.address,
                utc_ms=_utc_ms(),
                features=self._settings.features,
            )
            cluster_id = await found_cluster(self._store, first)
            await self._replica.ask(lambda now: self._raft.bootstrap(now, first))
        _log.info("cluster_initialized", cluster_id=cluster_id)
        return cluster_id

    @asynccontextmanager
    async def _joins(self) -> AsyncIterator[None]:
        """One founding or joining at a time; this node ends if its disk refuses it."""
        async with self._joining:
            try:
                yield
            except DiskFailed as error:
                self._replica.fail(error)
                raise

    async def add_peer(self, node_id: str, address: str, **options: Any) -> dict[str, Any]:
        """See `Membership.add`."""
        return await self._membership.add(node_id, address, **options)

    async def remove_peer(self, node_id: str, **options: Any) -> dict[str, Any]:
        """See `Membership.remove`."""
        return await self._membership.remove(node_id, **options)

    async def transfer_leader(self, to: str | None, reason: str) -> dict[str, Any]:
        """See `Membership.transfer`."""
        return await self._membership.transfer(to, reason)

    def service_status(self) -> list[dict[str, Any]]:
        return self.services.status()

    async def service_restart(self, name: str) -> None:
        """Raises NotFound, ServiceFailed, NotLeader and NoLeader."""
        self._require_leader()
        self.services.restart(name)

    async def service_reload(self, name: str) -> None:
        """Raises NotFound, ServiceFailed, NotLeader and NoLeader."""
        self._require_leader()
        await self.services.reload(name)

    def _require_leader(self) -> None:
        if self._raft.leader is None:
            raise self._replica.not_leader()

    def first_of_next_epoch(self, seen: int) -> int:
        """Above every term and token there is here, and above `seen`. Raises NewerFormat."""
        raft = self._raft
        if raft.log.configuration_at(raft.commit_index)[1].features < RESTORE:
            raise NewerFormat("not every voter knows how to restore a snapshot: upgrade them first")
        return first_of_next_epoch(raft.term, self._applier.machine.last_token, seen)

    async def snapshot(self) -> dict[str, Any]:
        """Take one now. Raises NotInitialized and DiskFailed."""
        info = await self._snapshotting.take()
        place = info.place
        return {"index": place.index, "term": place.term, "bytes": info.data_bytes}

    async def forward(
        self, request: dict[str, Any], timeout_seconds: float | None = None
    ) -> dict[str, Any]:
        """The leader's result for `request`; raises its error, NoLeader, or OutcomeUnknown."""
        timeout = timeout_seconds or self._settings.apply_timeout + RELAY_SECONDS
        return await forward(self._replica, self._mesh.ask, request, timeout)

    def _is_waiting(self) -> bool:
        return not self._raft.log.configuration.members

    # What the mesh tells (`MeshEvents`).

    async def receive(self, messages: Sequence[Message]) -> None:
        self._replica.receive(messages)

    async def incoming(self, peer: str, offer: bytes) -> Inlet:
        return await self._snapshotting.incoming(peer, offer)

    async def adopt(self, cluster_id: str, lineage: str) -> None:
        async with self._joins():
            if not self._store.identity.cluster_id:
                await self._store.join(cluster_id, lineage)
                _log.info("cluster_joined", cluster_id=cluster_id, lineage=lineage)

    async def answer(self, peer: str, request: bytes) -> bytes:
        return refusal_to(peer, self._raft.log.configuration) or await self._answer(request)

    def view(self) -> View:
        raft = self._raft
        leader = raft.log.configuration.get(raft.leader_id or "")
        return View(
            state=raft.state_name,
            term=raft.term,
            leader_id=raft.leader_id,
            leader_addr=leader.address if leader else None,
            members=raft.log.configuration.members,
        )

    def stranger_met(self, peer: str, address: str) -> None:
        self._addresses.add_guest(peer, address)

    def peer_met(self, peer: str, welcome: Welcome) -> None:
        self._replica.post(lambda now: self._raft.connected(now, peer))
        self._replica.post(self._caretaker.record_met)
        self.peer_seen(welcome)

    def peer_seen(self, welcome: Welcome) -> None:
        self._comparison.heed(welcome, alike=self._alike, utc_ms=_utc_ms())

    def peer_tried(self, peer: str) -> None:
        if self._mesh.met(peer) is None:
            self._addresses.drop_guest(peer)
        if peer in self._untried:
            self._untried.discard(peer)
            if not self._untried:
                self._replica.post(self._raft.peers_tried)

    def peer_broken(self, peer: str) -> None:
        self._replica.post(lambda now: self._raft.unreachable(now, peer))
        self._addresses.drop_guest(peer)

    def peer_lost(self, peer: str) -> None:
        self._replica.post(lambda now: self._raft.peer_lost(now, peer))

    def report(self, level: Level, event: str, **details: object) -> None:
        (_log.warning if level == "warning" else _log.info)(event, **details)

    def _configured(self, configuration: Configuration) -> None:
        self._addresses.follow(configuration)
        self._untried &= configuration.ids


def _utc_ms() -> int:
    """This node's wall clock."""
    return time.time_ns() // 1_000_000
