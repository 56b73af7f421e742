"""Changes that go on during a drill, one after the other, each until it is acknowledged."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import suppress

from nefia.drill.judging import Acknowledged
from nefia.drill.ways import Way
from nefia.errors import NefiaError

PACE_SECONDS = 0.02
"""Between one acknowledgement and the next change: no gap is known more closely."""
TRY_SECONDS = 0.25
"""How long one node may take to answer before the change is tried again, under the same id."""
PAUSE_SECONDS = 0.005
"""After every node has refused."""
MAX_CHANGES = 30_000
"""Of one drill, which goes on without them then."""
DELAY = "8760h"
"""Of the tasks, so that no worker gets one."""
CANCEL_SECONDS = 2.0
CLEAN_UP_SECONDS = 20.0
"""For a leader to be there again that cancels the tasks; one that is busy at it is let finish."""


class Pusher(threading.Thread):
    """Pushes numbered tasks into `queue` until it is told to stop.

    `acknowledged`, the ids of their `tasks`, and `error`, why the newest attempt failed, may be
    read meanwhile.
    """

    def __init__(self, ways: Sequence[Way], queue: str) -> None:
        super().__init__(name="nefia drill", daemon=True)
        self.acknowledged: list[Acknowledged] = []
        self.tasks: list[str] = []
        self.error: NefiaError | None = None
        self._ways = [way.again() for way in ways]
        self._queue = queue
        self._stopping = threading.Event()
        self._unsettled: int | None = None

    def stop(self) -> None:
        """What is not acknowledged by now is given up after its present attempt."""
        self._stopping.set()
        self.join()

    def run(self) -> None:
        for number in range(MAX_CHANGES):
            if self._stopping.wait(PACE_SECONDS):
                return
            self._unsettled = number
            while not self._push(number):
                if self._stopping.wait(PAUSE_SECONDS):
                    return
            self._unsettled = None
            self.acknowledged.append(Acknowledged(number, time.monotonic()))

    def _push(self, number: int) -> bool:
        for way in list(self._ways):
            try:
                result = way.ask(
                    "queue_push",
                    TRY_SECONDS,
                    queue=self._queue,
                    payload=number,
                    delay=DELAY,
                    forward=True,
                    request_id=f"{self._queue}-{number}",
                )
            except NefiaError as error:
                self.error = error
                # Who failed is asked last from now on.
                self._ways.append(self._ways.pop(self._ways.index(way)))
            else:
                self.tasks.append(result["task"]["id"])
                return True
        return False

    def clean_up(self) -> int:
        """After `stop`: cancel all tasks. How many may be left, where no leader does it."""
        deadline = time.monotonic() + CLEAN_UP_SECONDS
        while time.monotonic() < deadline and not self._cancel():
            time.sleep(PAUSE_SECONDS)
        for way in self._ways:
            way.close()
        return len(self.tasks) + (self._unsettled is not None)

    def _cancel(self) -> bool:
        """Whether all are. A change that was given up may be there too: that has to be known."""
        if self._unsettled is not None and self._push(self._unsettled):
            self._unsettled = None
        for way in self._ways:
            with suppress(NefiaError):
                while self.tasks:
                    way.ask("queue_cancel", CANCEL_SECONDS, id=self.tasks[-1], forward=True)
                    self.tasks.pop()
        return not self.tasks and self._unsettled is None
