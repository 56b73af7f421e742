"""The guard, as its daemon sees it: found or started, told of leases, asked to run services.

`open_guard` keeps a guard at hand: one that listens in the state directory, as a unit of systemd's,
or else one that it starts. A guard that is lost is followed by another as soon as that has made
sure that nothing is left of what the first one ran.
"""

from __future__ import annotations

import math
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import structlog
import trio

from nefia.clock import NodeClock, sleep
from nefia.config import ServiceConfig
from nefia.config.services import EXTERNAL_KINDS, WireguardConfig
from nefia.config.wg_quick import read_hub
from nefia.errors import GuardLost, InvalidConfiguration, ServiceFailed
from nefia.guard.kinds import to_section
from nefia.guard.machine import FENCE_AT
from nefia.guard.protocol import (
    Ask,
    Begin,
    Configure,
    End,
    Ending,
    Failed,
    Fence,
    FromGuard,
    GuardMessageMalformed,
    HubFacts,
    LeaseHeld,
    Over,
    Reload,
    Renew,
    Section,
    Start,
    Statuses,
    Stop,
    ToGuard,
)
from nefia.guard.wireguard import facts_of
from nefia.services.guard_connection import GuardConnection, connect_guard, start_guard
from nefia.services.interface import Tenure
from nefia.services.strays import is_gone

UNIT_ONLY = "NEFIA_GUARD"
"""Set to `unit` where the guard is a unit of systemd's: the daemon then never starts one itself."""
RETRY_SECONDS = 0.5
"""Between attempts to have a guard."""
EXIT_SECONDS = 5.0
"""How long a daemon that ends waits for the guard that it has started."""
STATUS_SECONDS = 2.0
LOOK_SECONDS = 3.0
"""How often it is looked whether what a service has brought up is still there."""
MAX_READS = 2
"""Threads that may wait for a tunnel's file on a hung disk, each left by an attempt to start."""
HEARING_SECONDS = 0.02
"""What the daemon needs to hear what has been said to it."""

_log = structlog.get_logger("nefia.services.guard")


