"""What the supervisor asks of a service, and of the guard.

Two things end a service: a planned stop, for which there is `stop_timeout`, and the end of the
lease, after which it must be gone within the stop budget (`heartbeat_timeout - leader_lease`),
half of it for its own manners, the rest for force.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, Protocol, TypeAlias

from attrs import field, frozen

from nefia.config import ServiceConfig
from nefia.errors import GuardLost, ServiceFailed
from nefia.guard.environment import CLUSTER_ID, NODE_ID, REASON, ROLE, TERM

__all__ = ["Guard", "GuardLost", "Service", "ServiceFailed", "State", "Tenure"]


class State(Enum):
    """Of one service on this node, as `nefia service list` shows it."""

    STOPPED = "stopped"
    WAITING = "waiting"
    """For the tenure to begin, or for its next attempt."""
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"


@frozen
class Tenure:
    """The right to run services, from `acquired(term)` to the end of the lease.

    `term` is the fencing token. `reason` says in a clause why this node leads. `memory` is what
    the service that is started has learned in earlier tenures.
    """

    node_id: str
    cluster_id: str
    term: int
    reason: str
    memory: Mapping[str, str] = field(factory=dict)

    def environment(self, role: str) -> dict[str, str]:
        """What every command gets besides the guard's own environment (SPEC 9)."""
        return {
            NODE_ID: self.node_id,
            CLUSTER_ID: self.cluster_id,
            ROLE: role,
            TERM: str(self.term),
            REASON: self.reason,
        }


class Supervisable(Protocol):
    """What the supervisor has to know of a service: those of nefia.yaml are `ServiceConfig`s."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def start_timeout(self) -> float: ...
    @property
    def stop_timeout(self) -> float: ...
    @property
    def on_failure(self) -> str: ...


class Service(Protocol):
    """One service of this node. The supervisor calls one method at a time, but for `fence`."""

    @property
    def config(self) -> Supervisable: ...

    async def start(self, tenure: Tenure) -> None:
        """Return once it is ready. Raises ServiceFailed; cancelled at `start_timeout`."""

    async def failed(self) -> ServiceFailed:
        """Return when it has ended by itself after `start`; for ever, if it cannot."""

    async def stop(self, reason: str) -> None:
        """Stop in good order, and return when it is gone. Cancelled when its time is over."""

    def fence(self) -> None:
        """End it at once and by force, without waiting. Idempotent; also right if not started."""

    def take(self, config: ServiceConfig) -> None:
        """Another configuration of the same name and kind: for its next `reload` or `start`."""

    async def reload(self) -> None:
        """Take up changed files without an interruption. Raises ServiceFailed."""

    def status(self) -> dict[str, Any]:
        """What its kind has to show besides its state, for status and `service list`."""


Bound: TypeAlias = Callable[[float], None]
"""Told by when the services of this process have to be gone, whenever that moves: on
CLOCK_BOOTTIME, and infinity where nobody can succeed this node."""


class Guard(Protocol):
    """The guard process, as its daemon sees it. All times on CLOCK_BOOTTIME, in seconds.

    A lease end is acted on only once the guard has acknowledged it (`lease_end`).
    """

    @property
    def lease_end(self) -> float:
        """The newest that the guard has acknowledged; -infinity if none is."""

    async def ready(self) -> None:
        """Return once there is a guard that has cleaned up, so that a tenure may begin."""

    on_lease: Callable[[float], None]
    """Called with each newly acknowledged lease end."""

    async def begin(self, term: int, lease_end: float, stop_budget: float) -> None:
        """A tenure begins; returns once the guard has agreed.

        Raises GuardLost if it is not there, still cleans up, or has ended that term already.
        """

    def renew(self, lease_end: float) -> None:
        """Tell it a later lease end; it answers through `on_lease`. Never waits."""

    def end(self, reason: str) -> None:
        """The tenure is over now: all external services have the short budget. Never waits."""

    async def ended(self) -> None:
        """Return once nothing external runs any more."""

    async def lost(self) -> GuardLost:
        """Return when the guard has gone."""

    def configure(self, services: Sequence[ServiceConfig]) -> None:
        """Other services than before."""

    def service(self, config: ServiceConfig) -> Service:
        """The service of an external kind that this guard runs."""
