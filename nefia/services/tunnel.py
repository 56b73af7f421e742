"""A tunnel, as its supervisor sees it: the guard runs it, and the daemon watches its peers."""

from __future__ import annotations

from typing import Any

import structlog
import trio

from nefia.clock import NodeClock, sleep
from nefia.config.services import ServiceConfig, WireguardConfig
from nefia.config.wg_quick import read_hub
from nefia.services.endpoints import Endpoints
from nefia.services.interface import Service, ServiceFailed, Tenure

POLL_SECONDS = 3.0

_log = structlog.get_logger("nefia.services")


class Tunnel:
    """Implements `Service` around the guard's. Peers are watched while the tunnel runs."""

    def __init__(self, inner: Service, endpoints: Endpoints, clock: NodeClock) -> None:
        self.config = inner.config
        self._inner = inner
        self._endpoints = endpoints
        self._clock = clock
        self._has_warned = False

    async def start(self, tenure: Tenure) -> None:
        """`tenure.memory` is where peers were last heard, by public key."""
        if isinstance(self.config, WireguardConfig):
            self._endpoints.interface = self.config.interface
        await self._inner.start(tenure)

    async def failed(self) -> ServiceFailed:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            failure = await self._inner.failed()
            nursery.cancel_scope.cancel()
        return failure

    async def _watch(self) -> None:
        while True:
            await self._endpoints.look()
            await sleep(self._clock, POLL_SECONDS)
            self._warn_once()

    def _warn_once(self) -> None:
        # Absent until the guard has been asked.
        if self._inner.status().get("lease_in_kernel") is False and not self._has_warned:
            self._has_warned = True
            _log.warning(
                "no_lease_in_kernel",
                service=self.config.name,
                hint="with the daemon and its guard frozen together, the tunnel would speak on; "
                "have the kernel module nf_tables loaded",
            )

    async def stop(self, reason: str) -> None:
        await self._inner.stop(reason)

    def fence(self) -> None:
        self._inner.fence()

    def take(self, config: ServiceConfig) -> None:
        self.config = config
        self._inner.take(config)

    async def reload(self) -> None:
        """What wg cannot read it shows, secrets too: so the file is looked at before it."""
        if isinstance(self.config, WireguardConfig):
            path = self.config.config
            try:
                await trio.to_thread.run_sync(read_hub, path, abandon_on_cancel=True)
            except (OSError, ValueError) as error:
                raise ServiceFailed(
                    f"{self.config.name} was not reloaded: {path}: {error}"
                ) from None
        await self._inner.reload()

    def status(self) -> dict[str, Any]:
        return self._inner.status() | self._endpoints.status()
