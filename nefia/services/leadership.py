"""From when and until when a leader runs its services: one tenure in each term (SPEC 9).

A tenure begins when

1. an entry of the own term is applied, so that what earlier leaders left behind is known,
2. the tenures of all earlier leaders are over: at once if the last of them has committed
   `released`, else when what the votes said has passed (`raft.tenure`),
3. the guard has agreed to it, if there is anything for the guard to run,
4. `acquired` of this term is committed.

It ends with a planned stop, which commits `released`, or with the lease: the guard's view of the
lease counts, since only that is certain to be enforced. In one term there is one tenure: whoever
has lost it while still leading hands over.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

import structlog
import trio

from nefia.clock import NodeClock, sleep
from nefia.config import ServiceConfig
from nefia.errors import GuardLost, NefiaError, ServiceFailed
from nefia.node.chronicle import Chronicle
from nefia.node.replica import Replica
from nefia.services.interface import Bound, Guard, Service, State, Tenure
from nefia.services.supervisor import Supervised, Supervisor
from nefia.state.commands import AcquireTenure, Command, ReleaseTenure, Remember
from nefia.state.features import SERVICES

AGAIN_SECONDS = 0.2
"""Between attempts at what has to succeed before a tenure can begin or end."""
GUARD_PATIENCE_SECONDS = 10.0
"""How long a leader waits for a guard, which may be starting or cleaning up, before it yields."""
NO_GUARD = "there is no guard yet, or it still cleans up; the log says more"
YIELD_EVERY_MS = 10 * 60_000
"""A node yields at most once in so long, so that a service that works nowhere moves no leader."""
YIELDED = "nefia.yielded"
"""What is remembered under this name: by node, the cluster time of its last yielding."""
GONE_AT = 0.75
"""Which part of the stop budget services of this process have: they are fenced at half of it, which
can say why, and what is left is for the kernel to end the process."""
MAX_UNTOLD_EVENTS = 64
"""Of services, that wait to be written into the history; more, and the oldest are left out."""
SERVICE = "service"
"""The kind of the events in the history."""

_log = structlog.get_logger("nefia.services")


class _End(Enum):
    """Why a tenure is over."""

    STOOD_DOWN = "services have stopped as planned"
    NO_GUARD = "there is no guard"
    REFUSED = "the guard does not agree to it"
    LAPSED = "the lease is over, as far as the guard knows"


class Leadership:
    """Implements `nefia.node.leading.LeaderServices`.

    `hand_over(reason)` has leadership transferred to another node, by a task that is not ours.
    `tell` is for those who watch.
    """

    def __init__(
        self,
        *,
        services: Sequence[Service],
        guard: Guard | None,
        replica: Replica,
        clock: NodeClock,
        chronicle: Chronicle,
        cluster_id: Callable[[], str],
        hand_over: Callable[[str], None],
        tell: Callable[[dict[str, Any]], None] = lambda event: None,
        bound: Bound = lambda gone_by: None,
    ) -> None:
        self._guard = guard
        self._replica = replica
        self._clock = clock
        self.supervisor = self._supervise(services)
        self._make_next: Callable[[], Sequence[Service]] | None = None
        """Those that begin with the next tenure. Made only then: to the guard's client there is one
        service of a name, which is the one that runs."""
        self._adopted = trio.Event()
        """Set, and replaced, when others have been made."""
        self._chronicle = chronicle
        self._cluster_id = cluster_id
        self._hand_over = hand_over
        self._tell_watchers = tell
        self._bound = bound
        self._lease_end = -math.inf
        self._scope: trio.CancelScope | None = None
        """Of the present tenure; its deadline is the end of the lease as the guard knows it."""
        self._begun = False
        """Whether the guard has agreed to the present tenure, so that it has to be told more."""
        self._planned: str | None = None
        """Why nothing is started any more in this term."""
        self._waits_for = ""
        """What keeps a leader's services from beginning."""
        self._stop_wanted = trio.Event()
        self._stopped = trio.Event()
        self._stopped.set()
        self._untold: deque[str] = deque(maxlen=MAX_UNTOLD_EVENTS)
        self._something_to_tell = trio.Event()
        if guard is not None:
            guard.on_lease = self._acknowledged

    # What the node calls.

    def renewed(self, lease_end: float) -> None:
        self._lease_end = lease_end
        if self._guard is None:
            self._acknowledged(lease_end)
        elif self._begun:
            self._guard.renew(lease_end)

    def _acknowledged(self, lease_end: float) -> None:
        if self._scope is not None:
            self._clock.move_deadline(self._scope, lease_end)
            self._bound_by(lease_end)

    def _bound_by(self, lease_end: float) -> None:
        raft = self._replica.raft
        is_alone = len(raft.log.configuration.voters) == 1
        gone_by = lease_end + GONE_AT * raft.options.stop_budget
        self._bound(math.inf if is_alone else gone_by)

    async def stand_down(self, reason: str) -> bool:
        self._planned = reason
        self._stop_wanted.set()
        await self._stopped.wait()
        return bool(self.supervisor.all)

    def status(self) -> list[dict[str, Any]]:
        shown = self.supervisor.status()
        if self._waits_for:
            shown = [each | {"error": self._waits_for} for each in shown]
        return shown

    def restart(self, name: str) -> None:
        self.supervisor.restart(name)

    async def reload(self, name: str) -> None:
        await self.supervisor.reload(name)

    async def reconfigure(
        self, configs: Sequence[ServiceConfig], make: Callable[[ServiceConfig], Service]
    ) -> None:
        """Other configurations: heeded now by services that run, the next time by others.

        Other services than before are taken up when none runs; the first of a leader begin at once.
        """
        known = [(each.name, each.service.config.kind) for each in self.supervisor.all]
        if [(config.name, config.kind) for config in configs] != known:
            self._make_next = lambda: [make(config) for config in configs]
            if self._stopped.is_set():
                self._adopt()
            elif self._replica.raft.leader is not None:
                hint = "they begin with the next tenure: run nefia cluster transfer-leader"
                _log.warning("services_changed", hint=hint)
            return
        self._make_next = None
        for each, config in zip(self.supervisor.all, configs, strict=True):
            each.service.take(config)
            if each.state is State.RUNNING:
                try:
                    await each.service.reload()
                    _log.info("service_reloaded", service=each.name)
                except ServiceFailed as error:
                    why = {"error": error.message, "hint": error.hint}
                    _log.error("service_not_reloaded", service=each.name, **why)

    def _adopt(self) -> None:
        if self._make_next is not None:
            self.supervisor = self._supervise(self._make_next())
            self._make_next = None
            self._adopted.set()
            self._adopted = trio.Event()

    def _supervise(self, services: Sequence[Service]) -> Supervisor:
        return Supervisor(services, self._clock, self._memory, self._tell)

    async def lead(self, term: int) -> None:
        self._adopt()
        self._planned = None
        self._stop_wanted = trio.Event()
        while not self.supervisor.all:
            await self._adopted.wait()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write_history)
            await self._predecessors_are_over()
            await self._tenures(term)
            nursery.cancel_scope.cancel()

    async def _tenures(self, term: int) -> None:
        """One, but for guards that are lost: each new one gets another."""
        end = _End.NO_GUARD
        while self._planned is None and end is _End.NO_GUARD:
            self._adopt()
            if not await self._has_guard():
                break
            end = await self._tenure(term)
            _log.info("tenure_ended", term=term, reason=end.value)
        if self._planned is None:
            self._replica.resign(end.value)

    # The beginning.

    async def _predecessors_are_over(self) -> None:
        raft = self._replica.raft
        while raft.log.configuration_at(raft.commit_index)[1].features < SERVICES:
            await self._replica.changed.wait()
        machine = None
        while machine is None:
            try:
                machine = await self._replica.read().wait()
            except NefiaError:
                await sleep(self._clock, AGAIN_SECONDS)
        if machine.tenure_held and raft.leader is not None:
            wait_seconds = max(0.0, raft.leader.clear_at - self._clock.now())
            _log.info("services_wait", for_term=machine.tenure_term, seconds=round(wait_seconds, 3))
            await self._clock.sleep_until(raft.leader.clear_at)

    async def _insist(self, command: Command) -> None:
        """Have it committed. For ever, if it cannot be: then leadership ends, and this with it."""
        while True:
            try:
                await self._replica.change(command)
                return
            except NefiaError as error:
                _log.info("services_wait", reason=error.message)
            await sleep(self._clock, AGAIN_SECONDS)

    # One tenure.

    async def _tenure(self, term: int) -> _End:
        raft = self._replica.raft
        reason = raft.campaign_reason or "it was elected"
        tenure = Tenure(raft.node_id, self._cluster_id(), term, reason)
        self._stopped = trio.Event()
        end = _End.LAPSED
        try:
            if not await self._begin(tenure):
                end = _End.REFUSED
                return end
            lease_end = self._lease_end if self._guard is None else self._guard.lease_end
            self._scope = self._clock.deadline_scope(lease_end)
            self._bound_by(lease_end)
            with self._scope:
                end = await self._run(tenure)
        except GuardLost as error:
            _log.warning("guard_lost", error=error.message)
            end = _End.NO_GUARD
        finally:
            self._scope, self._begun = None, False
            if end is not _End.STOOD_DOWN:
                await self._stop_at_once(end.value)
            self._stopped.set()
        return end

    async def _begin(self, tenure: Tenure) -> bool:
        """Whether guard and log have it."""
        if self._guard is not None:
            budget = self._replica.raft.options.stop_budget
            try:
                await self._guard.begin(tenure.term, self._lease_end, budget)
            except GuardLost as error:
                _log.warning("tenure_refused", term=tenure.term, error=error.message)
                return False
            self._begun = True
            self._guard.renew(self._lease_end)  # it may have moved meanwhile
        await self._insist(AcquireTenure(tenure.term))
        return True

    async def _run(self, tenure: Tenure) -> _End:
        """Until the services have stopped as planned. Raises GuardLost."""
        lost: list[GuardLost] = []
        gives_up = trio.Event()
        async with trio.open_nursery() as nursery:

            async def heed(guard: Guard) -> None:
                lost.append(await guard.lost())
                nursery.cancel_scope.cancel()

            if self._guard is not None:
                nursery.start_soon(heed, self._guard)
            nursery.start_soon(self.supervisor.run, tenure, gives_up)
            nursery.start_soon(self._yield_if_need_be, gives_up)
            await self._stop_wanted.wait()
            nursery.cancel_scope.cancel()
        if lost:
            raise lost[0]
        reason = self._planned or "planned"
        await self.supervisor.stop(reason)
        if self._guard is not None:
            self._guard.end(reason)
            await self._guard.ended()
        await self._insist(ReleaseTenure(tenure.term))
        return _End.STOOD_DOWN

    async def _stop_at_once(self, reason: str) -> None:
        """Within the stop budget. The guard, which goes by the lease's end, may be ahead of it."""
        budget = self._replica.raft.options.stop_budget
        now = self._clock.now()
        if self._guard is not None:
            self._guard.end(reason)
        with self._clock.deadline_scope(now + budget) as scope:
            scope.shield = True
            await self.supervisor.stop_at_once(reason, now + budget / 2)
            if self._guard is not None:
                await self._guard.ended()

    async def _has_guard(self) -> bool:
        """Wait for one that has cleaned up: meanwhile the lease keeps others from starting."""
        if self._guard is None:
            return True
        self._waits_for = NO_GUARD
        try:
            with self._clock.deadline_scope(self._clock.now() + GUARD_PATIENCE_SECONDS):
                await self._guard.ready()
                return True
            return False
        finally:
            self._waits_for = ""

    # Services that do not work here.

    async def _yield_if_need_be(self, gives_up: trio.Event) -> None:
        """Once: if nobody else is to lead either, a node stays and goes on trying."""
        await gives_up.wait()
        node_id, now = self._replica.raft.node_id, self._clock.now()
        now_ms = self._replica.cluster_ms(now)
        before = self._memory(YIELDED).get(node_id)
        if before is not None and now_ms < int(before) + YIELD_EVERY_MS:
            _log.warning("leader_stays", reason="it has yielded within the last 10 minutes")
            self._record("this node has yielded lately, so it stays the leader")
            return
        await self._insist(Remember(YIELDED, node_id, str(now_ms)))
        _log.warning("leader_yields", reason="a service does not work here")
        self._hand_over("a service does not work here")

    def _memory(self, service: str) -> dict[str, str]:
        return self._replica.applier.machine.remembered(service)

    # History.

    def _tell(self, each: Supervised) -> None:
        event = {"event": "service", "name": each.name, "state": each.state.value}
        self._tell_watchers(event | {"term": each.term, "error": each.error or None})
        if each.state is State.RUNNING:
            self._record(f"{each.name} runs")
        elif each.state is State.WAITING and each.error:
            self._record(f"{each.name} failed: {each.error}")
        elif each.state is State.STOPPED:
            self._record(f"{each.name} has stopped")

    def _record(self, detail: str) -> None:
        self._untold.append(detail)
        self._something_to_tell.set()

    async def _write_history(self) -> None:
        while True:
            while self._untold:
                detail = self._untold.popleft()
                await self._chronicle.record(SERVICE, self._replica.raft.node_id, detail)
            self._something_to_tell = trio.Event()
            await self._something_to_tell.wait()
