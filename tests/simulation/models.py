"""What nefia promises of sessions and of the queue, one operation after the other (SPEC 4, 8).

The models know no clock. What only time can decide, whether a lease has run out or a delay is over,
is left open from the first moment at which it may have happened; nothing else is. Lifetimes of
hours are not modelled: sessions, finished tasks and request ids stay.

A history must hold all operations on what it is about, by whomever. The queue's ids and tokens are
then consecutive, and a change that was applied twice leaves a gap that nothing explains.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Generic, Self, TypeAlias, TypeVar

from attrs import evolve, field, frozen
from immutables import Map

from nefia.state.commands import DEFAULT_LEASE_MS, DEFAULT_MAX_ATTEMPTS, DEFAULT_QUEUE
from nefia.units import format_duration, parse_duration
from tests.simulation.history import Json, Operation, canonical, repeated_requests

CLOCK_TOLERANCE = 0.03
"""By how much of its length a lease or delay may seem too short: the nodes' clocks differ."""

DEFAULT_LEASE = format_duration(DEFAULT_LEASE_MS / 1000)

REFUSALS = ("not_found", "conflict", "lease_lost")
"""What the state itself may answer. Any other error says that nothing was done."""

READS = ("session_get", "queue_get")
NOT_MODELLED = ("queue_cancel", "queue_retry")
SEVERAL = frozenset({"tasks", "limit"})
NOT_CONTENT = ("request_id", "forward", "consistency", "wait")

Answer: TypeAlias = object
"""What a model says of an answer: a refusal's code, or values that can be compared and hashed."""

Requests: TypeAlias = Map[str, tuple[str, Answer]]
"""By request id: what was asked, and what it was answered."""


@frozen
class Remembers:
    """What a state has at least."""

    requests: Requests = field(factory=Map)


S = TypeVar("S", bound=Remembers)
Outcome: TypeAlias = tuple[S, Answer]


def judged(history: Iterable[Operation], actions: Collection[str]) -> list[Operation]:
    """Those of `actions` that promise anything: no local reads, and nothing that was not done."""
    return [
        operation
        for operation in history
        if operation.op in actions
        and operation.args.get("consistency") != "local"
        and operation.refusal in (None, *REFUSALS)
        and not (operation.pending and operation.op in READS)
    ]


@frozen
class _Model(Generic[S]):
    """Answers requests, and repeated ones as the first time. `repeated`: see `knowing`."""

    repeated: frozenset[str] = frozenset()

    def _perform(self, state: S, operation: Operation) -> Iterable[Outcome[S]]:
        """Each way in which it may go. Of several with one answer only the first counts."""
        raise NotImplementedError

    def _shown(self, result: Json) -> Answer:
        raise NotImplementedError

    def step(self, state: S, operation: Operation) -> Collection[S]:
        outcomes: dict[Answer, S] = {}
        for after, answer in self._answers(state, operation):
            outcomes.setdefault(answer, after)
        if operation.pending:
            return list(outcomes.values())
        answer = operation.refusal or self._shown(operation.result)
        return [outcomes[answer]] if answer in outcomes else []

    def _answers(self, state: S, operation: Operation) -> Iterator[Outcome[S]]:
        request = operation.args.get("request_id")
        if request not in self.repeated:
            for after, answer in self._perform(state, operation):
                if not (operation.pending and answer in REFUSALS):  # Nobody can tell.
                    yield after, answer
            return
        args = {name: arg for name, arg in operation.args.items() if name not in NOT_CONTENT}
        content = canonical([operation.op, args])
        if request in state.requests:
            first, answer = state.requests[request]
            yield state, answer if first == content else "conflict"
            return
        for after, answer in self._perform(state, operation):
            requests = after.requests.set(request, (content, answer))
            yield evolve(after, requests=requests), answer

    def knowing(self, operations: Sequence[Operation]) -> Self:
        return evolve(self, repeated=repeated_requests(operations))

    def helps(self, pending: Operation, following: Sequence[Operation]) -> bool:
        return True


# Sessions: one register for each id.


@frozen
class Session:
    host: str
    root: str
    cwd: str
    user: str
    shell: str
    labels: str

    @classmethod
    def of(cls, fields: Mapping[str, Json]) -> Session:
        """From an answer or from the parameters of `session_open`."""
        return cls(
            host=fields["host"],
            root=fields.get("root", ""),
            cwd=fields.get("cwd", ""),
            user=fields.get("user", ""),
            shell=fields.get("shell", ""),
            labels=canonical(fields.get("labels", {})),
        )


