"""What a kind of service is to the guard: what to run, what to do, and how to end it by force.

A plan is data. The guard performs it, one plan's steps in order, and knows nothing of kinds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from attrs import frozen


@frozen
class Run:
    """A command; an exit code other than 0 fails the plan, unless it `may_fail`."""

    argv: tuple[str, ...]
    may_fail: bool = False


@frozen
class Do:
    """A few system calls that take no longer than a millisecond or so; OSError fails the plan.

    `what` names it in messages, such as "remove the link wg0".
    """

    what: str
    action: Callable[[], None]
    may_fail: bool = False


Step: TypeAlias = Run | Do


def _nothing() -> None:
    pass


def _never() -> bool:
    return False


def _no_lease(_end: float) -> None:
    pass


def _no_status() -> dict[str, Any]:
    return {}


@frozen(kw_only=True)
class Plan:
    """Of one service in one tenure.

    `leftovers` run before anything else, and when a guard starts: they remove what an earlier
    guard may have left. `start` come next, in order; then `main`, a child that is to stay (its end
    is the service's failure); then `ready`, a command that is repeated until it exits with 0.

    A planned stop runs `stop`, then ends `main` (SIGTERM, and SIGKILL when its time is over).
    `fence` ends by force what is not a process, such as a link: no exec, no allocation to speak
    of, no disk, and right whatever has been started; all processes are killed besides. It is
    repeated until nothing `is_present`, and called once after a planned stop too. `after` are
    clean-up steps, in both cases the last; those that the tenure's end cuts off begin again.

    `is_present`: whether something of it other than a process is still there.
    `renew` is told the end of the lease after each step of the start, and each later end, for what
    the kernel can enforce by itself.
    `status` and `is_present` are asked from the guard's only thread: neither may wait.
    """

    leftovers: tuple[Step, ...] = ()
    start: tuple[Step, ...] = ()
    main: tuple[str, ...] = ()
    ready: tuple[str, ...] = ()
    stop: tuple[Step, ...] = ()
    fence: Callable[[], None] = _nothing
    after: tuple[Step, ...] = ()
    is_present: Callable[[], bool] = _never
    renew: Callable[[float], None] = _no_lease
    reload: tuple[Step, ...] = ()
    status: Callable[[], dict[str, Any]] = _no_status
