"""What the guard's machine asks its driver for. Frozen values, performed in their order.

`run` is the number of one life of a service: from its start, or the removal of its leftovers, until
nothing of it is left. `number` is that of one step, which `Machine.done` repeats. `not_after` is
compared with the clock once more, as the last thing before the step: from then on it may not begin.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from attrs import frozen

from nefia.guard.plan import Do, Plan
from nefia.guard.protocol import FromGuard


@frozen(kw_only=True)
class Spawn:
    """Run a command. `is_main`: it is to stay; `Machine.executed` says that it runs."""

    run: int
    number: int
    service: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    not_after: float
    is_main: bool = False


@frozen
class Act:
    """Perform a step that is no command."""

    run: int
    number: int
    step: Do
    not_after: float


@frozen
class Terminate:
    """SIGTERM to all processes of a run."""

    run: int


@frozen
class Kill:
    """SIGKILL to all processes of a run."""

    run: int


@frozen
class KillAll:
    """SIGKILL to all descendants, whatever they belong to."""


@frozen
class FenceOff:
    """End by force what is not a process."""

    run: int
    plan: Plan


@frozen
class RenewPlan:
    """Tell the plan the end of the lease."""

    run: int
    plan: Plan
    lease_end: float


@frozen
class Look:
    """Take a `Census` and report it with `Machine.seen`. `plans` are those to ask, by run."""

    plans: Mapping[int, Plan]


@frozen
class Tell:
    """Send this to the daemon."""

    message: FromGuard


@frozen
class Note:
    """For the log."""

    event: str
    details: Mapping[str, object]


Effect: TypeAlias = (
    Spawn | Act | Terminate | Kill | KillAll | FenceOff | RenewPlan | Look | Tell | Note
)


@frozen
class Census:
    """What is there. `running`: runs with a process that is not a zombie; `present`: runs of which
    something else is left; `strangers`: whether a descendant is there that belongs to no run."""

    running: frozenset[int] = frozenset()
    present: frozenset[int] = frozenset()
    strangers: bool = False

    @property
    def is_empty(self) -> bool:
        return not (self.running or self.present or self.strangers)

    def has(self, run: int) -> bool:
        return run in self.running or run in self.present