@frozen
class SessionState(Remembers):
    """Of one id, which is given out once. `session` is None before it is opened and once closed."""

    session: Session | None = None
    opened: bool = False


@frozen
class SessionModel(_Model[SessionState]):
    """`session_open`, `_get`, `_touch`, `_update` and `_close`, with whole ids, without times."""

    initial = SessionState()

    def partitions(self, history: Sequence[Operation]) -> dict[str, list[Operation]]:
        """By id. An open of unknown outcome goes wherever it may have been the one."""
        parts: dict[str, list[Operation]] = {}
        opened: dict[str, str] = {}
        unknown = []
        for operation in judged(history, ("session_open", *ON_A_SESSION)):
            if operation.op != "session_open":
                parts.setdefault(operation.args["id"], []).append(operation)
            elif operation.pending:
                unknown.append(operation)
            elif operation.refusal is None:
                session_id = operation.result["session"]["id"]
                parts.setdefault(session_id, []).append(operation)
                opened[session_id] = operation.args.get("request_id", "")
        by_request = {request: session_id for session_id, request in opened.items() if request}
        for operation in unknown:
            known = by_request.get(operation.args.get("request_id", ""))
            for session_id in [known] if known else parts.keys() - opened.keys():
                parts[session_id].append(operation)
        return {f"session {session_id}": part for session_id, part in parts.items()}

    def _perform(
        self, state: SessionState, operation: Operation
    ) -> Iterator[Outcome[SessionState]]:
        if operation.op == "session_open":
            if not state.opened:
                session = Session.of(operation.args)
                yield evolve(state, session=session, opened=True), session
        elif state.session is None:
            yield state, "not_found"
        else:
            yield ON_A_SESSION[operation.op](state, state.session, operation.args)

    def _shown(self, result: Json) -> Session:
        return Session.of(result["session"])


Args: TypeAlias = Mapping[str, Json]


def _use_session(state: SessionState, session: Session, _: Args) -> Outcome[SessionState]:
    return state, session


def _update_session(state: SessionState, session: Session, args: Args) -> Outcome[SessionState]:
    cwd, labels = args.get("cwd"), args.get("labels")
    session = evolve(
        session,
        cwd=session.cwd if cwd is None else cwd,
        labels=session.labels if labels is None else canonical(labels),
    )
    return evolve(state, session=session), session


def _close_session(state: SessionState, session: Session, _: Args) -> Outcome[SessionState]:
    return evolve(state, session=None), session


ON_A_SESSION: dict[str, Callable[[SessionState, Session, Args], Outcome[SessionState]]] = {
    "session_get": _use_session,
    "session_touch": _use_session,
    "session_update": _update_session,
    "session_close": _close_session,
}


# The queue, all tasks together: ids, tokens and the order of claims concern all of them.


@frozen
class NewTask:
    """What never changes of a task."""

    queue: str
    host: str
    priority: int
    key: str
    max_attempts: int
    payload: str

    @classmethod
    def of(cls, fields: Mapping[str, Json]) -> NewTask:
        """From an answer or from the parameters of `queue_push`."""
        return cls(
            queue=fields.get("queue", DEFAULT_QUEUE),
            host=fields.get("host", ""),
            priority=fields.get("priority", 0),
            key=fields.get("key", ""),
            max_attempts=fields.get("max_attempts", DEFAULT_MAX_ATTEMPTS),
            payload=canonical(fields.get("payload")),
        )


@frozen(cache_hash=True)
class Shown:
    """A task as far as answers and model both know it."""

    number: int
    new: NewTask
    state: str = "pending"
    attempt: int = 0
    worker: str = ""
    token: int = 0
    result: str = "null"

    @classmethod
    def of(cls, fields: Mapping[str, Json]) -> Shown:
        return cls(
            number=int(fields["id"]),
            new=NewTask.of(fields),
            state=fields["state"],
            attempt=fields["attempt"],
            worker=fields["worker"],
            token=fields["token"],
            result=canonical(fields["result"]),
        )


@frozen(cache_hash=True)
class Task:
    """`ready_from`: when its delay may be over at the earliest, None if it has none.

    `lease_to`: when its newest lease may run out at the earliest, None once its worker has
    answered. It stays when the lease has run out, so that a late worker is told `lease_lost`.
    """

    shown: Shown
    ready_from: float | None = None
    lease_to: float | None = None

    @property
    def rank(self) -> tuple[int, int]:
        return -self.shown.new.priority, self.shown.number

    @property
    def surely_ready(self) -> bool:
        return self.shown.state == "pending" and self.ready_from is None


