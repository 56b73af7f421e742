"""Changes that somebody waits for: from the moment they are asked for until their end is known.

Everything here is on the path of every change, so nothing here waits or starts a task: whoever
asks is called back, and what is due is looked at once a pass.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

from msgspec import Struct

from nefia.errors import NefiaError, NoQuorum, OutcomeUnknown, Overloaded
from nefia.state.commands import Change, Command
from nefia.state.records import Outcome
from nefia.wire import batch_of, encode_change

MAX_UNSETTLED = 16_384
"""Changes that are asked for and not answered yet; beyond it new ones are refused."""

MAX_BATCH_CHANGES = 1024
MAX_BATCH_BYTES = 1024 * 1024
"""Of the changes of one entry; at least one is taken."""

_WAITED = NoQuorum("the change waited for a transfer of leadership, or the disk; it was not made")
_UNCONFIRMED = "the change was proposed, but no majority confirmed it within the apply timeout"

Settle: TypeAlias = Callable[[Outcome | NefiaError], None]
"""Told the outcome of a change, or why there is none."""


class Proposal(Struct, eq=False):
    """One change. `settle` is called once; what comes later is ignored.

    `deadline`, on the node's clock, is how long its asker waits.
    """

    command: Command
    request_id: str
    settle: Settle
    deadline: float
    settled: bool = False

    def end(self, result: Outcome | NefiaError) -> None:
        if not self.settled:
            self.settled = True
            self.settle(result)


class Proposals:
    """Those that are not in the log yet, in order; and of all of them, when their time is up."""

    def __init__(self) -> None:
        self._queue: deque[Proposal] = deque()
        self._unsettled: deque[Proposal] = deque()
        """In the order of their deadlines, which is that of their coming: all wait equally long."""

    def __bool__(self) -> bool:
        """Whether any is to be proposed."""
        return bool(self._queue)

    @property
    def deadline(self) -> float:
        """When `expire` is due next, if nothing is settled until then; infinity if it is not."""
        return self._unsettled[0].deadline if self._unsettled else math.inf

    def add(self, command: Command, request_id: str, settle: Settle, deadline: float) -> None:
        """Raises Overloaded."""
        unsettled = self._unsettled
        if len(unsettled) >= MAX_UNSETTLED:
            self._forget_settled()
            if len(unsettled) >= MAX_UNSETTLED:
                raise Overloaded(f"{MAX_UNSETTLED} changes wait already", hint="try again later")
        proposal = Proposal(command, request_id, settle, deadline)
        self._queue.append(proposal)
        unsettled.append(proposal)

    def next_batch(self, time_ms: int) -> tuple[bytes, list[tuple[Change, Proposal]]]:
        """Take what goes into one entry, stamped with the cluster time; its payload first."""
        queue = self._queue
        parts: list[bytes] = []
        batch: list[tuple[Change, Proposal]] = []
        size_bytes = 0
        while queue and len(batch) < MAX_BATCH_CHANGES:
            proposal = queue[0]
            change = Change(time_ms, proposal.request_id, proposal.command)
            part = encode_change(change)
            size_bytes += len(part)
            if batch and size_bytes > MAX_BATCH_BYTES:
                break
            queue.popleft()
            parts.append(part)
            batch.append((change, proposal))
        return batch_of(parts), batch

    def fail_waiting(self, error: NefiaError) -> None:
        """Nothing was changed: what is not in the log yet will never be."""
        while self._queue:
            self._queue.popleft().end(error)

    def expire(self, now: float) -> None:
        """End those whose time is up, according to whether they have come into the log."""
        self._forget_settled()
        while self.deadline <= now:
            proposal = self._unsettled.popleft()
            if self._queue and self._queue[0] is proposal:
                self._queue.popleft().end(_WAITED)
            else:
                proposal.end(may_still_happen(_UNCONFIRMED, proposal.request_id))

    def _forget_settled(self) -> None:
        unsettled = self._unsettled
        while unsettled and unsettled[0].settled:
            unsettled.popleft()


def may_still_happen(what: str, request_id: str) -> OutcomeUnknown:
    """The error for a change that is in the log, and that nobody here will learn the end of."""
    return OutcomeUnknown(
        f"{what}; it may still happen",
        hint="repeat it with the same request id: it cannot happen twice",
        request_id=request_id or None,
    )
