"""One example, or a few, of every record of the state, for the fixtures of its encodings."""

from __future__ import annotations

from typing import Any

from nefia.state.records import (
    ApplicationOutcome,
    ApplicationPart,
    ApplicationState,
    Counters,
    Event,
    Memory,
    Outcome,
    Record,
    Refusal,
    Request,
    Session,
    SessionOutcome,
    Task,
    TasksOutcome,
    TaskState,
    TimeOutcome,
)

SESSION = Session(
    id="0011aabbccddeeff",
    host="web-1",
    root="/",
    cwd="/srv",
    user="root",
    shell="sh",
    labels={"env": "prod", "": "é"},
    created_ms=5,
    last_used_ms=70_000,
    ttl_end_ms=3_600_005,
    idle_timeout_ms=60_000,
)


def task(number: int, state: TaskState, **other: Any) -> Task:
    fields: dict[str, Any] = {
        "queue": "mail",
        "host": "",
        "payload": b'{"to": 1}',
        "priority": -5,
        "run_at_ms": 1_000,
        "attempt": 1,
        "max_attempts": 3,
        "key": "once",
        "worker": "w-1",
        "token": 2**41,
        "lease_expires_ms": 31_000,
        "result": b"",
        "error": "",
        "created_ms": 1_000,
        "updated_ms": 1_500,
        "finished_ms": 0,
    }
    return Task(number=number, state=state, **fields | other)


OUTCOMES: tuple[Outcome, ...] = (
    SessionOutcome(SESSION),
    TasksOutcome((task(7, TaskState.LEASED),), (True,)),
    TasksOutcome((), ()),
    TimeOutcome(),
    Refusal("conflict", "Task 7 is done already."),
    ApplicationOutcome(b"\x00\xff"),
)

RECORDS: tuple[Record, ...] = (
    Counters(90, 80_000, 12, 2**41, 80_001, 3, 3_600_000, 60_000, 2, True),
    SESSION,
    *(task(number, state) for number, state in enumerate(TaskState, 1)),
    *(Request(f"r-{n}", b"\x01" * 16, 3_680_000, each) for n, each in enumerate(OUTCOMES)),
    Event(3, 9, 2, "elected", "node-1", "it timed out", "", 500, 1_790_000_000_000),
    Memory("wg0", "key=", "192.0.2.7:51820", 700),
    ApplicationState("counter", 12, b"\x02" * 32),
    ApplicationPart(b"\x00\xff", True),
    ApplicationPart(b""),
)
