"""Starting services in order, keeping them running, stopping them in reverse (SPEC 9).

A service that is not ready holds up those behind it in the list, since they may need it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import structlog
import trio
from attrs import define, evolve, field

from nefia.clock import NodeClock
from nefia.config.services import EXTERNAL_KINDS, YIELD
from nefia.errors import NotFound
from nefia.services.interface import Service, ServiceFailed, State, Tenure

FIRST_RETRY_SECONDS = 0.5
MAX_RETRY_SECONDS = 30.0
GUARD_SECONDS = 0.5
"""More than the guard takes, which goes by the same times and can say more of what went wrong."""
STABLE_SECONDS = 30.0
"""A service that ran for so long begins its back-off anew."""

_log = structlog.get_logger("nefia.services")


@define(eq=False)
class Supervised:
    """One service on this node. `since`: of its state, on the node's clock. `error`: the last."""

    service: Service
    state: State = State.STOPPED
    since: float = 0.0
    term: int = 0
    error: str = ""
    failures: int = 0
    restart: trio.Event = field(factory=trio.Event)
    """Set by an operator who wants it restarted, or started without further waiting."""

    @property
    def name(self) -> str:
        return self.service.config.name

    @property
    def is_external(self) -> bool:
        return self.service.config.kind in EXTERNAL_KINDS


