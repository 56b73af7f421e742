"""What the leader's services leave behind in the state: who may run them, and what they learned."""

from __future__ import annotations

from nefia.state.commands import AcquireTenure, ReleaseTenure, Remember
from nefia.state.limits import MAX_MEMORIES
from nefia.state.machine import Machine
from nefia.state.records import Refusal
from tests.state.state_driver import Driver


def held(machine: Machine) -> tuple[int, bool]:
    return machine.tenure_term, machine.tenure_held


def test_a_tenure_is_held_until_it_is_released() -> None:
    driver = Driver()
    assert held(driver.machine) == (0, False)
    driver.do(AcquireTenure(3))
    assert held(driver.machine) == (3, True)
    driver.do(ReleaseTenure(3))
    assert held(driver.machine) == (3, False)
    driver.do(AcquireTenure(5))
    assert held(driver.machine) == (5, True)


def test_nobody_releases_the_tenure_of_a_later_term() -> None:
    driver = Driver()
    driver.do(AcquireTenure(5))
    assert isinstance(driver.do(ReleaseTenure(4)), Refusal)
    assert held(driver.machine) == (5, True)


def test_what_was_learned_is_remembered_replaced_and_forgotten() -> None:
    driver = Driver()
    driver.do(Remember("wg0", "b", "1"))
    driver.do(Remember("wg0", "a", "2"))
    driver.do(Remember("wg1", "a", "3"))
    assert list(driver.machine.remembered("wg0").items()) == [("a", "2"), ("b", "1")]
    driver.do(Remember("wg0", "a", "4"))
    assert driver.machine.remembered("wg0")["a"] == "4"
    driver.do(Remember("wg0", "a", ""))
    driver.do(Remember("wg0", "never", ""))
    assert list(driver.machine.remembered("wg0")) == ["b"]


def test_only_so_much_is_remembered() -> None:
    driver = Driver()
    for number in range(MAX_MEMORIES):
        driver.do(Remember("wg0", str(number), "x"))
    refusal = driver.do(Remember("wg0", "one more", "x"))
    assert isinstance(refusal, Refusal)
    assert refusal.code == "overloaded"
    driver.do(Remember("wg0", "7", "y"))  # what is known may still change
    assert driver.machine.remembered("wg0")["7"] == "y"


def test_both_are_in_snapshot_and_digest() -> None:
    driver = Driver()
    before = driver.machine.digest()
    driver.do(AcquireTenure(3))
    tenure = driver.machine.digest()
    driver.do(Remember("wg0", "a", "1"))
    assert len({before, tenure, driver.machine.digest()}) == 3
    again = Machine.from_records(driver.machine.snapshot_records())
    assert held(again) == (3, True)
    assert again.remembered("wg0") == driver.machine.remembered("wg0")
    assert again.digest() == driver.machine.digest()
