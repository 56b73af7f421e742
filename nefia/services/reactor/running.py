"""A Reactor from its start to its stop or fence: one listener, one outbox, one tenure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import trio
from trio.abc import Listener as StreamListener
from trio.abc import Stream

from nefia.clock import NodeClock
from nefia.config.reactor import AlertConfig, ExecConfig
from nefia.config.services import ReactorConfig
from nefia.errors import InvalidArgument, NefiaError, TooLarge
from nefia.services.interface import ServiceFailed, Tenure
from nefia.services.reactor.events import Event, acknowledged, id_of, parse_event, refused
from nefia.services.reactor.gate import Gate
from nefia.services.reactor.listener import Listener
from nefia.services.reactor.outbox import Changes, Outbox
from nefia.services.reactor.performing import Alerts, Commands
from nefia.services.reactor.rules import Order, Rules
from nefia.state.commands import PushTasks
from nefia.state.limits import validate
from nefia.state.records import Refusal, Task, TasksOutcome


class Running:
    """`counts` go on from one tenure to the next. `failure` is why it has ended by itself."""

    def __init__(
        self,
        config: ReactorConfig,
        gate: Gate,
        *,
        tenure: Tenure,
        node: Changes,
        clock: NodeClock,
        counts: Counter[str],
        sockets: Sequence[StreamListener[Stream]],
    ) -> None:
        self.tenure = tenure
        self.rules = Rules(config.rules)
        self.listener = Listener(config, gate, clock, self._answer, sockets)
        self.ended = trio.Event()
        self.failure: ServiceFailed | None = None
        self._name = config.name
        self._node = node
        self._counts = counts
        self._outbox = Outbox(node, clock, tenure.node_id, self._perform)
        self._commands = Commands(clock)
        self._alerts = Alerts(clock)
        self._everything = trio.CancelScope()
        self._performing = trio.CancelScope()
        self._fenced = False

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        try:
            with self._everything:
                async with self._alerts, trio.open_nursery() as nursery:
                    nursery.start_soon(self._work)
                    nursery.start_soon(self.listener.run)
                    task_status.started()
        except* (OSError, trio.ClosedResourceError) as group:
            if not self._fenced:
                self.failure = ServiceFailed(
                    f"the Reactor {self._name} takes no connections any more: {group.exceptions[0]}"
                )
        finally:
            self.ended.set()

    async def _work(self) -> None:
        with self._performing:
            await self._outbox.run()

    async def leave(self, reason: str) -> None:
        """Hand back what is being performed, send all beacons away, and end."""
        self._performing.cancel()
        await self.listener.leave(reason)
        self._everything.cancel()
        await self.ended.wait()

    def fence(self) -> None:
        """End it without waiting: sockets are closed and commands killed when this returns."""
        self._fenced = True
        self.listener.fence()
        self._commands.fence()
        self._everything.cancel()

    # Events.

    async def _answer(self, message: str | bytes) -> str:
        """An acknowledgement only once all that comes of the event is committed (SPEC 10).

        Nothing comes of an event that no rule wants, so there is nothing to wait for.
        """
        try:
            event, text = parse_event(message)
            self._counts[await self._push(event, text)] += 1
        except NefiaError as error:
            self._counts["refused"] += 1
            return refused(id_of(message), error)
        return acknowledged(event.id)

    async def _push(self, event: Event, text: bytes) -> str:
        """What has come of it, in a word of `status`."""
        tasks = self.rules.tasks(event, text)
        if not tasks:
            return "unmatched"
        command = PushTasks(tasks)
        try:
            validate(command)
        except (InvalidArgument, TooLarge) as error:
            raise type(error)(
                f"a rule makes a task of it that cannot be: {error.message}"
            ) from None
        outcome = await self._node.change(command, "")
        if isinstance(outcome, Refusal):
            raise outcome.to_error()
        assert isinstance(outcome, TasksOutcome), outcome
        return "accepted" if any(outcome.changed) else "repeated"

    # Orders.

    async def _perform(self, order: Order, task: Task) -> dict[str, Any]:
        """See `outbox.Perform`."""
        try:
            result = await self._performed(order, task)
        except NefiaError:
            self._counts["failed"] += 1
            raise
        self._counts["performed"] += 1
        return result

    async def _performed(self, order: Order, task: Task) -> dict[str, Any]:
        event, text = parse_event(str(bytes(order.event), "utf-8"))
        match self.rules.action(order):
            case ExecConfig() as action:
                environment = self._environment(order, task, event)
                return await self._commands.run(action, event, text, environment)
            case AlertConfig() as action:
                return await self._alerts.tell(action, event, text, order.rule, task.key)
        raise InvalidArgument(f'the action "{order.do}" is none for the outbox')

    def _environment(self, order: Order, task: Task, event: Event) -> dict[str, str]:
        return self.tenure.environment("leader") | {
            "NEFIA_RULE": order.rule,
            "NEFIA_EVENT_ID": event.id,
            "NEFIA_EVENT_TYPE": event.type,
            "NEFIA_EVENT_HOST": event.host,
            "NEFIA_EVENT_SEVERITY": event.severity,
            "NEFIA_ATTEMPT": str(task.attempt),
            "NEFIA_TOKEN": str(task.token),
        }