class GuardClient:
    """Implements `nefia.services.interface.Guard`. Made by `open_guard`."""

    def __init__(
        self,
        services: Sequence[ServiceConfig],
        state_dir: Path,
        clock: NodeClock,
        environment: Mapping[str, str],
    ) -> None:
        self.on_lease: Callable[[float], None] = lambda lease_end: None
        self.lease_end = -math.inf
        self._sections = _sections(services)
        self._state_dir = state_dir
        self._clock = clock
        self._environment = environment
        self._connection: GuardConnection | None = None
        self._loss: GuardLost | None = GuardLost("the guard is starting")
        self._lost = trio.Event()
        self._lost.set()
        self._over = trio.Event()
        """Set while there is a guard and nothing external runs."""
        self._over_seq = 0
        """Of the last message that only an `Over` completes; an earlier one is out of date."""
        self._services: dict[str, ExternalService] = {}
        self._stop_budget = 0.0
        self._silence: trio.CancelScope | None = None
        self._silent_until = math.inf
        """When the guard must have said that the tenure ends, or it stands still itself."""

    # What leadership asks.

    async def ready(self) -> None:
        await self._over.wait()

    async def begin(self, term: int, lease_end: float, stop_budget: float) -> None:
        connection = self._connected()
        if not math.isfinite(lease_end):
            raise GuardLost("there is no lease yet")
        try:
            error = await connection.ask(
                lambda seq: Begin(self._until_over(seq), term, lease_end, stop_budget)
            )
        except trio.Cancelled:
            self.end("its beginning was broken off")
            raise
        if error:
            self.end("it was refused")
            raise GuardLost(f"the guard refuses term {term}: {error}")
        self._stop_budget = stop_budget
        self._lease_held(lease_end)

    def renew(self, lease_end: float) -> None:
        if self._connection is not None and math.isfinite(lease_end):
            self._connection.renew(Renew(lease_end))

    def end(self, reason: str) -> None:
        if self.lease_end > -math.inf:
            now = self._clock.now()
            self._expect_word_by(min(self._silent_until, now + FENCE_AT * self._stop_budget))
        self.lease_end = -math.inf
        if self._connection is not None:
            self._connection.send(End(self._until_over(self._connection.next_seq()), reason))

    async def ended(self) -> None:
        await self._over.wait()

    async def lost(self) -> GuardLost:
        await self._lost.wait()
        assert self._loss is not None
        return self._loss

    def service(self, config: ServiceConfig) -> ExternalService:
        service = self._services[config.name] = ExternalService(config, self)
        return service

    def configure(self, services: Sequence[ServiceConfig]) -> None:
        """Other services than before: leftovers of these are removed once nothing runs."""
        self._sections = _sections(services)
        if self._connection is not None:
            self._configure(self._connection)

    # What its services ask.

    async def ask(self, make: Callable[[int], ToGuard]) -> str:
        """The error in the answer, empty if there is none. Raises GuardLost."""
        return await self._connected().ask(make)

    async def sleep(self, seconds: float) -> None:
        await sleep(self._clock, seconds)

    def tell(self, message: ToGuard) -> None:
        if self._connection is not None:
            self._connection.send(message)

    # One guard after the other.

    async def run(self) -> None:
        """For ever."""
        while True:
            try:
                await self._run_one()
            except GuardLost as error:
                had_one = self._loss is None
                if self._loss is None or self._loss.message != error.message:
                    hint = {"hint": error.hint} if error.hint else {}
                    _log.warning("guard_lost", error=error.message, **hint)
                self._lose(error)
                if not had_one:
                    await sleep(self._clock, RETRY_SECONDS)

    async def _run_one(self) -> None:
        """Raises GuardLost, when it is."""
        process = None
        connection = connect_guard(self._state_dir)
        if connection is None:
            if os.environ.get(UNIT_ONLY) == "unit":
                raise GuardLost(
                    f"no guard listens in {self._state_dir}",
                    hint="systemctl status nefia-guard says more",
                )
            connection, process = await start_guard(self._state_dir, self._environment)
        try:
            hello = await connection.hello(self._clock)
            _log.info("guard_found" if process is None else "guard_started", pid=hello.pid)
            self._connection = connection
            self._loss, self._lost = None, trio.Event()
            self._configure(connection)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._poll_status, connection)
                nursery.start_soon(self._kill_if_it_stands_still, hello.pid)
                await connection.run(self._heed)
                nursery.cancel_scope.cancel()
            raise GuardLost(connection.lost_because)
        finally:
            self._connection = None
            connection.close("the daemon ends")
            if process is not None:
                await self._see_out(process)

    async def _see_out(self, process: trio.Process) -> None:
        """It ends by itself, once nothing is left of its services."""
        with self._clock.deadline_scope(self._clock.now() + EXIT_SECONDS) as scope:
            scope.shield = True
            await process.wait()

    async def _poll_status(self, connection: GuardConnection) -> None:
        while True:
            await sleep(self._clock, STATUS_SECONDS)
            if self.lease_end > -math.inf:
                connection.send(Ask())

    async def _kill_if_it_stands_still(self, pid: int) -> None:
        """A guard that is stopped ends nothing. Its death does: its children die with it, and the
        next guard removes what is left."""
        while True:
            self._silence = self._clock.deadline_scope(self._silent_until)
            with self._silence:
                await trio.sleep_forever()
            # It may have spoken while this daemon stood still itself.
            await sleep(self._clock, HEARING_SECONDS)
            if self._clock.now() >= self._silent_until:
                _log.error("guard_stands_still", pid=pid, then="it is killed")
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
                return

    def _expect_word_by(self, when: float) -> None:
        self._silent_until = when
        if self._silence is not None:
            self._clock.move_deadline(self._silence, when)

    def _configure(self, connection: GuardConnection) -> None:
        connection.send(Configure(self._until_over(connection.next_seq()), self._sections))

    def _until_over(self, seq: int) -> int:
        """From here on only the `Over` that comes of this `seq` says that nothing runs."""
        self._over_seq = seq
        if self._over.is_set():
            self._over = trio.Event()
        return seq

    def _connected(self) -> GuardConnection:
        if self._connection is None:
            assert self._loss is not None
            raise GuardLost(f"there is no guard: {self._loss.message}", hint=self._loss.hint)
        return self._connection

    def _lose(self, error: GuardLost) -> None:
        self.lease_end = -math.inf
        self._silence = None
        self._silent_until = math.inf
        self._loss = error
        self._lost.set()
        if self._over.is_set():
            self._over = trio.Event()

    # What it says.

    def _heed(self, message: FromGuard) -> None:
        match message:
            case LeaseHeld(lease_end):
                if self.lease_end > -math.inf:
                    self._lease_held(lease_end)
            case Over(seq):
                if seq == self._over_seq and self._loss is None:
                    self._over.set()
            case Failed(name, detail):
                if service := self._services.get(name):
                    service.has_failed(detail)
            case Ending(reason, leaving):
                self._expect_word_by(math.inf)
                self.lease_end = -math.inf  # it says so once, and will not answer `end` with it
                _log.info("guard_ends_services", reason=reason)
                if leaving:
                    self._lose(GuardLost(f"the guard ends: {reason}"))
            case Statuses(services):
                for name, status in services.items():
                    if service := self._services.get(name):
                        service.shown = status
            case _:
                raise AssertionError(f"answers are not for here: {message}")

    def _lease_held(self, lease_end: float) -> None:
        self.lease_end = lease_end
        self._expect_word_by(lease_end + FENCE_AT * self._stop_budget)
        self.on_lease(lease_end)


