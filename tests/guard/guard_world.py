"""A simulated machine around the guard's: processes, links, a daemon, and time; and what must hold.

The checks go by what the world sees, not by what the guard's machine believes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random
from typing import Any

from attrs import define, evolve, field

from nefia.guard import machine as machine_module
from nefia.guard.effects import (
    Act,
    Census,
    Effect,
    FenceOff,
    Kill,
    KillAll,
    Look,
    Note,
    RenewPlan,
    Spawn,
    Tell,
    Terminate,
)
from nefia.guard.life import Order
from nefia.guard.machine import Machine
from nefia.guard.plan import Do, Plan, Run
from nefia.guard.protocol import Answered, Ending, FromGuard, LeaseHeld, Over

NAMES = ("app", "link", "hook")
STARTING = frozenset({"start", "main", "ready", "reload", "leftover", "link"})
"""The steps that only a lease allows."""
CLEANING = frozenset({"after", "leftover"})
GRACE_SECONDS = 0.02
"""What a guard that is awake may take for the end by force."""
UNKILLABLE_SECONDS = 0.4
STOP_TIMEOUT = 1.0
MAX_ROUNDS = 1000


class Violation(AssertionError):
    pass


@define(eq=False)
class Process:
    run: int
    what: str
    service: str
    number: int | None
    ignores_term: bool
    unkillable_until: float = 0.0


@define(eq=False)
class Daemon:
    """What the world knows of the tenure, by what was said in both directions."""

    connected: bool = False
    seq: int = 0
    asked: dict[int, Callable[[str], None]] = field(factory=dict)
    done_begins: list[int] = field(factory=list)
    lease_end: float = -math.inf
    """That the guard has acknowledged, or has been told and may go by."""
    ended_at: float = math.inf
    budget: float = 0.5


class World:
    def __init__(self, seed: int, machine: type[Machine] | None = None) -> None:
        self.random = Random(seed)
        self.now = 100.0
        self.machine = (machine or machine_module.Machine)(self.now)
        self.processes: list[Process] = []
        self.links: set[str] = set()
        self.daemon = Daemon()
        self.log: list[str] = []
        self.late = False
        """Whether the guard has not run for a while, so that it cannot have kept its times."""

    # Time.

    def say(self, text: str) -> None:
        self.log.append(f"{self.now:9.4f} {text}")

    def advance(self, seconds: float) -> None:
        """The guard is awake: it is called whenever it wants to be."""
        until = self.now + seconds
        for _ in range(MAX_ROUNDS):
            due = self.machine.deadline
            if due > until:
                break
            self.now = max(self.now, due)
            self.settle()
        else:
            raise Violation("it never rests")
        self.now = max(self.now, until)
        self.check()

    def freeze(self, seconds: float) -> None:
        self.say(f"frozen for {seconds:.3f} s")
        self.now += seconds
        self.late = True

    def settle(self) -> None:
        for _ in range(MAX_ROUNDS):
            if self.machine.deadline <= self.now:
                self.machine.tick(self.now)
            effects = self.machine.take()
            if not effects:
                self.late = False
                self.check()
                return
            for effect in effects:
                self.perform(effect)
        raise Violation("it does not settle")

    def work(self) -> None:
        """What takes the driver a moment; now and then a long one."""
        if self.random.random() < 0.02:
            self.now += self.random.choice([0.001, 0.01, 0.3])
            self.late = True

    # Effects.

    def perform(self, effect: Effect) -> None:
        match effect:
            case Spawn():
                self.work()
                self.spawn(effect)
            case Act(_, number, step, not_after):
                self.work()
                if self.now >= not_after:
                    self.machine.done(self.now, number, failed=True, detail="too late")
                else:
                    step.action()
                    self.machine.done(self.now, number, failed=False, detail="")
            case Terminate(run):
                self.end(lambda p: p.run == run and not p.ignores_term)
            case Kill(run):
                self.end(lambda p: p.run == run and self.now >= p.unkillable_until)
            case KillAll():
                self.end(lambda p: self.now >= p.unkillable_until)
            case FenceOff(_, plan):
                plan.fence()
            case RenewPlan(_, plan, lease_end):
                plan.renew(lease_end)
            case Look(plans):
                running = frozenset(process.run for process in self.processes if process.run)
                present = frozenset(run for run, plan in plans.items() if plan.is_present())
                strangers = any(process.run == 0 for process in self.processes)
                self.machine.seen(self.now, Census(running, present, strangers))
            case Tell(message):
                self.hear(message)
            case Note(event, details):
                self.say(f"{event} {dict(details)}")

    def spawn(self, spawn: Spawn) -> None:
        if self.now >= spawn.not_after:
            self.machine.done(self.now, spawn.number, failed=True, detail="too late")
            return
        what, service = spawn.argv
        self.begins(what, service)
        process = Process(
            spawn.run, what, service, spawn.number, ignores_term=self.random.random() < 0.4
        )
        if self.random.random() < 0.02:
            process.unkillable_until = self.now + self.random.random() * UNKILLABLE_SECONDS
        self.processes.append(process)
        if spawn.is_main:
            self.machine.executed(self.now, spawn.number)

    def begins(self, what: str, service: str) -> None:
        self.say(f"{what} of {service}")
        if what in STARTING and what != "leftover" and not self.has_lease:
            raise Violation(f"{what} of {service} without a lease")

    @property
    def has_lease(self) -> bool:
        return self.now < min(self.daemon.lease_end, self.daemon.ended_at)

    def end(self, which: Callable[[Process], bool], failed: bool = True) -> None:
        ended = [process for process in self.processes if which(process)]
        self.processes = [process for process in self.processes if process not in ended]
        for process in ended:
            self.say(f"{process.what} of {process.service} ends")
            if process.number is None:
                self.machine.reaped(self.now)
            else:
                self.machine.done(self.now, process.number, failed=failed, detail="it ended")

    # Plans.

    def plan(self, name: str) -> Plan:
        if name == "link":
            return Plan(
                leftovers=(Do("remove", lambda: self.links.discard(name)),),
                start=(Do("add", lambda: self.add_link(name)), Run(("start", name))),
                stop=(Run(("stop", name), may_fail=True),),
                fence=lambda: self.remove_link(name),
                after=(Run(("after", name)),),
                is_present=lambda: name in self.links,
                renew=self.renew_link,
                reload=(Run(("reload", name)),),
            )
        if name == "hook":
            return Plan(start=(Run(("start", name)),), after=(Run(("after", name)),))
        return Plan(main=("main", name), ready=("ready", name))

    def add_link(self, name: str) -> None:
        self.begins("link", name)
        self.links.add(name)

    def remove_link(self, name: str) -> None:
        if self.random.random() < 0.9:
            self.links.discard(name)

    def renew_link(self, lease_end: float) -> None:
        if lease_end > self.daemon.lease_end:
            raise Violation("a lease in the kernel beyond the daemon's")

    # The daemon.

    def ask(self, then: Callable[[str], None]) -> int:
        self.daemon.seq += 1
        self.daemon.asked[self.daemon.seq] = then
        return self.daemon.seq

    def act(self) -> None:
        """Something happens."""
        daemon, random = self.daemon, self.random
        if not daemon.connected:
            choices: list[Callable[[], Any]] = [self.connect, self.processes_end, self.pass_time]
        else:
            choices = [
                *(self.pass_time, self.renew, self.processes_end) * 6,
                *(self.begin, self.start) * 4,
                *(self.stop, self.begin_old, self.reload, self.escape, self.crash) * 2,
                *(self.end_tenure, self.disconnect, self.fence, self.freeze_long, self.clean),
            ]
        random.choice(choices)()
        self.settle()

    def pass_time(self) -> None:
        self.advance(self.random.choice([0.001, 0.01, 0.05, 0.2]))

    def freeze_long(self) -> None:
        self.freeze(self.random.choice([0.05, 0.3, 2.0]))

    def connect(self) -> None:
        if self.machine.connect(self.now):
            raise Violation("the only daemon is refused")
        self.say("connected")
        if not self.machine.connect(self.now):
            raise Violation("two daemons at once")
        self.daemon.connected = True
        self.daemon.asked.clear()

    def disconnect(self) -> None:
        self.say("disconnected")
        self.daemon.connected = False
        self.ends()
        self.machine.disconnect(self.now)

    def ends(self) -> None:
        self.daemon.ended_at = min(self.daemon.ended_at, self.now, self.daemon.lease_end)

    def begin(self) -> None:
        self.try_to_begin(max(self.daemon.done_begins, default=0) + 1)

    def begin_old(self) -> None:
        self.try_to_begin(self.random.randint(0, max(self.daemon.done_begins, default=1)))

    def try_to_begin(self, term: int) -> None:
        daemon = self.daemon
        lease_end = self.now + self.random.choice([-0.1, 0.0, 0.3, 0.5, 0.5, 0.5])
        budget = self.random.choice([0.2, 0.5, 1.0])
        has_left = bool(self.links) or any(p.what not in CLEANING for p in self.processes)

        def answered(error: str) -> None:
            if error:
                self.say(f"term {term} refused: {error}")
                return
            self.say(f"term {term} begins")
            if has_left:
                raise Violation("a tenure begins while something is left of another")
            if term <= max(daemon.done_begins, default=-1):
                raise Violation(f"term {term} begins again")
            if self.now >= lease_end and not self.late:
                raise Violation("a tenure begins without a lease")
            daemon.done_begins.append(term)
            daemon.lease_end, daemon.ended_at, daemon.budget = lease_end, math.inf, budget

        seq = self.ask(answered)
        self.machine.begin(self.now, seq, term=term, lease_end=lease_end, stop_budget=budget)

    def renew(self) -> None:
        """What the guard is told counts from then on, acknowledged or not."""
        lease_end = self.now + self.random.choice([0.1, 0.3, 0.5])
        if self.has_lease:
            self.daemon.lease_end = max(self.daemon.lease_end, lease_end)
        self.machine.renew(self.now, lease_end)

    def end_tenure(self) -> None:
        self.say("the daemon ends the tenure")
        self.ends()
        self.daemon.seq += 1
        self.machine.end(self.now, self.daemon.seq, "planned")

    def start(self) -> None:
        name = self.random.choice(NAMES)
        order = Order(name, self.plan(name), {}, self.random.choice([0.1, 1.0]), STOP_TIMEOUT)
        self.machine.start(self.now, self.ask(lambda error: None), order)

    def stop(self) -> None:
        name = self.random.choice(NAMES)

        def stopped(error: str) -> None:
            if not error and any(
                process.service == name and process.run for process in self.processes
            ):
                raise Violation(f"{name} counts as stopped and runs")

        self.machine.stop(self.now, self.ask(stopped), name, "planned")

    def fence(self) -> None:
        self.machine.fence(self.now, self.random.choice(NAMES))

    def reload(self) -> None:
        name = self.random.choice(NAMES)
        self.machine.reload(self.now, self.ask(lambda error: None), name)

    def clean(self) -> None:
        self.daemon.seq += 1
        self.machine.clean(self.now, self.daemon.seq, {name: self.plan(name) for name in NAMES})

    # Processes.

    def processes_end(self) -> None:
        """Those that are to end, as most do."""
        failed = self.random.random() < 0.3
        self.end(lambda p: p.what != "main" and self.random.random() < 0.5, failed)

    def crash(self) -> None:
        self.end(lambda p: p.what == "main")

    def escape(self) -> None:
        """A process gets a child that nobody can tell whose it is, or that ignores SIGTERM."""
        for process in self.processes[:1]:
            child = evolve(process, number=None, ignores_term=True)
            child.run = self.random.choice([0, process.run])
            self.processes.append(child)

    # What must hold.

    def hear(self, message: FromGuard) -> None:
        match message:
            case Answered(seq, error):
                if seq not in self.daemon.asked:
                    raise Violation(f"request {seq} is answered twice, or was another daemon's")
                self.daemon.asked.pop(seq)(error)
            case LeaseHeld(lease_end):
                if lease_end > self.daemon.lease_end:
                    raise Violation("a lease is acknowledged that nobody has given")
            case Over():
                if self.processes or self.links:
                    raise Violation("it is said to be over while something is left")
            case Ending():
                self.ends()

    def check(self) -> None:
        daemon = self.daemon
        ended_at = min(daemon.ended_at, daemon.lease_end)
        if self.late or self.now < ended_at + daemon.budget / 2 + GRACE_SECONDS:
            return
        for process in self.processes:
            may_stay = process.what in CLEANING or self.now < process.unkillable_until + 0.2
            if not may_stay:
                raise Violation(f"{process.what} of {process.service} outlives its tenure")

    def finish(self) -> None:
        """In the end the daemon has gone, and nothing is left."""
        if self.daemon.connected:
            self.disconnect()
        self.settle()
        for _ in range(200):
            self.advance(0.1)
        if self.processes or self.links or not self.machine.is_idle:
            raise Violation("something is left in the end")


def simulate(seed: int, steps: int, machine: type[Machine] | None = None) -> World:
    """Raises Violation, with what happened."""
    world = World(seed, machine)
    try:
        for _ in range(steps):
            world.act()
        world.finish()
    except Violation as violation:
        violation.add_note(f"seed {seed}\n" + "\n".join(world.log[-40:]))
        raise
    return world
