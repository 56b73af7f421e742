"""A node with the services of its configuration: which object runs which kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import structlog
import trio
from attrs import frozen

from nefia.clock import NodeClock, sleep
from nefia.config.services import (
    EXTERNAL_KINDS,
    ReactorConfig,
    ServiceConfig,
    WireguardConfig,
)
from nefia.net.network import Network
from nefia.node.node import Node
from nefia.services.endpoints import Endpoints
from nefia.services.interface import Guard, Service
from nefia.services.leadership import Leadership
from nefia.services.program import Program
from nefia.services.strays import strays
from nefia.services.tunnel import Tunnel
from nefia.state.commands import Remember

STRAYS_SECONDS = 10.0

_log = structlog.get_logger("nefia.services")


@frozen
class _Memory:
    """Implements `endpoints.Memory` by the replicated state."""

    node: Node
    service: str

    def remembered(self) -> Mapping[str, str]:
        return self.node.replica.applier.machine.remembered(self.service)

    async def remember(self, key: str, value: str) -> None:
        await self.node.change(Remember(self.service, key, value), "")


class Equipment:
    """The services of `node`, and what makes them. Their tasks are in `nursery`.

    `guard` is there if the daemon has one. `network` is one that adds no TLS of its own. `own` are
    those of a program that embeds the node, behind those of the configuration.
    """

    def __init__(
        self,
        node: Node,
        services: Sequence[ServiceConfig],
        *,
        guard: Guard | None,
        clock: NodeClock,
        network: Network,
        nursery: trio.Nursery,
        own: Sequence[Program] = (),
    ) -> None:
        self._node = node
        self._guard = guard
        self._clock = clock
        self._network = network
        self._nursery = nursery
        self._configs = services if node.may_lead else ()
        self._own = own if node.may_lead else ()
        self._leadership = node.services = Leadership(
            services=[*map(self._make, self._configs), *self._own],
            guard=guard,
            replica=node.replica,
            clock=clock,
            chronicle=node.chronicle,
            cluster_id=lambda: node.cluster_id,
            hand_over=node.hand_over,
            tell=partial(node.watching.tell, "service"),
            bound=self._bound,
        )
        nursery.start_soon(self._watch_for_strays)

    def _bound(self, gone_by: float) -> None:
        for each in self._own:
            each.must_be_gone_by(gone_by)

    async def reload(self, services: Sequence[ServiceConfig]) -> bool:
        """Whether they could be taken up; for daemons, which have nothing of their own."""
        assert not self._own
        if not self._node.may_lead:
            return True
        if self._guard is None and any(each.kind in EXTERNAL_KINDS for each in services):
            _log.error("services_not_reloaded", hint="restart the daemon, so that it has a guard")
            return False
        self._configs = services
        if self._guard is not None:
            self._guard.configure(services)
        await self._leadership.reconfigure(services, self._make)
        return True

    def _make(self, config: ServiceConfig) -> Service:
        if isinstance(config, ReactorConfig):
            from nefia.services.reactor.service import Reactor  # it takes a while, and memory

            return Reactor(
                config,
                node=self._node,
                clock=self._clock,
                network=self._network,
                nursery=self._nursery,
            )
        assert self._guard is not None
        service = self._guard.service(config)
        if isinstance(config, WireguardConfig):
            memory = _Memory(self._node, config.name)
            return Tunnel(service, Endpoints(config.interface, memory, self._clock), self._clock)
        return service

    async def _watch_for_strays(self) -> None:
        """Say once what is up on a standby that only a leader may have."""
        told: set[str] = set()
        while True:
            await sleep(self._clock, STRAYS_SECONDS)
            status = self._node.service_status()
            if self._node.leads or any(each["state"] != "stopped" for each in status):
                continue
            try:
                found = set(strays(self._configs))
            except OSError:
                continue
            for sentence in sorted(found - told):
                _log.error("stray_service", what=sentence)
            told = found
