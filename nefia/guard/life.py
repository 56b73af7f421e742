"""One life of a service in the guard: what stands in its record, and which phase follows which.

    STARTING ── ready ──> RUNNING ── a planned stop, the tenure's end ──> STOPPING
        │ fails, times out    │ ends by itself                               │ gone, or time is over
        └─────────────────────┴──────────────> FENCED <──────────────────────┘
                                                 │ nothing is left
                                                 └──> CLEANING ── nothing is left ──> forgotten

The removal of leftovers begins in CLEANING.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from enum import Enum

from attrs import define, field, frozen

from nefia.guard.plan import Plan, Step


class Phase(Enum):
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    """In good order: the plan's `stop`, then SIGTERM."""
    FENCED = "fenced"
    """Ended by force, again and again until nothing is left."""
    CLEANING = "cleaning"
    """The plan's `after`. Nothing of the service itself runs any more."""


@frozen
class Order:
    """To start a service. `environment` is what its commands get besides the guard's own.

    Timeouts in seconds.
    """

    name: str
    plan: Plan
    environment: Mapping[str, str]
    start_timeout: float
    stop_timeout: float


@define(eq=False)
class Life:
    """`run` is its number. `steps` are those still to come, `step` the number of the present one.

    `main` and `poll` are the numbers of the main process and of the present ready command.
    `deadline`: when the present phase has lasted too long. `..._seq`: requests to be answered.
    `detail` is what the last failed ready command said.
    """

    run: int
    order: Order
    phase: Phase
    environment: dict[str, str]
    steps: deque[Step] = field(factory=deque)
    present_step: Step | None = None
    step: int | None = None
    main: int | None = None
    poll: int | None = None
    poll_at: float = math.inf
    deadline: float = math.inf
    is_terminated: bool = False
    start_seq: int | None = None
    reload_seq: int | None = None
    stop_seqs: list[int] = field(factory=list)
    detail: str = ""

    @property
    def name(self) -> str:
        return self.order.name

    @property
    def plan(self) -> Plan:
        return self.order.plan

    @property
    def wants_lease(self) -> bool:
        """Whether it may still do what only a lease allows."""
        return self.phase in (Phase.STARTING, Phase.RUNNING, Phase.STOPPING)

    @property
    def waits_for_its_end(self) -> bool:
        """Whether it goes on once processes have ended, which only a census shows."""
        match self.phase:
            case Phase.FENCED:
                return True
            case Phase.STOPPING:
                return self.is_terminated
            case Phase.CLEANING:
                return self.step is None and not self.steps
            case _:
                return False

    @property
    def due(self) -> float:
        return min(self.deadline, self.poll_at)

    def owns(self, number: int) -> bool:
        return number in (self.step, self.main, self.poll)

    def forget_requests(self) -> None:
        self.start_seq = self.reload_seq = None
        self.stop_seqs.clear()
