"""Nodes made of nothing but a mesh, which write down what happens to them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from random import Random

import trio
from attrs import evolve

from nefia.clock import TrioNodeClock
from nefia.net.handshake import Hello, LocalIdentity, View, Welcome
from nefia.net.interface import Inlet, Level, PeerTarget
from nefia.net.mesh import Mesh
from nefia.net.network import Network
from nefia.raft.entries import Entry
from nefia.raft.messages import AppendEntries, Message, TimeoutNow

CLUSTER = "c1"


class Recorder:
    """The `MeshEvents` of a test."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.messages: list[Message] = []
        self.met: list[str] = []
        self.seen: list[Welcome] = []
        self.tried: list[str] = []
        self.broken: list[str] = []
        self.lost: list[tuple[str, float]] = []
        self.reports: list[tuple[str, dict[str, object]]] = []
        self.strangers: list[tuple[str, str]] = []
        self.requests: list[tuple[str, bytes]] = []
        self.adopted: list[str] = []
        self.before_receive: Callable[[Sequence[Message]], Awaitable[None]] | None = None
        self.answering: Callable[[str, bytes], Awaitable[bytes]] | None = None
        self.refuse_adoption: Exception | None = None
        self.accept: Callable[[str, bytes], Awaitable[Inlet]] | None = None

    async def receive(self, messages: Sequence[Message]) -> None:
        assert messages
        if self.before_receive is not None:
            await self.before_receive(messages)
        self.messages += messages

    async def adopt(self, cluster_id: str, lineage: str) -> None:
        await trio.lowlevel.checkpoint()
        if self.refuse_adoption is not None:
            raise self.refuse_adoption
        assert not self.messages, "adoption comes before the first message"
        self.adopted.append(cluster_id)
        self.node.me = evolve(self.node.me, cluster_id=cluster_id)

    async def incoming(self, peer: str, offer: bytes) -> Inlet:
        assert self.accept is not None
        return await self.accept(peer, offer)

    async def answer(self, peer: str, request: bytes) -> bytes:
        self.requests.append((peer, request))
        if self.answering is not None:
            return await self.answering(peer, request)
        return b"answer to " + request

    def view(self) -> View:
        return View(
            state="Leader", term=7, leader_id=self.node.name, leader_addr="here:1", members=()
        )

    def stranger_met(self, peer: str, address: str) -> None:
        self.strangers.append((peer, address))

    def peer_seen(self, welcome: Welcome) -> None:
        self.seen.append(welcome)

    def peer_met(self, peer: str, welcome: Welcome) -> None:
        assert welcome.node_id == peer
        self.met.append(peer)

    def peer_tried(self, peer: str) -> None:
        self.tried.append(peer)

    def peer_broken(self, peer: str) -> None:
        self.broken.append(peer)

    def peer_lost(self, peer: str) -> None:
        self.lost.append((peer, trio.current_time()))

    def report(self, level: Level, event: str, **details: object) -> None:
        self.reports.append((event, details))

    def reported(self, event: str) -> list[dict[str, object]]:
        return [details for name, details in self.reports if name == event]


class Node:
    """A mesh at `<name>:9700`, or at `address`. A new `Node` is a new start of its process."""

    starts = 0

    def __init__(
        self,
        name: str,
        network: Network,
        *,
        cluster: str = CLUSTER,
        instance: str = "",
        address: str = "",
        max_pool: int = 3,
        transport_timeout_seconds: float = 10.0,
    ) -> None:
        Node.starts += 1
        self.name = name
        self.address = address or f"{name}:9700"
        self.me = LocalIdentity(name, instance or f"data-of-{name}", cluster, f"run{Node.starts}")
        self.network = network
        self.events = Recorder(self)
        self.mesh = Mesh(
            clock=TrioNodeClock(),
            network=network,
            local=lambda: self.me,
            events=self.events,
            max_pool=max_pool,
            transport_timeout_seconds=transport_timeout_seconds,
            random=Random(1),
        )
        self.scope = trio.CancelScope()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with self.scope:
            await self.mesh.run(await self.network.listen(self.address), task_status=task_status)

    def knows(self, *others: Node, instances: bool = True) -> Node:
        self.mesh.set_peers(
            {n.name: PeerTarget(n.address, n.me.instance_id if instances else "") for n in others}
        )
        return self

    def hello(self, purpose: str, **fields: object) -> Hello:
        me = self.me
        usual: dict[str, object] = {
            "purpose": purpose,
            "node_id": me.node_id,
            "instance_id": me.instance_id,
            "cluster_id": me.cluster_id,
            "incarnation": me.incarnation,
        }
        return Hello(**(usual | fields))  # type: ignore[arg-type]


def small(sender: str, recipient: str, term: int = 1) -> TimeoutNow:
    return TimeoutNow(sender=sender, recipient=recipient, term=term)


def large(sender: str, recipient: str, term: int = 1, size_bytes: int = 1_000_000) -> AppendEntries:
    return AppendEntries(
        sender=sender,
        recipient=recipient,
        term=term,
        prev_log_index=0,
        prev_log_term=0,
        entries=(Entry(1, 1, bytes(size_bytes)),),
        commit_index=0,
        round=0,
    )


async def eventually(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait until `condition` holds; the limit only ends a test that has failed."""
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - a test may wait for anything
            await trio.sleep(0.001)
