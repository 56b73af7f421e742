"""Claims that wait for a task: woken in the order of their coming, and not more than can have one.

They wait only while this node leads; when it does not any more, all are woken, to be told so.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from itertools import islice

import trio

from nefia.clock import NodeClock
from nefia.node.replica import Replica

AGAIN_SECONDS = 0.5
"""Whoever was woken may not come to claim the task: its client may be gone. If there still is one
after so long, the next is woken."""


class Waiters:
    """Looks whenever something may have changed, and in `run` when a delay is over."""

    def __init__(self, replica: Replica, clock: NodeClock) -> None:
        self._replica = replica
        self._clock = clock
        self._lines: dict[tuple[str, str], OrderedDict[trio.Event, None]] = {}
        """By queue and host, which may be "" for any. No line is empty."""
        self._due = math.inf
        self._earlier = trio.Event()
        replica.observers.append(self.look)

    async def wait(self, queue: str, host: str, deadline: float) -> None:
        """Until a claim may find a task, this node leads no more, or the deadline."""
        turn = trio.Event()
        self._lines.setdefault((queue, host), OrderedDict())[turn] = None
        try:
            self.look()
            with self._clock.deadline_scope(deadline):
                await turn.wait()
        finally:
            if not turn.is_set():
                self._leave(queue, host, turn)

    async def run(self) -> None:
        while True:
            with self._clock.deadline_scope(self._due):
                await self._earlier.wait()
            self._earlier = trio.Event()
            if self._clock.now() >= self._due:
                self._due = math.inf
                self.look()

    def look(self) -> None:
        """Wake as many as there are tasks for, or all if this node does not lead."""
        if not self._lines:
            return
        leads = self._replica.raft.leader is not None
        for (queue, host), line in list(self._lines.items()):
            count = self._ready(queue, host) if leads else len(line)
            for turn in list(islice(line, count)):
                turn.set()
                self._leave(queue, host, turn)
            if count and line:
                self._look_at(self._clock.now() + AGAIN_SECONDS)

    def _ready(self, queue: str, host: str) -> int:
        """How many tasks there are to claim, now; what is delayed makes us look again.

        One whose delay is over is ready with the next change, such as the claim woken for it.
        """
        machine = self._replica.applier.machine
        ready = machine.ready(queue, host)
        next_ms = None if ready else machine.next_ready_ms(queue, host)
        if next_ms is None:
            return ready
        now = self._clock.now()
        wait_ms = next_ms - self._replica.cluster_ms(now)
        if wait_ms <= 0:
            return 1
        self._look_at(now + wait_ms / 1000)
        return 0

    def _look_at(self, when: float) -> None:
        if when < self._due:
            self._due = when
            self._earlier.set()

    def _leave(self, queue: str, host: str, turn: trio.Event) -> None:
        line = self._lines[queue, host]
        del line[turn]
        if not line:
            del self._lines[queue, host]