@frozen(cache_hash=True)
class QueueState(Remembers):
    """Task n is `tasks[n - 1]`."""

    tasks: tuple[Task, ...] = ()
    last_token: int = 0

    def find(self, task_id: str) -> Task | None:
        known = task_id.isdecimal() and 0 < int(task_id) <= len(self.tasks)
        return self.tasks[int(task_id) - 1] if known else None

    def put(self, task: Task) -> QueueState:
        at = task.shown.number - 1
        return evolve(self, tasks=(*self.tasks[:at], task, *self.tasks[at + 1 :]))


def _task_of(operation: Operation) -> Mapping[str, Json] | None:
    """The task in its answer."""
    if operation.pending or operation.refusal is not None:
        return None
    return operation.result["task"]  # type: ignore[no-any-return]


def _earliest_end(operation: Operation, seconds: float) -> float:
    """When so long a time from `operation` on may be over at the earliest."""
    return operation.call + seconds * (1 - CLOCK_TOLERANCE)


def _earliest_lease_end(operation: Operation) -> float:
    return _earliest_end(operation, parse_duration(operation.args.get("lease") or DEFAULT_LEASE))


def _with_age(task: Task, operation: Operation) -> Iterator[Task]:
    """The task, and what it may have become without anybody's doing."""
    yield task
    shown, lease_to = task.shown, task.lease_to
    if shown.state == "leased" and lease_to is not None and lease_to <= operation.latest:
        state = "dead" if shown.attempt >= shown.new.max_attempts else "pending"
        yield evolve(task, shown=evolve(shown, state=state))


