"""The guard's decisions, in a simulated world, and without each of its rules (SPEC 9)."""

from __future__ import annotations

import math

import pytest

from nefia.guard.effects import Census, KillAll, Look, Spawn, Tell, Terminate
from nefia.guard.life import Order
from nefia.guard.lives import MAX_SERVICES
from nefia.guard.machine import Machine
from nefia.guard.plan import Plan, Run
from nefia.guard.protocol import MAX_LEASE_SECONDS, Answered, FromGuard, LeaseHeld
from nefia.services.interface import Tenure
from tests.guard.guard_mutants import MUTANTS, Mutant, mutated
from tests.guard.guard_world import Violation, simulate

SEEDS = 150
MUTANT_SEEDS = 400
STEPS = 200
APP = Plan(main=("app",))


def test_nothing_is_violated() -> None:
    terms = sum(len(simulate(seed, STEPS).daemon.done_begins) for seed in range(SEEDS))
    assert terms > SEEDS


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.rule)
def test_without_the_rule_it_is(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = mutated(mutant, monkeypatch)
    assert any(violates(seed, machine) for seed in range(MUTANT_SEEDS))


def violates(seed: int, machine: type[Machine]) -> bool:
    try:
        simulate(seed, STEPS, machine)
    except Violation:
        return True
    return False


def said(machine: Machine) -> list[FromGuard]:
    return [effect.message for effect in machine.take() if isinstance(effect, Tell)]


def order(name: str = "app", plan: Plan = APP) -> Order:
    return Order(name, plan, {"NEFIA_ROLE": "leader"}, start_timeout=5.0, stop_timeout=5.0)


@pytest.fixture
def machine() -> Machine:
    """In a tenure from 0 to 1, with a stop budget of 0.5 s."""
    machine = Machine(0.0)
    assert machine.connect(0.0) == ""
    machine.begin(0.0, 1, term=1, lease_end=1.0, stop_budget=0.5)
    assert said(machine) == [Answered(1, "")]
    return machine


def started(machine: Machine, plan: Plan = APP) -> int:
    """The number of the main process, or of the first step."""
    machine.start(0.0, 2, order(plan=plan))
    [spawn] = [effect for effect in machine.take() if isinstance(effect, Spawn)]
    return spawn.number


def test_each_renewal_is_acknowledged_and_the_lease_never_shrinks(machine: Machine) -> None:
    machine.renew(0.1, 1.5)
    machine.renew(0.2, 1.2)
    assert said(machine) == [LeaseHeld(1.5), LeaseHeld(1.5)]
    assert machine.lease_end == machine.deadline == 1.5


def test_a_renewal_at_the_end_comes_too_late(machine: Machine) -> None:
    machine.renew(1.0, 2.0)
    assert LeaseHeld(2.0) not in said(machine)
    assert machine.lease_end == -math.inf


def test_a_lease_without_measure_is_not_believed(machine: Machine) -> None:
    machine.renew(0.1, 0.2 + MAX_LEASE_SECONDS)
    assert said(machine) == []
    assert machine.lease_end == 1.0


def test_the_end_of_the_lease_is_an_order_at_once_and_force_at_half_of_the_budget(
    machine: Machine,
) -> None:
    started(machine)
    machine.tick(1.0)
    effects = machine.take()
    assert any(isinstance(effect, Terminate) for effect in effects)
    assert not any(isinstance(effect, KillAll) for effect in effects)
    machine.tick(1.2499)
    assert not any(isinstance(effect, KillAll) for effect in machine.take())
    assert machine.deadline == 1.25
    machine.tick(1.25)
    assert any(isinstance(effect, KillAll) for effect in machine.take())


def test_who_wakes_up_late_has_no_time_for_manners(machine: Machine) -> None:
    started(machine)
    machine.tick(3.0)
    assert any(isinstance(effect, KillAll) for effect in machine.take())


def test_clean_up_waits_until_all_are_gone(machine: Machine) -> None:
    hook = Plan(after=(Run(("after",)),))
    machine.start(0.0, 2, order("hook", hook))
    started(machine)
    machine.end(0.1, 4, "planned")
    both = machine.take()
    assert not any(isinstance(effect, Spawn) for effect in both)
    app_runs = Census(running=frozenset({2}))
    machine.seen(0.2, app_runs)
    assert not any(isinstance(effect, Spawn) for effect in machine.take())
    machine.seen(0.3, Census())
    machine.seen(0.3, Census())
    [after] = [effect for effect in machine.take() if isinstance(effect, Spawn)]
    assert after.argv == ("after",)
    assert after.environment == {"NEFIA_ROLE": "follower", "NEFIA_REASON": "planned"}


def test_to_remove_leftovers_commands_know_where_they_stand() -> None:
    machine = Machine(0.0)
    machine.clean(0.0, 1, {"vpn": Plan(leftovers=(Run(("remove",)),))})
    [removal] = [effect for effect in machine.take() if isinstance(effect, Spawn)]
    of_a_tenure = Tenure("node-1", "cluster", 1, "it was elected").environment("leader")
    assert removal.environment.keys() | {"NEFIA_NODE_ID"} == of_a_tenure.keys()
    assert removal.environment["NEFIA_ROLE"] == "follower"
    assert removal.environment["NEFIA_TERM"] == "0"


def test_what_a_ready_command_says_is_in_the_error(machine: Machine) -> None:
    main = started(machine, Plan(main=("app",), ready=("ask",)))
    machine.executed(0.1, main)
    [poll] = [effect for effect in machine.take() if isinstance(effect, Spawn)]
    machine.done(0.2, poll.number, failed=True, detail="exit code 1: not yet")
    machine.renew(0.3, 10.0)
    machine.tick(5.0)
    [answer] = [each for each in said(machine) if isinstance(each, Answered)]
    assert "within 5 s" in answer.error
    assert "not yet" in answer.error


def test_no_more_services_than_can_be(machine: Machine) -> None:
    for number in range(MAX_SERVICES + 1):
        machine.start(0.0, number + 10, order(f"app{number}"))
    answers = [each for each in said(machine) if isinstance(each, Answered)]
    assert [(each.seq, each.error) for each in answers] == [
        (10 + MAX_SERVICES, f"more than {MAX_SERVICES} services")
    ]


def test_without_a_daemon_nothing_begins(machine: Machine) -> None:
    machine.disconnect(0.1)
    machine.tick(0.1)
    machine.seen(0.1, Census())
    machine.seen(0.1, Census())
    assert machine.is_idle
    machine.begin(0.2, 9, term=2, lease_end=1.0, stop_budget=0.5)
    assert machine.is_idle


def test_without_a_tenure_nothing_starts() -> None:
    machine = Machine(0.0)
    machine.connect(0.0)
    machine.start(0.0, 1, order())
    assert said(machine) == [Answered(1, "there is no lease")]


def test_it_rests_when_there_is_nothing_to_do(machine: Machine) -> None:
    main = started(machine)
    machine.executed(0.1, main)
    machine.tick(0.1)
    assert not any(isinstance(effect, Look) for effect in machine.take())
    assert machine.deadline == 1.0
