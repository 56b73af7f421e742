"""What the replicated state consists of, and what changes answer. Frozen values.

These records are what a snapshot holds and what the digest stands for; everything else that the
state machine keeps is derived from them. Fields may only be added at the end and with a default
(see `nefia.wire`). All times are milliseconds of cluster time; 0 where there is no time yet.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypeAlias

from attrs import frozen
from msgspec import Struct
from msgspec.structs import force_setattr

from nefia.errors import BY_CODE, NefiaError
from nefia.state.commands import DEFAULT_RETENTION_MS, DEFAULT_SESSION_GC_MS, in_order

RECORD_OVERHEAD_BYTES = 2048
"""What a record counts besides its free text wherever bytes are bounded: names, ids, keys."""

MAX_JSON_BYTES_PER_CHARACTER = 6
"""A control character is `\\u0000` in JSON."""


class _Value(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """What the state is made of by the million. Like a command, encoded as the list of its fields.

    Without the collector: nothing here can be part of a cycle, and looking through a million
    tasks would stop the event loop for a tenth of a second.
    """


class Session(_Value, frozen=True):
    """`ttl_end_ms` is fixed when the session is opened; a use renews only the idle timeout."""

    id: str
    host: str
    root: str
    cwd: str
    user: str
    shell: str
    labels: dict[str, str]
    created_ms: int
    last_used_ms: int
    ttl_end_ms: int
    idle_timeout_ms: int

    def __post_init__(self) -> None:
        force_setattr(self, "labels", in_order(self.labels))

    @property
    def expires_ms(self) -> int:
        """From when on the session is gone, unless it is used before."""
        return min(self.ttl_end_ms, self.last_used_ms + self.idle_timeout_ms)

    @property
    def size_bytes(self) -> int:
        """No less than the session takes in an answer."""
        paths = len(self.root) + len(self.cwd) + len(self.shell)
        labels = sum(len(name) + len(text) for name, text in self.labels.items())
        return RECORD_OVERHEAD_BYTES + MAX_JSON_BYTES_PER_CHARACTER * (paths + labels)


class TaskState(StrEnum):
    PENDING = "pending"
    LEASED = "leased"
    DONE = "done"
    DEAD = "dead"
    CANCELLED = "cancelled"


_FINISHED = frozenset({TaskState.DONE, TaskState.DEAD, TaskState.CANCELLED})


class Task(_Value, frozen=True):
    """One task of a queue. `payload` and `result` are JSON text in UTF-8; b"" is no result yet.

    `worker`, `token` and `lease_expires_ms` are those of the newest claim. `lease_expires_ms` is
    0 if there was none or if its worker has answered or was overruled (ack, fail, cancel, retry);
    when a lease has only run out it stays, so that its late worker can be told what happened.
    `attempt` counts the claims of this life. `finished_ms`: when it became done, dead or cancelled.
    """

    number: int
    queue: str
    host: str
    payload: bytes
    priority: int
    run_at_ms: int
    attempt: int
    max_attempts: int
    key: str
    state: TaskState
    worker: str
    token: int
    lease_expires_ms: int
    result: bytes
    error: str
    created_ms: int
    updated_ms: int
    finished_ms: int

    @property
    def id(self) -> str:
        return str(self.number)

    @property
    def is_finished(self) -> bool:
        """Not what `finished_ms` says: cluster time begins at 0."""
        return self.state in _FINISHED

    @property
    def size_bytes(self) -> int:
        """No less than the task takes in an answer."""
        texts = len(self.payload) + len(self.result)
        return RECORD_OVERHEAD_BYTES + texts + MAX_JSON_BYTES_PER_CHARACTER * len(self.error)


@frozen
class QueueStats:
    """Tasks by state; when the oldest pending one was pushed, or None if nothing is pending.

    `ready` of the pending ones are ready, and `oldest_ready_ms` is since when the oldest of these
    has been, or None.
    """

    pending: int
    leased: int
    done: int
    dead: int
    cancelled: int
    oldest_pending_ms: int | None
    ready: int
    oldest_ready_ms: int | None


@frozen
class QueueRates:
    """By the minute, over the last minute, as far as this node has applied it (see `flow`).

    `failed`: attempts that failed or whose lease ran out.
    """

    pushed: float
    claimed: float
    completed: float
    failed: float


# Outcomes: what a change has come to. The tag, which is never given to another, comes first.


class SessionOutcome(_Value, frozen=True, tag=1):
    """The session as the change left it, or as it was when it was closed."""

    session: Session


class TasksOutcome(_Value, frozen=True, tag=2):
    """The tasks as the change left them, and of each whether it was altered or added."""

    tasks: tuple[Task, ...]
    changed: tuple[bool, ...]


class TimeOutcome(_Value, frozen=True, tag=3):
    """Time has passed, or something was recorded: nothing that has an answer."""


HINTS = {
    "not_found": "List what there is; what is finished or has expired is removed after a while.",
    "lease_lost": "Claim again; another worker may have the task by now.",
    "overloaded": "Try again later, under the same request id.",
}
"""What to do next, by the code of a refusal."""


class Refusal(_Value, frozen=True, tag=4):
    """Nothing was changed. `code` is one of nefia.errors, `message` whole sentences for people."""

    code: str
    message: str

    def to_error(self) -> NefiaError:
        return BY_CODE[self.code](self.message, changed=False, hint=HINTS.get(self.code, ""))


class ApplicationOutcome(_Value, frozen=True, tag=5):
    """What the program's own state machine has answered."""

    result: bytes


