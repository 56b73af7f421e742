"""What each action of the admin API does: from a `Request` to the node and back to JSON (SPEC 4).

Commands are checked before they are proposed, and get here what only the leader may decide: random
ids and the lifetimes that its configuration says.
"""

from __future__ import annotations

import secrets
from base64 import b64decode, b64encode
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import structlog
import trio
from attrs import frozen
from msgspec.structs import replace

from nefia.admin.node_api import NodeApi
from nefia.admin.protocol import Reply, Request, Shown, Stream
from nefia.admin.restoring import restore_step
from nefia.admin.views import PushedView, Views, event_view
from nefia.errors import InvalidArgument, NefiaError, NoLeader, NotLeader, OutcomeUnknown
from nefia.state.commands import (
    ApplicationCommand,
    ClaimTasks,
    Command,
    EndRestore,
    OpenSession,
    PushTasks,
)
from nefia.state.limits import validate
from nefia.state.machine import Machine
from nefia.state.records import (
    ApplicationOutcome,
    Outcome,
    Refusal,
    SessionOutcome,
    TasksOutcome,
    TaskState,
)

SESSION_ID_BYTES = 8
REQUEST_ID_BYTES = 16
MEMBERSHIP_SECONDS = 120.0
"""A leader's longest answer to a membership request: dial, add, catch up, promote."""
CLAIM_SECONDS = 15.0
"""What a claim may take besides its wait."""
NEXT_LEADER_SECONDS = 0.05
"""How long a forwarded claim pauses while it knows no leader."""

