"""The guard's decisions: a pure machine, without a clock, a process or a file (SPEC 9).

The driver calls an input with the present time, then `take()`s the effects and performs them in
their order; `deadline` says when `tick` is due. What must hold, whatever the order of events:

* A step that starts something begins only before the end of the lease.
* A term that has begun here never begins again, nor does an older one.
* At half of the stop budget after the tenure's end, whatever is left is ended by force. The end is
  that of the lease, or an earlier word of the daemon, or the end of its connection.
* The tenure is over, and another may begin, only when a census finds nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from attrs import define

from nefia.guard.effects import Census, Effect, KillAll, Look
from nefia.guard.life import Order
from nefia.guard.lives import Lives
from nefia.guard.outbox import Outbox
from nefia.guard.plan import Plan
from nefia.guard.protocol import MAX_LEASE_SECONDS, Ending, LeaseHeld, Over

FENCE_AT = 0.5
"""Which part of the stop budget is for a service's own manners."""
LEFTOVERS_SECONDS = 10.0
"""How long the steps that remove one service's leftovers may take."""


@define(eq=False)
class _Tenure:
    """`fence_at` is when force is due, infinity before the end."""

    term: int
    lease_end: float
    stop_budget: float
    fence_at: float = math.inf
    is_fenced: bool = False
    is_cleaning: bool = False

    @property
    def has_ended(self) -> bool:
        return self.fence_at < math.inf

    @property
    def due(self) -> float:
        if not self.has_ended:
            return self.lease_end
        return math.inf if self.is_fenced else self.fence_at


