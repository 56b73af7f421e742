"""What happens on this node, for those who watch it: as it applies changes and as it sees the rest.

A watcher that is slow costs a bounded queue: what does not fit is counted and told instead of.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import trio

from nefia.errors import Overloaded, ShuttingDown
from nefia.node.replica import Replica
from nefia.raft.effects import ConfigurationChanged, LeaderChanged, Notice, Removed, RoleChanged
from nefia.state.happenings import Happening
from nefia.state.records import Task

MAX_WATCHERS = 64
MAX_UNREAD_EVENTS = 4096
"""Of one watcher; what comes beyond is missed."""

Event: TypeAlias = Happening | dict[str, Any]
"""A change of a session or task, or the JSON object of another event, by its `event`."""


class Watcher:
    """The events of one who watches. `take` waits for some and gives them, oldest first."""

    def __init__(self, topics: Collection[str]) -> None:
        self._topics = topics
        self._unread: deque[Event] = deque()
        self._missed = 0
        self._news = trio.Event()
        self._over = False

    def tell(self, topic: str, event: Event) -> None:
        if topic in self._topics:
            if len(self._unread) < MAX_UNREAD_EVENTS:
                self._unread.append(event)
            else:
                self._missed += 1
            self._news.set()

    def end(self) -> None:
        self._over = True
        self._news.set()

    async def take(self) -> list[Event]:
        """Raises ShuttingDown once nothing more will come."""
        while not self._unread:
            if self._over:
                raise ShuttingDown("this node stops or begins anew", hint="watch again")
            self._news = trio.Event()
            await self._news.wait()
        events, self._unread = list(self._unread), deque()
        if self._missed:
            events.append({"event": "missed", "count": self._missed})
            self._missed = 0
        return events


class Watching:
    """Attached to the replica; costs next to nothing while nobody watches."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._watchers: list[Watcher] = []
        self._machine = replica.applier.machine
        self._replaced = self._machine.replaced
        replica.observers.append(self._follow)
        replica.notice_observers.append(self._notice)

    @contextmanager
    def watch(self, topics: Collection[str]) -> Iterator[Watcher]:
        """Raises Overloaded."""
        if len(self._watchers) >= MAX_WATCHERS:
            raise Overloaded(f"{MAX_WATCHERS} clients watch already", hint="try again later")
        watcher = Watcher(topics)
        self._watchers.append(watcher)
        self._attach()
        try:
            yield watcher
        finally:
            self._watchers.remove(watcher)
            self._attach()

    def tell(self, topic: str, event: Event) -> None:
        for watcher in self._watchers:
            watcher.tell(topic, event)

    async def run(self) -> None:
        """Until cancelled, as the node is; then nothing more will come."""
        try:
            await trio.sleep_forever()
        finally:
            for watcher in self._watchers:
                watcher.end()

    def _attach(self) -> None:
        self._machine.watch(None)
        self._machine = self._replica.applier.machine
        self._replaced = self._machine.replaced
        self._machine.watch(self._happened if self._watchers else None)

    def _follow(self) -> None:
        """Another state, installed or restored, whatever has happened in between."""
        machine = self._replica.applier.machine
        if self._machine is machine and self._replaced == machine.replaced:
            return
        self._attach()
        for topic in ("queue", "session"):
            self.tell(topic, {"event": "missed", "count": None})

    def _happened(self, happening: Happening) -> None:
        self.tell("queue" if isinstance(happening.record, Task) else "session", happening)

    def _notice(self, notice: Notice) -> None:
        if not self._watchers:
            return
        raft = self._replica.raft
        match notice:
            case RoleChanged():
                self._tell("role", state=raft.state_name, term=raft.term, reason=notice.reason)
            case Removed():
                self._tell("role", state=raft.state_name, term=raft.term, reason="it was removed")
            case LeaderChanged():
                member = raft.log.configuration.get(notice.leader or "")
                self._tell(
                    "leader",
                    leader_id=notice.leader,
                    leader_addr=member.address if member else None,
                    term=notice.term,
                )
            case ConfigurationChanged():
                members = [
                    {"id": member.id, "address": member.address, "voter": member.voter}
                    for member in notice.configuration.members
                ]
                self._tell("membership", members=members, committed=notice.committed)

    def _tell(self, topic: str, **details: object) -> None:
        self.tell(topic, {"event": topic} | details)
