"""Real nodes on disks and a network in memory, each as if it were a process of its own.

`Cluster` starts, kills, freezes and cuts off; `Cluster.ask` is a client of one node's admin API.
A leadership (what a node does in its leadership scope) is written down with the time it lasted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any
from weakref import WeakKeyDictionary

import trio
from attrs import define, evolve, field

from nefia.admin.actions import Actions, SessionLifetimes
from nefia.admin.protocol import Refusal, encode_answer, encode_error, parse_request
from nefia.config import PeerConfig
from nefia.errors import (
    DiskFailed,
    MachineFailed,
    NefiaError,
    NewerFormat,
    OtherMachine,
    OutcomeUnknown,
)
from nefia.node.node import Node
from nefia.node.opening import open_node
from nefia.node.settings import Settings
from nefia.raft.core import Raft
from nefia.raft.options import Options
from nefia.state.application import Host
from nefia.state.machine import Machine
from nefia.storage.memory import Disk, open_memory
from tests.net.net_memory import MemoryNetwork

WRITE_SECONDS = 0.002
LIMIT_SECONDS = 120.0
"""Of simulated time; only ends a test that has failed."""
POLL_SECONDS = 0.001

SETTINGS = Settings(
    address="",
    peers=(),
    options=Options(),
    apply_timeout=10.0,
    max_pool=3,
    transport_timeout=10.0,
)


class PausableClock:
    """The time of one process: it goes on while the process is stopped, but nothing fires."""

    def __init__(self) -> None:
        self.running = trio.Event()
        self.running.set()
        self._deadlines: WeakKeyDictionary[trio.CancelScope, float] = WeakKeyDictionary()

    def now(self) -> float:
        return trio.current_time()

    async def sleep_until(self, when: float) -> None:
        await trio.sleep_until(when)
        await self.running.wait()

    def deadline_scope(self, when: float) -> trio.CancelScope:
        scope = trio.CancelScope()
        self.move_deadline(scope, when)
        return scope

    def move_deadline(self, scope: trio.CancelScope, when: float) -> None:
        self._deadlines[scope] = when
        if self.running.is_set():
            scope.deadline = when

    def pause(self) -> None:
        self.running = trio.Event()
        for scope in self._deadlines:
            scope.deadline = float("inf")

    def resume(self) -> None:
        self.running.set()
        for scope, when in self._deadlines.items():
            scope.deadline = when


@define(eq=False)
class Leadership:
    """`periods`: when it was acted upon, on the common clock; the last is open while it lasts."""

    node_id: str
    term: int
    periods: list[list[float]]


@define(eq=False)
class Process:
    """One start of a node; the disk outlives it."""

    name: str
    node: Node
    actions: Actions
    clock: PausableClock
    scope: trio.CancelScope = field(factory=trio.CancelScope)
    calls: set[trio.CancelScope] = field(factory=set)
    leadership: Leadership | None = None

    @property
    def raft(self) -> Raft:
        return self.node._raft

    @property
    def machine(self) -> Machine:
        return self.node._applier.machine


class Cluster:
    """`failures`: why nodes have ended by themselves."""

    def __init__(
        self, nursery: trio.Nursery, *, seed: int = 1, settings: Settings = SETTINGS
    ) -> None:
        self.net = MemoryNetwork()
        self.random = Random(seed)
        self.settings = settings
        self.disks: dict[str, Disk] = {}
        self.witnesses: set[str] = set()
        self.up: dict[str, Process] = {}
        self.hosts: dict[str, Host] = {}
        """What makes the machine of each node that is embedded in a program."""
        self.failures: dict[str, NefiaError] = {}
        self.leaderships: list[Leadership] = []
        self.started: Callable[[Process], None] = lambda process: None
        """Called with each new process before it runs."""
        self._nursery = nursery
        self._cuts: set[tuple[str, str]] = set()
        self._starts = 0

    # Processes.

    async def start(self, name: str, *, peers: Sequence[str] = (), address: str = "") -> Process:
        self._starts += 1
        if name not in self.disks:
            self.disks[name] = Disk(write_latency=lambda: WRITE_SECONDS)
        clock = self.new_clock(name)
        store = await open_memory(self.disks[name], name, clock, f"data-of-{name}-{self._starts}")
        address = address or f"{name}:9700"
        try:
            node = await open_node(
                settings=evolve(
                    self.settings,
                    address=address,
                    options=evolve(self.settings.options, may_lead=name not in self.witnesses),
                    peers=tuple(PeerConfig(id=peer, address=f"{peer}:9700") for peer in peers),
                ),
                store=store,
                clock=clock,
                network=self.net.of(name),
                random=Random(self.random.getrandbits(32)),
                answer=lambda line: self._answer(name, line),
                host=self.hosts.get(name),
            )
        except BaseException:
            await store.close()
            raise
        lifetimes = SessionLifetimes(ttl_ms=3_600_000, idle_timeout_ms=60_000)
        process = Process(name, node, Actions(node, lifetimes), clock)
        self.up[name] = process
        self._watch_leaderships(process)
        self.started(process)
        self._nursery.start_soon(self._run, process, await self.net.of(name).listen(address))
        return process

    def new_clock(self, name: str) -> PausableClock:
        return PausableClock()

    async def _run(
        self, process: Process, listeners: Sequence[trio.abc.Listener[trio.abc.Stream]]
    ) -> None:
        try:
            with process.scope:
                await process.node.run(listeners)
        except* (DiskFailed, MachineFailed, NewerFormat, OtherMachine) as group:
            error: BaseException = group
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            assert isinstance(error, NefiaError)
            self.failures[process.name] = error
            self.crash(process.name)

    def _watch_leaderships(self, process: Process) -> None:
        """There is no service yet to watch, so the replica's own entry to the scope is."""
        replica = process.node._replica
        lead = replica._lead

        async def watched(term: int) -> None:
            begun = Leadership(process.name, term, [[trio.current_time(), float("inf")]])
            process.leadership = begun
            self.leaderships.append(begun)
            try:
                await lead(term)
            finally:
                # Whoever is killed while it is stopped has acted until it was stopped.
                begun.periods[-1][1] = min(begun.periods[-1][1], trio.current_time())
                process.leadership = None

        replica._lead = watched

    def crash(self, name: str) -> None:
        """kill -9: connections end, a redial is refused, writes under way may be lost."""
        process = self.up.pop(name)
        self.net.kill(name)
        process.scope.cancel()
        for call in process.calls:
            call.cancel()
        self.disks[name].crash(self.random)
        self._apply_cuts()

    async def restart(self, name: str) -> Process:
        if name in self.up:
            self.crash(name)
        self.disks[name].release()
        self.disks[name].repair()
        return await self.start(name)

    async def leave(self, name: str) -> None:
        """SIGTERM."""
        await self.up[name].node.leave()
        self.crash(name)

    def pause(self, name: str) -> None:
        """SIGSTOP."""
        process = self.up[name]
        process.clock.pause()
        self.disks[name].stall()
        self._apply_cuts()
        if process.leadership:
            process.leadership.periods[-1][1] = trio.current_time()

    def pause_at_hand_over(self, name: str) -> None:
        """SIGSTOP at the very moment when it is told to take over."""
        self.up[name].raft.election.on_timeout_now = (  # type: ignore[method-assign]
            lambda message: self.pause(name)
        )

    def resume(self, name: str) -> None:
        process = self.up[name]
        if process.leadership:
            process.leadership.periods.append([trio.current_time(), float("inf")])
        process.clock.resume()
        self.disks[name].release()
        self._apply_cuts()

    @property
    def paused(self) -> set[str]:
        return {name for name, p in self.up.items() if not p.clock.running.is_set()}

    # The network.

    def cut(self, one: str, other: str) -> None:
        """Silent both ways; nobody is told."""
        self._cuts |= {(one, other), (other, one)}
        self._apply_cuts()

    def isolate(self, name: str) -> None:
        for other in self.disks:
            if other != name:
                self.cut(name, other)

    def heal(self) -> None:
        self._cuts.clear()
        self._apply_cuts()

    def _apply_cuts(self) -> None:
        """A process that is stopped reads nothing and writes nothing."""
        silent = {
            pair
            for other in self.disks
            for name in self.paused
            for pair in ((name, other), (other, name))
        }
        self.net.heal()  # wakes everybody up; who is still cut off goes back to sleep
        self.net.silent |= self._cuts | silent

    # Clients.

    async def ask(self, name: str, action: str, **params: Any) -> dict[str, Any]:
        """What a client of `name` is answered. Raises the error of the answer."""
        line = await self._answer(name, json.dumps({"action": action, **params}).encode())
        answer = json.loads(line)
        if not answer["ok"]:
            raise NefiaError.from_json(answer["error"])
        result: dict[str, Any] = answer["result"]
        return result

    async def _answer(self, name: str, line: bytes) -> bytes:
        """As the daemon does it, but for a process that dies before it has answered."""
        process = self.up[name]
        await process.clock.running.wait()
        request = parse_request(line)
        if isinstance(request, Refusal):
            return encode_error(request.seq, request.error)
        with trio.CancelScope() as call:
            process.calls.add(call)
            try:
                return encode_answer(request.seq, await process.actions(request))
            except NefiaError as error:
                if self.up.get(name) is process:
                    return encode_error(request.seq, error)
            finally:
                process.calls.discard(call)
        return encode_error(request.seq, OutcomeUnknown("the daemon ended"))

    async def push(self, name: str, payload: object, **params: Any) -> dict[str, Any]:
        return await self.ask(name, "queue_push", payload=payload, **params)

    # Set-up, and waiting.

    async def form(self, first: str, *others: str) -> None:
        """A cluster that `first` leads, with `others` as voters."""
        for name in (first, *others):
            await self.start(name)
        await self.ask(first, "init")
        await self.new_leader()
        for name in others:
            await self.ask(first, "add_peer", id=name, addr=f"{name}:9700")
        await self.until(self.is_calm)

    async def until(self, condition: Callable[[], object], seconds: float = LIMIT_SECONDS) -> float:
        """Wait until `condition` holds; returns how long that took."""
        began = trio.current_time()
        with trio.fail_after(seconds):
            while not condition():  # noqa: ASYNC110
                await trio.sleep(POLL_SECONDS)
        return trio.current_time() - began

    @property
    def leader(self) -> str | None:
        """Who leads with a lease, if it is one."""
        now = trio.current_time()
        leading = [n for n, p in self.up.items() if p.raft.lease_end > now and n not in self.paused]
        return leading[0] if len(leading) == 1 else None

    async def new_leader(self, *old: str, seconds: float = LIMIT_SECONDS) -> str:
        """Waits until somebody else than `old` leads and has committed an entry of its term."""

        def leads() -> bool:
            leader = self.leader
            if leader is None or leader in old:
                return False
            raft = self.up[leader].raft
            return raft.leader is not None and raft.commit_index >= raft.leader.term_start

        await self.until(leads, seconds)
        leader = self.leader
        assert leader is not None
        return leader

    def follower(self) -> str:
        return next(name for name in sorted(self.up) if name != self.leader)

    def is_calm(self) -> bool:
        """Everybody follows the one leader, and has applied all there is."""
        leader = self.leader
        if leader is None or self.paused:
            return False
        indexes = {
            (p.raft.leader_id, p.raft.log.last_index, p.machine.applied_index)
            for p in self.up.values()
        }
        last_index = self.up[leader].raft.log.last_index
        return indexes == {(leader, last_index, last_index)}

    def digests(self) -> set[str]:
        return {process.machine.digest() for process in self.up.values()}

    def members(self) -> dict[str, bool]:
        """Whether each member votes, as the leader has it."""
        assert self.leader is not None
        members = self.up[self.leader].raft.log.configuration.members
        return {member.id: member.voter for member in members}


def overlapping(leaderships: Sequence[Leadership]) -> list[tuple[Leadership, Leadership]]:
    """Pairs that were acted upon by two nodes at once."""
    periods = sorted(
        (
            (begin, end, leadership)
            for leadership in leaderships
            for begin, end in leadership.periods
        ),
        key=lambda period: period[:2],
    )
    return [
        (one, other)
        for i, (_, one_end, one) in enumerate(periods)
        for begin, other_end, other in periods[i + 1 :]
        if one is not other and begin < min(one_end, other_end)
    ]