class Machine:
    """`newest_term` is the newest that has begun here. `leaving`: the guard was told to end."""

    def __init__(self, now: float) -> None:
        self.newest_term = -1
        self.leaving = False
        self._out = Outbox(now)
        self._lives = Lives(self._out)
        self._tenure: _Tenure | None = None
        self._clean_next: Mapping[str, Plan] | None = None
        self._heard_seq = 0

    # What the driver asks.

    @property
    def deadline(self) -> float:
        """When `tick` is due next; infinity if nothing is."""
        tenure = self._tenure.due if self._tenure else math.inf
        return min(tenure, self._lives.due, self._out.look_at)

    @property
    def lease_end(self) -> float:
        """Until when something may be started; -infinity if nothing may."""
        return self._lives.lease_end

    @property
    def running(self) -> dict[str, Plan]:
        """The plans of the services that are ready, by name."""
        return self._lives.running

    @property
    def plans(self) -> list[Plan]:
        """Of all services that are not gone."""
        return self._lives.plans

    @property
    def is_idle(self) -> bool:
        return self._tenure is None and not self._lives

    def take(self) -> list[Effect]:
        """What is to be done since the last call."""
        return self._out.take()

    # Inputs: the daemon.

    def connect(self, now: float) -> str:
        """A daemon has come; why it is refused, or nothing."""
        self._observe(now)
        if self.leaving:
            return "the guard is ending"
        if self._out.connected:
            return "another daemon has this guard"
        self._out.connected = True
        self._heard_seq = 0
        return ""

    def disconnect(self, now: float) -> None:
        """The daemon has gone: nothing renews the lease any more."""
        self._observe(now)
        self._out.connected = False
        self._lives.forget_requests()
        self._end("the daemon has gone")

    def begin(
        self, now: float, seq: int, *, term: int, lease_end: float, stop_budget: float
    ) -> None:
        self._observe(now)
        self._heard_seq = seq
        refusal = self._why_not_begin(term, lease_end)
        if not refusal:
            self.newest_term = term
            self._tenure = _Tenure(term, lease_end, stop_budget)
            self._lives.lease_end = lease_end
            self._out.note("tenure_begins", term=term)
        self._out.answer(seq, refusal)

    def renew(self, now: float, lease_end: float) -> None:
        self._observe(now)
        tenure = self._tenure
        if tenure is None or tenure.has_ended or lease_end > now + MAX_LEASE_SECONDS:
            return
        if lease_end > tenure.lease_end:
            tenure.lease_end = self._lives.lease_end = lease_end
            self._lives.renew()
        self._out.tell(LeaseHeld(tenure.lease_end))

    def end(self, now: float, seq: int, reason: str) -> None:
        self._observe(now)
        self._heard_seq = seq
        self._end(reason)
        if self.is_idle:
            self._out.tell(Over(seq))

    def start(self, now: float, seq: int, order: Order) -> None:
        self._observe(now)
        self._lives.start(seq, order)

    def stop(self, now: float, seq: int, name: str, reason: str) -> None:
        """A planned stop of one service."""
        self._observe(now)
        self._lives.stop(seq, name, reason)

    def fence(self, now: float, name: str) -> None:
        self._observe(now)
        self._lives.fence(name)

    def reload(self, now: float, seq: int, name: str) -> None:
        self._observe(now)
        self._lives.reload(seq, name)

    def clean(self, now: float, seq: int, plans: Mapping[str, Plan]) -> None:
        """Remove what an earlier guard left of these.

        Waits while a tenure is there. A later call replaces one that waits.
        """
        self._observe(now)
        self._heard_seq = seq
        self._clean_next = plans
        if self.is_idle:
            self._clean()

    def shut_down(self, now: float, reason: str) -> None:
        """End whatever runs. The guard may go once it `is_idle`."""
        self._observe(now)
        self.leaving = True
        self._end(reason)

    # Inputs: what was asked for.

    def executed(self, now: float, number: int) -> None:
        """The main process of that number runs its program."""
        self._observe(now)
        self._lives.executed(number)

    def done(self, now: float, number: int, *, failed: bool, detail: str) -> None:
        """A step or process has ended. `detail` says how, in a clause."""
        self._observe(now)
        self._out.look_soon()
        self._lives.done(number, failed=failed, detail=detail)

    def reaped(self, now: float) -> None:
        """A process has ended that was not asked for by number."""
        self._observe(now)
        self._out.look_soon()

    def seen(self, now: float, census: Census) -> None:
        """The answer to `Look`."""
        self._observe(now)
        was_idle = self.is_idle
        self._lives.seen(census)
        self._close_tenure(census)
        if self.is_idle and not was_idle:
            self._clean()

    def tick(self, now: float) -> None:
        """Time has passed."""
        self._observe(now)
        self._lives.tick()
        if now >= self._out.look_at:
            self._look()

    # Time, before anything else.

    def _observe(self, now: float) -> None:
        assert now >= self._out.now, "time never goes back"
        self._out.now = now
        tenure = self._tenure
        if tenure and not tenure.has_ended and now >= tenure.lease_end:
            self._end("the lease has ended")
        if tenure and not tenure.is_fenced and now >= tenure.fence_at:
            self._fence_all(tenure)

    # The tenure.

    def _why_not_begin(self, term: int, lease_end: float) -> str:
        ahead = lease_end - self._out.now
        if self.leaving:
            return "the guard is ending"
        if not self._out.connected:
            return "there is no daemon"
        if self._tenure is not None:
            return f"term {self._tenure.term} is not over yet"
        if self._lives:
            return f"the leftovers of {', '.join(self._lives.names)} are being removed"
        if term <= self.newest_term:
            return f"term {self.newest_term} has begun since"
        if not 0.0 < ahead <= MAX_LEASE_SECONDS:
            return f"its lease ends {ahead:.3f} s from now"
        return ""

    def _end(self, reason: str) -> None:
        """All services stop at once, and what is left at `fence_at` is ended by force."""
        tenure = self._tenure
        if tenure is None or tenure.has_ended:
            return
        ended_at = min(self._out.now, tenure.lease_end)
        tenure.fence_at = ended_at + FENCE_AT * tenure.stop_budget
        self._lives.lease_end = -math.inf
        self._out.note("tenure_ends", term=tenure.term, reason=reason)
        self._out.tell(Ending(reason, self.leaving))
        self._lives.stop_all(tenure.fence_at, reason)
        self._out.look_soon()

    def _fence_all(self, tenure: _Tenure) -> None:
        tenure.is_fenced = True
        self._out.add(KillAll())
        left = self._lives.fence_all()
        if left:
            self._out.note("fenced", term=tenure.term, services=left)

    def _close_tenure(self, census: Census) -> None:
        """Clean-up follows once all services are gone, and the tenure is over after that."""
        tenure = self._tenure
        if tenure is None or not tenure.has_ended:
            return
        if not tenure.is_cleaning and self._lives.all_fenced and census.is_empty:
            tenure.is_cleaning = tenure.is_fenced = True
            self._lives.clean_up_all()
            self._out.look_soon()
        elif not self._lives and census.is_empty:
            self._out.note("tenure_over", term=tenure.term)
            self._tenure = None
        elif tenure.is_fenced and not (tenure.is_cleaning and self._lives):
            self._out.add(KillAll())  # strangers too, such as what a clean-up has left behind

    def _clean(self) -> None:
        """Now that nothing runs: remove leftovers, if that is wanted, or say so."""
        assert self.is_idle
        plans, self._clean_next = self._clean_next, None
        if plans:
            self._lives.clean(plans, LEFTOVERS_SECONDS)
        else:
            self._out.tell(Over(self._heard_seq))

    def _look(self) -> None:
        """If anything waits for what a census would show."""
        waiting = self._lives.waiting()
        if waiting or (self._tenure and self._tenure.has_ended):
            self._out.look_again()
            self._out.add(Look(waiting))
        else:
            self._out.look_at = math.inf
