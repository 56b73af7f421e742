"""What each action of the admin API does: from a `Request` to the node and back to JSON (SPEC 4).

Commands are checked before they are proposed, and get here what only the leader may decide: random
ids and the lifetimes that its configuration says.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import structlog
import trio
from attrs import frozen

from nefia.admin.protocol import Request
from nefia.admin.views import Views
from nefia.errors import NotLeader
from nefia.state.commands import (
    AckTask,
    CancelTask,
    ClaimTasks,
    CloseSession,
    Command,
    ExtendTask,
    FailTask,
    NewTask,
    OpenSession,
    PushTasks,
    RetryTask,
    TouchSession,
    UpdateSession,
)
from nefia.state.limits import validate
from nefia.state.machine import Machine
from nefia.state.records import Outcome, Refusal, SessionOutcome, TasksOutcome, TaskState

SESSION_ID_BYTES = 8
REQUEST_ID_BYTES = 16
MEMBERSHIP_SECONDS = 120.0
"""A leader's longest answer to a membership request: dial, add, catch up, promote."""
CLAIM_SECONDS = 15.0
"""What a claim may take besides its wait."""

_log = structlog.get_logger()


class NodeApi(Protocol):
    """What the admin API needs of a node."""

    async def change(self, command: Command, request_id: str) -> Outcome:
        """Apply `command` through the log, and remember the outcome under a `request_id` not empty.

        Raises NotLeader, NoLeader, OutcomeUnknown, Overloaded or ShuttingDown. A caller that is
        cancelled has withdrawn from waiting, not the change.
        """
        ...

    async def machine(self, linearizable: bool) -> Machine:
        """The state to read from, before the next checkpoint. Raises NotLeader, NoLeader, NoQuorum.

        Not `linearizable`: what this node has applied, at once.
        """
        ...

    def status(self) -> dict[str, Any]: ...

    async def members(self) -> dict[str, Any]: ...

    async def initialize(self) -> str:
        """The new cluster's id. Raises AlreadyInitialized."""
        ...

    async def add_peer(
        self, node_id: str, address: str, *, wait: bool, preflight: bool
    ) -> dict[str, Any]: ...

    async def remove_peer(self, node_id: str, *, force: bool) -> dict[str, Any]: ...

    async def transfer_leader(self, to: str | None) -> dict[str, Any]: ...

    async def forward(
        self, request: dict[str, Any], timeout_seconds: float | None = None
    ) -> dict[str, Any]:
        """The leader's result of a request; raises its error, NoLeader, or OutcomeUnknown.

        `request` is as a client would send it, without `seq` and `forward`. Without a timeout:
        as long as a change may take.
        """
        ...

    async def wait_for_task(self, queue: str, host: str, deadline_seconds: float) -> None:
        """Return when a claim may find a task, or `deadline_seconds` from now; "" means any."""
        ...

    def wall_offset_ms(self) -> int:
        """The wall clock minus the cluster time, now."""
        ...


@frozen
class SessionLifetimes:
    """Of the sessions that are opened here, from this node's configuration."""

    ttl_ms: int
    idle_timeout_ms: int


