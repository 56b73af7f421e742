"""Request ids (SPEC 4): "repeating one within an hour of cluster time answers with the first
outcome and changes nothing, also after a leader change and a snapshot".
"""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from nefia.state import requests
from nefia.state.commands import (
    AckTask,
    AdvanceTime,
    CancelTask,
    ClaimTasks,
    NewTask,
    OpenSession,
    PushTasks,
    TouchSession,
    UpdateSession,
)
from nefia.state.records import Outcome, TasksOutcome
from tests.state.state_driver import HOUR_MS, NEW_SESSION, Driver

PUSH = PushTasks((NewTask(b"1"),))
CLAIM = ClaimTasks("worker", "default", "", 30_000, 1)


def twice(driver: Driver, first: OpenSession, second: OpenSession) -> tuple[Outcome, Outcome]:
    return driver.do(first, "r"), driver.do(second, "r")


def test_a_repetition_answers_as_the_first_did_and_changes_nothing() -> None:
    driver = Driver()
    first = driver.do(PUSH, "r")
    driver.wait(HOUR_MS - 1)
    assert driver.do(PUSH, "r") == first
    assert driver.machine.queue_stats()["default"].pending == 1


def test_after_an_hour_the_id_is_new_again() -> None:
    driver = Driver()
    driver.do(PUSH, "r")
    driver.wait(HOUR_MS)
    assert driver.push(request_id="r").id == "2"


def test_the_answer_is_the_first_one_even_if_the_task_has_moved_on() -> None:
    """Else a late worker would be handed the token of whoever has the task now."""
    driver = Driver()
    driver.do(PUSH)
    first = driver.do(CLAIM, "r")
    driver.wait(30_000)
    driver.claim()
    assert driver.do(CLAIM, "r") == first


def test_the_same_id_with_other_content_is_a_conflict() -> None:
    driver = Driver()
    driver.do(PUSH, "r")
    assert driver.refused(PushTasks((NewTask(b"2"),)), "r") == "conflict"
    assert driver.refused(CLAIM, "r") == "conflict"
    assert driver.refused(CancelTask("1"), "r") == "conflict"
    assert driver.machine.queue_stats()["default"].pending == 1


def test_what_the_leader_makes_up_is_not_content() -> None:
    again = replace(NEW_SESSION, id="f" * 16, ttl_ms=1, idle_timeout_ms=1)
    first, second = twice(Driver(), NEW_SESSION, again)
    assert first == second
    first, second = twice(Driver(), NEW_SESSION, replace(again, cwd="/tmp"))
    assert first != second


def test_the_order_of_labels_is_not_content() -> None:
    one = replace(NEW_SESSION, labels={"a": "1", "b": "2"})
    other = replace(NEW_SESSION, labels={"b": "2", "a": "1"})
    first, second = twice(Driver(), one, other)
    assert first == second


def test_no_labels_are_not_the_same_as_unchanged_labels() -> None:
    driver = Driver()
    session = driver.open()
    driver.do(UpdateSession(session.id, None, None), "r")
    assert driver.refused(UpdateSession(session.id, None, {}), "r") == "conflict"


def test_refusals_are_outcomes_too() -> None:
    driver = Driver()
    assert driver.refused(CancelTask("1"), "r") == "not_found"
    driver.do(PUSH)
    assert driver.refused(CancelTask("1"), "r") == "not_found"


def test_a_claim_that_found_nothing_is_remembered_unless_it_waits() -> None:
    driver = Driver()
    waiting = replace(CLAIM, wait=True)
    nothing = TasksOutcome((), ())
    assert driver.do(CLAIM, "final") == nothing
    assert driver.do(waiting, "waiting") == nothing
    driver.do(PUSH)
    assert driver.do(CLAIM, "final") == nothing
    first = driver.do(waiting, "waiting")
    assert first != nothing
    assert driver.do(replace(waiting, wait=False), "waiting") == first


def test_beyond_the_limit_new_ids_are_overloaded_until_old_ones_are_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(requests, "MAX_REQUESTS", 2)
    driver = Driver()
    first = driver.do(PUSH, "r1")
    driver.do(PUSH, "r2")
    assert driver.refused(PUSH, "r3") == "overloaded"
    assert driver.do(PUSH, "r1") == first
    assert driver.machine.queue_stats()["default"].pending == 2
    driver.do(PUSH)
    driver.wait(HOUR_MS)
    assert driver.push(request_id="r3").id == "4"


def test_forgetting_is_bounded_and_an_overdue_id_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "MAX_EXPIRIES_PER_APPLY", 1)
    driver = Driver()
    for number in range(3):
        driver.do(PUSH, f"r{number}")
    driver.wait(HOUR_MS)
    assert driver.push(request_id="r2").id == "4"
    assert driver.push(request_id="r2").id == "4"
    driver.do(AdvanceTime())
    assert driver.machine.next_expiry_ms() == driver.now_ms + HOUR_MS


def test_outcomes_survive_a_snapshot_and_the_tasks_they_speak_of() -> None:
    driver = Driver()
    driver.wait(1)
    driver.push(b'"payload"')
    claimed = driver.claim()
    ack = AckTask(claimed.id, claimed.token, b'"result"')
    done = driver.do(ack)
    driver.wait(24 * HOUR_MS - 1)
    pushed_again = PushTasks((NewTask(b'"payload"'),))
    remembered = driver.do(pushed_again, "push")
    assert driver.do(CancelTask(claimed.id), "cancel") != done
    for _ in range(2):
        machine = driver.restored()
        assert machine.digest() == driver.machine.digest()
        driver.machine = machine
        assert driver.do(pushed_again, "push") == remembered
        driver.wait(1)
        driver.do(AdvanceTime())


def test_a_snapshot_does_not_repeat_payloads_and_results() -> None:
    driver = Driver()
    payload, result = b'"' + b"p" * 1000 + b'"', b'"' + b"r" * 1000 + b'"'
    driver.do(PushTasks((NewTask(payload, key="k"),)), "push")
    claimed = driver.claim()
    driver.do(AckTask(claimed.id, claimed.token, result), "ack")
    text = repr(list(driver.machine.snapshot_records()))
    assert text.count("p" * 1000) == 1
    assert text.count("r" * 1000) == 1


def test_a_task_that_is_as_its_outcome_left_it_is_in_memory_once() -> None:
    """After a restart too: with a request id for each push, all else would be there twice."""
    driver = Driver()
    driver.task(PUSH, "push")
    for _ in range(2):
        assert driver.task(PUSH, "push") is driver.machine.get_task("1")
        driver.machine = driver.restored()


def test_an_outcome_keeps_its_payload_when_its_task_has_gone() -> None:
    driver = Driver()
    driver.push(b'"payload"', key="k")
    driver.do(CancelTask("1"))
    driver.wait(24 * HOUR_MS - 1)
    push = PushTasks((NewTask(b'"other"', key="k"),))
    first = driver.do(push, "r")
    driver.wait(1)
    driver.do(AdvanceTime())
    assert driver.machine.list_tasks() == ((), None)
    driver.machine = driver.restored()
    assert driver.do(push, "r") == first


def test_sessions_are_remembered_likewise() -> None:
    driver = Driver()
    session = driver.open()
    driver.wait(5)
    first = driver.do(TouchSession(session.id), "r")
    driver.wait(5)
    assert driver.do(TouchSession(session.id), "r") == first
    assert driver.machine.get_session(session.id).last_used_ms == driver.now_ms - 5
