"""The one table of the admin API's actions and their parameters (SPEC 4).

`protocol` checks requests against it, and `reference` writes docs/admin-api.md from it.
"""

from __future__ import annotations

from typing import Annotated, Any

from attrs import evolve
from msgspec import Meta

from nefia.admin.decoding import Decoding
from nefia.admin.shapes import Action, Default, Form, Mode, Parameter, Shape
from nefia.admin.values import (
    BOOLEAN,
    INTEGER,
    JSON,
    LABELS,
    NAME,
    QUEUE,
    QUEUE_OR_ANY,
    TEXT,
    Kind,
    duration,
    one_of,
    shown,
    text_up_to,
    whole_number,
)
from nefia.errors import InvalidArgument
from nefia.state.commands import (
    DEFAULT_LEASE_MS,
    DEFAULT_MAX_ATTEMPTS,
    DEFAULT_QUEUE,
    AckTask,
    CancelTask,
    CloseSession,
    ExtendTask,
    FailTask,
    NewTask,
    PushTasks,
    RetryTask,
    TouchSession,
    UpdateSession,
)
from nefia.state.limits import MAX_CLAIM_TASKS, MAX_EVENTS, MAX_PAGE_RECORDS, MAX_REASON_CHARACTERS
from nefia.state.records import TaskState

DEFAULT_PAGE_RECORDS = 100
MAX_CLAIM_WAIT_MS = 3_600_000


TASK = Shape(
    (
        Parameter("payload", JSON, "What the worker gets, at most 256 KiB."),
        Parameter("queue", QUEUE, "Which queue.", default=DEFAULT_QUEUE),
        Parameter("host", TEXT, "The host that it is for, which claims can ask for.", default=""),
        Parameter("priority", INTEGER, "Higher goes first, then older.", default=0),
        Parameter("delay", duration(), "Not before so long from now.", default=0, key="delay_ms"),
        Parameter(
            "key",
            TEXT,
            "A second push under it, while the task lives and 24 h after, "
            "changes nothing and answers with the task.",
            default="",
        ),
        Parameter(
            "max_attempts", INTEGER, "Claims before it is dead.", default=DEFAULT_MAX_ATTEMPTS
        ),
    )
)
_TASK_FORM = Form(TASK.parameters, NewTask)
_TASK_DECODING = Decoding(_TASK_FORM)

TOPICS = ("role", "leader", "membership", "service", "queue", "session")
"""What can be watched."""


def _topics(name: str, value: Any) -> list[str]:
    if not isinstance(value, list) or not value:
        raise InvalidArgument(f'"{name}" must be a list of at least one of {", ".join(TOPICS)}')
    topic = one_of(*TOPICS)
    return [topic.check(f"{name}[{number}]", item) for number, item in enumerate(value)]


def _tasks(name: str, value: Any) -> tuple[NewTask, ...]:
    if not isinstance(value, list) or not value:
        raise InvalidArgument(f'"{name}" must be a list of at least one task')
    return tuple([_task(f"{name}[{number}]", item) for number, item in enumerate(value)])


def _task(name: str, value: Any) -> NewTask:
    if not isinstance(value, dict):
        raise InvalidArgument(f'"{name}" must be an object, not {shown(value)}')
    try:
        task: NewTask = _TASK_FORM.of(TASK.check(value))
    except InvalidArgument as error:
        raise InvalidArgument(f'in "{name}": {error.message}', hint=error.hint) from None
    return task


def _finish_tasks(_: str, decoded: list[Any]) -> tuple[NewTask, ...]:
    return tuple(map(_TASK_DECODING.make, decoded))


def _payload_or_tasks(raw: dict[str, Any]) -> None:
    if "tasks" not in raw:
        if "payload" not in raw:
            raise InvalidArgument('missing: "payload", or "tasks" for several')
    elif beside := sorted(TASK.known.keys() & raw.keys()):
        raise InvalidArgument(f'beside "tasks" there can be no "{beside[0]}": give it in each task')


