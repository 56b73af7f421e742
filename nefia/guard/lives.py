"""The services of the guard's machine that are not gone: each in its phase (see `life`)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from itertools import count

from nefia.guard.effects import Act, Census, FenceOff, Kill, RenewPlan, Spawn, Terminate
from nefia.guard.environment import FOLLOWER, OF_LEFTOVERS, REASON, ROLE
from nefia.guard.life import Life, Order, Phase
from nefia.guard.outbox import Outbox
from nefia.guard.plan import Plan, Run, Step
from nefia.guard.protocol import Failed

MAX_SERVICES = 32
MAX_STOPS_WAITING = 4
"""Requests that may wait for the end of one service."""
READY_POLL_SECONDS = 0.1
"""From the end of a ready command to the next."""


class Lives:
    """`lease_end`: until when something may be started; -infinity if nothing may.

    `cleaning_waits`: no clean-up begins, since services are being ended all together.
    """

    def __init__(self, outbox: Outbox) -> None:
        self.lease_end = -math.inf
        self.cleaning_waits = False
        self._lives: dict[str, Life] = {}
        self._out = outbox
        self._numbers = count(1)

    def __bool__(self) -> bool:
        return bool(self._lives)

    @property
    def names(self) -> list[str]:
        return list(self._lives)

    @property
    def plans(self) -> list[Plan]:
        return [life.plan for life in self._lives.values()]

    @property
    def running(self) -> dict[str, Plan]:
        lives = self._lives.values()
        return {life.name: life.plan for life in lives if life.phase is Phase.RUNNING}

    @property
    def due(self) -> float:
        return min((life.due for life in self._lives.values()), default=math.inf)

    @property
    def all_fenced(self) -> bool:
        return all(life.phase is Phase.FENCED for life in self._lives.values())

    def waiting(self) -> dict[int, Plan]:
        """By run, those that go on once a census has shown that nothing is left of them."""
        lives = self._lives.values()
        return {life.run: life.plan for life in lives if life.waits_for_its_end}

    def forget_requests(self) -> None:
        for life in self._lives.values():
            life.forget_requests()

    # Inputs for one service.

    def start(self, seq: int, order: Order) -> None:
        if refusal := self._why_not_start(order.name):
            self._out.answer(seq, refusal)
            return
        life = self._add(order, Phase.STARTING)
        life.steps = deque((*order.plan.leftovers, *order.plan.start))
        life.start_seq = seq
        life.deadline = self._out.now + order.start_timeout
        self._advance(life)

    def stop(self, seq: int, name: str, reason: str) -> None:
        life = self._lives.get(name)
        if life is None:
            self._out.answer(seq)
        elif len(life.stop_seqs) >= MAX_STOPS_WAITING:
            self._out.answer(seq, f"the end of {name} is awaited too often")
        else:
            life.stop_seqs.append(seq)
            self._stop(life, self._out.now + life.order.stop_timeout, reason)

    def fence(self, name: str) -> None:
        life = self._lives.get(name)
        if life and life.wants_lease:
            self._give_up(life, "it was ended by force")

    def reload(self, seq: int, name: str) -> None:
        life = self._lives.get(name)
        if life is None or life.phase is not Phase.RUNNING:
            self._out.answer(seq, f"{name} does not run")
        elif life.reload_seq is not None or life.step is not None:
            self._out.answer(seq, f"{name} is being reloaded already")
        else:
            life.reload_seq = seq
            life.deadline = self._out.now + life.order.start_timeout
            life.steps = deque(life.plan.reload)
            self._advance(life)

    def executed(self, number: int) -> None:
        life = self._life_of(number)
        if life and life.main == number and life.phase is Phase.STARTING:
            self._await_ready(life)

    def done(self, number: int, *, failed: bool, detail: str) -> None:
        life = self._life_of(number)
        if life is None:
            return
        if number == life.main:
            life.main = None
            if life.phase in (Phase.STARTING, Phase.RUNNING):
                self._give_up(life, detail)
        elif number == life.poll:
            life.poll = None
            if failed:
                life.detail = detail
                life.poll_at = self._out.now + READY_POLL_SECONDS
            else:
                self._ready(life)
        else:
            self._stepped(life, failed, detail)

    # Inputs for all of them.

    def renew(self) -> None:
        for life in self._lives.values():
            self._renew(life)

    def clean(self, plans: Mapping[str, Plan], seconds: float) -> None:
        """Remove what an earlier guard left of these."""
        assert not self._lives
        for name, plan in plans.items():
            order = Order(name, plan, OF_LEFTOVERS, seconds, seconds)
            life = self._add(order, Phase.CLEANING)
            self._clean_up(life, plan.leftovers)

    def stop_all(self, deadline: float, reason: str) -> None:
        """All at once. Clean-up then waits for `clean_up_all`."""
        self.cleaning_waits = True
        for life in list(self._lives.values()):
            self._stop(life, deadline, reason)

    def fence_all(self) -> list[str]:
        """Those that had to be ended by force. A clean-up that is cut so begins again."""
        lives = list(self._lives.values())
        left = [life.name for life in lives if life.phase is not Phase.FENCED]
        for life in lives:
            self._fence(life)
        return left

    def clean_up_all(self) -> None:
        assert self.all_fenced
        self.cleaning_waits = False
        for life in list(self._lives.values()):
            self._clean_up(life, life.plan.after)

    def seen(self, census: Census) -> None:
        for life in list(self._lives.values()):
            if life.waits_for_its_end:
                self._go_on(life, census)

    def tick(self) -> None:
        for life in list(self._lives.values()):
            if self._out.now >= life.deadline:
                self._too_late(life)
            if self._out.now >= life.poll_at:
                life.poll_at = math.inf
                self._await_ready(life)

    # The phases.

    def _why_not_start(self, name: str) -> str:
        if self._out.now >= self.lease_end:
            return "there is no lease"
        if name in self._lives:
            return f"{name} is {self._lives[name].phase.value}"
        if len(self._lives) >= MAX_SERVICES:
            return f"more than {MAX_SERVICES} services"
        return ""

    def _life_of(self, number: int) -> Life | None:
        return next((life for life in self._lives.values() if life.owns(number)), None)

    def _add(self, order: Order, phase: Phase) -> Life:
        life = Life(next(self._numbers), order, phase, dict(order.environment))
        self._lives[order.name] = life
        return life

    def _advance(self, life: Life) -> None:
        """To the next step of the phase, or to what follows the last."""
        if life.steps:
            self._perform(life, life.steps.popleft())
            return
        match life.phase:
            case Phase.STARTING if life.plan.main and life.main is None:
                life.main = self._spawn(life, life.plan.main, is_main=True)
            case Phase.STARTING:
                self._await_ready(life)
            case Phase.RUNNING:
                life.deadline = math.inf
                self._answer_reload(life)
            case Phase.STOPPING:
                life.is_terminated = True
                self._out.add(Terminate(life.run))
                self._out.look_soon()
            case Phase.FENCED | Phase.CLEANING:
                self._out.look_soon()

    def _perform(self, life: Life, step: Step) -> None:
        life.present_step = step
        if isinstance(step, Run):
            life.step = self._spawn(life, step.argv)
        else:
            life.step = next(self._numbers)
            self._out.add(Act(life.run, life.step, step, self._not_after(life)))

    def _spawn(self, life: Life, argv: tuple[str, ...], *, is_main: bool = False) -> int:
        number = next(self._numbers)
        self._out.add(
            Spawn(
                run=life.run,
                number=number,
                service=life.name,
                argv=argv,
                environment=dict(life.environment),
                not_after=self._not_after(life),
                is_main=is_main,
            )
        )
        return number

    def _not_after(self, life: Life) -> float:
        is_ending = life.phase in (Phase.STOPPING, Phase.CLEANING)
        return math.inf if is_ending else self.lease_end

    def _stepped(self, life: Life, failed: bool, detail: str) -> None:
        step, life.step, life.present_step = life.present_step, None, None
        assert step is not None
        if failed and not step.may_fail:
            sentence = f"{_shown(step)}: {detail}"
            if life.phase is Phase.STARTING:
                self._give_up(life, sentence)
                return
            self._out.note(
                "step_failed", service=life.name, phase=life.phase.value, detail=sentence
            )
            if life.phase is Phase.RUNNING:
                life.steps.clear()
                self._answer_reload(life, sentence)
                return
        if life.phase is Phase.STARTING:
            self._renew(life)
        self._advance(life)

    def _await_ready(self, life: Life) -> None:
        if life.plan.ready:
            life.poll = self._spawn(life, life.plan.ready)
        else:
            self._ready(life)

    def _ready(self, life: Life) -> None:
        life.phase = Phase.RUNNING
        life.deadline = math.inf
        self._out.note("service_ready", service=life.name)
        self._out.answer(life.start_seq)
        life.start_seq = None

    def _renew(self, life: Life) -> None:
        if life.wants_lease and self.lease_end > self._out.now:
            self._out.add(RenewPlan(life.run, life.plan, self.lease_end))

    def _stop(self, life: Life, deadline: float, reason: str) -> None:
        """In good order until `deadline`. A start that is broken off has nothing to be orderly."""
        match life.phase:
            case Phase.STARTING:
                self._out.answer(life.start_seq, f"its start was broken off: {reason}")
                life.start_seq = None
                life.steps.clear()
            case Phase.RUNNING:
                self._answer_reload(life, f"it stops: {reason}")
                life.steps = deque(life.plan.stop)
            case Phase.STOPPING:
                life.deadline = min(life.deadline, deadline)
                return
            case Phase.FENCED | Phase.CLEANING:
                return
        life.environment[REASON] = reason
        life.phase = Phase.STOPPING
        life.deadline = deadline
        life.poll_at = math.inf
        life.step = life.poll = None
        self._advance(life)

    def _give_up(self, life: Life, detail: str) -> None:
        """It has failed, or takes too long: what is left of it has no time any more."""
        self._out.note("service_failed", service=life.name, phase=life.phase.value, detail=detail)
        life.environment[REASON] = detail
        if life.phase is Phase.RUNNING:
            self._out.tell(Failed(life.name, detail))
        self._out.answer(life.start_seq, detail)
        self._answer_reload(life, detail)
        life.start_seq = None
        self._fence(life)

    def _too_late(self, life: Life) -> None:
        """The phase has lasted too long."""
        life.deadline = math.inf
        match life.phase:
            case Phase.STARTING:
                said = f"; its ready command says: {life.detail}" if life.detail else ""
                seconds = life.order.start_timeout
                self._give_up(life, f"it was not ready within {seconds:g} s{said}")
            case Phase.RUNNING:
                life.steps.clear()
                self._answer_reload(life, "it took too long")
            case Phase.STOPPING:
                self._out.note("stop_took_too_long", service=life.name)
                self._fence(life)
            case Phase.CLEANING:
                self._out.note("clean_up_took_too_long", service=life.name)
                life.steps.clear()
                life.step = None
                self._force(life)
            case Phase.FENCED:
                pass

    def _fence(self, life: Life) -> None:
        life.phase = Phase.FENCED
        life.steps.clear()
        life.step = life.poll = None
        life.deadline = life.poll_at = math.inf
        self._force(life)

    def _force(self, life: Life) -> None:
        self._out.add(Kill(life.run), FenceOff(life.run, life.plan))
        self._out.look_soon()

    def _clean_up(self, life: Life, steps: Iterable[Step]) -> None:
        life.phase = Phase.CLEANING
        life.steps = deque(steps)
        life.environment[ROLE] = FOLLOWER
        life.deadline = self._out.now + life.order.stop_timeout
        self._advance(life)

    def _go_on(self, life: Life, census: Census) -> None:
        """Now that it has been looked whether anything is left of it."""
        match life.phase:
            case Phase.STOPPING if life.run not in census.running:
                self._fence(life)  # the orderly stop may have left what is no process
            case Phase.FENCED | Phase.CLEANING if census.has(life.run):
                self._out.add(Kill(life.run), FenceOff(life.run, life.plan))
            case Phase.FENCED if not self.cleaning_waits:
                self._clean_up(life, life.plan.after)
            case Phase.CLEANING:
                self._forget(life)
            case _:
                pass

    def _forget(self, life: Life) -> None:
        del self._lives[life.name]
        self._out.look_soon()
        for seq in life.stop_seqs:
            self._out.answer(seq)

    def _answer_reload(self, life: Life, error: str = "") -> None:
        self._out.answer(life.reload_seq, error)
        life.reload_seq = None


def _shown(step: Step) -> str:
    return " ".join(step.argv) if isinstance(step, Run) else step.what
