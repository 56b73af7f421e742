"""A closed loop of requests over one connection: so many in flight, each answer lets out the next.

It shares the machine with the daemons that it measures, so it costs little: one thread, requests
that are ready as bytes, one send and one look at the clock for all answers that came together.
"""

from __future__ import annotations

import math
import select
import socket
import time
from array import array
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

from attrs import field, frozen, validators

from nefia.errors import NefiaError, OutcomeUnknown

RECEIVE_BYTES = 256 << 10
LOOK_SECONDS = 0.2
"""How often the loop looks up from its waiting: at the end, at a stop, at its progress."""


class Exchange(Protocol):
    """What is said on the connection, without the I/O. Requests are numbered from 0."""

    error: NefiaError | None
    """Why a request was refused, of the first that was; after one, no more are made."""
    refused: int

    def request(self, number: int) -> bytes:
        """The bytes of a request. What must wait for the other side may come by `owed` instead."""
        ...

    def feed(self, data: bytes) -> list[int]:
        """Take in what has come. The numbers of the requests that it says are done."""
        ...

    def owed(self) -> bytes:
        """What else has to be sent now; most protocols have nothing to say in between."""
        ...


@frozen
class Plan:
    """At most `count` requests, none sent `seconds` after the first, `in_flight` at a time.

    Without any answer for `timeout_seconds` the rest is given up.
    """

    in_flight: int = field(validator=validators.ge(1))
    count: int = field(validator=validators.ge(1))
    seconds: float = field(default=math.inf, validator=validators.gt(0))
    timeout_seconds: float = 30.0


class Load:
    """One run of a plan. `latencies` are the seconds of each answer so far, in no special order."""

    def __init__(
        self,
        connection: socket.socket,
        exchange: Exchange,
        plan: Plan,
        progress: Callable[[float], None] = lambda share: None,
    ) -> None:
        """`progress` is told now and then what share of the plan is done, from 0 to 1."""
        self.error: NefiaError | None = None
        """Why the run ended before its plan did: a refusal, or answers that did not come."""
        self.seconds = 0.0
        """From the first request to the last answer."""
        self.cpu_seconds = 0.0
        """Of this process."""
        self.sent = 0
        self.latencies = array("d")
        self._connection = connection
        self._exchange = exchange
        self._plan = plan
        self._progress = progress
        self._stopped = False
        self._given_up = False
        self._started = array("d")
        self._unsent = bytearray()
        connection.setblocking(False)
        self._poll = select.poll()

    @property
    def outstanding(self) -> int:
        """Requests that were sent and not answered."""
        return self.sent - len(self.latencies) - self._exchange.refused

    def stop(self) -> None:
        """Send no more requests; `run` returns when those in flight are answered."""
        self._stopped = True

    def give_up(self) -> None:
        """`run` returns at once, whatever is still in flight."""
        self._given_up = True

    def run(self) -> None:
        """Until the plan is done or was ended, or `error` is set. Raises nothing."""
        begun = self._heard_at = time.perf_counter()
        cpu_begun = time.process_time()
        try:
            self._run(begun)
        except (OSError, EOFError):
            self.error = OutcomeUnknown(
                f"the connection broke off; {self.outstanding} requests may still be done"
            )
        self.error = self._exchange.error or self.error
        self._show_progress(self._heard_at - begun)
        self.seconds = self._heard_at - begun
        self.cpu_seconds = time.process_time() - cpu_begun

    def _run(self, begun: float) -> None:
        plan, exchange = self._plan, self._exchange
        look_at = begun
        while True:
            now = time.perf_counter()
            if now >= look_at:
                self._show_progress(now - begun)
                look_at = now + LOOK_SECONDS
            if now - begun >= plan.seconds or exchange.error:
                self.stop()
            self._ask(now)
            if not self.outstanding or self._given_up:
                return
            data = self._transfer()
            now = time.perf_counter()
            if data:
                self._heard_at = now
                started = self._started
                self.latencies.extend([now - started[number] for number in exchange.feed(data)])
            elif now - self._heard_at > plan.timeout_seconds:
                self.error = OutcomeUnknown(
                    f"no answer within {plan.timeout_seconds:g} s; "
                    f"{self.outstanding} requests may still be done"
                )
                return

    def _show_progress(self, seconds: float) -> None:
        share = max(len(self.latencies) / self._plan.count, seconds / self._plan.seconds)
        self._progress(min(share, 1.0))

    def _ask(self, now: float) -> None:
        """Fill up to the plan's number in flight."""
        if not self._stopped:
            free = min(self._plan.in_flight - self.outstanding, self._plan.count - self.sent)
            numbers = range(self.sent, self.sent + free)
            self._unsent += b"".join(map(self._exchange.request, numbers))
            self._started.extend([now] * free)
            self.sent += free
        self._unsent += self._exchange.owed()

    def _transfer(self) -> bytes:
        """Send what can be sent; what has come, or nothing after a while. Raises at the end."""
        if self._unsent:
            with suppress(BlockingIOError):
                del self._unsent[: self._connection.send(self._unsent)]
        wanted = select.POLLIN | (select.POLLOUT if self._unsent else 0)
        self._poll.register(self._connection, wanted)
        if not self._poll.poll(LOOK_SECONDS * 1000):
            return b""
        try:
            data = self._connection.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return b""
        if not data:
            raise EOFError
        return data


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value that `share` (0 to 1) of the ordered values do not exceed (nearest rank)."""
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]