@frozen
class QueueModel(_Model[QueueState]):
    """`queue_push`, `_claim`, `_extend`, `_ack`, `_fail` and `_get` of one task at a time.

    What pending operations have done need not be guessed where an answer anywhere in the history
    tells: `foreseen_tasks`, what the task of a number is; `foreseen_claims`, which task and worker
    a token is for; `answered_claims`, the request id (or "") of the claim that was told a token.
    """

    foreseen_tasks: Mapping[int, NewTask] = field(factory=dict)
    foreseen_claims: Mapping[int, tuple[int, str]] = field(factory=dict)
    answered_claims: Mapping[int, str] = field(factory=dict)

    @property
    def initial(self) -> QueueState:
        return QueueState()

    def partitions(self, history: Sequence[Operation]) -> dict[str, list[Operation]]:
        for each in history:
            if each.op in NOT_MODELLED or (each.op in QUEUE_ACTIONS and SEVERAL & each.args.keys()):
                raise ValueError(f"this is not modelled: {each.to_line()}")
        return {"queue": judged(history, QUEUE_ACTIONS)}

    def knowing(self, operations: Sequence[Operation]) -> QueueModel:
        tasks: dict[int, NewTask] = {}
        claims: dict[int, tuple[int, str]] = {}
        answered: dict[int, str] = {}
        for operation in operations:
            if (task := _task_of(operation)) is not None:
                number = int(task["id"])
                tasks.setdefault(number, NewTask.of(task))
                claims.setdefault(task["token"], (number, task["worker"]))
                if operation.op == "queue_claim":
                    answered.setdefault(task["token"], operation.args.get("request_id", ""))
        return QueueModel(repeated_requests(operations), tasks, claims, answered)

    def helps(self, pending: Operation, following: Sequence[Operation]) -> bool:
        """An answer to a claim matters for its task alone, a failure for all later claims too."""
        if pending.op in ("queue_push", "queue_claim"):
            return True
        request = pending.args.get("request_id")
        if request in self.repeated and any(
            each.args.get("request_id") == request for each in following
        ):
            return True
        if pending.op == "queue_fail" and any(each.op == "queue_claim" for each in following):
            return True
        return any(pending.args["id"] in _named(each) for each in following)

    def _perform(self, state: QueueState, operation: Operation) -> Iterator[Outcome[QueueState]]:
        return QUEUE_ACTIONS[operation.op](self, state, operation)

    def _shown(self, result: Json) -> Answer:
        task = result["task"]
        return None if task is None else Shown.of(task), result.get("changed")

    def push(self, state: QueueState, operation: Operation) -> Iterator[Outcome[QueueState]]:
        new = NewTask.of(operation.args)
        for holder in state.tasks if new.key else ():
            if (holder.shown.new.queue, holder.shown.new.key) == (new.queue, new.key):
                for task in _with_age(holder, operation):
                    yield state.put(task), (task.shown, False)
                return
        number = len(state.tasks) + 1
        if self.foreseen_tasks.get(number, new) == new:
            seconds = parse_duration(operation.args.get("delay", "0s"))
            ready_from = _earliest_end(operation, seconds) if seconds else None
            task = Task(Shown(number, new), ready_from)
            yield state.put(task), (task.shown, True)

    def claim(self, state: QueueState, operation: Operation) -> Iterator[Outcome[QueueState]]:
        """Nobody but a task of which it is not sure may come before one that surely is ready."""
        args, token = operation.args, state.last_token + 1
        worker, lease_to = args["worker"], _earliest_lease_end(operation)
        wanted = [task for task in state.tasks if _is_wanted(task.shown.new, args)]
        best = min((task.rank for task in wanted if task.surely_ready), default=None)
        if best is None:
            yield state, (None, None)
        told = self.answered_claims.get(token)
        if operation.pending and told is not None and told != args.get("request_id"):
            return
        foreseen = self.foreseen_claims.get(token)
        if foreseen is not None:
            wanted = [task for task in wanted if (task.shown.number, worker) == foreseen]
        for candidate in wanted:
            if best is not None and candidate.rank > best:
                continue
            for task in _with_age(candidate, operation):
                ready_from = task.ready_from or 0.0
                if task.shown.state == "pending" and ready_from <= operation.latest:
                    shown = evolve(
                        task.shown,
                        state="leased",
                        attempt=task.shown.attempt + 1,
                        worker=worker,
                        token=token,
                    )
                    leased = state.put(Task(shown, None, lease_to))
                    yield evolve(leased, last_token=token), (shown, None)

    def get(self, state: QueueState, operation: Operation) -> Iterator[Outcome[QueueState]]:
        found = state.find(operation.args["id"])
        if found is None:
            yield state, "not_found"
        else:
            for task in _with_age(found, operation):
                yield state.put(task), (task.shown, None)

    def answer_claim(
        self, state: QueueState, operation: Operation
    ) -> Iterator[Outcome[QueueState]]:
        found = state.find(operation.args["id"])
        if found is None:
            yield state, "not_found"
            return
        for task in _with_age(found, operation):
            if operation.args["token"] != task.shown.token or task.lease_to is None:
                yield state, "conflict"
            elif task.shown.state != "leased":
                yield state.put(task), "lease_lost"
            else:
                task = ON_A_LEASE[operation.op](task, operation)
                yield state.put(task), (task.shown, None)


def _named(operation: Operation) -> tuple[str, str]:
    """The ids of tasks in its answer and in its parameters."""
    task = _task_of(operation) or {}
    return task.get("id", ""), operation.args.get("id", "")


def _is_wanted(new: NewTask, args: Args) -> bool:
    queue, host = args.get("queue", ""), args.get("host", "")
    return queue in ("", new.queue) and host in ("", new.host)


def _extend(task: Task, operation: Operation) -> Task:
    assert task.lease_to is not None
    return evolve(task, lease_to=max(task.lease_to, _earliest_lease_end(operation)))


def _ack(task: Task, operation: Operation) -> Task:
    result = canonical(operation.args.get("result"))
    return Task(evolve(task.shown, state="done", result=result))


def _fail(task: Task, operation: Operation) -> Task:
    """Without `retry_after` the backoff is the machine's; it may be over at any time."""
    shown = task.shown
    if shown.attempt >= shown.new.max_attempts:
        return Task(evolve(shown, state="dead"))
    seconds = parse_duration(operation.args.get("retry_after") or "0s")
    return Task(evolve(shown, state="pending"), ready_from=_earliest_end(operation, seconds))


ON_A_LEASE: dict[str, Callable[[Task, Operation], Task]] = {
    "queue_extend": _extend,
    "queue_ack": _ack,
    "queue_fail": _fail,
}

QUEUE_ACTIONS: dict[
    str, Callable[[QueueModel, QueueState, Operation], Iterator[Outcome[QueueState]]]
] = {
    "queue_push": QueueModel.push,
    "queue_claim": QueueModel.claim,
    "queue_get": QueueModel.get,
    **dict.fromkeys(ON_A_LEASE, QueueModel.answer_claim),
}