_log = structlog.get_logger()


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
        self._shown_by = Views(0)

    def handle(
        self, request: Request, reply: Reply
    ) -> Callable[[], Awaitable[None]] | Stream | None:
        """See `protocol.Handler`. One change needs no task of its own: it is the hot path."""
        change = _CHANGES.get(request.action)
        if change is None or request.forward or _waits_ms(request):
            if request.action == "watch":
                return self._watch(request)
            return partial(self._reply_to, request, reply)
        try:
            command = change.command(self, request)
            validate(command, request.request_id)
            settle = partial(self._settle, change, request, reply)
            self._node.propose(command, request.request_id, settle)
        except NefiaError as error:
            reply(error)
        return None

    def _settle(
        self, change: _Change, request: Request, reply: Reply, outcome: Outcome | NefiaError
    ) -> None:
        if isinstance(outcome, NefiaError):
            reply(outcome)
        elif isinstance(outcome, Refusal):
            reply(outcome.to_error())
        else:
            reply(change.result(self._views(), request, outcome))

    async def _reply_to(self, request: Request, reply: Reply) -> None:
        try:
            result = await self(request)
        except NefiaError as error:
            reply(error)
        else:
            reply(result)

    async def __call__(self, request: Request) -> Shown:
        """The result of `request`. Raises NefiaError."""
        if _waits_ms(request):
            return await self.queue_claim(request)  # it finds the leader by itself
        try:
            if change := _CHANGES.get(request.action):
                return await self._change(change, request)
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

    async def snapshot(self, request: Request) -> dict[str, Any]:
        return await self._node.snapshot()

    async def service_list(self, request: Request) -> dict[str, Any]:
        return {"services": self._node.service_status()}

    async def service_restart(self, request: Request) -> dict[str, Any]:
        await self._node.service_restart(request.params.name)
        return {}

    async def service_reload(self, request: Request) -> dict[str, Any]:
        await self._node.service_reload(request.params.name)
        return {}

    async def snapshot_restore(self, request: Request) -> dict[str, Any]:
        command = restore_step(request.params.step)
        if isinstance(command, EndRestore):
            command = replace(command, first=self._node.first_of_next_epoch(command.first))
        await self._outcome(command, request)
        return {"changed": isinstance(command, EndRestore)}

    async def add_peer(self, request: Request) -> dict[str, Any]:
        params = request.params
        _log_asked(request)
        return await self._node.add_peer(
            params.id,
            params.addr,
            wait=params.wait,
            preflight=params.preflight,
            reason=params.reason,
            dry_run=params.dry_run,
        )

    async def remove_peer(self, request: Request) -> dict[str, Any]:
        _log_asked(request)
        params = request.params
        return await self._node.remove_peer(
            params.id,
            force=params.force,
            reason=params.reason,
            dry_run=params.dry_run,
        )

    async def transfer_leader(self, request: Request) -> dict[str, Any]:
        _log_asked(request)
        return await self._node.transfer_leader(request.params.to, request.params.reason)

    async def history(self, request: Request) -> dict[str, Any]:
        machine = await self._machine(request)
        events = machine.history(request.params.limit)
        return _read(request, {"events": [event_view(event) for event in events]})

    # Sessions.

    async def session_get(self, request: Request) -> dict[str, Any]:
        machine = await self._machine(request)
        session = machine.get_session(request.params.id)
        return _read(request, {"session": self._views().session(session)})

    async def session_list(self, request: Request) -> dict[str, Any]:
        machine = await self._machine(request)
        sessions, cursor = machine.list_sessions(**vars(request.params))
        return _read(request, {"sessions": self._views().sessions(sessions), "cursor": cursor})

    # The queue.

    async def queue_claim(self, request: Request) -> dict[str, Any]:
        """One that waits for a task, which may take several changes.

        With `forward` it waits wherever there is a leader, under one request id, so that a task
        that was leased to it is its own whichever answer was lost. Without, it ends with its
        leader's leadership.
        """
        deadline = trio.current_time() + request.params.wait_ms / 1000
        if request.forward and not request.request_id:
            request = replace(request, request_id=secrets.token_hex(REQUEST_ID_BYTES))
        while True:
            remaining = max(deadline - trio.current_time(), 0.0)
            try:
                return await self._claim_here(request, deadline)
            except (NotLeader, NoLeader, OutcomeUnknown) as error:
                if not request.forward or (not remaining and not isinstance(error, NotLeader)):
                    raise
            passed = {k: v for k, v in request.raw.items() if k not in ("seq", "forward")}
            passed |= {"request_id": request.request_id, "wait": f"{int(remaining * 1000)}ms"}
            try:
                return await self._node.forward(passed, remaining + CLAIM_SECONDS)
            except (NotLeader, NoLeader, OutcomeUnknown):
                if not remaining:
                    raise
            await trio.sleep(min(NEXT_LEADER_SECONDS, remaining))

    async def _claim_here(self, request: Request, deadline: float) -> dict[str, Any]:
        while True:
            remaining = max(deadline - trio.current_time(), 0.0)
            claim = replace(_claim(self, request), wait=remaining > 0)
            outcome = await self._outcome(claim, request)
            assert isinstance(outcome, TasksOutcome)
            if outcome.tasks or not claim.wait:
                return _claimed(self._views(), request, outcome)
            await self._node.wait_for_task(claim.queue, claim.host, remaining)

    async def queue_get(self, request: Request) -> dict[str, Any]:
        machine = await self._machine(request)
        task = machine.get_task(request.params.id)
        return _read(request, {"task": self._views().task(task)})

    async def queue_list(self, request: Request) -> dict[str, Any]:
        machine = await self._machine(request)
        state = request.params.state
        tasks, cursor = machine.list_tasks(
            **vars(request.params) | {"state": TaskState(state) if state else None}
        )
        return _read(request, {"tasks": self._views().tasks(tasks), "cursor": cursor})

    async def queue_stats(self, request: Request) -> dict[str, Any]:
        machine = await self._machine(request)
        views = self._views()
        queues = {
            name: views.stats(stats, machine.queue_rates(name))
            for name, stats in machine.queue_stats(**vars(request.params)).items()
        }
        return _read(request, {"queues": queues})

    # Watching.

    async def _watch(self, request: Request) -> Stream:
        status = self._node.status()
        names = ("node_id", "state", "term", "leader_id", "leader_addr", "applied_index")
        with self._node.watching.watch(request.params.events) as watcher:
            yield [{"event": "watching"} | {name: status[name] for name in names}]
            while True:
                views = self._views()
                yield [views.event(event) for event in await watcher.take()]

    async def watch(self, request: Request) -> dict[str, Any]:
        """Only a client's own connection can be a stream."""
        raise InvalidArgument("a node cannot watch for another one; watch there")

    # What they have in common.

    async def _change(self, change: _Change, request: Request) -> Shown:
        outcome = await self._outcome(change.command(self, request), request)
        return change.result(self._views(), request, outcome)

    async def _outcome(self, command: Command, request: Request) -> Outcome:
        validate(command, request.request_id)
        outcome = await self._node.change(command, request.request_id)
        if isinstance(outcome, Refusal):
            raise outcome.to_error()
        return outcome

    async def _machine(self, request: Request) -> Machine:
        return await self._node.machine(request.consistency == "linearizable")

    def _views(self) -> Views:
        """Made anew when the clocks have drifted by a millisecond."""
        offset_ms = self._node.wall_offset_ms()
        if offset_ms != self._shown_by.offset_ms:
            self._shown_by = Views(offset_ms)
        return self._shown_by


def _waits_ms(request: Request) -> int:
    """How long a claim waits for a task; other requests do not."""
    return getattr(request.params, "wait_ms", 0)


