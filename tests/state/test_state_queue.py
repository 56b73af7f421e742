"""The task queue (SPEC 8): order, leases, tokens, retries, keys, retention, lists."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from nefia.errors import InvalidArgument, NotFound
from nefia.state import queue
from nefia.state.commands import (
    AckTask,
    AdvanceTime,
    CancelTask,
    Command,
    ExtendTask,
    FailTask,
    NewTask,
    PushTasks,
    RetryTask,
)
from nefia.state.limits import MAX_ANSWER_BYTES
from nefia.state.queue import BACKOFF_FIRST_MS, BACKOFF_MAX_MS, backoff_ms
from nefia.state.records import Task, TasksOutcome, TaskState
from tests.state.state_driver import DAY_MS, Driver

LEASE_MS = 30_000

ANSWERS: list[Callable[[Task], Command]] = [
    lambda task: ExtendTask(task.id, task.token, LEASE_MS),
    lambda task: AckTask(task.id, task.token, b"1"),
    lambda task: FailTask(task.id, task.token, "no", None),
]


def finished_dead(driver: Driver) -> Task:
    driver.push(max_attempts=1)
    task = driver.claim()
    return driver.task(FailTask(task.id, task.token, "broken", None))


# Order.


def test_ids_count_from_one() -> None:
    driver = Driver()
    assert [driver.push().id, driver.push().id] == ["1", "2"]


def test_a_list_is_in_the_order_of_ids_whatever_the_priorities() -> None:
    driver = Driver()
    pushed = [driver.push(priority=priority).id for priority in (0, 5, 0, 9, -1, 5)]
    listed, cursor = driver.machine.list_tasks(state=TaskState.PENDING, limit=4)
    assert [task.id for task in listed] == pushed[:4]
    rest, _ = driver.machine.list_tasks(state=TaskState.PENDING, cursor=cursor or "")
    assert [task.id for task in rest] == pushed[4:]
    assert driver.machine.queue_stats()["default"].ready == len(pushed)


def test_higher_priority_first_then_oldest() -> None:
    driver = Driver()
    for priority in (0, 5, 0, 5, -1):
        driver.push(priority=priority)
    assert [task.id for task in driver.claims(limit=10)] == ["2", "4", "1", "3", "5"]


def test_a_claim_takes_from_its_queue_and_host() -> None:
    driver = Driver()
    for name in ("a", "b"):
        for host in ("", "web-1", "web-2"):
            driver.push(queue=name, host=host)
    assert driver.claim("b", "web-2").id == "6"
    assert driver.claim("", "web-2").id == "3"
    assert driver.claim("b").id == "4"
    assert driver.claims("b", "web-3") == []
    assert driver.claims("c") == []
    assert [task.id for task in driver.claims(limit=10)] == ["1", "2", "5"]


def test_a_delayed_task_is_ready_at_its_time_and_in_its_place() -> None:
    driver = Driver()
    driver.push(delay_ms=1000, priority=1)
    driver.push()
    driver.wait(999)
    assert driver.claim().id == "2"
    driver.push()
    driver.wait(1)
    assert driver.claim().id == "1"


def test_a_batch_of_claims_ends_before_the_answer_gets_too_big() -> None:
    driver = Driver()
    for _ in range(4):
        driver.push(b'"' + b"x" * 200_000 + b'"')
    claimed = driver.claims(limit=4)
    assert len(claimed) == 2
    assert sum(task.size_bytes for task in claimed) <= MAX_ANSWER_BYTES
    assert driver.machine.queue_stats()["default"].pending == 2


def test_the_time_of_the_next_task_for_a_waiting_claim() -> None:
    driver = Driver()
    machine = driver.machine
    assert machine.next_ready_ms() is None
    driver.push(queue="a", host="web-1", delay_ms=5000)
    assert machine.next_ready_ms("a", "web-1") == driver.now_ms + 5000
    assert machine.next_ready_ms("b") is None
    assert machine.next_ready_ms("a", "web-2") is None
    driver.push(queue="a")
    assert machine.next_ready_ms("a") == machine.time_ms
    assert (machine.ready("a", ""), machine.ready("", ""), machine.ready("b", "")) == (1, 1, 0)
    driver.claim("a", lease_ms=2000)
    assert machine.next_ready_ms("a") == driver.now_ms + 5000
    driver.wait(2000)
    driver.do(AdvanceTime())
    assert machine.next_ready_ms("a") == machine.time_ms


# Leases and tokens.


def test_claim_to_ack() -> None:
    driver = Driver()
    driver.push(b'{"n":1}')
    claimed = driver.claim()
    assert (claimed.state, claimed.worker, claimed.attempt) == (TaskState.LEASED, "worker", 1)
    assert claimed.lease_expires_ms == driver.now_ms + LEASE_MS
    driver.wait(LEASE_MS - 1)
    done = driver.task(AckTask(claimed.id, claimed.token, b"42"))
    assert (done.state, done.result, done.finished_ms) == (TaskState.DONE, b"42", driver.now_ms)
    assert driver.claims() == []


def test_tokens_grow_with_every_claim_in_the_cluster() -> None:
    driver = Driver()
    driver.push(queue="a")
    driver.push(queue="b")
    tokens = [driver.claim("b").token, driver.claim("a").token]
    driver.wait(LEASE_MS)
    tokens += [task.token for task in driver.claims(limit=2)]
    assert tokens == [1, 2, 3, 4]


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_late_worker_has_lost_its_lease_even_before_anyone_else_claims(
    answer: Callable[[Task], Command],
) -> None:
    driver = Driver()
    driver.push()
    claimed = driver.claim()
    driver.wait(LEASE_MS)
    assert driver.refused(answer(claimed)) == "lease_lost"
    returned = driver.machine.get_task(claimed.id)
    assert (returned.state, returned.attempt) == (TaskState.PENDING, 1)
    assert driver.refused(answer(claimed)) == "lease_lost"


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_worker_whose_task_was_claimed_by_another_gets_a_conflict(
    answer: Callable[[Task], Command],
) -> None:
    driver = Driver()
    driver.push()
    late = driver.claim()
    driver.wait(LEASE_MS)
    current = driver.claim()
    assert driver.refused(answer(late)) == "conflict"
    assert driver.machine.get_task(late.id) == current


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize(
    "end",
    [*ANSWERS[1:], lambda task: CancelTask(task.id)],
    ids=["ack", "fail", "cancel"],
)
def test_a_token_that_was_answered_is_not_current(
    answer: Callable[[Task], Command], end: Callable[[Task], Command]
) -> None:
    driver = Driver()
    driver.push()
    claimed = driver.claim()
    ended = driver.task(end(claimed))
    driver.wait(LEASE_MS)
    assert driver.refused(answer(claimed)) == "conflict"
    assert driver.machine.get_task(claimed.id) == ended


def test_a_task_that_dies_of_a_lost_lease_tells_its_late_worker() -> None:
    driver = Driver()
    driver.push(max_attempts=1)
    claimed = driver.claim()
    driver.wait(LEASE_MS)
    driver.do(AdvanceTime())
    dead = driver.machine.get_task(claimed.id)
    assert (dead.state, dead.finished_ms) == (TaskState.DEAD, driver.now_ms)
    assert "worker" in dead.error
    assert driver.refused(AckTask(claimed.id, claimed.token, b"1")) == "lease_lost"
    driver.do(RetryTask(claimed.id))
    assert driver.refused(AckTask(claimed.id, claimed.token, b"1")) == "conflict"


def test_extend_prolongs_and_never_shortens() -> None:
    driver = Driver()
    driver.push()
    claimed = driver.claim()
    driver.wait(20_000)
    extended = driver.task(ExtendTask(claimed.id, claimed.token, LEASE_MS))
    assert extended.lease_expires_ms == driver.now_ms + LEASE_MS
    shorter = driver.task(ExtendTask(claimed.id, claimed.token, 1000))
    assert shorter.lease_expires_ms == extended.lease_expires_ms
    driver.wait(LEASE_MS - 1)
    assert driver.task(AckTask(claimed.id, claimed.token, b"1")).state is TaskState.DONE


@pytest.mark.parametrize("task_id", ["7", "", "x", "-1", "01", " 1", "\u0661", "9" * 50])
def test_what_is_no_task_is_not_found(task_id: str) -> None:
    driver = Driver()
    driver.push()
    assert driver.refused(CancelTask(task_id)) == "not_found"
    with pytest.raises(NotFound):
        driver.machine.get_task(task_id)


# Failing, cancelling, retrying.


def test_a_failed_task_comes_back_after_its_backoff_until_it_is_dead() -> None:
    driver = Driver()
    driver.push(max_attempts=2)
    claimed = driver.claim()
    failed = driver.task(FailTask(claimed.id, claimed.token, "no route", None))
    assert (failed.state, failed.error) == (TaskState.PENDING, "no route")
    assert failed.run_at_ms == driver.now_ms + backoff_ms(1, 1)
    assert driver.claims() == []
    driver.wait(BACKOFF_FIRST_MS)
    again = driver.claim()
    assert again.attempt == 2
    dead = driver.task(FailTask(again.id, again.token, "no route", 0))
    assert (dead.state, dead.finished_ms) == (TaskState.DEAD, driver.now_ms)


def test_the_worker_may_say_when_to_try_again() -> None:
    driver = Driver()
    driver.push()
    claimed = driver.claim()
    driver.do(FailTask(claimed.id, claimed.token, "", 0))
    assert driver.claim().attempt == 2


def test_backoff_doubles_with_jitter_up_to_its_maximum() -> None:
    for attempt in range(1, 200):
        full_ms = min(BACKOFF_FIRST_MS * 2 ** (attempt - 1), BACKOFF_MAX_MS)
        delays = {backoff_ms(number, attempt) for number in range(1, 50)}
        assert len(delays) > 1
        assert all(full_ms // 2 <= delay_ms <= full_ms for delay_ms in delays)


def test_cancel() -> None:
    driver = Driver()
    driver.push()
    cancelled = driver.task(CancelTask("1"))
    assert (cancelled.state, cancelled.finished_ms) == (TaskState.CANCELLED, driver.now_ms)
    assert driver.do(CancelTask("1")) == TasksOutcome((cancelled,), (False,))
    assert driver.claims() == []


@pytest.mark.parametrize("state", [TaskState.DONE, TaskState.DEAD])
def test_what_is_over_cannot_be_cancelled(state: TaskState) -> None:
    driver = Driver()
    task = finished_dead(driver)
    if state is TaskState.DONE:
        driver.push()
        claimed = driver.claim()
        task = driver.task(AckTask(claimed.id, claimed.token, b"1"))
    assert task.state is state
    assert driver.refused(CancelTask(task.id)) == "conflict"


def test_retry_gives_another_life() -> None:
    driver = Driver()
    dead = finished_dead(driver)
    reborn = driver.task(RetryTask(dead.id))
    assert (reborn.state, reborn.attempt, reborn.error) == (TaskState.PENDING, 0, "")
    assert driver.claim().attempt == 1
    assert driver.refused(RetryTask(dead.id)) == "conflict"
    driver.do(CancelTask(dead.id))
    assert driver.task(RetryTask(dead.id)).state is TaskState.PENDING


def test_a_retried_task_is_not_removed_with_its_former_life() -> None:
    driver = Driver()
    dead = finished_dead(driver)
    driver.wait(DAY_MS - 1)
    driver.do(RetryTask(dead.id))
    driver.wait(DAY_MS)
    assert driver.claim().id == dead.id


# Bounds.


def test_what_is_overdue_is_done_in_bounded_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "MAX_EXPIRIES_PER_APPLY", 2)
    driver = Driver()
    for _ in range(5):
        driver.push()
    leased = driver.claims(limit=5)
    driver.wait(LEASE_MS)
    driver.do(AdvanceTime())
    stats = driver.machine.queue_stats()["default"]
    assert (stats.pending, stats.leased) == (2, 3)
    driver.wait(1)
    late = leased[-1]
    assert driver.refused(AckTask(late.id, late.token, b"1")) == "lease_lost"
    driver.do(AdvanceTime())
    assert driver.machine.queue_stats()["default"].leased == 0


def test_delayed_tasks_get_ready_in_bounded_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "MAX_EXPIRIES_PER_APPLY", 2)
    driver = Driver()
    for _ in range(5):
        driver.push(delay_ms=10)
    driver.wait(10)
    assert [task.id for task in driver.claims(limit=5)] == ["1", "2"]
    assert [task.id for task in driver.claims(limit=5)] == ["3", "4"]
    assert [task.id for task in driver.claims(limit=5)] == ["5"]


def test_all_tasks_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    size_bytes = driver.push(b'"' + b"x" * 1000 + b'"').size_bytes
    monkeypatch.setattr(queue, "MAX_TASKS_BYTES", 2 * size_bytes)
    two = PushTasks((NewTask(b'"' + b"x" * 1000 + b'"'),) * 2)
    assert driver.refused(two, "r") == "overloaded"
    driver.push()
    driver.do(CancelTask("1"))
    driver.do(CancelTask("2"))
    driver.wait(DAY_MS)
    outcome = driver.do(two, "r")
    assert isinstance(outcome, TasksOutcome)
    assert outcome.changed == (True, True)


# Lists.


def test_lists_are_filtered_and_come_in_pages() -> None:
    driver = Driver()
    for number in range(12):
        driver.push(queue="ab"[number % 2], host=("", "web-1")[number % 3 == 0])
    driver.claims("a", limit=3)

    def ids(**filters: Any) -> list[str]:
        found, cursor = [], ""
        while True:
            page, following = driver.machine.list_tasks(limit=2, cursor=cursor, **filters)
            found += [task.id for task in page]
            if following is None:
                return found
            cursor = following

    assert ids() == [str(number) for number in range(1, 13)]
    assert ids(queue="b") == ["2", "4", "6", "8", "10", "12"]
    assert ids(state=TaskState.LEASED) == ["1", "3", "5"]
    assert ids(host="web-1") == ["1", "4", "7", "10"]
    assert ids(queue="a", state=TaskState.PENDING, host="web-1") == ["7"]
    assert ids(state=TaskState.DEAD) == []
    assert ids(queue="none") == []


def test_a_cursor_that_is_none_of_ours_is_refused() -> None:
    with pytest.raises(InvalidArgument):
        Driver().machine.list_tasks(cursor="x")


def test_stats_count_by_queue_and_state() -> None:
    driver = Driver()
    driver.push(queue="b")
    driver.wait(10)
    driver.push(queue="a")
    driver.push(queue="b")
    driver.claim("b")
    stats = driver.machine.queue_stats()
    assert list(stats) == ["a", "b"]
    assert (stats["b"].pending, stats["b"].leased) == (1, 1)
    assert stats["b"].oldest_pending_ms == driver.now_ms
    assert driver.machine.queue_stats("a") == {"a": stats["a"]}
    assert driver.machine.queue_stats("none")["none"].oldest_pending_ms is None