def _page(what: str) -> tuple[Parameter, ...]:
    return (
        Parameter(
            "limit",
            whole_number(1, MAX_PAGE_RECORDS),
            f"{what} in a page, which ends early at 512 KiB.",
            default=DEFAULT_PAGE_RECORDS,
        ),
        Parameter("cursor", TEXT, "That of the page before, for the next.", default=""),
    )


_SERVICE = Parameter("name", NAME, "Which service.")

_TASKS = Parameter(
    "tasks",
    Kind(
        "list of objects",
        _tasks,
        Annotated[list[_TASK_DECODING.kind], Meta(min_length=1)],  # type: ignore[name-defined]
        finish=_finish_tasks,
    ),
    "Several tasks at once, each an object of the parameters above, instead of them.",
)
_PUSH = tuple(
    evolve(p, default=Default.ABSENT) if p.default is Default.REQUIRED else p
    for p in (*TASK.parameters, _TASKS)
)
_REASON = Parameter(
    "reason", text_up_to(MAX_REASON_CHARACTERS), "For the history and the log.", default=""
)
_DRY_RUN = Parameter(
    "dry_run",
    BOOLEAN,
    "Change nothing: check, and answer with `before` and `after`, each with `voters`, `learners`, "
    "`quorum`, `answering` and `failure_tolerance`.",
    default=False,
)
_SESSION_ID = Parameter("id", NAME, "The session's, or a unique prefix of 8 or more.")
_TASK_ID = Parameter("id", NAME, "The task's.")
_TOKEN = Parameter("token", INTEGER, "That of the claim.")
_LEASE = Parameter(
    "lease",
    duration(),
    "How long the worker has, from now.",
    default=DEFAULT_LEASE_MS,
    key="lease_ms",
)

