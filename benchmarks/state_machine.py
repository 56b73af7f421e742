"""What a change and a question cost the state machine, by the number of tasks that it holds.

`python -m benchmarks.state_machine [--sizes 1000 10000 100000 1000000]` prints a table of
microseconds: the least median of a few rounds, of processor time, since the machine is shared.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import count, islice

from nefia.state.commands import (
    AckTask,
    AdvanceTime,
    CancelTask,
    Change,
    ClaimTasks,
    Command,
    ExtendTask,
    FailTask,
    NewTask,
    OpenSession,
    PushTasks,
    TouchSession,
)
from nefia.state.machine import Machine
from nefia.state.records import Session, SessionOutcome, Task, TasksOutcome, TaskState

SIZES = (1_000, 10_000, 100_000, 1_000_000)
ROUNDS = 5
SAMPLES = 100
QUEUES = [f"queue-{number}" for number in range(8)]
PAYLOAD_BYTES = 256
LEASE_MS = 30_000
LONG_MS = 20 * 3_600_000
"""Longer than a measurement's own changes move the time on."""


class Bench:
    """A machine with many tasks: three in five ready, and one each delayed, leased and done."""

    def __init__(self, size: int) -> None:
        self.machine = Machine()
        self.now_ms = 1_000_000_000
        self._size = size
        for start in range(0, size, 1000):
            self._fill(min(1000, size - start))

    def _fill(self, number: int) -> None:
        fifth = number // 5
        tasks = [self.task(n, "", LONG_MS if n < fifth else 0) for n in range(number)]
        self.do(PushTasks(tuple(tasks)))
        leased = self.tasks(ClaimTasks("worker", "", "", LONG_MS, 2 * fifth))
        for task in leased[:fifth]:
            self.do(AckTask(task.id, task.token, b"null"))

    def task(self, number: int, key: str = "", delay_ms: int = 0) -> NewTask:
        payload = b'"' + b"x" * (PAYLOAD_BYTES - 2) + b'"'
        host = f"host-{number % 100}" if number % 10 == 0 else ""
        return NewTask(payload, QUEUES[number % len(QUEUES)], host, number % 3, delay_ms, key)

    def do(self, command: Command, request_id: str = "") -> object:
        index = self.machine.applied_index + 1
        return self.machine.apply(index, [Change(self.now_ms, request_id, command)])[0]

    def tasks(self, command: Command) -> tuple[Task, ...]:
        outcome = self.do(command)
        assert isinstance(outcome, TasksOutcome), outcome
        return outcome.tasks

    def claimed(self) -> Task:
        self.do(PushTasks((self.task(0),)))
        (task,) = self.tasks(ClaimTasks("worker", QUEUES[0], "", LONG_MS, 1))
        return task

    def session(self) -> Session:
        self._opened = getattr(self, "_opened", 0) + 1
        outcome = self.do(
            OpenSession(f"{self._opened:016x}", "web", "/", "/", "root", "sh", {}, LONG_MS, LONG_MS)
        )
        assert isinstance(outcome, SessionOutcome), outcome
        return outcome.session


Step = Callable[[], object]
Steps = Callable[[Bench], Iterator[Step]]
"""Endless steps, each prepared before its time is taken."""


def push(bench: Bench) -> Iterator[Step]:
    for number in count():
        command = PushTasks((bench.task(number),))
        yield lambda: bench.do(command)  # noqa: B023


def push_under_a_request_id(bench: Bench) -> Iterator[Step]:
    for number in count():
        command = PushTasks((bench.task(number),))
        request_id = f"request-{bench.machine.applied_index}"
        yield lambda: bench.do(command, request_id)  # noqa: B023


def push_with_a_key(bench: Bench) -> Iterator[Step]:
    for number in count():
        key = f"{bench.machine.applied_index}-{number}"
        command = PushTasks((bench.task(number, key),))
        yield lambda: bench.do(command)  # noqa: B023


def push_delayed(bench: Bench) -> Iterator[Step]:
    for number in count():
        command = PushTasks((bench.task(number, "", LONG_MS - number),))
        yield lambda: bench.do(command)  # noqa: B023


def claim_of_a_queue(bench: Bench) -> Iterator[Step]:
    for number in count():
        bench.do(PushTasks((bench.task(number),)))
        command = ClaimTasks("worker", QUEUES[number % len(QUEUES)], "", LONG_MS, 1)
        yield lambda: bench.do(command)  # noqa: B023


