"""What those who watch are told of each change (SPEC 4, `watch`)."""

from __future__ import annotations

from nefia.state.commands import (
    AckTask,
    AdvanceTime,
    CancelTask,
    CloseSession,
    ExtendTask,
    FailTask,
    RetryTask,
    SetRetention,
    TouchSession,
    UpdateSession,
)
from nefia.state.happenings import MAX_ERROR_CHARACTERS, Happening
from nefia.state.records import Session, Task
from tests.state.state_driver import Driver

LEASE_MS = 1_000


def watched(driver: Driver) -> list[Happening]:
    seen: list[Happening] = []
    driver.machine.watch(seen.append)
    return seen


def test_the_life_of_a_task() -> None:
    driver = Driver()
    driver.do(SetRetention(60_000, 60_000))
    seen = watched(driver)
    driver.push(b'"secret"', max_attempts=3)
    task = driver.claim(lease_ms=LEASE_MS)
    driver.do(ExtendTask(task.id, task.token, 2 * LEASE_MS))
    driver.do(FailTask(task.id, task.token, "no " * 100, 0))
    driver.claim(lease_ms=LEASE_MS)
    driver.wait(LEASE_MS)
    task = driver.claim(lease_ms=LEASE_MS)
    driver.do(FailTask(task.id, task.token, "", None))
    driver.do(RetryTask(task.id))
    driver.do(CancelTask(task.id))
    driver.do(CancelTask(task.id))  # changes nothing
    driver.do(RetryTask(task.id))
    task = driver.claim(lease_ms=LEASE_MS)
    driver.do(AckTask(task.id, task.token, b'"secret"'))
    driver.do(AckTask(task.id, task.token, b'"secret"'))  # refused
    driver.wait(60_000)
    driver.do(AdvanceTime())
    assert [happening.change for happening in seen] == [
        "pushed", "claimed", "extended", "failed", "claimed", "lease_lost", "claimed", "dead",
        "retried", "cancelled", "retried", "claimed", "done", "removed",
    ]  # fmt: skip
    assert "secret" not in repr(seen)
    failed = seen[3].record
    assert isinstance(failed, Task)
    assert len(failed.error) == MAX_ERROR_CHARACTERS


def test_a_task_that_dies_of_its_lease() -> None:
    driver = Driver()
    driver.push(max_attempts=1)
    driver.claim(lease_ms=LEASE_MS)
    seen = watched(driver)
    driver.wait(LEASE_MS)
    driver.do(AdvanceTime())
    (happening,) = seen
    assert isinstance(happening.record, Task)
    assert (happening.change, happening.record.state.value) == ("lease_lost", "dead")


def test_the_life_of_a_session() -> None:
    driver = Driver(now_ms=0)
    driver.do(SetRetention(60_000, 60_000))
    seen = watched(driver)
    session = driver.open(idle_timeout_ms=1_000)
    driver.do(TouchSession(session.id))
    driver.do(UpdateSession(session.id, "/tmp", None))
    driver.do(CloseSession(session.id))
    driver.open(id="f" * 16, idle_timeout_ms=1_000)
    driver.wait(60_000)
    driver.do(AdvanceTime())
    assert [happening.change for happening in seen] == [
        "opened", "used", "updated", "closed", "opened", "expired",
    ]  # fmt: skip
    assert all(isinstance(happening.record, Session) for happening in seen)


def test_nobody_is_told_any_more() -> None:
    driver = Driver()
    seen = watched(driver)
    driver.machine.watch(None)
    driver.push()
    driver.open()
    assert seen == []
