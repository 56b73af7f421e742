"""The service of a program that embeds a node: one async function, run only by the leader.

No guard stands behind it, since it has no process of its own. Cancelling it is all that can be done
in good manners. If it has not ended when it has to be gone, the process ends: a program that is
dead runs no service, and its successor can rely on that (docs/embedding.md). Whoever blocks the
event loop holds up even that, so a timer of the kernel's stands behind it.
"""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
import trio
from attrs import define, field, frozen

from nefia.config.services import RETRY, ServiceConfig
from nefia.errors import NefiaError
from nefia.guard.kernel import KillTimer
from nefia.services.interface import ServiceFailed, Tenure

PROGRAM_STOP_SECONDS = 10.0
"""How long a planned stop may take."""

_log = structlog.get_logger("nefia.services")

Serve = Callable[[Tenure], Awaitable[None]]


@frozen
class ProgramConfig:
    """What the supervisor asks of every service; it is ready as soon as it has begun."""

    name: str
    kind: str = "program"
    start_timeout: float = PROGRAM_STOP_SECONDS
    stop_timeout: float = PROGRAM_STOP_SECONDS
    on_failure: str = RETRY


@define(eq=False)
class _Running:
    timer: KillTimer
    scope: trio.CancelScope = field(factory=trio.CancelScope)
    ended: trio.Event = field(factory=trio.Event)
    failure: ServiceFailed | None = None


def end_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Program:
    """A `Service`. `serve` runs in `nursery`; `end` is what is done if it does not end."""

    def __init__(
        self,
        name: str,
        serve: Serve,
        nursery: trio.Nursery,
        end: Callable[[], None] = end_process,
    ) -> None:
        self.config = ProgramConfig(name)
        self._serve = serve
        self._nursery = nursery
        self._end = end
        self._running: _Running | None = None
        self._gone_by = math.inf

    def must_be_gone_by(self, when: float) -> None:
        """The process ends then if it still runs, unless the time is moved before; see `Bound`."""
        self._gone_by = when
        if self._running is not None and not self._running.ended.is_set():
            self._running.timer.set(when)

    async def start(self, tenure: Tenure) -> None:
        assert self._running is None or self._running.ended.is_set()
        await trio.lowlevel.checkpoint()  # a lease that is over already begins nothing
        try:
            timer = KillTimer()
        except OSError as error:
            raise ServiceFailed(f"the kernel gives no timer to end it by: {error}") from None
        timer.set(self._gone_by)
        self._running = _Running(timer)
        self._nursery.start_soon(self._run, self._running, tenure)

    async def _run(self, running: _Running, tenure: Tenure) -> None:
        """Whatever the program's own function raises ends the service, and nothing else."""
        name = self.config.name
        try:
            with running.scope:
                await self._serve(tenure)
                running.failure = ServiceFailed(f"{name} has returned")
        except Exception as error:
            if not isinstance(error, NefiaError):
                _log.exception("program_failed", service=name)
            running.failure = ServiceFailed(f"{name} raised {type(error).__name__}: {error}")
        finally:
            running.timer.close()
            running.ended.set()

    async def failed(self) -> ServiceFailed:
        assert self._running is not None
        await self._running.ended.wait()
        if self._running.failure is None:
            await trio.sleep_forever()
        assert self._running.failure is not None
        return self._running.failure

    async def stop(self, reason: str) -> None:
        if self._running is not None:
            self._running.scope.cancel()
            await self._running.ended.wait()

    def fence(self) -> None:
        if self._running is not None and not self._running.ended.is_set():
            _log.critical("program_does_not_end", service=self.config.name, meaning="process ends")
            self._end()

    def take(self, config: ServiceConfig) -> None:
        raise AssertionError("nefia.yaml says nothing about it")

    async def reload(self) -> None:
        pass

    def status(self) -> dict[str, Any]:
        return {}