ACTIONS: dict[str, Action] = {
    action.name: action
    for action in (
        Action(
            "status",
            Mode.NODE,
            "How this node sees itself and its cluster.",
            "the object of `nefia cluster status -o json`",
        ),
        Action(
            "members",
            Mode.NODE,
            "The members, as the leader sees them if there is one.",
            '`{"members": [{"id", "address", "state", "local", "voter", "reachable", ...}]}`',
        ),
        Action(
            "init",
            Mode.NODE,
            "Create a cluster with this node as its only member.",
            '`{"cluster_id"}`',
        ),
        Action(
            "add_peer",
            Mode.CHANGE,
            "Add a node as a learner, and a voter once it is up to date.",
            '`{"changed": bool, "member": {...}}`',
            (
                Parameter("id", NAME, "The new node's id."),
                Parameter("addr", NAME, "Where other nodes dial it, as `host:port`."),
                Parameter("wait", BOOLEAN, "Answer when it is a voter.", default=True),
                Parameter(
                    "preflight", BOOLEAN, "Dial it first and check that it fits.", default=True
                ),
                _DRY_RUN,
                _REASON,
            ),
        ),
        Action(
            "remove_peer",
            Mode.CHANGE,
            "Remove a member.",
            '`{"changed": bool}`',
            (
                Parameter("id", NAME, "The member's id."),
                Parameter(
                    "force",
                    BOOLEAN,
                    "Even if the cluster would not survive another failure then.",
                    default=False,
                ),
                _DRY_RUN,
                _REASON,
            ),
        ),
        Action(
            "transfer_leader",
            Mode.CHANGE,
            "Hand leadership over.",
            '`{"leader_id", "term", "phases"}`',
            (
                Parameter(
                    "to", NAME, "The next leader; else the one most up to date.", default=None
                ),
                _REASON,
            ),
        ),
        Action(
            "history",
            Mode.READ,
            "What has become of the cluster: elections, transfers, changes of members, recoveries.",
            '`{"events": [{"number", "at", "kind", "node_id", "term", "index", "detail", '
            '"reason"}]}`, the oldest first',
            (
                Parameter(
                    "limit",
                    whole_number(1, MAX_EVENTS),
                    f"The newest so many; {MAX_EVENTS} are kept.",
                    default=DEFAULT_PAGE_RECORDS,
                ),
            ),
        ),
        Action(
            "snapshot",
            Mode.NODE,
            "Take a snapshot of what this node has applied, and let the log before it go.",
            '`{"index", "term", "bytes"}`',
        ),
        Action(
            "service_list",
            Mode.NODE,
            "The leader's services, as they are on this node.",
            '`{"services": [{"name", "kind", "state", "since_ms", "term", "error", "failures"}]}`',
        ),
        Action(
            "service_restart",
            Mode.CHANGE,
            "Stop a service of the leader and start it again.",
            "`{}`, before that has come about",
            (_SERVICE,),
        ),
        Action(
            "service_reload",
            Mode.CHANGE,
            "Have a service of the leader take up its files anew, without an interruption.",
            "`{}`",
            (_SERVICE,),
        ),
        Action(
            "snapshot_restore",
            Mode.CHANGE,
            "A step of `nefia snapshot restore`, which makes them; the last one changes the state.",
            '`{"changed": bool}`',
            (Parameter("step", TEXT, "An encoded command, in base64."),),
        ),
        Action(
            "session_open",
            Mode.CHANGE,
            "Open a session.",
            '`{"session": {...}}`',
            (
                Parameter("host", NAME, "The host that it is on."),
                Parameter("root", TEXT, "Its root directory there.", default=""),
                Parameter("cwd", TEXT, "Its working directory.", default=""),
                Parameter("user", TEXT, "Who is logged in.", default=""),
                Parameter("shell", TEXT, "What is run.", default=""),
                Parameter("labels", LABELS, "Free for use.", default={}),
            ),
        ),
        Action("session_get", Mode.READ, "One session.", '`{"session": {...}}`', (_SESSION_ID,)),
        Action(
            "session_list",
            Mode.READ,
            "Sessions in the order of their ids.",
            '`{"sessions": [...], "cursor"}`',
            (Parameter("host", TEXT, "Only those on this host.", default=""), *_page("Sessions")),
        ),
        Action(
            "session_touch",
            Mode.CHANGE,
            "Renew the idle timeout.",
            '`{"session": {...}}`',
            (_SESSION_ID,),
            made=TouchSession,
        ),
        Action(
            "session_update",
            Mode.CHANGE,
            "Change a session and renew its idle timeout.",
            '`{"session": {...}}`',
            (
                _SESSION_ID,
                Parameter("cwd", TEXT, "Its working directory.", default=None),
                Parameter("labels", LABELS, "Replaces all labels.", default=None),
            ),
            made=UpdateSession,
        ),
        Action(
            "session_close",
            Mode.CHANGE,
            "Close a session.",
            '`{"session": {...}}`',
            (_SESSION_ID,),
            made=CloseSession,
        ),
        Action(
            "queue_push",
            Mode.CHANGE,
            "Add a task, or several.",
            '`{"task": {...}, "changed": bool}`, for several `{"tasks": [...], "changed": bool}`, '
            "with only `id` and `state` of each task if it were more than 512 KiB",
            _PUSH,
            forms=(_TASK_FORM, Form((_TASKS,), PushTasks)),
            rule=_payload_or_tasks,
        ),
        Action(
            "queue_claim",
            Mode.CHANGE,
            "Lease the best ready task to a worker.",
            '`{"task": {...} or null}`, with `limit` `{"tasks": [...]}`',
            (
                Parameter("worker", NAME, "Who will do it."),
                Parameter("queue", QUEUE_OR_ANY, "Only of this queue; empty: of any.", default=""),
                Parameter(
                    "host",
                    TEXT,
                    "Only tasks for exactly this host; empty: all tasks, whatever their host.",
                    default="",
                ),
                _LEASE,
                Parameter(
                    "wait",
                    duration(MAX_CLAIM_WAIT_MS),
                    "For a task to become ready. When this node stops leading, the wait ends with "
                    "`not_leader` or `no_leader`; with `forward` it goes on with the next leader.",
                    default=0,
                    key="wait_ms",
                ),
                Parameter(
                    "limit", whole_number(1, MAX_CLAIM_TASKS), "Tasks at once.", default=None
                ),
            ),
        ),
        Action(
            "queue_extend",
            Mode.CHANGE,
            "Prolong a lease.",
            '`{"task"}`',
            (_TASK_ID, _TOKEN, _LEASE),
            made=ExtendTask,
        ),
        Action(
            "queue_ack",
            Mode.CHANGE,
            "A task is done.",
            '`{"task"}`',
            (
                _TASK_ID,
                _TOKEN,
                Parameter("result", JSON, "What came of it, at most 256 KiB.", default=b"null"),
            ),
            made=AckTask,
        ),
        Action(
            "queue_fail",
            Mode.CHANGE,
            "A task has failed; it is tried again or is dead.",
            '`{"task"}`',
            (
                _TASK_ID,
                _TOKEN,
                Parameter("error", TEXT, "Why.", default=""),
                Parameter(
                    "retry_after",
                    duration(),
                    "Else an exponential backoff.",
                    default=None,
                    key="retry_after_ms",
                ),
            ),
            made=FailTask,
        ),
        Action(
            "queue_cancel",
            Mode.CHANGE,
            "Cancel a task.",
            '`{"task"}`',
            (_TASK_ID,),
            made=CancelTask,
        ),
        Action(
            "queue_retry",
            Mode.CHANGE,
            "Give a dead or cancelled task another life.",
            '`{"task"}`',
            (_TASK_ID,),
            made=RetryTask,
        ),
        Action(
            "apply",
            Mode.CHANGE,
            "A command for the state machine of the program that embeds this node; a daemon has "
            "none, and answers `other_machine`.",
            '`{"result"}`, in base64',
            (
                Parameter("machine", NAME, "The machine's name."),
                Parameter("command", TEXT, "Any bytes, in base64, at most 512 KiB of them."),
            ),
        ),
        Action("queue_get", Mode.READ, "One task.", '`{"task"}`', (_TASK_ID,)),
        Action(
            "queue_list",
            Mode.READ,
            "Tasks in the order of their ids.",
            '`{"tasks", "cursor"}`',
            (
                Parameter("queue", TEXT, "Only this queue's.", default=""),
                Parameter("state", one_of(*TaskState), "Only those in this state.", default=""),
                Parameter("host", TEXT, "Only this host's.", default=""),
                *_page("Tasks"),
            ),
        ),
        Action(
            "queue_stats",
            Mode.READ,
            "How many tasks are in which state; of the pending ones, how many are `ready` and "
            "since when the oldest has been; and what came and went in the last minute of cluster "
            "time, as far as this node has applied it.",
            '`{"queues": {name: {"pending", "leased", "done", "dead", "cancelled", '
            '"oldest_pending_at", "ready", "oldest_ready_at", "per_minute": {"pushed", "claimed", '
            '"done", "failed"}}}}`',
            (Parameter("queue", TEXT, "Only this queue.", default=""),),
        ),
        Action(
            "watch",
            Mode.NODE,
            "What happens on this node, as it happens: its role, who leads, the members, services, "
            "and every change of a task or session that it applies; a follower applies them too.",
            'a stream of `{"seq", "event", ...}` lines until the client closes; see "Watching"',
            (
                Parameter(
                    "events",
                    Kind("list of strings", _topics),
                    f"Of which kinds: {', '.join(f'`{topic}`' for topic in TOPICS)}.",
                    default=TOPICS,
                ),
            ),
        ),
    )
}
