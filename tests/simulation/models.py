"""What nefia promises of sessions and of the queue, one operation after the other (SPEC 4, 8).

The models know no clock. What only time can decide, whether a lease has run out or a delay is over,
is left open from the first moment at which it may have happened; nothing else is. Lifetimes of
hours are not modelled: sessions, finished tasks and request ids stay.

A history must hold all operations on what it is about, by whomever. The queue's ids and tokens are
then consecutive, and a change that was applied twice leaves a gap that nothing explains.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Generic, Protocol, Self, TypeAlias, TypeVar

from attrs import evolve, field, frozen
from immutables import Map

from nefia.state.commands import DEFAULT_LEASE_MS, DEFAULT_MAX_ATTEMPTS, DEFAULT_QUEUE
from nefia.units import parse_duration
from tests.simulation.history import Json, Operation

CLOCK_TOLERANCE = 0.03
"""By how much of its length a lease or delay may seem too short: the nodes' clocks differ."""

REFUSALS = ("not_found", "conflict", "lease_lost")
"""What the state itself may answer. Any other error says that nothing was done."""

READS = ("session_get", "queue_get")
NOT_CONTENT = ("request_id", "forward", "consistency", "wait")

Answer: TypeAlias = object
"""What a model says of an answer: a refusal's code, or values that can be compared and hashed."""

Requests: TypeAlias = Map[str, tuple[str, Answer]]
"""By request id: what was asked, and what it was answered."""


class Remembers(Protocol):
    @property
    def requests(self) -> Requests: ...


S = TypeVar("S", bound=Remembers)
Outcome: TypeAlias = tuple[S, Answer]


def canonical(value: Json) -> str:
    return json.dumps(value, sort_keys=True)


def refusal_of(operation: Operation) -> str | None:
    result = operation.result
    return result.get("error") if isinstance(result, dict) else None


def judged(history: Iterable[Operation], actions: Collection[str]) -> list[Operation]:
    """Those of `actions` that promise anything: no local reads, and nothing that was not done."""
    return [
        operation
        for operation in history
        if operation.op in actions
        and operation.args.get("consistency") != "local"
        and refusal_of(operation) in (None, *REFUSALS)
        and not (operation.pending and operation.op in READS)
    ]


class _Model(Generic[S]):
    """Answers requests, and repeated ones as the first time."""

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
        answer = refusal_of(operation) or self._shown(operation.result)
        return [outcomes[answer]] if answer in outcomes else []

    def _answers(self, state: S, operation: Operation) -> Iterator[Outcome[S]]:
        request = operation.args.get("request_id")
        if not request:
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
            yield evolve(after, requests=requests), answer  # type: ignore[type-var]

    def knowing(self, operations: Sequence[Operation]) -> Self:
        return self

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
        texts = [fields.get(name, "") for name in ("host", "root", "cwd", "user", "shell")]
        return cls(*texts, labels=canonical(fields.get("labels", {})))


@frozen
class SessionState:
    """Of one id, which is given out once. `session` is None before it is opened and once closed."""

    session: Session | None = None
    opened: bool = False
    requests: Requests = Map()


class SessionModel(_Model[SessionState]):
    """`session_open`, `_get`, `_touch`, `_update` and `_close`, with whole ids, without times."""

    initial = SessionState()

    def partitions(self, history: Sequence[Operation]) -> dict[str, list[Operation]]:
        """By id. An open of unknown outcome goes wherever it may have been the one."""
        parts: dict[str, list[Operation]] = {}
        opened: dict[str, str] = {}
        unknown = []
        for operation in judged(history, SESSION_ACTIONS):
            if operation.op != "session_open":
                parts.setdefault(operation.args["id"], []).append(operation)
            elif operation.pending:
                unknown.append(operation)
            elif refusal_of(operation) is None:
                session_id = operation.result["session"]["id"]
                parts.setdefault(session_id, []).append(operation)
                opened[session_id] = operation.args.get("request_id", "")
        by_request = {request: session_id for session_id, request in opened.items() if request}
        for operation in unknown:
            known = by_request.get(operation.args.get("request_id", ""))
            for session_id in [known] if known else parts.keys() - opened.keys():
                parts[session_id].append(operation)
        return {f"session {session_id}": part for session_id, part in parts.items()}

    def _perform(self, state: SessionState, operation: Operation) -> Iterator[Outcome[SessionState]]:
        if operation.op == "session_open":
            if not state.opened:
                session = Session.of(operation.args)
                yield evolve(state, session=session, opened=True), session
        elif state.session is None:
            yield state, "not_found"
        else:
            yield SESSION_ACTIONS[operation.op](state, state.session, operation.args)

    def _shown(self, result: Json) -> Session:
        return Session.of(result["session"])


Args: TypeAlias = Mapping[str, Json]


def _use_session(state: SessionState, session: Session, _: Args) -> Outcome[SessionState]:
    return state, session


def _update_session(state: SessionState, session: Session, args: Args) -> Outcome[SessionState]:
    labels = canonical(args["labels"]) if "labels" in args else session.labels
    session = evolve(session, cwd=args.get("cwd", session.cwd), labels=labels)
    return evolve(state, session=session), session


def _close_session(state: SessionState, session: Session, _: Args) -> Outcome[SessionState]:
    return evolve(state, session=None), session


SESSION_ACTIONS: dict[
    str, Callable[[SessionState, Session, Args], Outcome[SessionState]]
] = {
    "session_open": _use_session,
    "session_get": _use_session,
    "session_touch": _use_session,
    "session_update": _update_session,
    "session_close": _close_session,
}