def claim_of_any(bench: Bench) -> Iterator[Step]:
    command = ClaimTasks("worker", "", "", LONG_MS, 1)
    while True:
        bench.do(PushTasks((bench.task(0),)))
        yield lambda: bench.do(command)


def extend(bench: Bench) -> Iterator[Step]:
    while True:
        task = bench.claimed()
        command = ExtendTask(task.id, task.token, LONG_MS + 1)
        yield lambda: bench.do(command)  # noqa: B023


def ack(bench: Bench) -> Iterator[Step]:
    while True:
        task = bench.claimed()
        command = AckTask(task.id, task.token, b"null")
        yield lambda: bench.do(command)  # noqa: B023


def fail(bench: Bench) -> Iterator[Step]:
    while True:
        task = bench.claimed()
        command = FailTask(task.id, task.token, "no route", LONG_MS)
        yield lambda: bench.do(command)  # noqa: B023


def cancel(bench: Bench) -> Iterator[Step]:
    while True:
        (task,) = bench.tasks(PushTasks((bench.task(0),)))
        command = CancelTask(task.id)
        yield lambda: bench.do(command)  # noqa: B023


def lease_that_runs_out(bench: Bench) -> Iterator[Step]:
    while True:
        bench.do(PushTasks((bench.task(1),)))
        bench.tasks(ClaimTasks("worker", QUEUES[1], "", 1, 1))
        bench.now_ms += 1
        yield lambda: bench.do(AdvanceTime())


def delay_that_ends(bench: Bench) -> Iterator[Step]:
    while True:
        bench.do(PushTasks((bench.task(0, "", 1),)))
        bench.now_ms += 1
        yield lambda: bench.do(AdvanceTime())


def touch_of_a_session(bench: Bench) -> Iterator[Step]:
    command = TouchSession(bench.session().id)
    while True:
        yield lambda: bench.do(command)


def task_by_id(bench: Bench) -> Iterator[Step]:
    wanted = str(bench.claimed().number)
    while True:
        yield lambda: bench.machine.get_task(wanted)


def page_of_100(bench: Bench) -> Iterator[Step]:
    middle = str(bench.machine._queue.last_task // 2)
    while True:
        yield lambda: bench.machine.list_tasks(QUEUES[2], TaskState.DONE, "", 100, middle)


def stats(bench: Bench) -> Iterator[Step]:
    while True:
        yield bench.machine.queue_stats


def digest_after_a_change(bench: Bench) -> Iterator[Step]:
    bench.machine.digest()
    while True:
        bench.do(PushTasks((bench.task(0),)))
        yield bench.machine.digest


def snapshot_taken(bench: Bench) -> Iterator[Step]:
    while True:
        yield bench.machine.snapshot_records


def push_of_100_changes_in_an_entry(bench: Bench) -> Iterator[Step]:
    while True:
        pushes = [PushTasks((bench.task(number),)) for number in range(100)]
        changes = [Change(bench.now_ms, "", push) for push in pushes]
        yield lambda: bench.machine.apply(bench.machine.applied_index + 1, changes)  # noqa: B023


OPERATIONS: tuple[Steps, ...] = (
    push,
    push_under_a_request_id,
    push_with_a_key,
    push_delayed,
    claim_of_a_queue,
    claim_of_any,
    extend,
    ack,
    fail,
    cancel,
    lease_that_runs_out,
    delay_that_ends,
    touch_of_a_session,
    task_by_id,
    page_of_100,
    stats,
    digest_after_a_change,
    snapshot_taken,
    push_of_100_changes_in_an_entry,
)


def microseconds(bench: Bench, steps: Steps) -> float:
    medians = []
    for _ in range(ROUNDS):
        taken = []
        for step in islice(steps(bench), SAMPLES):
            began = time.thread_time_ns()
            step()
            taken.append(time.thread_time_ns() - began)
        medians.append(statistics.median(taken) / 1000)
    return min(medians)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    sizes = parser.parse_args().sizes
    gc.disable()  # as the daemon does for what is long-lived
    columns = []
    for size in sizes:
        bench = Bench(size)
        columns.append([microseconds(bench, steps) for steps in OPERATIONS])
        del bench
    print("| us, with so many tasks | " + " | ".join(f"{size:,}" for size in sizes) + " |")
    print("|---|" + "---|" * len(sizes))
    for number, steps in enumerate(OPERATIONS):
        cells = " | ".join(f"{column[number]:.1f}" for column in columns)
        print(f"| {steps.__name__.replace('_', ' ')} | {cells} |")


if __name__ == "__main__":
    main()