Outcome: TypeAlias = SessionOutcome | TasksOutcome | TimeOutcome | Refusal | ApplicationOutcome


class Request(_Value, frozen=True):
    """A request id that was used: what was asked under it, and what came of it."""

    id: str
    fingerprint: bytes
    expires_ms: int
    outcome: Outcome


@frozen
class Counters:
    """All of the state that is a single value.

    `time_ms` never decreases. `last_task` and `last_token` are the newest numbers given out, 0 at
    first. A pending task is ready if (its run_at_ms, its number) is before (`ready_before_ms`,
    `ready_before_task`); that pair never decreases. The next two: see `commands.SetRetention`.
    `tenure_term` is the newest term whose leader was to run the services, 0 if none ever was, and
    `tenure_held` whether it has not said since that it stopped them.
    """

    applied_index: int
    time_ms: int
    last_task: int
    last_token: int
    ready_before_ms: int
    ready_before_task: int
    task_retention_ms: int = DEFAULT_RETENTION_MS
    session_gc_ms: int = DEFAULT_SESSION_GC_MS
    tenure_term: int = 0
    tenure_held: bool = False


@frozen
class Memory:
    """`value` is what `service` has learned about `key`, at `time_ms`."""

    service: str
    key: str
    value: str
    time_ms: int


@frozen
class Event:
    """One line of the history. `number` grows by one with each; `index` is that of its entry.

    `kind` is "elected", "transfer" or another of a `commands.RecordEvent`, or one of the kinds of a
    configuration's `Note`. `time_ms` is cluster time, `utc_ms` the wall clock's as the leader of
    that time had it.
    """

    number: int
    index: int
    term: int
    kind: str
    node_id: str
    detail: str
    reason: str
    time_ms: int
    utc_ms: int

    @property
    def size_bytes(self) -> int:
        """No less than the event takes in an answer."""
        texts = len(self.detail) + len(self.reason)
        return RECORD_OVERHEAD_BYTES + MAX_JSON_BYTES_PER_CHARACTER * texts


@frozen
class ApplicationState:
    """What is known of the program's own state machine `machine` besides its state.

    `applied` of its commands have been performed. `chain` is a hash over all of them, with the
    times and answers: it stands for the machine in the digest.
    """

    machine: str
    applied: int
    chain: bytes


@frozen
class ApplicationPart:
    """A piece of the state of that machine. `more` of the same chunk follow if it is a long one."""

    data: bytes
    more: bool = False


Record: TypeAlias = (
    Counters | Session | Task | Request | Event | Memory | ApplicationState | ApplicationPart
)

KINDS: dict[str, type[Record]] = {
    "counters": Counters,
    "session": Session,
    "task": Task,
    "request": Request,
    "event": Event,
    "memory": Memory,
    "application": ApplicationState,
    "application_part": ApplicationPart,
}
"""What a snapshot calls its records."""
