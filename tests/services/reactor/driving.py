"""A Reactor over a state machine that commits at once, and beacons to talk to it."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import trio
from attrs import define, evolve, field
from trio_websocket import WebSocketConnection

from nefia.clock import TrioNodeClock
from nefia.config.reactor import ActionConfig, EnqueueConfig, MatchConfig, RuleConfig
from nefia.config.services import ReactorConfig
from nefia.errors import NefiaError
from nefia.net.handshake import View
from nefia.net.network import TcpNetwork
from nefia.services.interface import Tenure
from nefia.services.reactor.client import open_beacon
from nefia.services.reactor.service import Reactor
from nefia.state.commands import AdvanceTime, Command
from nefia.state.records import Outcome, Task
from tests.end_to_end.cluster import free_ports
from tests.state.state_driver import Driver

POLL_SECONDS = 0.01
PATIENCE_SECONDS = 30.0
TENURE = Tenure(node_id="n1", cluster_id="c", term=7, reason="elected")
ENQUEUE = EnqueueConfig(queue="events")
EVENT = {"id": "1", "type": "disk.usage", "host": "web-1", "severity": "warning", "data": {"n": 1}}


@define(eq=False)
class FakeNode:
    """Commits what it is given. `error` is raised instead; `gate` holds changes back while unset.

    `loses` says that a change is made although its `error` is raised.
    """

    driver: Driver = field(factory=Driver)
    error: NefiaError | None = None
    loses: bool = False
    gate: trio.Event | None = None
    commands: list[Command] = field(factory=list)
    leader: tuple[str | None, str | None] = ("n1", "10.0.0.1:9700")

    async def change(self, command: Command, request_id: str) -> Outcome:
        assert not request_id
        await trio.lowlevel.checkpoint()
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            if self.loses:
                self._do(command)
            raise self.error
        return self._do(command)

    def _do(self, command: Command) -> Outcome:
        self.commands.append(command)
        self.driver.now_ms = 1_000_000 + round(trio.current_time() * 1000)
        return self.driver.do(command)

    async def wait_for_task(self, queue: str, host: str, deadline_seconds: float) -> None:
        with trio.move_on_after(deadline_seconds):
            while not self.driver.machine.ready(queue, host):
                await trio.sleep(POLL_SECONDS)
                due_ms = self.driver.machine.next_ready_ms(queue, host)
                expiry_ms = self.driver.machine.next_expiry_ms()
                soonest = min(each for each in (due_ms, expiry_ms, math.inf) if each is not None)
                if soonest <= 1_000_000 + trio.current_time() * 1000:
                    self._do(AdvanceTime())

    def view(self) -> View:
        leader_id, leader_addr = self.leader
        return View(
            state="Follower", term=7, leader_id=leader_id, leader_addr=leader_addr, members=()
        )

    def tasks(self, queue: str) -> list[Task]:
        return list(self.driver.machine.list_tasks(queue, limit=1000)[0])


def rule(*do: ActionConfig, name: str = "rule", **match: Any) -> RuleConfig:
    return RuleConfig(name=name, match=MatchConfig(**match), do=do)


def reactor_config(*rules: RuleConfig, **fields: Any) -> ReactorConfig:
    fields = {"listen": f"127.0.0.1:{free_ports(1)[0]}"} | fields
    return ReactorConfig(name="reactor", rules=rules or (rule(ENQUEUE),), **fields)


@define(eq=False)
class Stage:
    """A started Reactor. `url` is where it listens."""

    reactor: Reactor
    node: FakeNode

    @property
    def url(self) -> str:
        scheme = "wss" if self.reactor.config.tls_cert_file else "ws"
        return f"{scheme}://{self.reactor.config.listen}"

    async def reload(self, **fields: Any) -> None:
        self.reactor.config = evolve(self.reactor.config, **fields)
        await self.reactor.reload()


def made_reactor(config: ReactorConfig, node: FakeNode, nursery: trio.Nursery) -> Reactor:
    return Reactor(
        config, node=node, clock=TrioNodeClock(), network=TcpNetwork(10.0), nursery=nursery
    )


@asynccontextmanager
async def started(
    config: ReactorConfig | None = None, node: FakeNode | None = None
) -> AsyncIterator[Stage]:
    node = node or FakeNode()
    async with trio.open_nursery() as nursery:
        reactor = made_reactor(config or reactor_config(), node, nursery)
        await reactor.start(TENURE)
        yield Stage(reactor, node)
        nursery.cancel_scope.cancel()


def connected(url: str, **options: Any) -> AbstractAsyncContextManager[WebSocketConnection]:
    """A beacon."""
    return open_beacon(url, TrioNodeClock(), **options)


async def say(beacon: WebSocketConnection, message: Any) -> None:
    await beacon.send_message(message if isinstance(message, str) else json.dumps(message))


async def heard(beacon: WebSocketConnection) -> Any:
    with trio.fail_after(PATIENCE_SECONDS):
        return json.loads(await beacon.get_message())


async def asked(beacon: WebSocketConnection, message: Any) -> Any:
    await say(beacon, message)
    return await heard(beacon)


async def until(condition: Any) -> None:
    """Until `condition()` is true."""
    with trio.fail_after(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 - what it looks at has no event
            await trio.sleep(POLL_SECONDS)
