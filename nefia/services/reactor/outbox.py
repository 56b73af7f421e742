"""The outbox: what `exec` and `alert` want stands in a queue of nefia's own until it is done.

Retries, back-off, dead letters and the hand-over to the next leader are the queue's (SPEC 8). The
leader's own workers claim from it. An action is done at least once: a leader that dies between the
deed and its acknowledgement leaves the task to its successor, which does it again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Protocol

import msgspec
import structlog
import trio

from nefia.clock import NodeClock, sleep
from nefia.errors import InvalidArgument, NefiaError
from nefia.services.reactor.events import AGAIN
from nefia.services.reactor.rules import OUTBOX_QUEUE, Order, decode_order
from nefia.state.commands import AckTask, ClaimTasks, Command, ExtendTask, FailTask
from nefia.state.limits import MAX_ERROR_BYTES
from nefia.state.records import Outcome, Refusal, Task, TasksOutcome

WORKERS = 4
"""Actions that are performed at a time."""
LEASE_SECONDS = 15.0
"""How long a task waits for the next leader, at most, when its own has died."""
EXTENSIONS_PER_LEASE = 3
MARGIN_SECONDS = 1.0
"""So long before its lease may be over an action is ended."""
IDLE_SECONDS = 60.0
"""How often an idle worker looks without a hint."""
AGAIN_SECONDS = 0.5
HAND_BACK_SECONDS = 0.1
MAX_ERROR_CHARACTERS = MAX_ERROR_BYTES // 4

_log = structlog.get_logger()

Perform = Callable[[Order, Task], Awaitable[dict[str, Any]]]
"""Does what an order wants; gives what is kept with the task. Raises NefiaError."""


class Changes(Protocol):
    """What a node gives: see `Node`."""

    async def change(self, command: Command, request_id: str) -> Outcome: ...

    async def wait_for_task(self, queue: str, host: str, deadline_seconds: float) -> None: ...


class Outbox:
    """`worker` is who the queue shows as the worker: this node's id."""

    def __init__(self, node: Changes, clock: NodeClock, worker: str, perform: Perform) -> None:
        self._node = node
        self._clock = clock
        self._worker = worker
        self._perform = perform

    async def run(self) -> None:
        """Until cancelled; what is not finished then is handed back."""
        async with trio.open_nursery() as nursery:
            for _ in range(WORKERS):
                nursery.start_soon(self._work)

    async def _work(self) -> None:
        while True:
            await self._node.wait_for_task(OUTBOX_QUEUE, "", IDLE_SECONDS)
            held_until = self._clock.now() + LEASE_SECONDS
            try:
                task = await self._claim()
            except NefiaError as error:
                _log.info("outbox_waits", reason=error.message)
                await sleep(self._clock, AGAIN_SECONDS)
            else:
                if task is not None:
                    await self._do(task, held_until)

    async def _claim(self) -> Task | None:
        claim = ClaimTasks(
            worker=self._worker,
            queue=OUTBOX_QUEUE,
            host="",
            lease_ms=round(LEASE_SECONDS * 1000),
            limit=1,
        )
        outcome = await self._change(claim)
        assert isinstance(outcome, TasksOutcome), outcome
        return outcome.tasks[0] if outcome.tasks else None

    async def _do(self, task: Task, held_until: float) -> None:
        """Perform it while it is ours, and say how it went."""
        answer: Command = FailTask(task.id, task.token, "its leader stopped", 0)
        said = False
        held = self._clock.deadline_scope(held_until - MARGIN_SECONDS)
        try:
            with held:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._hold, task, held)
                    answer = await self._performed(task)
                    nursery.cancel_scope.cancel()
                await self._say(answer)
            said = True
        finally:
            if not said:
                await self._hand_back(answer)
        if held.cancelled_caught:
            _log.warning("outbox_task_lost", task=task.id, key=task.key)

    async def _performed(self, task: Task) -> Command:
        """The answer to a claim: done, or failed and why."""
        try:
            order = _order_of(task)
            result = await self._perform(order, task)
        except NefiaError as error:
            _log.warning(
                "action_failed", task=task.id, attempt=task.attempt, reason=error.message[:500]
            )
            return FailTask(task.id, task.token, error.message[:MAX_ERROR_CHARACTERS], None)
        return AckTask(task.id, task.token, msgspec.json.encode(result))

    async def _hold(self, task: Task, held: trio.CancelScope) -> None:
        """Extend the lease while the action lasts; end it when the task is another's."""
        extend = ExtendTask(task.id, task.token, round(LEASE_SECONDS * 1000))
        while True:
            await sleep(self._clock, LEASE_SECONDS / EXTENSIONS_PER_LEASE)
            asked_at = self._clock.now()
            try:
                await self._change(extend)
            except NefiaError as error:
                if error.code not in AGAIN:
                    held.cancel()
            else:
                end = asked_at + LEASE_SECONDS - MARGIN_SECONDS
                self._clock.move_deadline(held, end)

    async def _say(self, answer: Command) -> None:
        """Until it is heard, or the task is not ours any more."""
        while True:
            try:
                await self._change(answer)
                return
            except NefiaError as error:
                if error.code not in AGAIN:
                    _log.warning("outbox_answer_refused", reason=error.message)
                    return
            await sleep(self._clock, AGAIN_SECONDS)

    async def _hand_back(self, answer: Command) -> None:
        """At the end of leadership: so that nobody need wait for the end of the lease."""
        with self._clock.deadline_scope(self._clock.now() + HAND_BACK_SECONDS) as handing:
            handing.shield = True
            with suppress(NefiaError):
                await self._change(answer)

    async def _change(self, command: Command) -> Outcome:
        outcome = await self._node.change(command, "")
        if isinstance(outcome, Refusal):
            raise outcome.to_error()
        return outcome


def _order_of(task: Task) -> Order:
    try:
        return decode_order(task.payload)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise InvalidArgument(f"this is no order of a Reactor: {error}") from None
