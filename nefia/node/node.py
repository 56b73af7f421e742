"""One node, whole: what the admin floor asks, and the nursery in which its parts run."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from hashlib import blake2b
from random import Random
from typing import Any

import structlog
import trio
from attrs import frozen

from nefia.clock import NodeClock
from nefia.config import ClusterConfig, PeerConfig
from nefia.errors import (
    DiskFailed,
    NefiaError,
    NewerFormat,
    NoLeader,
    NoQuorum,
    OutcomeUnknown,
    PeerUnreachable,
)
from nefia.net.handshake import LocalIdentity, View, Welcome
from nefia.net.interface import Level
from nefia.net.mesh import Mesh
from nefia.net.network import Network
from nefia.node import report
from nefia.node.addresses import AddressBook
from nefia.node.applier import Applier, may_still_happen
from nefia.node.discovery import Discovery
from nefia.node.founding import first_configuration, found_cluster, join_own_cluster
from nefia.node.housekeeping import Housekeeping
from nefia.node.membership import Membership
from nefia.node.replica import Replica
from nefia.raft.configuration import Configuration
from nefia.raft.core import Raft
from nefia.raft.log import MEMORY_BYTES, Log
from nefia.raft.messages import InstallSnapshot, Message
from nefia.raft.options import Options
from nefia.state.cluster_clock import ClusterClock
from nefia.state.commands import Command
from nefia.state.machine import Machine
from nefia.state.records import Outcome
from nefia.storage.store import LogStore

RELAY_SECONDS = 1.0
"""How long a follower waits for the leader's view before it shows its own."""
FINGERPRINT_BYTES = 8
HAND_OVER_SECONDS = 2.0
"""How long a node that stops waits for its successor."""

Answer = Callable[[bytes], Awaitable[bytes]]

_log = structlog.get_logger("nefia.node")


@frozen
class Settings:
    """What a node needs of its configuration. Durations in seconds."""

    address: str
    peers: tuple[PeerConfig, ...]
    options: Options
    apply_timeout: float
    max_pool: int
    transport_timeout: float
    fingerprint: str = ""
    """Of the `raft:` section, which all nodes should have alike."""

    @classmethod
    def of(cls, cluster: ClusterConfig) -> Settings:
        raft = cluster.raft
        return cls(
            address=cluster.advertise_addr,
            peers=cluster.peers,
            options=Options(
                heartbeat_timeout=raft.heartbeat_timeout,
                election_timeout=raft.election_timeout,
                leader_lease=raft.leader_lease,
            ),
            apply_timeout=raft.apply_timeout,
            max_pool=raft.max_pool,
            transport_timeout=raft.transport_timeout,
            fingerprint=blake2b(repr(raft).encode(), digest_size=FINGERPRINT_BYTES).hexdigest(),
        )


