"""A node whose log is perfect, and a client of its admin API, both without anything between."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import AbstractContextManager
from typing import Any

import trio

from nefia.admin.actions import Actions, SessionLifetimes
from nefia.admin.protocol import Request, Result, encode_answer, parse_request
from nefia.errors import NefiaError, NotLeader, OtherMachine, Overloaded
from nefia.node.watching import Watcher
from nefia.state.commands import Change, Command
from nefia.state.machine import Machine
from nefia.state.records import Outcome

START_MS = 1_000
WALL_MS = 1_767_323_045_006
"""2026-01-02T03:04:05.006Z."""


class Node:
    """A leader whose log is perfect, or a follower. Its time stands still."""

    def __init__(self) -> None:
        self.state = Machine()
        self.time_ms = START_MS
        self.leads = True
        self.forwarded: list[tuple[dict[str, Any], float | None]] = []
        self.membership: list[tuple[Any, ...]] = []
        self.reads: list[bool] = []
        self.changes: list[Command] = []
        self.waits: list[float] = []
        self.pushed = trio.Event()

    def _check_leads(self) -> None:
        if not self.leads:
            raise NotLeader("not the leader", leader_id="n2", leader_addr="h:1")

    async def change(self, command: Command, request_id: str) -> Outcome:
        await trio.lowlevel.checkpoint()
        self._check_leads()
        self.changes.append(command)
        change = Change(self.time_ms, request_id, command)
        return self.state.apply(self.state.applied_index + 1, [change])[0]

    def propose(
        self,
        command: Command,
        request_id: str,
        settle: Callable[[Outcome | NefiaError], None],
    ) -> None:
        self._check_leads()
        self.changes.append(command)
        change = Change(self.time_ms, request_id, command)
        settle(self.state.apply(self.state.applied_index + 1, [change])[0])

    async def machine(self, linearizable: bool) -> Machine:
        await trio.lowlevel.checkpoint()
        self.reads.append(linearizable)
        if linearizable:
            self._check_leads()
        return self.state

    def check_machine(self, name: str) -> None:
        raise OtherMachine(f"{name} is not here")

    def status(self) -> dict[str, Any]:
        return {"node_id": "n1"}

    async def members(self) -> dict[str, Any]:
        return {"members": []}

    async def initialize(self) -> str:
        return "c0ffee"

    def first_of_next_epoch(self, seen: int) -> int:
        return seen + 1000

    def service_status(self) -> list[dict[str, Any]]:
        return [{"name": "wg0", "state": "running"}]

    async def service_restart(self, name: str) -> None:
        self._check_leads()
        self.membership.append(("restart", name))

    async def service_reload(self, name: str) -> None:
        self._check_leads()
        self.membership.append(("reload", name))

    async def snapshot(self) -> dict[str, Any]:
        return {"index": 7, "term": 2, "bytes": 90}

    async def add_peer(self, node_id: str, address: str, **options: Any) -> dict[str, Any]:
        self._check_leads()
        self.membership.append(("add", node_id, address, options))
        return {"changed": True}

    async def remove_peer(self, node_id: str, **options: Any) -> dict[str, Any]:
        self.membership.append(("remove", node_id, options))
        return {"changed": True}

    async def transfer_leader(self, to: str | None, reason: str) -> dict[str, Any]:
        self.membership.append(("transfer", to, reason))
        return {"leader_id": to}

    async def forward(
        self, request: dict[str, Any], timeout_seconds: float | None = None
    ) -> dict[str, Any]:
        self.forwarded.append((request, timeout_seconds))
        return {"forwarded": True}

    async def wait_for_task(self, queue: str, host: str, deadline_seconds: float) -> None:
        self.waits.append(deadline_seconds)
        with trio.move_on_after(deadline_seconds):
            await self.pushed.wait()
            self.pushed = trio.Event()

    def wall_offset_ms(self) -> int:
        return WALL_MS - START_MS

    @property
    def watching(self) -> Node:
        return self

    def watch(self, topics: Collection[str]) -> AbstractContextManager[Watcher]:
        raise Overloaded("this node cannot be watched")


async def ask(node: Node, action: str, **params: Any) -> dict[str, Any]:
    """The result as a client gets it: through the protocol both ways."""
    request = parse_request(json.dumps({"action": action, **params}).encode())
    assert isinstance(request, Request), request
    handler = Actions(node, SessionLifetimes(ttl_ms=3_600_000, idle_timeout_ms=60_000))
    ended: list[Result] = []
    if rest := handler.handle(request, ended.append):
        assert not isinstance(rest, AsyncGenerator)
        await rest()
    (end,) = ended
    if isinstance(end, NefiaError):
        raise end
    answer = json.loads(encode_answer(None, end))
    assert answer["ok"], answer
    result: dict[str, Any] = answer["result"]
    return result
