"""The Reactor as a service: what the supervisor starts with leadership and stops with it."""

from __future__ import annotations

from collections import Counter
from typing import Any, Protocol

import structlog
import trio

from nefia.clock import NodeClock
from nefia.config.kinds import parse_address
from nefia.config.services import ReactorConfig, ServiceConfig
from nefia.errors import NefiaError
from nefia.net.handshake import View
from nefia.net.network import Network
from nefia.services.interface import ServiceFailed, Tenure
from nefia.services.reactor.events import close_reason
from nefia.services.reactor.gate import open_gate
from nefia.services.reactor.outbox import Changes
from nefia.services.reactor.rules import Rules
from nefia.services.reactor.running import Running

COUNTED = ("accepted", "repeated", "unmatched", "refused", "performed", "failed")

_log = structlog.get_logger()


class ReactorNode(Changes, Protocol):
    """What a Reactor needs of its node: see `Node`."""

    def view(self) -> View: ...


class Reactor:
    """A `Service`. Its tasks run in `nursery`; `network` is one that adds no TLS of its own."""

    def __init__(
        self,
        config: ReactorConfig,
        *,
        node: ReactorNode,
        clock: NodeClock,
        network: Network,
        nursery: trio.Nursery,
    ) -> None:
        self.config = config
        self._node = node
        self._clock = clock
        self._network = network
        self._nursery = nursery
        self._running: Running | None = None
        self._counts = Counter(dict.fromkeys(COUNTED, 0))

    async def start(self, tenure: Tenure) -> None:
        """Return once beacons can connect. Raises ServiceFailed."""
        self.fence()  # what an attempt that was cut short has left
        config = self.config
        try:
            gate = await open_gate(config)
            sockets = await self._network.listen(config.listen)
        except (NefiaError, OSError) as error:
            why = error.message if isinstance(error, NefiaError) else error
            raise ServiceFailed(f"the Reactor {config.name} cannot start: {why}") from error
        _warn(config)
        running = Running(
            config,
            gate,
            tenure=tenure,
            node=self._node,
            clock=self._clock,
            counts=self._counts,
            sockets=sockets,
        )
        self._running = running
        await self._nursery.start(running.run)

    async def failed(self) -> ServiceFailed:
        if self._running is not None:
            running = self._running
            await running.ended.wait()
            if running.failure is not None:
                return running.failure
        while True:
            await trio.sleep_forever()

    async def stop(self, reason: str) -> None:
        if self._running is not None:
            await self._running.leave(self._farewell(self._running.tenure))
            self._running = None

    def fence(self) -> None:
        if self._running is not None:
            self._running.fence()
            self._running = None

    def take(self, config: ServiceConfig) -> None:
        assert isinstance(config, ReactorConfig)
        self.config = config

    async def reload(self) -> None:
        """Take the rules, tokens and certificates of `config`; connections go on.

        Raises ServiceFailed, and all is as it was then.
        """
        running, config = self._running, self.config
        if running is None:
            return
        if config.listen != running.listener.config.listen:
            raise ServiceFailed(
                f"the Reactor {config.name} still listens on {running.listener.config.listen}",
                hint=f"run `nefia service restart {config.name}`",
            )
        try:
            gate = await open_gate(config)
        except NefiaError as error:
            raise ServiceFailed(
                f"the Reactor {config.name} goes on as it was: {error.message}"
            ) from error
        running.listener.gate, running.listener.config = gate, config
        running.rules = Rules(config.rules)

    def status(self) -> dict[str, Any]:
        """The counts are of this daemon's life."""
        connections = self._running.listener.connections if self._running is not None else 0
        return {"listen": self.config.listen, "connections": connections, **self._counts}

    def _farewell(self, tenure: Tenure) -> str:
        """Who leads now, if that is known and not this node still."""
        view = self._node.view()
        if view.leader_id in (None, tenure.node_id) or view.leader_addr is None:
            return close_reason(None, None)
        assert view.leader_id is not None
        return close_reason(view.leader_id, self.config.url_of(view.leader_id, view.leader_addr))


def _warn(config: ReactorConfig) -> None:
    host = parse_address(config.listen)[0]
    if host in ("localhost", "::1") or host.startswith("127."):
        return
    if config.token_file is None:
        _log.warning(
            "reactor_without_token",
            listen=config.listen,
            meaning="whoever can reach this address can send events",
        )
    if config.tls_cert_file is None:
        _log.warning(
            "reactor_without_tls",
            listen=config.listen,
            meaning="events and tokens can be read and changed on their way",
        )
