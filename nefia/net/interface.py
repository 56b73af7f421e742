"""What the mesh is given, and what it asks of the node above it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Literal, Protocol

from attrs import frozen

from nefia.clock import NodeClock
from nefia.net.handshake import LocalIdentity, View, Welcome
from nefia.net.network import Network
from nefia.raft.messages import Message

Level = Literal["info", "warning"]

MAX_PING_SECONDS = 1.0
PINGS_PER_TIMEOUT = 3
MAX_ATTEMPT_SECONDS = 2.0
"""Dial and handshake. The kernel repeats a lost SYN after 1 s and 3 s: dialling anew is quicker."""


class Inlet(Protocol):
    """Where the data of a snapshot go that another node has offered. Each raises NefiaError."""

    staged_bytes: int
    total_bytes: int

    async def add(self, data: bytes) -> None:
        """The data go on so."""
        ...

    async def finish(self) -> None:
        """All data are there: make ready to install."""
        ...


class MeshEvents(Protocol):
    """What happens between nodes. The methods that are not async must not block."""

    async def receive(self, messages: Sequence[Message]) -> None:
        """Messages of one peer, in the order it sent them on one lane; never empty.

        The sender is the peer that introduced itself and the recipient is this node. Nothing more
        is read from that connection until this returns.
        """

    async def adopt(self, cluster_id: str, lineage: str) -> None:
        """A member of `cluster_id` speaks to this node, which has no cluster: join, durably.

        When it returns, the local identity carries the new cluster id. Raises NefiaError to refuse.
        """

    async def incoming(self, peer: str, offer: bytes) -> Inlet:
        """`peer` offers a snapshot (`Mesh.send_snapshot`). Raises NefiaError to refuse it."""
        ...

    async def answer(self, peer: str, request: bytes) -> bytes:
        """The answer to a request that `peer` sent with `Mesh.ask`; errors are answers too."""
        ...

    def view(self) -> View:
        """What to tell a node that probes this one."""
        ...

    def stranger_met(self, peer: str, address: str) -> None:
        """`peer`, whom `set_peers` does not name, has opened a lane; it can be dialled there."""

    def peer_met(self, peer: str, welcome: Welcome) -> None:
        """The control lane to `peer` is up; `welcome` names its data directory."""

    def peer_seen(self, welcome: Welcome) -> None:
        """What a peer that is up says of itself by now: its settings and its clock may change."""

    def peer_tried(self, peer: str) -> None:
        """The first attempt to reach `peer` since it was set has ended, one way or the other."""

    def peer_broken(self, peer: str) -> None:
        """A lane to `peer` has ended: what was sent lately may never arrive."""

    def peer_lost(self, peer: str) -> None:
        """The process of `peer` seems to have died (see `presence`); once for each such loss."""

    def report(self, level: Level, event: str, **details: object) -> None:
        """For the log: `event` is a short name, `details` are its key=value pairs."""


@frozen
class PeerTarget:
    """Where a peer is dialled, and the data directory it must have (empty: not known yet)."""

    address: str
    instance: str = ""


@frozen(kw_only=True)
class Setting:
    """What every part of the mesh shares. `local` is asked anew for each handshake."""

    clock: NodeClock
    network: Network
    local: Callable[[], LocalIdentity]
    events: MeshEvents
    random: Random
    lane_count: int
    transport_timeout_seconds: float

    @property
    def ping_seconds(self) -> float:
        return min(MAX_PING_SECONDS, self.transport_timeout_seconds / PINGS_PER_TIMEOUT)

    @property
    def attempt_seconds(self) -> float:
        return min(MAX_ATTEMPT_SECONDS, self.transport_timeout_seconds)
