"""The changes that the log carries: every way in which the shared state can be altered.

All times are milliseconds of cluster time (`cluster_clock`). Payloads, results and labels are JSON
text in UTF-8 bytes exactly as the caller sent it, since msgpack holds neither 2**70 nor a lone
surrogate. Ids and tokens that need randomness are made by the leader before it proposes, so that
applying a command is a pure function of the state.
"""

from __future__ import annotations

from typing import TypeAlias

from attrs import converters, field, frozen

DEFAULT_QUEUE = "default"
DEFAULT_MAX_ATTEMPTS = 3
DEFAULT_LEASE_MS = 30_000


def in_order(labels: dict[str, str]) -> dict[str, str]:
    """The same labels ordered by name: equal labels are then equal byte for byte."""
    return dict(sorted(labels.items()))


@frozen
class OpenSession:
    """`id` is 16 random hex digits, made by the leader. Lifetimes come from its configuration."""

    id: str
    host: str
    root: str
    cwd: str
    user: str
    shell: str
    labels: dict[str, str] = field(converter=in_order)
    ttl_ms: int
    idle_timeout_ms: int


@frozen
class TouchSession:
    id: str


@frozen
class UpdateSession:
    """None leaves a field as it is; `labels` replaces all labels."""

    id: str
    cwd: str | None
    labels: dict[str, str] | None = field(converter=converters.optional(in_order))


@frozen
class CloseSession:
    id: str


@frozen
class NewTask:
    """One task of a push. `key`, if not empty, makes the push idempotent within its queue."""

    payload: bytes
    queue: str = DEFAULT_QUEUE
    host: str = ""
    priority: int = 0
    delay_ms: int = 0
    key: str = ""
    max_attempts: int = DEFAULT_MAX_ATTEMPTS


@frozen
class PushTasks:
    tasks: tuple[NewTask, ...]


@frozen
class ClaimTasks:
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


@frozen
class ExtendTask:
    id: str
    token: int
    lease_ms: int


@frozen
class AckTask:
    id: str
    token: int
    result: bytes


@frozen
class FailTask:
    """`retry_after_ms` None: the machine's own backoff."""

    id: str
    token: int
    error: str
    retry_after_ms: int | None


@frozen
class CancelTask:
    id: str


@frozen
class RetryTask:
    """Give a dead or cancelled task another life."""

    id: str


@frozen
class AdvanceTime:
    """Nothing but the time it is stamped with: expiries and garbage collection happen."""


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
)


@frozen
class Change:
    """What the bytes of a command entry hold. `time_ms`: the leader's cluster time when proposed.

    A `request_id` (empty: none) makes a repetition within an hour answer as the first did.
    """

    time_ms: int
    request_id: str
    command: Command