class ExternalService:
    """Implements `nefia.services.interface.Service` for the kinds that only the guard runs."""

    def __init__(self, config: ServiceConfig, guard: GuardClient) -> None:
        self.config = config
        self.shown: dict[str, Any] = {}
        self._guard = guard
        self._started_with = config
        self._reads = trio.CapacityLimiter(MAX_READS)
        self._failed = trio.Event()
        self._detail = ""

    async def start(self, tenure: Tenure) -> None:
        self.shown = {}
        self._failed = trio.Event()
        self._started_with = self.config
        section = to_section(self.config)
        environment = tenure.environment("leader")
        try:
            hub = await self._hub_facts(tenure.memory)
            error = await self._guard.ask(lambda seq: Start(seq, section, environment, hub))
        except (GuardLost, GuardMessageMalformed, InvalidConfiguration) as failure:
            error = failure.message
        if error:
            raise ServiceFailed(f"{self.config.name} did not start: {error}")

    async def _hub_facts(self, endpoints: Mapping[str, str]) -> HubFacts | None:
        """Of a tunnel. Raises InvalidConfiguration; may take as long as the disk hangs."""
        if not isinstance(self.config, WireguardConfig):
            return None
        path = self.config.config
        read = partial(trio.to_thread.run_sync, abandon_on_cancel=True, limiter=self._reads)
        try:
            return facts_of(await read(read_hub, path), endpoints)
        except (OSError, ValueError) as error:
            raise InvalidConfiguration(f"{path}: {error}") from None

    async def failed(self) -> ServiceFailed:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._look_after_it)
            await self._failed.wait()
            nursery.cancel_scope.cancel()
        return ServiceFailed(f"{self.config.name} has ended by itself: {self._detail}")

    async def _look_after_it(self) -> None:
        """The guard hears of processes that end, but not of a link or address that is removed."""
        while True:
            await self._guard.sleep(LOOK_SECONDS)
            with suppress(OSError):
                if is_gone(self._started_with):
                    self.has_failed("somebody else has removed its link or address")

    async def stop(self, reason: str) -> None:
        try:
            await self._guard.ask(lambda seq: Stop(seq, self.config.name, reason))
        except GuardLost:
            await self._guard.ended()  # which it does without being asked, or the next one does

    def fence(self) -> None:
        self._guard.tell(Fence(self.config.name))

    def take(self, config: ServiceConfig) -> None:
        self.config = config

    async def reload(self) -> None:
        if self.config != self._started_with:
            raise ServiceFailed(
                f"{self.config.name} runs with the settings that it was started with; those in "
                "nefia.yaml are others",
                hint=f"run `nefia service restart {self.config.name}`",
            )
        try:
            error = await self._guard.ask(lambda seq: Reload(seq, self.config.name))
        except GuardLost as lost:
            error = lost.message
        if error:
            raise ServiceFailed(f"{self.config.name} was not reloaded: {error}")

    def status(self) -> dict[str, Any]:
        return self.shown

    def has_failed(self, detail: str) -> None:
        self._detail = detail
        self._failed.set()


def _sections(services: Sequence[ServiceConfig]) -> list[Section]:
    return [to_section(each) for each in services if each.kind in EXTERNAL_KINDS]


@asynccontextmanager
async def open_guard(
    services: Sequence[ServiceConfig],
    state_dir: Path,
    clock: NodeClock,
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[GuardClient]:
    """A guard for as long as the block runs; whatever it runs is ended behind it.

    `environment`: of a guard that it starts, besides this process's own.
    """
    client = GuardClient(services, state_dir, clock, environment or {})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.run)
        yield client
        nursery.cancel_scope.cancel()
