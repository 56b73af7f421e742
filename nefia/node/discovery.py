"""What a node does that belongs to no cluster yet: look for one, and say how to be added."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import structlog

from nefia.clock import NodeClock, sleep
from nefia.config import PeerConfig
from nefia.errors import NefiaError
from nefia.net.handshake import View, Welcome

DISCOVERY_SECONDS = 5.0
PROBE_SECONDS = 2.0

_log = structlog.get_logger("nefia.node")


class Discovery:
    """`hint` says what to do next, in a sentence. Nothing but that comes of being listed."""

    def __init__(
        self, node_id: str, address: str, peers: Sequence[PeerConfig], clock: NodeClock
    ) -> None:
        self._command = f"nefia cluster add-peer --id {node_id} --addr {address}"
        self._peers = peers
        self._clock = clock
        self.hint = (
            "this node waits to be added to a cluster: on its leader, run "
            f"{self._command}; or, for a new cluster, run nefia cluster init here"
        )

    async def run(
        self,
        probe: Callable[[str, str | None, float], Awaitable[Welcome]],
        is_waiting: Callable[[], bool],
    ) -> None:
        """Ask the configured peers every few seconds, for as long as the node waits."""
        if is_waiting():
            _log.info("waiting_to_be_added", hint=self.hint)
        while is_waiting():
            for peer in self._peers:
                try:
                    welcome = await probe(peer.address, peer.id, PROBE_SECONDS)
                except NefiaError:
                    continue
                if welcome.cluster_id and welcome.view:
                    self._found(peer.id, welcome.cluster_id, welcome.view)
            await sleep(self._clock, DISCOVERY_SECONDS)

    def _found(self, peer: str, cluster_id: str, view: View) -> None:
        leader = "no leader at the moment"
        if view.leader_id:
            leader = f"{view.leader_id} at {view.leader_addr} as its leader"
        members = ", ".join(member.id for member in view.members)
        hint = (
            f"{peer} belongs to the cluster {cluster_id} ({members}) with {leader}; "
            f"there, run {self._command}"
        )
        if hint != self.hint:
            self.hint = hint
            _log.info("cluster_found", hint=hint)
