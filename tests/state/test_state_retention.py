"""The task queue (SPEC 8): keys, how long finished tasks are kept, and what is told of a queue."""

from __future__ import annotations

import pytest

from nefia.state.commands import (
    AckTask,
    AdvanceTime,
    CancelTask,
    FailTask,
    NewTask,
    PushTasks,
    RetryTask,
    SetRetention,
)
from nefia.state.records import QueueRates, TasksOutcome, TaskState
from tests.state.state_driver import DAY_MS, Driver
from tests.state.test_state_queue import finished_dead

# Keys and retention.


def test_a_key_makes_push_idempotent_in_its_queue() -> None:
    driver = Driver()
    first = driver.push(key="k")
    claimed = driver.claim()
    assert driver.do(PushTasks((NewTask(b"2", key="k"),))) == TasksOutcome((claimed,), (False,))
    assert driver.push(key="k", queue="other").id != first.id
    driver.do(AckTask(claimed.id, claimed.token, b"1"))
    driver.wait(DAY_MS - 1)
    assert driver.push(key="k").state is TaskState.DONE
    driver.wait(1)
    assert driver.push(b"3", key="k").payload == b"3"


def test_a_key_twice_in_one_batch() -> None:
    outcome = Driver().do(PushTasks((NewTask(b"1", key="k"), NewTask(b"2", key="k"))))
    assert isinstance(outcome, TasksOutcome)
    assert outcome.changed == (True, False)
    assert outcome.tasks[0] == outcome.tasks[1]


def test_finished_tasks_are_removed_after_their_retention() -> None:
    driver = Driver()
    dead = finished_dead(driver)
    assert driver.machine.next_expiry_ms() == driver.now_ms + DAY_MS
    driver.wait(DAY_MS - 1)
    driver.do(AdvanceTime())
    assert driver.machine.get_task(dead.id) == dead
    driver.wait(1)
    driver.do(AdvanceTime())
    assert driver.machine.list_tasks() == ((), None)
    assert driver.machine.queue_stats() == {}
    assert driver.machine.next_expiry_ms() is None
    assert driver.push().id == "2"


def test_the_retention_is_as_the_leader_has_set_it() -> None:
    driver = Driver()
    dead = finished_dead(driver)
    driver.do(SetRetention(60_000, 60_000))
    assert driver.machine.retention == SetRetention(60_000, 60_000)
    assert driver.restored().retention == driver.machine.retention
    assert driver.machine.next_expiry_ms() == dead.finished_ms + 60_000
    driver.wait(60_000)
    assert driver.refused(CancelTask(dead.id)) == "not_found"


def test_a_task_with_a_key_stays_while_its_key_is_held() -> None:
    driver = Driver()
    driver.do(SetRetention(60_000, 60_000))
    driver.push(key="k")
    driver.do(CancelTask("1"))
    driver.wait(DAY_MS - 1)
    assert driver.push(key="k").id == "1"
    driver.wait(1)
    assert driver.push(key="k").id == "2"
    assert driver.refused(CancelTask("1")) == "not_found"


def long_kept(driver: Driver) -> None:
    """Tasks 1 and 2 are cancelled and had the same key; the second has it still."""
    driver.do(SetRetention(7 * DAY_MS, 60_000))
    driver.push(key="k")
    driver.do(CancelTask("1"))
    driver.wait(DAY_MS)
    assert driver.push(key="k").id == "2"
    driver.do(CancelTask("2"))


@pytest.mark.parametrize("restored", [False, True])
def test_a_task_that_is_kept_longer_than_its_key(restored: bool) -> None:
    driver = Driver()
    long_kept(driver)
    if restored:
        driver.machine = driver.restored()
    assert driver.refused(RetryTask("1")) == "conflict"
    assert driver.push(key="k").id == "2"
    driver.wait(DAY_MS)
    assert driver.task(RetryTask("1")).state is TaskState.PENDING
    if restored:
        driver.machine = driver.restored()
    assert driver.push(key="k").id == "1"
    assert driver.refused(RetryTask("2")) == "conflict"
    driver.wait(7 * DAY_MS)
    assert driver.push(key="k").id == "1"
    assert driver.refused(CancelTask("2")) == "not_found"


# What is told.


def test_what_is_ready_and_since_when() -> None:
    driver = Driver()
    driver.push(priority=1)
    driver.wait(10)
    driver.push()
    driver.push(delay_ms=5)
    stats = driver.machine.queue_stats()["default"]
    assert (stats.pending, stats.ready, stats.oldest_ready_ms) == (3, 2, driver.now_ms - 10)
    driver.claim()
    assert driver.machine.queue_stats()["default"].oldest_ready_ms == driver.now_ms
    driver.claim()
    assert driver.machine.queue_stats()["default"].oldest_ready_ms is None
    driver.wait(5)
    driver.do(AdvanceTime())
    stats = driver.machine.queue_stats()["default"]
    assert (stats.pending, stats.ready, stats.oldest_ready_ms) == (1, 1, driver.now_ms)


def test_rates_are_those_of_the_last_minute() -> None:
    driver = Driver(now_ms=60_000)
    machine = driver.machine
    for _ in range(6):
        driver.push(max_attempts=1)
    driver.push(queue="other")
    assert machine.queue_rates("default") == QueueRates(6, 0, 0, 0)
    driver.wait(60_000)
    first, second, _ = driver.claims("default", limit=3)
    driver.do(AckTask(first.id, first.token, b"1"))
    driver.do(FailTask(second.id, second.token, "", None))
    assert machine.queue_rates("default") == QueueRates(6, 3, 1, 1)
    driver.wait(30_000)
    driver.do(AdvanceTime())
    assert machine.queue_rates("default") == QueueRates(3, 3, 1, 2)
    driver.wait(60_000)
    driver.do(AdvanceTime())
    assert machine.queue_rates("default") == QueueRates(0, 1.5, 0.5, 1)
    driver.wait(60_000)
    driver.do(AdvanceTime())
    assert machine.queue_rates("default") == QueueRates(0, 0, 0, 0)
    assert machine.queue_rates("none") == QueueRates(0, 0, 0, 0)


def test_a_task_that_ended_at_the_very_beginning_gives_its_key_back_too() -> None:
    """Cluster time begins at 0, so that 0 is a time like any other."""
    driver = Driver(now_ms=0)
    driver.do(SetRetention(3 * DAY_MS, 60_000))
    first = driver.push(key="once")
    driver.do(CancelTask(first.id))
    driver.wait(DAY_MS)
    second = driver.push(key="once")
    assert second.number != first.number
