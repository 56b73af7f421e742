"""Drives a `Machine` as a leader would: consecutive entries, stamped with a time that is set."""

from __future__ import annotations

from typing import Any

from attrs import define, field
from msgspec.structs import replace

from nefia.state.application import Host, hosted
from nefia.state.commands import Change, ClaimTasks, Command, NewTask, OpenSession, PushTasks
from nefia.state.machine import Machine
from nefia.state.records import Outcome, Refusal, Session, SessionOutcome, Task, TasksOutcome

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS

NEW_SESSION = OpenSession(
    id="0123456789abcdef",
    host="web-1",
    root="/",
    cwd="/root",
    user="root",
    shell="/bin/sh",
    labels={},
    ttl_ms=DAY_MS,
    idle_timeout_ms=30 * 60_000,
)


@define
class Driver:
    """`host`: of the program whose machine is in this one, if any."""

    machine: Machine = field(factory=Machine)
    now_ms: int = 1_000_000
    host: Host | None = None

    @classmethod
    def of(cls, host: Host) -> Driver:
        return cls(Machine(application=hosted(host)), host=host)

    def do(self, command: Command, request_id: str = "") -> Outcome:
        index = self.machine.applied_index + 1
        return self.machine.apply(index, [Change(self.now_ms, request_id, command)])[0]

    def refused(self, command: Command, request_id: str = "") -> str:
        outcome = self.do(command, request_id)
        assert isinstance(outcome, Refusal), outcome
        return outcome.code

    def task(self, command: Command, request_id: str = "") -> Task:
        outcome = self.do(command, request_id)
        assert isinstance(outcome, TasksOutcome), outcome
        assert len(outcome.tasks) == 1, outcome
        return outcome.tasks[0]

    def session(self, command: Command, request_id: str = "") -> Session:
        outcome = self.do(command, request_id)
        assert isinstance(outcome, SessionOutcome), outcome
        return outcome.session

    def push(self, payload: bytes = b"1", request_id: str = "", **fields: Any) -> Task:
        new = replace(NewTask(payload), **fields)
        return self.task(PushTasks((new,)), request_id)

    def claims(
        self, queue: str = "", host: str = "", limit: int = 1, lease_ms: int = 30_000
    ) -> list[Task]:
        outcome = self.do(ClaimTasks("worker", queue, host, lease_ms, limit))
        assert isinstance(outcome, TasksOutcome), outcome
        return list(outcome.tasks)

    def claim(self, queue: str = "", host: str = "", lease_ms: int = 30_000) -> Task:
        (task,) = self.claims(queue, host, lease_ms=lease_ms)
        return task

    def open(self, **fields: Any) -> Session:
        return self.session(replace(NEW_SESSION, **fields))

    def wait(self, milliseconds: int) -> None:
        self.now_ms += milliseconds

    def restored(self) -> Machine:
        return Machine.from_records(self.machine.snapshot_records(), self.host)