class Node:
    """Made by `open_node`. `run` it; the other methods are for tasks of the same event loop.

    `answer` performs a request that another node forwarded, as bytes of the admin protocol.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        store: LogStore,
        raft: Raft,
        clock: NodeClock,
        network: Network,
        random: Random,
        answer: Answer,
    ) -> None:
        self._settings = settings
        self._store = store
        self._clock = clock
        self._answer = answer
        self._incarnation = secrets.token_hex(8)
        self._joining = trio.Lock()
        self._untried: set[str] = set()
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
        machine = Machine()
        self._applier = Applier(machine)
        self._replica = Replica(
            raft=raft,
            store=store,
            clock=clock,
            cluster_clock=ClusterClock(clock.now(), machine.time_ms),
            applier=self._applier,
            send=self._mesh.send,
            lead=self._lead,
            on_configuration=self._configured,
        )
        self._housekeeping = Housekeeping(self._replica, clock)
        self._membership = Membership(
            replica=self._replica,
            clock=clock,
            cluster_id=lambda: store.identity.cluster_id,
            probe=self._mesh.probe,
            met=self._mesh.met,
            apply_timeout=settings.apply_timeout,
        )
        self._discovery = Discovery(raft.node_id, settings.address, settings.peers, clock)

    async def run(self, listeners: Sequence[trio.abc.Listener[trio.abc.Stream]]) -> None:
        """Until cancelled. Raises DiskFailed or DataDamaged when this node must start anew."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._mesh.run, listeners)
            self._untried = set(self._raft.log.configuration.ids - {self._raft.node_id})
            nursery.start_soon(self._replica.run)
            nursery.start_soon(self._discovery.run, self._mesh.probe, self._is_waiting)

    async def leave(self) -> None:
        """A planned stop: hand leadership over, and let the others know. Then cancel `run`."""
        if self._raft.leader is not None and len(self._raft.log.configuration.voters) > 1:
            with self._clock.deadline_scope(self._clock.now() + HAND_OVER_SECONDS):
                try:
                    await self._membership.transfer(None)
                except NefiaError as error:
                    _log.warning("hand_over_failed", reason=error.message)
        await self._mesh.goodbye()

    async def _lead(self, term: int) -> None:
        """What runs while this node may act as the leader, in the leadership scope."""
        _log.info("leadership_begins", term=term)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._housekeeping.run)
                nursery.start_soon(self._membership.run)
        finally:
            _log.info("leadership_ends", term=term)

    @property
    def _raft(self) -> Raft:
        return self._replica.raft

    def _identity(self) -> LocalIdentity:
        identity = self._store.identity
        return LocalIdentity(
            node_id=identity.node_id,
            instance_id=identity.instance_id,
            cluster_id=identity.cluster_id,
            incarnation=self._incarnation,
            address=self._settings.address,
            settings=self._settings.fingerprint,
        )

    # The shared state.

    async def change(self, command: Command, request_id: str) -> Outcome:
        """Commit and apply `command`; its outcome may be a refusal.

        Raises NotLeader, NoLeader, Overloaded and NoQuorum when nothing was changed, and
        OutcomeUnknown when the change was proposed and not confirmed within the apply timeout.
        """
        self._replica.require_member()
        promise = self._replica.propose(command, request_id)
        deadline = self._clock.now() + self._settings.apply_timeout
        with self._clock.deadline_scope(deadline):
            return await promise.wait()
        if not self._replica.is_proposed(promise):
            self._replica.withdraw(promise)
            raise NoQuorum("the change waited for a transfer of leadership and was not made")
        raise may_still_happen(
            "the change was proposed, but not confirmed by a majority within "
            f"{self._settings.apply_timeout:g} s",
            request_id,
        )

    async def machine(self, linearizable: bool) -> Machine:
        """The state to read from. Raises NotLeader, NoLeader, NoQuorum, Overloaded."""
        if not linearizable:
            return self._applier.machine
        self._replica.require_member()
        promise = self._replica.read()
        with self._clock.deadline_scope(self._clock.now() + self._settings.apply_timeout):
            return await promise.wait()
        raise NoQuorum("no majority has confirmed within the apply timeout that this node leads")

    async def wait_for_task(self, queue: str, host: str, deadline_seconds: float) -> None:
        """Return when a task may be ready, or after the time. A hint, not a promise."""
        machine = self._applier.machine
        deadline = self._clock.now() + deadline_seconds
        with self._clock.deadline_scope(deadline):
            while self._raft.leader is not None:
                now = self._clock.now()
                ready_ms = machine.next_ready_ms(queue, host)
                wait_ms = None if ready_ms is None else ready_ms - self.cluster_ms()
                if wait_ms is not None and wait_ms <= 0:
                    return
                until = deadline if wait_ms is None else min(deadline, now + wait_ms / 1000)
                with self._clock.deadline_scope(until):
                    await self._applier.applied.wait()

    def cluster_ms(self) -> int:
        return self._replica.cluster_ms(self._clock.now())

    def wall_offset_ms(self) -> int:
        """What to add to cluster time for UTC, by this node's wall clock at this moment."""
        return time.time_ns() // 1_000_000 - self.cluster_ms()

    # The cluster.

    def status(self) -> dict[str, Any]:
        now = self._clock.now()
        shown = report.status(
            self._raft,
            now=now,
            cluster_id=self._store.identity.cluster_id,
            reachable=self._reachable(now),
            digest=self._applier.machine.digest(),
        )
        if self._is_waiting():
            shown["hint"] = self._discovery.hint
        leader = self._mesh.met(self._raft.leader_id or "")
        if leader is not None and self._differs(leader):
            shown["warning"] = (
                f"the raft: settings of this node differ from those of {leader.node_id}; "
                "make them equal in nefia.yaml and restart this node"
            )
        return shown

    def _differs(self, welcome: Welcome) -> bool:
        return welcome.settings != self._settings.fingerprint

    def _reachable(self, now: float) -> frozenset[str]:
        """The leader goes by answers, a follower by connections."""
        if self._raft.leader is not None:
            return self._membership.answering(now)
        connected = {peer for peer, link in self._mesh.status().items() if link.lanes_up}
        return frozenset(connected | {self._raft.node_id})

    async def members(self) -> dict[str, Any]:
        """{"members": [...], "source": id, ...}: the leader's view, or one's own without it."""
        self._replica.require_member()
        note = None
        if self._raft.leader is None:
            try:
                return self._localized(await self.forward({"action": "members"}, RELAY_SECONDS))
            except NefiaError as error:
                note = f"this is {self._raft.node_id}'s own view: {error.message}"
        now = self._clock.now()
        shown = report.members(self._raft, now=now, reachable=self._reachable(now))
        return {"members": shown, "source": self._raft.node_id, "note": note}

    def _localized(self, relayed: dict[str, Any]) -> dict[str, Any]:
        for member in relayed["members"]:
            member["local"] = member["id"] == self._raft.node_id
        return relayed

    async def initialize(self) -> str:
        """Make this node the first of a new cluster; returns the cluster's id.

        Raises AlreadyInitialized.
        """
        async with self._joins():
            cluster_id = await found_cluster(self._store, self._settings.address)
            first = first_configuration(self._store, self._settings.address)
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

    async def add_peer(
        self, node_id: str, address: str, *, wait: bool, preflight: bool
    ) -> dict[str, Any]:
        return await self._membership.add(node_id, address, wait=wait, preflight=preflight)

    async def remove_peer(self, node_id: str, *, force: bool) -> dict[str, Any]:
        return await self._membership.remove(node_id, force=force)

    async def transfer_leader(self, to: str | None) -> dict[str, Any]:
        return await self._membership.transfer(to)

    async def forward(
        self, request: dict[str, Any], timeout_seconds: float | None = None
    ) -> dict[str, Any]:
        """The leader's result for `request`; raises its error, NoLeader, or OutcomeUnknown."""
        leader_id = self._raft.leader_id
        if leader_id is None or leader_id == self._raft.node_id:
            raise self._replica.not_leader()
        timeout = timeout_seconds or self._settings.apply_timeout + RELAY_SECONDS
        try:
            line = await self._mesh.ask(leader_id, json.dumps(request).encode(), timeout)
        except OutcomeUnknown as error:
            request_id = request.get("request_id")
            raise OutcomeUnknown(error.message, hint=error.hint, request_id=request_id) from error
        except PeerUnreachable as error:
            raise NoLeader(f"the leader {leader_id} does not answer: {error.message}") from error
        answer: dict[str, Any] = json.loads(line)
        if not answer["ok"]:
            raise NefiaError.from_json(answer["error"])
        result: dict[str, Any] = answer["result"]
        return result

    def _is_waiting(self) -> bool:
        return not self._raft.log.configuration.members

    # What the mesh tells (`MeshEvents`).

    async def receive(self, messages: Sequence[Message]) -> None:
        # A snapshot is installed once its data is staged here, and nothing stages any yet.
        await self._replica.receive([m for m in messages if not isinstance(m, InstallSnapshot)])

    async def adopt(self, cluster_id: str) -> None:
        async with self._joins():
            if not self._store.identity.cluster_id:
                await self._store.join(cluster_id)
                _log.info("cluster_joined", cluster_id=cluster_id)

    async def answer(self, peer: str, request: bytes) -> bytes:
        return await self._answer(request)

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
        if self._differs(welcome):
            _log.warning("settings_differ", peer=peer, section="raft")
        self._replica.post(self._membership.record_instances)

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


async def open_node(
    *,
    settings: Settings,
    store: LogStore,
    clock: NodeClock,
    network: Network,
    random: Random,
    answer: Answer,
) -> Node:
    """The node whose log is in `store`. Raises DiskFailed, DataDamaged, NewerFormat."""
    stored = await store.load(MEMORY_BYTES)
    if stored.snapshot is not None:
        raise NewerFormat(
            "this log was compacted by a newer version of nefia, which this one cannot read",
            hint="start the newer version again",
        )
    identity = store.identity
    if stored.last_index and not identity.cluster_id:
        await join_own_cluster(store)  # an init that was cut short before its last step
    log = Log(
        base=stored.snapshot,
        last_index=stored.last_index,
        term_starts=stored.term_starts,
        configurations=stored.configurations,
        tail=stored.tail,
    )
    raft = Raft(
        node_id=identity.node_id,
        instance=identity.instance_id,
        options=settings.options,
        random=random,
        now=clock.now(),
        hard_state=stored.hard_state,
        log=log,
    )
    return Node(
        settings=settings,
        store=store,
        raft=raft,
        clock=clock,
        network=network,
        random=random,
        answer=answer,
    )
