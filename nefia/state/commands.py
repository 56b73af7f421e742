"""The changes that the log carries: every way in which the shared state can be altered.

All times are milliseconds of cluster time (`cluster_clock`). Payloads, results and labels are JSON
text in UTF-8 bytes exactly as the caller sent it, since msgpack holds neither 2**70 nor a lone
surrogate. Ids and tokens that need randomness are made by the leader before it proposes, so that
applying a command is a pure function of the state.

These are msgspec's classes and not attrs', because every node makes or decodes one for every
change: a batch decodes in a tenth of the time that hooks in Python take.
"""

from __future__ import annotations

from typing import TypeAlias

from msgspec import Struct
from msgspec.structs import force_setattr

DEFAULT_QUEUE = "default"
OWN_QUEUE_PREFIX = "_"
"""Of the names of nefia's own queues: only who asks for such a queue by its name gets of it."""
DEFAULT_MAX_ATTEMPTS = 3
DEFAULT_LEASE_MS = 30_000
DEFAULT_RETENTION_MS = 24 * 3_600_000
DEFAULT_SESSION_GC_MS = 5 * 60_000


class _Part(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """Encoded as the list of its fields. Strict: what has the wrong type is not decoded.

    A field is added only at the end of a class and with a default, behind a feature level.
    """


class _Command(_Part, frozen=True):
    """Its tag is the first item of the list. A tag is never given to another command."""


def in_order(labels: dict[str, str]) -> dict[str, str]:
    """The same labels ordered by name: equal labels are then equal byte for byte."""
    return dict(sorted(labels.items()))


class OpenSession(_Command, frozen=True, tag=1):
    """`id` is 16 random hex digits, made by the leader. Lifetimes come from its configuration."""

    id: str
    host: str
    root: str
    cwd: str
    user: str
    shell: str
    labels: dict[str, str]
    ttl_ms: int
    idle_timeout_ms: int

    def __post_init__(self) -> None:
        force_setattr(self, "labels", in_order(self.labels))


class TouchSession(_Command, frozen=True, tag=2):
    id: str


class UpdateSession(_Command, frozen=True, tag=3):
    """None leaves a field as it is; `labels` replaces all labels."""

    id: str
    cwd: str | None
    labels: dict[str, str] | None

    def __post_init__(self) -> None:
        if self.labels is not None:
            force_setattr(self, "labels", in_order(self.labels))


class CloseSession(_Command, frozen=True, tag=4):
    id: str


class NewTask(_Part, frozen=True):
    """One task of a push. `key`, if not empty, makes the push idempotent within its queue."""

    payload: bytes
    queue: str = DEFAULT_QUEUE
    host: str = ""
    priority: int = 0
    delay_ms: int = 0
    key: str = ""
    max_attempts: int = DEFAULT_MAX_ATTEMPTS


class PushTasks(_Command, frozen=True, tag=5):
    tasks: tuple[NewTask, ...]


class ClaimTasks(_Command, frozen=True, tag=6):
    """Lease up to `limit` of the best ready tasks to `worker`.

    `queue` "" means any queue's and `host` "" any host's. `wait` says that the caller goes on
    waiting if nothing is ready: an empty answer is then not the outcome of its request.
    """

    worker: str
    queue: str
    host: str
    lease_ms: int
    limit: int
    wait: bool = False


class ExtendTask(_Command, frozen=True, tag=7):
    id: str
    token: int
    lease_ms: int


class AckTask(_Command, frozen=True, tag=8):
    id: str
    token: int
    result: bytes


class FailTask(_Command, frozen=True, tag=9):
    """`retry_after_ms` None: the machine's own backoff."""

    id: str
    token: int
    error: str
    retry_after_ms: int | None


class CancelTask(_Command, frozen=True, tag=10):
    id: str


class RetryTask(_Command, frozen=True, tag=11):
    """Give a dead or cancelled task another life."""

    id: str


class AdvanceTime(_Command, frozen=True, tag=12):
    """Nothing but the time it is stamped with: expiries and garbage collection happen."""


class SetRetention(_Command, frozen=True, tag=14):
    """How long finished tasks are kept, and how often expired sessions are collected.

    Of the leader's own, from its configuration; it needs the feature level `RETENTION`.
    """

    task_retention_ms: int
    session_gc_ms: int


DEFAULT_RETENTION = SetRetention(DEFAULT_RETENTION_MS, DEFAULT_SESSION_GC_MS)


class RecordEvent(_Command, frozen=True, tag=13):
    """An event for `history`, of the leader's own; it needs the feature level `HISTORY`.

    `term` is the leader's, `utc_ms` its wall clock's reading, `detail` a clause for people, and
    `reason` what the operator gave.
    """

    kind: str
    node_id: str
    term: int
    detail: str
    reason: str
    utc_ms: int


class BeginRestore(_Command, frozen=True, tag=15):
    """The state is going to be replaced by that of a saved snapshot (`restoring`, level `RESTORE`).

    `restore_id` is random; the rest is what `records.Counters` of the snapshot say.
    """

    restore_id: str
    time_ms: int
    last_task: int
    last_token: int
    ready_before_ms: int
    ready_before_task: int


class RestorePart(_Command, frozen=True, tag=16):
    """Some of its records, as lists in msgpack. `number` counts the parts from 0."""

    restore_id: str
    number: int
    sessions: bytes
    tasks: bytes


class EndRestore(_Command, frozen=True, tag=17):
    """That was all, `parts` of them. `first` is the smallest token of the epoch that begins.

    It is larger than any term or token that was ever given out, here or where the snapshot is
    from; the leader raises its term to that epoch too.
    """

    restore_id: str
    parts: int
    first: int


class AcquireTenure(_Command, frozen=True, tag=18):
    """The leader of `term` is about to run the services (SPEC 9); it needs the level `SERVICES`."""

    term: int


class ReleaseTenure(_Command, frozen=True, tag=19):
    """The leader of `term` has stopped all its services, so its successor need not wait."""

    term: int


class Remember(_Command, frozen=True, tag=20):
    """Something that a service has learned and its successor elsewhere should know.

    A WireGuard peer's endpoint, for instance. An empty `value` forgets it.
    """

    service: str
    key: str
    value: str


class ApplicationCommand(_Command, frozen=True, tag=21):
    """`body` is for the state machine called `machine`, which a program has brought (embedding).

    It needs the feature level `APPLICATION`.
    """

    machine: str
    body: bytes


Command: TypeAlias = (
    OpenSession
    | TouchSession
    | UpdateSession
    | CloseSession
    | PushTasks
    | ClaimTasks
    | ExtendTask
    | AckTask
    | FailTask
    | CancelTask
    | RetryTask
    | AdvanceTime
    | RecordEvent
    | SetRetention
    | BeginRestore
    | RestorePart
    | EndRestore
    | AcquireTenure
    | ReleaseTenure
    | Remember
    | ApplicationCommand
)


class Change(_Part, frozen=True):
    """One command. `time_ms`: the leader's cluster time when it was proposed.

    A `request_id` (empty: none) makes a repetition within an hour answer as the first did.
    """

    time_ms: int
    request_id: str
    command: Command


class Batch(_Part, frozen=True):
    """What the bytes of a command entry hold: changes that were proposed together, in order.

    They are committed together, so that what an entry costs is paid once for all of them.
    """

    changes: tuple[Change, ...]
