"""A node with the services of its configuration: which object runs which kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import structlog
import trio
from attrs import frozen

from nefia.clock import NodeClock, sleep
from nefia.config.services import ReactorConfig, ServiceConfig, WireguardConfig
from nefia.net.network import Network
from nefia.node.node import Node
from nefia.services.endpoints import Endpoints
from nefia.services.interface import Guard, Service
from nefia.services.leadership import Leadership
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


def equip(
    node: Node,
    services: Sequence[ServiceConfig],
    *,
    guard: Guard | None,
    clock: NodeClock,
    network: Network,
    nursery: trio.Nursery,
) -> None:
    """Have `node` run `services` while it leads, before it runs; their tasks are in `nursery`.

    `guard` is there if any of them is external. `network` is one that adds no TLS of its own.
    """
    if not services or not node.may_lead:
        return
    make = partial(_made, node=node, guard=guard, clock=clock, network=network, nursery=nursery)
    node.services = Leadership(
        services=[make(each) for each in services],
        guard=guard,
        replica=node.replica,
        clock=clock,
        chronicle=node.chronicle,
        cluster_id=lambda: node.cluster_id,
        hand_over=node.hand_over,
        tell=partial(node.watching.tell, "service"),
    )
    nursery.start_soon(_watch_for_strays, node, services, clock)


def _made(
    config: ServiceConfig,
    *,
    node: Node,
    guard: Guard | None,
    clock: NodeClock,
    network: Network,
    nursery: trio.Nursery,
) -> Service:
    if isinstance(config, ReactorConfig):
        from nefia.services.reactor.service import Reactor  # it takes a while, and memory

        return Reactor(config, node=node, clock=clock, network=network, nursery=nursery)
    assert guard is not None
    service = guard.service(config)
    if isinstance(config, WireguardConfig):
        endpoints = Endpoints(config.interface, _Memory(node, config.name), clock)
        return Tunnel(service, endpoints, clock)
    return service


async def _watch_for_strays(
    node: Node, services: Sequence[ServiceConfig], clock: NodeClock
) -> None:
    """Say once what is up on a standby that only a leader may have."""
    told: set[str] = set()
    while True:
        await sleep(clock, STRAYS_SECONDS)
        if node.leads or any(each["state"] != "stopped" for each in node.service_status()):
            continue
        try:
            found = set(strays(services))
        except OSError:
            continue
        for sentence in sorted(found - told):
            _log.error("stray_service", what=sentence)
        told = found
