"""nefia's own queues, whose names begin with an underscore: there for who asks by name."""

from __future__ import annotations

import pytest

from nefia.state.commands import CancelTask
from nefia.state.records import TaskState
from tests.state.state_driver import DAY_MS, Driver

OWN = "_reactor"


@pytest.fixture
def driver() -> Driver:
    """Tasks 1 and 3 are nefia's own, 2 and 4 a user's; 3 and 4 are for a host."""
    driver = Driver()
    for host in ("", "web-1"):
        driver.push(queue=OWN, host=host)
        driver.push(queue="mail", host=host)
    return driver


def listed(driver: Driver, **filters: str) -> list[int]:
    return [task.number for task in driver.machine.list_tasks(**filters)[0]]  # type: ignore[arg-type]


def test_a_claim_of_any_queue_passes_them_by(driver: Driver) -> None:
    assert driver.machine.ready("", "") == 2
    assert [task.number for task in driver.claims(limit=9)] == [2, 4]
    assert driver.claims(host="web-1") == []
    assert driver.machine.next_ready_ms() is None
    assert [task.number for task in driver.claims(OWN, limit=9)] == [1, 3]


def test_so_does_a_list(driver: Driver) -> None:
    assert listed(driver) == [2, 4]
    assert listed(driver, host="web-1") == [4]
    assert listed(driver, queue=OWN) == [1, 3]
    assert listed(driver, queue=OWN, host="web-1") == [3]


def test_but_they_are_counted_by_name(driver: Driver) -> None:
    assert list(driver.machine.queue_stats()) == [OWN, "mail"]
    assert driver.machine.queue_stats()[OWN].pending == 2
    assert driver.machine.queue_rates(OWN).pushed > 0


def test_all_else_is_as_for_every_queue(driver: Driver) -> None:
    """Leases that end, snapshots, and that finished tasks go for good."""
    driver.claims(OWN, limit=2, lease_ms=1_000)
    driver.wait(1_001)
    driver.do(CancelTask("2"))
    restored = Driver(driver.restored(), driver.now_ms)
    assert restored.machine.digest() == driver.machine.digest()
    for each in (driver, restored):
        assert [task.state for task in each.machine.list_tasks(OWN)[0]] == [TaskState.PENDING] * 2
        for number in ("1", "3"):
            each.do(CancelTask(number))
        each.wait(2 * DAY_MS)
        each.do(CancelTask("4"))
        assert listed(each, queue=OWN) == []
        assert list(each.machine.queue_stats()) == ["mail"]
    assert restored.machine.digest() == driver.machine.digest()
