"""The outbox: done at least once, tried again, given to the next leader. On a clock that jumps."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from nefia.clock import TrioNodeClock
from nefia.config.reactor import AlertConfig
from nefia.errors import NefiaError, NoQuorum, NotLeader, OutcomeUnknown
from nefia.services.reactor.events import parse_event
from nefia.services.reactor.outbox import LEASE_SECONDS, WORKERS, Outbox
from nefia.services.reactor.performing import ActionFailed
from nefia.services.reactor.rules import OUTBOX_QUEUE, Order, Rules
from nefia.state.commands import AckTask, CancelTask, FailTask, PushTasks
from nefia.state.records import Task, TaskState
from tests.services.reactor.driving import EVENT, FakeNode, rule, until


def ordered(node: FakeNode, count: int = 1, max_attempts: int = 3) -> None:
    """So many alerts are in the outbox."""
    rules = Rules([rule(AlertConfig(max_attempts=max_attempts))])
    for number in range(count):
        tasks = rules.tasks(*parse_event(json.dumps(EVENT | {"id": str(number)})))
        node.driver.do(PushTasks(tasks))


class Performer:
    """Notes what it is given to do, then does what `act` says."""

    def __init__(self, act: Callable[[], Awaitable[dict[str, Any]]]) -> None:
        self.done: list[int] = []
        self.times: list[float] = []
        self._act = act

    async def __call__(self, order: Order, task: Task) -> dict[str, Any]:
        assert order.do == "alert"
        self.done.append(task.number)
        self.times.append(trio.current_time())
        return await self._act()


async def at_once() -> dict[str, Any]:
    return {"status": 200}


async def never() -> dict[str, Any]:
    await trio.sleep_forever()
    raise AssertionError


def begun(nursery: trio.Nursery, node: FakeNode, perform: Performer, worker: str = "n1") -> None:
    nursery.start_soon(Outbox(node, TrioNodeClock(), worker, perform).run)


def only(node: FakeNode) -> Task:
    [task] = node.tasks(OUTBOX_QUEUE)
    return task


async def test_what_is_ordered_is_done_and_acknowledged(autojump_clock: MockClock) -> None:
    node, perform = FakeNode(), Performer(at_once)
    ordered(node, 20)
    async with trio.open_nursery() as nursery:
        begun(nursery, node, perform)
        await until(lambda: {t.state for t in node.tasks(OUTBOX_QUEUE)} == {TaskState.DONE})
        nursery.cancel_scope.cancel()
    assert sorted(perform.done) == list(range(1, 21))
    assert {task.result for task in node.tasks(OUTBOX_QUEUE)} == {b'{"status":200}'}
    assert {task.worker for task in node.tasks(OUTBOX_QUEUE)} == {"n1"}


async def test_an_idle_outbox_changes_nothing(autojump_clock: MockClock) -> None:
    node = FakeNode()
    async with trio.open_nursery() as nursery:
        begun(nursery, node, Performer(at_once))
        await trio.sleep(50)
        nursery.cancel_scope.cancel()
    assert node.commands == []


async def test_what_fails_is_tried_again_later_and_is_dead_at_last(
    autojump_clock: MockClock,
) -> None:
    async def fail() -> dict[str, Any]:
        raise ActionFailed("no route")

    node, perform = FakeNode(), Performer(fail)
    ordered(node)
    with trio.fail_after(100):
        async with trio.open_nursery() as nursery:
            begun(nursery, node, perform)
            while only(node).state is not TaskState.DEAD:  # noqa: ASYNC110
                await trio.sleep(0.1)
            nursery.cancel_scope.cancel()
    assert len(perform.done) == 3
    assert perform.times[1] - perform.times[0] >= 0.5
    assert perform.times[2] - perform.times[1] >= 1.0
    assert only(node).error == "no route"


async def test_so_many_at_a_time(autojump_clock: MockClock) -> None:
    node, perform = FakeNode(), Performer(never)
    ordered(node, 3 * WORKERS)
    async with trio.open_nursery() as nursery:
        begun(nursery, node, perform)
        await trio.sleep(5)
        assert len(perform.done) == WORKERS
        nursery.cancel_scope.cancel()


async def test_a_long_action_keeps_its_task(autojump_clock: MockClock) -> None:
    async def long() -> dict[str, Any]:
        await trio.sleep(10 * LEASE_SECONDS)
        return {}

    node, perform = FakeNode(), Performer(long)
    ordered(node)
    async with trio.open_nursery() as nursery:
        begun(nursery, node, perform)
        begun(nursery, node, perform, "n2")
        with trio.fail_after(20 * LEASE_SECONDS):
            while only(node).state is not TaskState.DONE:  # noqa: ASYNC110
                await trio.sleep(0.1)
        nursery.cancel_scope.cancel()
    assert perform.done == [1]


async def test_a_task_that_was_cancelled_is_let_go(autojump_clock: MockClock) -> None:
    node, perform = FakeNode(), Performer(never)
    ordered(node, 1 + WORKERS)
    async with trio.open_nursery() as nursery:
        begun(nursery, node, perform)
        await until(lambda: len(perform.done) == WORKERS)
        node.driver.do(CancelTask("1"))
        await trio.sleep(LEASE_SECONDS / 2)
        assert len(perform.done) == WORKERS + 1, "its place was taken by the next"
        nursery.cancel_scope.cancel()


async def test_without_a_majority_an_action_ends_before_its_lease(
    autojump_clock: MockClock,
) -> None:
    """Another leader may perform it from then on."""
    ended: list[float] = []

    async def endless() -> dict[str, Any]:
        try:
            return await never()
        finally:
            ended.append(trio.current_time())

    node, perform = FakeNode(), Performer(endless)
    ordered(node)
    async with trio.open_nursery() as nursery:
        begun(nursery, node, perform)
        await until(lambda: perform.done)
        node.error = NoQuorum("no majority")
        await trio.sleep(2 * LEASE_SECONDS)
        nursery.cancel_scope.cancel()
    lease_began_ms = only(node).lease_expires_ms - LEASE_SECONDS * 1000
    assert ended[0] * 1000 + 1_000_000 < lease_began_ms + LEASE_SECONDS * 1000


@pytest.mark.parametrize("loses", [False, True])
async def test_an_answer_that_was_not_heard_is_repeated(
    loses: bool, autojump_clock: MockClock
) -> None:
    node = FakeNode(loses=loses)

    async def then_trouble() -> dict[str, Any]:
        node.error = OutcomeUnknown("no majority")
        return {}

    perform = Performer(then_trouble)
    ordered(node)
    async with trio.open_nursery() as nursery:
        begun(nursery, node, perform)
        await until(lambda: perform.done)
        await trio.sleep(2)
        node.error = None
        await trio.sleep(2)
        nursery.cancel_scope.cancel()
    assert only(node).state is TaskState.DONE
    assert perform.done == [1]


async def test_a_leader_that_stops_hands_back_what_it_does(autojump_clock: MockClock) -> None:
    node, first, second = FakeNode(), Performer(never), Performer(at_once)
    ordered(node)
    async with trio.open_nursery() as nursery:
        begun(nursery, node, first)
        await until(lambda: first.done)
        nursery.cancel_scope.cancel()
    assert isinstance(node.commands[-1], FailTask)
    stopped_at = trio.current_time()
    async with trio.open_nursery() as nursery:
        begun(nursery, node, second, "n2")
        await until(lambda: only(node).state is TaskState.DONE)
        nursery.cancel_scope.cancel()
    assert second.times[0] - stopped_at < 1


async def test_what_is_done_when_a_leader_stops_is_not_done_again(
    autojump_clock: MockClock,
) -> None:
    node = FakeNode()
    async with trio.open_nursery() as nursery:

        async def stop() -> dict[str, Any]:
            nursery.cancel_scope.cancel()
            return {}

        ordered(node)
        begun(nursery, node, Performer(stop))
    assert isinstance(node.commands[-1], AckTask)
    assert only(node).state is TaskState.DONE


@pytest.mark.parametrize("error", [NotLeader("n2 leads"), NoQuorum("nobody answers")])
async def test_a_leader_that_dies_leaves_it_to_the_next(
    error: NefiaError, autojump_clock: MockClock
) -> None:
    node, first, second = FakeNode(), Performer(never), Performer(at_once)
    ordered(node)
    async with trio.open_nursery() as nursery:
        begun(nursery, node, first)
        await until(lambda: first.done)
        node.error = error
        nursery.cancel_scope.cancel()
    node.error = None
    died_at = trio.current_time()
    async with trio.open_nursery() as nursery:
        begun(nursery, node, second, "n2")
        with trio.fail_after(2 * LEASE_SECONDS):
            while only(node).state is not TaskState.DONE:  # noqa: ASYNC110
                await trio.sleep(0.1)
        nursery.cancel_scope.cancel()
    assert second.times[0] - died_at <= LEASE_SECONDS + 1


async def test_what_is_no_order_is_no_disaster(autojump_clock: MockClock) -> None:
    node, perform = FakeNode(), Performer(at_once)
    node.driver.push(b'{"run": ["/bin/rm"]}', queue=OUTBOX_QUEUE, max_attempts=1)
    async with trio.open_nursery() as nursery:
        begun(nursery, node, perform)
        await until(lambda: only(node).state is TaskState.DEAD)
        nursery.cancel_scope.cancel()
    assert perform.done == []
    assert "no order" in only(node).error
