"""The state machine: push, claim and acknowledge, with a small and a large state behind it."""

from __future__ import annotations

import pytest

from benchmarks.micro.samples import PAYLOAD, Benchmark
from nefia.state.commands import AckTask, CancelTask, NewTask, PushTasks, TouchSession
from nefia.state.machine import Machine
from nefia.state.records import Task, TasksOutcome
from tests.state.state_driver import Driver

pytestmark = pytest.mark.benchmark(group="machine")

STATES = (0, 50_000)
"""Tasks that are there already."""
FILLED_AT_ONCE = 1_000


@pytest.fixture(scope="module", params=STATES)
def driver(request: pytest.FixtureRequest) -> Driver:
    full = Driver()
    for _ in range(0, request.param, FILLED_AT_ONCE):
        full.do(PushTasks((NewTask(PAYLOAD, queue="full"),) * FILLED_AT_ONCE))
    return full


def test_push_and_cancel(benchmark: Benchmark, driver: Driver) -> None:
    def push_and_cancel() -> Task:
        task = driver.push(PAYLOAD)
        return driver.task(CancelTask(task.id))

    assert benchmark(push_and_cancel).state == "cancelled"


def test_push_claim_and_acknowledge(benchmark: Benchmark, driver: Driver) -> None:
    def cycle() -> Task:
        pushed = driver.push(PAYLOAD)
        claimed = driver.claim("default")
        assert claimed.id == pushed.id
        return driver.task(AckTask(claimed.id, claimed.token, b"null"))

    assert benchmark(cycle).state == "done"


def test_push_a_hundred_at_once(benchmark: Benchmark, driver: Driver) -> None:
    command = PushTasks((NewTask(PAYLOAD),) * 100)
    assert isinstance(benchmark(driver.do, command), TasksOutcome)


def test_touch_a_session(benchmark: Benchmark, driver: Driver) -> None:
    session = driver.open(id=f"{driver.machine.applied_index:016x}")
    assert benchmark(driver.session, TouchSession(session.id)).id == session.id


def test_digest_after_one_change(benchmark: Benchmark, driver: Driver) -> None:
    driver.machine.digest()

    def change_and_digest() -> str:
        driver.push(PAYLOAD)
        return driver.machine.digest()

    assert len(benchmark(change_and_digest)) == 64


def test_begin_a_snapshot(benchmark: Benchmark, driver: Driver) -> None:
    """The call that stops the loop; the records are written out in slices afterwards."""
    machine: Machine = driver.machine
    assert next(benchmark(machine.snapshot_records))[0] == "counters"