class Actions:
    """The handler of an admin server for one node. `lifetimes` may be replaced at a reload."""

    def __init__(self, node: NodeApi, lifetimes: SessionLifetimes) -> None:
        self._node = node
        self.lifetimes = lifetimes

    async def __call__(self, request: Request) -> dict[str, Any]:
        try:
            return await _PERFORM[request.action](self, request)
        except NotLeader:
            if not request.forward:
                raise
        # Once and under one id: should the leader's answer be lost, a repetition is safe.
        made = {"request_id": request.request_id or secrets.token_hex(REQUEST_ID_BYTES)}
        passed = {k: v for k, v in request.raw.items() if k not in ("seq", "forward")}
        return await self._node.forward(passed | made, _patience_seconds(request))

    # This node and the membership.

    async def status(self, request: Request) -> dict[str, Any]:
        return self._node.status()

    async def members(self, request: Request) -> dict[str, Any]:
        return await self._node.members()

    async def init(self, request: Request) -> dict[str, Any]:
        return {"cluster_id": await self._node.initialize()}

    async def add_peer(self, request: Request) -> dict[str, Any]:
        params = request.params
        _log_asked(request)
        return await self._node.add_peer(
            params["id"], params["addr"], wait=params["wait"], preflight=params["preflight"]
        )

    async def remove_peer(self, request: Request) -> dict[str, Any]:
        _log_asked(request)
        return await self._node.remove_peer(request.params["id"], force=request.params["force"])

    async def transfer_leader(self, request: Request) -> dict[str, Any]:
        _log_asked(request)
        return await self._node.transfer_leader(request.params["to"])

    # Sessions.

    async def session_open(self, request: Request) -> dict[str, Any]:
        lifetimes = self.lifetimes
        return await self._change_session(
            request,
            OpenSession(
                id=secrets.token_hex(SESSION_ID_BYTES),
                ttl_ms=lifetimes.ttl_ms,
                idle_timeout_ms=lifetimes.idle_timeout_ms,
                **request.params,
            ),
        )

    async def session_touch(self, request: Request) -> dict[str, Any]:
        return await self._change_session(request, TouchSession(**request.params))

    async def session_update(self, request: Request) -> dict[str, Any]:
        return await self._change_session(request, UpdateSession(**request.params))

    async def session_close(self, request: Request) -> dict[str, Any]:
        return await self._change_session(request, CloseSession(**request.params))

    async def session_get(self, request: Request) -> dict[str, Any]:
        machine = await self._machine(request)
        session = machine.get_session(request.params["id"])
        return _read(request, {"session": self._views().session(session)})

    async def session_list(self, request: Request) -> dict[str, Any]:
        machine = await self._machine(request)
        sessions, cursor = machine.list_sessions(**request.params)
        return _read(request, {"sessions": self._views().sessions(sessions), "cursor": cursor})

    # The queue.

    async def queue_push(self, request: Request) -> dict[str, Any]:
        several = request.params.get("tasks")
        new = several or [request.params]
        outcome = await self._change(request, PushTasks(tuple(NewTask(**task) for task in new)))
        assert isinstance(outcome, TasksOutcome)
        if several:
            return {"tasks": self._views().pushed(outcome.tasks), "changed": any(outcome.changed)}
        return {"task": self._views().task(outcome.tasks[0]), "changed": outcome.changed[0]}

    async def queue_claim(self, request: Request) -> dict[str, Any]:
        params = request.params
        deadline = trio.current_time() + params["wait_ms"] / 1000
        while True:
            remaining = max(deadline - trio.current_time(), 0.0)
            claim = ClaimTasks(
                worker=params["worker"],
                queue=params["queue"],
                host=params["host"],
                lease_ms=params["lease_ms"],
                limit=params["limit"] or 1,
                wait=remaining > 0,
            )
            outcome = await self._change(request, claim)
            assert isinstance(outcome, TasksOutcome)
            if outcome.tasks or not claim.wait:
                break
            await self._node.wait_for_task(claim.queue, claim.host, remaining)
        tasks = self._views().tasks(outcome.tasks)
        if params["limit"] is None:
            return {"task": tasks[0] if tasks else None}
        return {"tasks": tasks}

    async def queue_extend(self, request: Request) -> dict[str, Any]:
        return await self._change_task(request, ExtendTask(**request.params))

    async def queue_ack(self, request: Request) -> dict[str, Any]:
        return await self._change_task(request, AckTask(**request.params))

    async def queue_fail(self, request: Request) -> dict[str, Any]:
        return await self._change_task(request, FailTask(**request.params))

    async def queue_cancel(self, request: Request) -> dict[str, Any]:
        return await self._change_task(request, CancelTask(**request.params))

    async def queue_retry(self, request: Request) -> dict[str, Any]:
        return await self._change_task(request, RetryTask(**request.params))

    async def queue_get(self, request: Request) -> dict[str, Any]:
        machine = await self._machine(request)
        task = machine.get_task(request.params["id"])
        return _read(request, {"task": self._views().task(task)})

    async def queue_list(self, request: Request) -> dict[str, Any]:
        machine = await self._machine(request)
        state = request.params["state"]
        tasks, cursor = machine.list_tasks(
            **request.params | {"state": TaskState(state) if state else None}
        )
        return _read(request, {"tasks": self._views().tasks(tasks), "cursor": cursor})

    async def queue_stats(self, request: Request) -> dict[str, Any]:
        machine = await self._machine(request)
        views = self._views()
        queues = machine.queue_stats(**request.params)
        return _read(
            request, {"queues": {name: views.stats(stats) for name, stats in queues.items()}}
        )

    # What they have in common.

    async def _change(self, request: Request, command: Command) -> Outcome:
        validate(command, request.request_id)
        outcome = await self._node.change(command, request.request_id)
        if isinstance(outcome, Refusal):
            raise outcome.to_error()
        return outcome

    async def _change_session(self, request: Request, command: Command) -> dict[str, Any]:
        outcome = await self._change(request, command)
        assert isinstance(outcome, SessionOutcome)
        return {"session": self._views().session(outcome.session)}

    async def _change_task(self, request: Request, command: Command) -> dict[str, Any]:
        outcome = await self._change(request, command)
        assert isinstance(outcome, TasksOutcome)
        return {"task": self._views().task(outcome.tasks[0])}

    async def _machine(self, request: Request) -> Machine:
        return await self._node.machine(request.consistency == "linearizable")

    def _views(self) -> Views:
        return Views(self._node.wall_offset_ms())


def _patience_seconds(request: Request) -> float | None:
    """How long the leader may take for what is more than one change."""
    if request.action in ("add_peer", "remove_peer", "transfer_leader"):
        return MEMBERSHIP_SECONDS
    if wait_ms := request.params.get("wait_ms", 0):
        return float(wait_ms / 1000 + CLAIM_SECONDS)
    return None


def _log_asked(request: Request) -> None:
    asked = {name: value for name, value in request.params.items() if value not in ("", None)}
    _log.info("membership_change_asked", action=request.action, **asked)


def _read(request: Request, result: dict[str, Any]) -> dict[str, Any]:
    """A result that says so if it may be stale."""
    return result | {"consistency": "local"} if request.consistency == "local" else result


_PERFORM: dict[str, Callable[[Actions, Request], Awaitable[dict[str, Any]]]] = {
    "status": Actions.status,
    "members": Actions.members,
    "init": Actions.init,
    "add_peer": Actions.add_peer,
    "remove_peer": Actions.remove_peer,
    "transfer_leader": Actions.transfer_leader,
    "session_open": Actions.session_open,
    "session_get": Actions.session_get,
    "session_list": Actions.session_list,
    "session_touch": Actions.session_touch,
    "session_update": Actions.session_update,
    "session_close": Actions.session_close,
    "queue_push": Actions.queue_push,
    "queue_claim": Actions.queue_claim,
    "queue_extend": Actions.queue_extend,
    "queue_ack": Actions.queue_ack,
    "queue_fail": Actions.queue_fail,
    "queue_cancel": Actions.queue_cancel,
    "queue_retry": Actions.queue_retry,
    "queue_get": Actions.queue_get,
    "queue_list": Actions.queue_list,
    "queue_stats": Actions.queue_stats,
}