class Supervisor:
    """The services of this node, in order.

    `memories(name)`: what a service has learned in earlier tenures. `tell` is called with each
    change of a state.
    """

    def __init__(
        self,
        services: Sequence[Service],
        clock: NodeClock,
        memories: Callable[[str], dict[str, str]],
        tell: Callable[[Supervised], None],
    ) -> None:
        self.all = [Supervised(service, since=clock.now()) for service in services]
        self._gives_up = trio.Event()
        self._clock = clock
        self._memories = memories
        self._tell = tell

    def status(self) -> list[dict[str, Any]]:
        now = self._clock.now()
        return [
            {
                "name": each.name,
                "kind": each.service.config.kind,
                "state": each.state.value,
                "since_ms": round((now - each.since) * 1000),
                "term": each.term or None,
                "error": each.error or None,
                "failures": each.failures,
                **({"detail": each.service.status()} if each.state is State.RUNNING else {}),
            }
            for each in self.all
        ]

    def find(self, name: str) -> Supervised:
        """Raises NotFound."""
        for each in self.all:
            if each.name == name:
                return each
        known = ", ".join(each.name for each in self.all) or "none"
        raise NotFound(f"no service is named {name}; there are: {known}")

    def restart(self, name: str) -> None:
        """Have a service stopped and started, at once if it waits for its next attempt.

        Raises NotFound and ServiceFailed.
        """
        each = self.find(name)
        if each.state is State.STOPPED:
            raise ServiceFailed(f"{name} does not run here: it is {each.state.value}")
        each.restart.set()

    async def reload(self, name: str) -> None:
        """Have a running service take up its files anew. Raises NotFound and ServiceFailed."""
        each = self.find(name)
        if each.state is not State.RUNNING:
            raise ServiceFailed(f"{name} does not run here: it is {each.state.value}")
        await each.service.reload()

    # Running.

    async def run(self, tenure: Tenure, gives_up: trio.Event) -> None:
        """Start them in order and keep them running, until cancelled.

        `gives_up` is set when one that should make the leader yield has failed.
        """
        self._gives_up = gives_up
        for each in self.all:
            each.failures, each.error = 0, ""
            self._enter(each, State.WAITING, tenure.term)
        async with trio.open_nursery() as nursery:
            for each in self.all:
                await self._start(each, tenure)
                nursery.start_soon(self._keep_running, each, tenure)

    async def _start(self, each: Supervised, tenure: Tenure) -> None:
        """Until it runs."""
        while True:
            self._enter(each, State.STARTING, tenure.term)
            each.restart = trio.Event()
            error = await self._attempt(each, evolve(tenure, memory=self._memories(each.name)))
            if error is None:
                return self._enter(each, State.RUNNING, tenure.term)
            self._failed(each, error)
            await self._back_off(each, tenure)

    async def _back_off(self, each: Supervised, tenure: Tenure) -> None:
        """Until the next attempt is due, or an operator wants it."""
        self._enter(each, State.WAITING, tenure.term)
        seconds = min(FIRST_RETRY_SECONDS * 2.0 ** min(each.failures - 1, 16), MAX_RETRY_SECONDS)
        with self._clock.deadline_scope(self._clock.now() + seconds):
            await each.restart.wait()

    async def _attempt(self, each: Supervised, tenure: Tenure) -> str | None:
        """Why it did not start, None if it did."""
        seconds = each.service.config.start_timeout
        error = f"not ready within its start_timeout of {seconds:g} s"
        if each.is_external:
            seconds += GUARD_SECONDS
        with self._clock.deadline_scope(self._clock.now() + seconds):
            try:
                await each.service.start(tenure)
                return None
            except ServiceFailed as failure:
                error = failure.message
        await self._stop(each, "it did not start")
        return error

    async def _keep_running(self, each: Supervised, tenure: Tenure) -> None:
        while True:
            failure = await self._failure_or_restart(each)
            if failure is None:
                await self._stop(each, "an operator restarts it")
            else:
                if self._clock.now() - each.since > STABLE_SECONDS:
                    each.failures = 0
                self._failed(each, failure.message)
                await self._stop(each, "it has failed")
                await self._back_off(each, tenure)
            await self._start(each, tenure)

    async def _failure_or_restart(self, each: Supervised) -> ServiceFailed | None:
        failures: list[ServiceFailed] = []
        async with trio.open_nursery() as nursery:

            async def await_failure() -> None:
                failures.append(await each.service.failed())
                nursery.cancel_scope.cancel()

            nursery.start_soon(await_failure)
            await each.restart.wait()
            nursery.cancel_scope.cancel()
        return failures[0] if failures else None

    def _failed(self, each: Supervised, error: str) -> None:
        each.error = error
        each.failures += 1
        _log.warning("service_failed", service=each.name, error=error, failures=each.failures)
        if each.service.config.on_failure == YIELD:
            self._gives_up.set()

    # Stopping.

    async def stop(self, reason: str) -> None:
        """A planned stop: one after the other, in reverse order."""
        for each in reversed(self.all):
            if each.state is not State.STOPPED:
                await self._stop(each, reason)

    async def _stop(self, each: Supervised, reason: str) -> None:
        self._enter(each, State.STOPPING, each.term)
        seconds = each.service.config.stop_timeout
        with self._clock.deadline_scope(self._clock.now() + seconds) as scope:
            await each.service.stop(reason)
        if scope.cancelled_caught:
            _log.warning("service_fenced", service=each.name, after_seconds=seconds)
            each.service.fence()
        self._enter(each, State.STOPPED, each.term)

    async def stop_at_once(self, reason: str, fence_at: float) -> None:
        """The lease is over: those of this process stop together; what is left then is fenced.

        External ones are the guard's, which goes by the same times.
        """
        ours = [s for s in self.all if not s.is_external and s.state is not State.STOPPED]
        with self._clock.deadline_scope(fence_at):
            async with trio.open_nursery() as nursery:
                for each in ours:
                    nursery.start_soon(each.service.stop, reason)
        for each in ours:
            each.service.fence()
        for each in self.all:
            if each.state is not State.STOPPED:
                self._enter(each, State.STOPPED, each.term)

    def _enter(self, each: Supervised, state: State, term: int) -> None:
        if (each.state, each.term) != (state, term):
            each.state, each.term, each.since = state, term, self._clock.now()
            _log.info("service_" + state.value, service=each.name, term=term)
            self._tell(each)