def _patience_seconds(request: Request) -> float | None:
    """How long the leader may take for what is more than one change."""
    if request.action in ("add_peer", "remove_peer", "transfer_leader"):
        return MEMBERSHIP_SECONDS
    if wait_ms := _waits_ms(request):
        return float(wait_ms / 1000 + CLAIM_SECONDS)
    return None


def _log_asked(request: Request) -> None:
    asked = {name: value for name, value in vars(request.params).items() if value not in ("", None)}
    _log.info("membership_change_asked", action=request.action, **asked)


def _read(request: Request, result: dict[str, Any]) -> dict[str, Any]:
    """A result that says so if it may be stale."""
    return result | {"consistency": "local"} if request.consistency == "local" else result


# Changes: from a request to the command, and from its outcome to the result.


@frozen
class _Change:
    command: Callable[[Actions, Request], Command]
    result: Callable[[Views, Request, Any], Shown]


def _open_session(actions: Actions, request: Request) -> Command:
    lifetimes = actions.lifetimes
    return OpenSession(
        id=secrets.token_hex(SESSION_ID_BYTES),
        ttl_ms=lifetimes.ttl_ms,
        idle_timeout_ms=lifetimes.idle_timeout_ms,
        **vars(request.params),
    )


def _push(_: Actions, request: Request) -> Command:
    """Of one task, or several."""
    params = request.params
    return params if type(params) is PushTasks else PushTasks((params,))


def _apply(actions: Actions, request: Request) -> Command:
    machine, text = request.params.machine, request.params.command
    actions._node.check_machine(machine)
    try:
        return ApplicationCommand(machine, b64decode(text, validate=True))
    except ValueError as error:
        raise InvalidArgument(f'"command" is no base64: {error}') from None


def _claim(_: Actions, request: Request) -> ClaimTasks:
    params = request.params
    return ClaimTasks(
        worker=params.worker,
        queue=params.queue,
        host=params.host,
        lease_ms=params.lease_ms,
        limit=params.limit or 1,
    )


def _params(_: Actions, request: Request) -> Command:
    """The parameters are those of the command, which the protocol has made of them."""
    command: Command = request.params
    return command


def _session(views: Views, _: Request, outcome: SessionOutcome) -> dict[str, Any]:
    return {"session": views.session(outcome.session)}


def _task(views: Views, _: Request, outcome: TasksOutcome) -> dict[str, Any]:
    return {"task": views.task(outcome.tasks[0])}


def _pushed(views: Views, request: Request, outcome: TasksOutcome) -> Shown:
    if type(request.params) is PushTasks:
        return {"tasks": views.pushed(outcome.tasks), "changed": any(outcome.changed)}
    return PushedView(views.task(outcome.tasks[0]), outcome.changed[0])


def _applied(_: Views, __: Request, outcome: ApplicationOutcome) -> dict[str, Any]:
    return {"result": b64encode(outcome.result).decode()}


def _claimed(views: Views, request: Request, outcome: TasksOutcome) -> dict[str, Any]:
    tasks = views.tasks(outcome.tasks)
    if request.params.limit is None:
        return {"task": tasks[0] if tasks else None}
    return {"tasks": tasks}


_CHANGES: dict[str, _Change] = {
    "session_open": _Change(_open_session, _session),
    "session_touch": _Change(_params, _session),
    "session_update": _Change(_params, _session),
    "session_close": _Change(_params, _session),
    "queue_push": _Change(_push, _pushed),
    "queue_claim": _Change(_claim, _claimed),
    "queue_extend": _Change(_params, _task),
    "queue_ack": _Change(_params, _task),
    "queue_fail": _Change(_params, _task),
    "queue_cancel": _Change(_params, _task),
    "queue_retry": _Change(_params, _task),
    "apply": _Change(_apply, _applied),
}

_PERFORM: dict[str, Callable[[Actions, Request], Awaitable[dict[str, Any]]]] = {
    "status": Actions.status,
    "members": Actions.members,
    "init": Actions.init,
    "snapshot": Actions.snapshot,
    "service_list": Actions.service_list,
    "service_restart": Actions.service_restart,
    "service_reload": Actions.service_reload,
    "snapshot_restore": Actions.snapshot_restore,
    "add_peer": Actions.add_peer,
    "remove_peer": Actions.remove_peer,
    "transfer_leader": Actions.transfer_leader,
    "history": Actions.history,
    "session_get": Actions.session_get,
    "session_list": Actions.session_list,
    "queue_get": Actions.queue_get,
    "queue_list": Actions.queue_list,
    "queue_stats": Actions.queue_stats,
    "watch": Actions.watch,
}
