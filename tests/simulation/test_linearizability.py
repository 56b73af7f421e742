"""The checker and its models: histories that are legal, histories that are not, random ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from random import Random
from typing import cast

import pytest
import trio
from attrs import define, evolve, field
from hypothesis import given, settings
from hypothesis import strategies as st

from nefia.admin.actions import Actions, NodeApi, SessionLifetimes
from nefia.admin.protocol import Request, encode_answer, encode_error, parse_request
from nefia.errors import NefiaError
from nefia.state.commands import Change, Command
from nefia.state.machine import Machine
from nefia.state.records import Outcome
from tests.simulation.history import Json, Operation, Recorder, from_lines, to_lines
from tests.simulation.linearizability import Linearizable, Undecided, Violation, check
from tests.simulation.models import QueueModel, SessionModel

DAY_MS = 86_400_000
S1 = "00000000000000a1"


def done(client: str, op: str, args: Json, times: tuple[float, float], result: Json) -> Operation:
    call, returned = times
    return Operation(client, op, args, call, result, returned)


def unknown(client: str, op: str, args: Json, call: float) -> Operation:
    return Operation(client, op, args, call, None, None)


def session(**fields: Json) -> Json:
    return {"session": {"id": S1, "host": "web-1", "labels": {}} | fields}


def opened(client: str = "a", times: tuple[float, float] = (0, 1)) -> Operation:
    return done(client, "session_open", {"host": "web-1"}, times, session())


def updated(cwd: str, times: tuple[float, float], client: str = "a", **more: Json) -> Operation:
    args = {"id": S1, "cwd": cwd} | more
    return done(client, "session_update", args, times, session(cwd=cwd))


def seen(cwd: str, times: tuple[float, float], client: str = "b") -> Operation:
    return done(client, "session_get", {"id": S1}, times, session(cwd=cwd))


def task(number: int = 1, *, changed: bool | None = None, **fields: Json) -> Json:
    whole = {
        "id": str(number),
        "queue": "default",
        "payload": f"job {number}",
        "state": "pending",
        "attempt": 0,
        "worker": "",
        "token": 0,
        "result": None,
    }
    answer = {"task": whole | fields}
    return answer if changed is None else answer | {"changed": changed}


def leased(number: int, token: int, worker: str = "w", attempt: int = 1) -> Json:
    return task(number, state="leased", attempt=attempt, worker=worker, token=token)


def finished(number: int, token: int, attempt: int = 1, worker: str = "w") -> Json:
    return task(number, state="done", attempt=attempt, worker=worker, token=token)


def pushed(number: int, times: tuple[float, float], **more: Json) -> Operation:
    args = {"payload": f"job {number}"} | more
    shown = {"key": more["key"]} if "key" in more else {}
    return done("p", "queue_push", args, times, task(number, changed=True, **shown))


def claimed(times: tuple[float, float], answer: Json, lease: str = "10s") -> Operation:
    worker = answer["task"]["worker"] if answer["task"] else "w"
    return done(worker, "queue_claim", {"worker": worker, "lease": lease}, times, answer)


def acked(number: int, token: int, times: tuple[float, float], answer: Json) -> Operation:
    return done("w", "queue_ack", {"id": str(number), "token": token}, times, answer)


def got(number: int, times: tuple[float, float], answer: Json) -> Operation:
    return done("g", "queue_get", {"id": str(number)}, times, answer)


NOTHING: Json = {"task": None}
REFUSED = {code: {"error": code} for code in ("conflict", "lease_lost", "not_found", "not_leader")}
ACK = {"id": "1", "token": 1}
RETRIED = {"payload": "job 1", "request_id": "r"}
CLAIM = {"worker": "w", "lease": "10s"}

LEGAL_SESSIONS: dict[str, list[Operation]] = {
    "an empty history": [],
    "a read beside an update sees old or new": [
        opened(),
        updated("/x", (2, 9)),
        seen("/x", (3, 4)),
        seen("/x", (5, 6)),
    ],
    "two updates at once, in either order": [
        opened(),
        updated("/x", (2, 5), "a"),
        updated("/y", (2, 5), "b"),
        seen("/x", (6, 7)),
    ],
    "a pending update that took effect late": [
        opened(),
        unknown("c", "session_update", {"id": S1, "cwd": "/x"}, 2),
        seen("", (3, 4)),
        seen("/x", (5, 6)),
    ],
    "a pending update that never took effect": [
        opened(),
        unknown("c", "session_update", {"id": S1, "cwd": "/x"}, 2),
        seen("", (3, 4)),
    ],
    "a repeated request changes nothing": [
        opened(),
        updated("/x", (2, 3), request_id="r"),
        updated("/y", (4, 5)),
        updated("/x", (6, 7), request_id="r"),
        seen("/y", (8, 9)),
    ],
    "an open of unknown outcome, found by its user": [
        unknown("a", "session_open", {"host": "web-1"}, 0),
        seen("", (1, 2)),
    ],
    "an open of unknown outcome, repeated": [
        unknown("a", "session_open", {"host": "web-1", "request_id": "r"}, 0),
        seen("", (1, 2)),
        done("a", "session_open", {"host": "web-1", "request_id": "r"}, (3, 4), session()),
    ],
    "closed is not found": [
        opened(),
        done("a", "session_close", {"id": S1}, (2, 3), session()),
        done("b", "session_get", {"id": S1}, (4, 5), REFUSED["not_found"]),
    ],
    "what was not done, and what is only local": [
        opened(),
        done("a", "session_update", {"id": S1, "cwd": "/x"}, (2, 3), REFUSED["not_leader"]),
        seen("", (4, 5)),
        done("b", "session_get", {"id": S1, "consistency": "local"}, (6, 7), session(cwd="/old")),
    ],
}

ILLEGAL_SESSIONS: dict[str, list[Operation]] = {
    "a stale read": [opened(), updated("/x", (2, 3)), seen("", (4, 5))],
    "a read that goes back": [
        opened(),
        updated("/x", (2, 9)),
        seen("/x", (3, 4)),
        seen("", (5, 6)),
    ],
    "a read from the future": [opened(), seen("/x", (2, 3)), updated("/x", (4, 5))],
    "a lost update": [
        opened(),
        updated("/x", (2, 3)),
        done("b", "session_update", {"id": S1, "labels": {}}, (4, 5), session(cwd="")),
    ],
    "a repeated request that was applied twice": [
        opened(),
        updated("/x", (2, 3), request_id="r"),
        updated("/y", (4, 5)),
        updated("/x", (6, 7), request_id="r"),
        seen("/x", (8, 9)),
    ],
    "a pending update that took effect and was undone": [
        opened(),
        unknown("c", "session_update", {"id": S1, "cwd": "/x"}, 2),
        seen("/x", (3, 4)),
        seen("", (5, 6)),
    ],
    "a pending update that took effect before its call": [
        opened(),
        seen("/x", (2, 3)),
        unknown("c", "session_update", {"id": S1, "cwd": "/x"}, 4),
    ],
    "an acknowledged open that is lost": [
        opened(),
        done("b", "session_get", {"id": S1}, (2, 3), REFUSED["not_found"]),
    ],
    "one id given out twice": [opened(), opened("b", (2, 3))],
}

LEGAL_QUEUE: dict[str, list[Operation]] = {
    "push, claim, acknowledge": [
        pushed(1, (0, 1)),
        claimed((2, 3), leased(1, 1)),
        acked(1, 1, (4, 5), finished(1, 1)),
        got(1, (6, 7), finished(1, 1)),
        claimed((8, 9), NOTHING),
    ],
    "a lease that may have run out": [
        pushed(1, (0, 1)),
        claimed((2, 3), leased(1, 1, "w")),
        claimed((12, 13), leased(1, 2, "v", 2)),
        acked(1, 1, (14, 15), REFUSED["conflict"]),
        acked(1, 2, (14, 15), finished(1, 2, 2, "v")),
    ],
    "a lease that has run out and nobody else's": [
        pushed(1, (0, 1)),
        claimed((2, 3), leased(1, 1)),
        acked(1, 1, (14, 15), REFUSED["lease_lost"]),
        claimed((16, 17), leased(1, 2, "w", 2)),
    ],
    "a task that dies with its last lease": [
        done(
            "p",
            "queue_push",
            {"payload": "job 1", "max_attempts": 1},
            (0, 1),
            task(1, changed=True, max_attempts=1),
        ),
        done(
            "w",
            "queue_claim",
            CLAIM,
            (2, 3),
            task(1, state="leased", attempt=1, worker="w", token=1, max_attempts=1),
        ),
        got(1, (20, 21), task(1, state="dead", attempt=1, worker="w", token=1, max_attempts=1)),
        acked(1, 1, (22, 23), REFUSED["lease_lost"]),
        claimed((24, 25), NOTHING),
    ],
    "a repeated push answers as the first": [
        pushed(1, (0, 1), request_id="r"),
        claimed((2, 3), leased(1, 1)),
        pushed(1, (4, 5), request_id="r"),
        pushed(2, (6, 7)),
    ],
    "a push under a key that is taken answers with the task": [
        pushed(1, (0, 1), key="k"),
        done("q", "queue_push", {"payload": 9, "key": "k"}, (2, 3), task(changed=False, key="k")),
        pushed(2, (4, 5)),
    ],
    "a pending push that took effect": [
        unknown("p", "queue_push", {"payload": "job 1"}, 0),
        pushed(2, (1, 2)),
        claimed((3, 4), leased(1, 1)),
    ],
    "a pending push that did not": [
        unknown("p", "queue_push", {"payload": "job 0"}, 0),
        pushed(1, (1, 2)),
        claimed((3, 4), leased(1, 1)),
        claimed((5, 6), NOTHING),
    ],
    "a pending claim that took effect": [
        pushed(1, (0, 1)),
        unknown("w", "queue_claim", CLAIM, 2),
        claimed((3, 4), NOTHING),
        got(1, (5, 6), leased(1, 1)),
    ],
    "a pending acknowledgement that took effect late": [
        pushed(1, (0, 1)),
        claimed((2, 3), leased(1, 1)),
        unknown("w", "queue_ack", ACK, 4),
        got(1, (5, 6), leased(1, 1)),
        got(1, (7, 8), finished(1, 1)),
    ],
    "a pending failure, and its task claimed again": [
        pushed(1, (0, 1)),
        claimed((2, 3), leased(1, 1)),
        unknown("w", "queue_fail", ACK, 4),
        claimed((5, 6), leased(1, 2, "v", 2)),
    ],
    "a delayed task may come before another, or not": [
        pushed(1, (0, 1), delay="5s"),
        pushed(2, (2, 3)),
        pushed(3, (2, 3)),
        claimed((6, 7), leased(2, 1)),
        claimed((8, 9), leased(1, 2)),
    ],
    "a lease that is extended": [
        pushed(1, (0, 1)),
        claimed((2, 3), leased(1, 1)),
        done("w", "queue_extend", ACK | {"lease": "20s"}, (4, 5), leased(1, 1)),
        claimed((30, 31), leased(1, 2, "v", 2)),
    ],
}

ILLEGAL_QUEUE: dict[str, list[Operation]] = {
    "two holders of one task": [
        pushed(1, (0, 1)),
        claimed((2, 3), leased(1, 1)),
        claimed((4, 5), leased(1, 2, "v", 2)),
    ],
    "two holders of one token": [
        pushed(1, (0, 1)),
        pushed(2, (0, 1)),
        claimed((2, 5), leased(1, 1)),
        claimed((2, 5), leased(2, 1, "v")),
    ],
    "tokens that go back": [
        pushed(1, (0, 1)),
        pushed(2, (0, 1)),
        claimed((2, 3), leased(1, 2)),
        claimed((4, 5), leased(2, 1)),
    ],
    "an old token that is accepted": [
        pushed(1, (0, 1)),
        claimed((2, 3), leased(1, 1, "w")),
        claimed((13, 14), leased(1, 2, "v", 2)),
        acked(1, 1, (15, 16), finished(1, 1)),
    ],
    "an acknowledgement after its lease was called lost": [
        pushed(1, (0, 1)),
        claimed((2, 3), leased(1, 1)),
        acked(1, 1, (14, 15), REFUSED["lease_lost"]),
        acked(1, 1, (16, 17), finished(1, 1)),
    ],
    "a lease lost too early": [
        pushed(1, (0, 1)),
        claimed((2, 3), leased(1, 1)),
        acked(1, 1, (4, 5), REFUSED["lease_lost"]),
    ],
    "a lease lost in spite of its extension": [
        pushed(1, (0, 1)),
        claimed((2, 3), leased(1, 1)),
        done("w", "queue_extend", ACK | {"lease": "20s"}, (4, 5), leased(1, 1)),
        claimed((14, 15), leased(1, 2, "v", 2)),
    ],
    "a lost acknowledged push": [pushed(1, (0, 1)), claimed((2, 3), NOTHING)],
    "a lost acknowledged push, read": [pushed(1, (0, 1)), got(1, (2, 3), REFUSED["not_found"])],
    "a lost acknowledgement": [
        pushed(1, (0, 1)),
        claimed((2, 3), leased(1, 1)),
        acked(1, 1, (4, 5), finished(1, 1)),
        claimed((20, 21), leased(1, 2, "v", 2)),
    ],
    "a repeated push applied twice": [
        unknown("p", "queue_push", RETRIED, 0),
        done("p", "queue_push", RETRIED, (1, 2), task(changed=True)),
        pushed(3, (3, 4)),
    ],
    "a push of unknown outcome applied twice": [
        unknown("p", "queue_push", {"payload": "job 1"}, 0),
        pushed(3, (1, 2)),
    ],
    "a repeated claim that takes another task": [
        pushed(1, (0, 1)),
        pushed(2, (0, 1)),
        done("w", "queue_claim", CLAIM | {"request_id": "r"}, (2, 3), leased(1, 1)),
        done("w", "queue_claim", CLAIM | {"request_id": "r"}, (4, 5), leased(2, 2)),
    ],
    "a key that names two tasks": [pushed(1, (0, 1), key="k"), pushed(2, (2, 3), key="k")],
    "not the oldest first": [
        pushed(1, (0, 1)),
        pushed(2, (2, 3)),
        claimed((4, 5), leased(2, 1)),
    ],
    "a delayed task too early": [
        pushed(1, (0, 1), delay="5s"),
        claimed((2, 3), leased(1, 1)),
    ],
    "a task from the future": [got(1, (0, 1), task()), pushed(1, (2, 3))],
    "another payload than was pushed": [
        pushed(1, (0, 1)),
        claimed((2, 3), task(payload="x", state="leased", attempt=1, worker="w", token=1)),
    ],
}


@pytest.mark.parametrize("name", LEGAL_SESSIONS)
def test_legal_sessions(name: str) -> None:
    assert isinstance(check(SessionModel(), LEGAL_SESSIONS[name]), Linearizable)


@pytest.mark.parametrize("name", ILLEGAL_SESSIONS)
def test_illegal_sessions(name: str) -> None:
    assert isinstance(check(SessionModel(), ILLEGAL_SESSIONS[name]), Violation)


@pytest.mark.parametrize("name", LEGAL_QUEUE)
def test_legal_queue(name: str) -> None:
    assert isinstance(check(QueueModel(), LEGAL_QUEUE[name]), Linearizable)


@pytest.mark.parametrize("name", ILLEGAL_QUEUE)
def test_illegal_queue(name: str) -> None:
    assert isinstance(check(QueueModel(), ILLEGAL_QUEUE[name]), Violation)


def test_the_shortest_wrong_beginning_is_shown() -> None:
    later = [updated(f"/{number}", (number, number + 0.5)) for number in range(10, 20)]
    wrong = seen("", (4, 5))
    beside = updated("/y", (4, 30), "c")
    verdict = check(SessionModel(), [opened(), updated("/x", (2, 3)), wrong, beside, *later])
    assert isinstance(verdict, Violation)
    assert verdict.culprit is wrong
    assert verdict.partition == f"session {S1}"
    assert [each.pending for each in verdict.prefix] == [False, False, False, True]
    assert wrong.to_line() in verdict.explanation


def test_the_search_is_bounded() -> None:
    verdict = check(SessionModel(), LEGAL_SESSIONS["two updates at once, in either order"], 2)
    assert verdict == Undecided(2)


def test_what_is_not_modelled_is_no_verdict() -> None:
    with pytest.raises(ValueError, match="not modelled"):
        check(QueueModel(), [unknown("a", "queue_cancel", {"id": "1"}, 0)])


# Histories as text.


@pytest.mark.parametrize("history", [*LEGAL_QUEUE.values(), *ILLEGAL_SESSIONS.values()])
def test_lines_are_read_as_they_were_written(history: list[Operation]) -> None:
    assert from_lines(to_lines(history)) == history


def test_a_line_has_exactly_these_fields() -> None:
    line = '{"client": "a", "op": "x", "args": {}, "call": 1, "return": null, "result": null}\n'
    assert list(to_lines([unknown("a", "x", {}, 1)])) == [line]


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        "{",
        '{"client": "a", "op": "x", "args": {}, "call": 1, "return": 0.5, "result": {}}',
        '{"client": "a", "op": "x", "args": {}, "call": 1, "return": 2, "result": null}',
        '{"client": "a", "op": "x", "args": {}, "call": 1, "return": null}',
    ],
)
def test_other_lines_are_refused(line: str) -> None:
    good = unknown("a", "x", {}, 1).to_line()
    with pytest.raises(ValueError, match=r"^line 2: "):
        from_lines([good, line])


def test_the_recorder_takes_answers_as_they_come() -> None:
    times = iter([1.0, 2.0, 3.0, 4.0, 5.0])
    recorder = Recorder(lambda: next(times))
    args = {"id": "1"}
    numbers = [recorder.called(client, "queue_get", args) for client in "abc"]
    args["id"] = "2"
    recorder.answered(numbers[1], {"ok": False, "error": {"code": "not_found", "changed": False}})
    recorder.answered(numbers[0], {"ok": True, "result": {"task": None}})
    recorder.answered(numbers[2], {"ok": False, "error": {"code": "timeout", "changed": "unknown"}})
    assert recorder.history == (
        done("a", "queue_get", {"id": "1"}, (1.0, 5.0), {"task": None}),
        done("b", "queue_get", {"id": "1"}, (2.0, 4.0), {"error": "not_found"}),
        unknown("c", "queue_get", {"id": "1"}, 3.0),
    )


# Random histories of the real state machine behind the real actions, on a log that is perfect.

CLIENTS = 8
NOBODY = "f" * 16


@define
class Truth:
    """A node of one. Each action takes effect at `now`, in seconds of cluster time."""

    now: float = 0.0
    state: Machine = field(factory=Machine)

    async def change(self, command: Command, request_id: str) -> Outcome:
        change = Change(round(self.now * 1000), request_id, command)
        return self.state.apply(self.state.applied_index + 1, change)

    async def machine(self, linearizable: bool) -> Machine:
        return self.state

    def wall_offset_ms(self) -> int:
        return 0

    async def perform(self, op: str, args: Mapping[str, Json]) -> dict[str, Json]:
        request = parse_request(json.dumps({"action": op} | dict(args)).encode())
        assert isinstance(request, Request), request
        actions = Actions(cast("NodeApi", self), SessionLifetimes(DAY_MS, DAY_MS))
        try:
            line = encode_answer(None, await actions(request))
        except NefiaError as error:
            line = encode_error(None, error)
        answer: dict[str, Json] = json.loads(line)
        return answer


@define
class Clients:
    """What they know, and with it what they may ask next."""

    random: Random
    sessions: list[str] = field(factory=lambda: [NOBODY])
    tasks: list[str] = field(factory=lambda: ["1"])
    claims: list[tuple[str, int]] = field(factory=lambda: [("1", 1)])
    asked: list[tuple[str, dict[str, Json]]] = field(factory=list)
    number: int = 0

    def ask(self) -> tuple[str, dict[str, Json]]:
        """An action and its parameters; now and then the same as before, under its request id."""
        if self.asked and self.random.random() < 0.1:
            return self.random.choice(self.asked)
        op = self.random.choice(list(ASK))
        args = ASK[op](self)
        self.number += 1
        if not op.endswith("_get") and self.random.random() < 0.3:
            args["request_id"] = f"r{self.number}"
            self.asked.append((op, args))
        return op, args

    def learn(self, result: Mapping[str, Json]) -> None:
        if "session" in result:
            self.sessions.append(result["session"]["id"])
        elif result["task"] is not None:
            self.tasks.append(result["task"]["id"])
            self.claims.append((result["task"]["id"], max(result["task"]["token"], 1)))

    def session(self) -> dict[str, Json]:
        return {"id": self.random.choice(self.sessions[-6:])}

    def new_task(self) -> dict[str, Json]:
        more: list[dict[str, Json]] = [{}, {}, {"key": self.random.choice("kl")}]
        more += [{"delay": "2s"}, {"priority": 1}, {"max_attempts": 1}]
        return {"payload": self.number} | self.random.choice(more)

    def claim(self) -> dict[str, Json]:
        worker, lease = self.random.choice("vw"), self.random.choice(["1s", "5s"])
        return {"worker": worker, "lease": lease}

    def on_a_lease(self) -> dict[str, Json]:
        task_id, token = self.random.choice(self.claims[-6:])
        return {"id": task_id, "token": token}

    def one_task(self) -> dict[str, Json]:
        return {"id": self.random.choice(self.tasks[-6:])}


ASK: dict[str, Callable[[Clients], dict[str, Json]]] = {
    "session_open": lambda clients: {"host": f"h{clients.number}"},
    "session_get": Clients.session,
    "session_touch": Clients.session,
    "session_update": lambda clients: clients.session() | {"cwd": f"/{clients.number}"},
    "session_close": Clients.session,
    "queue_push": Clients.new_task,
    "queue_claim": Clients.claim,
    "queue_extend": lambda clients: clients.on_a_lease() | {"lease": "2s"},
    "queue_ack": lambda clients: clients.on_a_lease() | {"result": clients.number},
    "queue_fail": lambda clients: clients.on_a_lease() | {"retry_after": "1s"},
    "queue_get": Clients.one_task,
}


async def _play(random: Random, length: int, unknown_share: float) -> list[Operation]:
    """Operations that take effect one after the other, while their intervals overlap."""
    truth, clients = Truth(), Clients(random)
    free = dict.fromkeys((f"c{number}" for number in range(CLIENTS)), 0.0)
    history = []
    for _ in range(length):
        client = min(free, key=lambda each: free[each])
        truth.now = max(truth.now + random.expovariate(20), free[client])
        op, args = clients.ask()
        call = random.uniform(free[client], truth.now)
        free[client] = returned = truth.now + random.expovariate(4)
        fate = random.random()
        if fate < unknown_share / 2:
            history.append(unknown(client, op, args, call))
            continue
        answer = await truth.perform(op, args)
        if fate < unknown_share:
            history.append(unknown(client, op, args, call))
        elif answer["ok"]:
            history.append(done(client, op, args, (call, returned), answer["result"]))
            clients.learn(answer["result"])
        else:
            result = {"error": answer["error"]["code"]}
            history.append(done(client, op, args, (call, returned), result))
    return history


def play(seed: int, length: int, unknown_share: float = 0.1) -> list[Operation]:
    return trio.run(_play, Random(seed), length, unknown_share)


SEEDS = st.integers(0, 2**32)


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.integers(0, 60))
def test_what_the_state_machine_does_is_legal(seed: int, length: int) -> None:
    history = play(seed, length)
    for verdict in (check(SessionModel(), history), check(QueueModel(), history)):
        assert isinstance(verdict, Linearizable), verdict


@pytest.mark.parametrize("seed", range(3))
def test_long_histories_take_few_steps(seed: int) -> None:
    history = play(seed, 600)
    sessions, queue = check(SessionModel(), history), check(QueueModel(), history)
    assert isinstance(sessions, Linearizable)
    assert isinstance(queue, Linearizable)
    assert sessions.steps + queue.steps < 10 * len(history)


def _wrong(operation: Operation, random: Random) -> Operation:
    """The same with an answer that nothing can have led to."""
    if "session" in operation.result:
        shown = {"session": operation.result["session"] | {"cwd": "/never-written"}}
    else:
        fields: dict[str, Json] = {"payload": "never-pushed", "token": 10**6, "worker": "never"}
        name = random.choice(list(fields))
        shown = {"task": operation.result["task"] | {name: fields[name]}}
    return evolve(operation, result=dict(operation.result) | shown)


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.integers(5, 60))
def test_a_wrong_answer_is_found(seed: int, length: int) -> None:
    history, random = play(seed, length), Random(seed)
    told = [
        i
        for i, each in enumerate(history)
        if not each.pending and (each.result.get("task") or each.result.get("session"))
    ]
    if not told:
        return
    chosen = random.choice(told)
    history[chosen] = _wrong(history[chosen], random)
    model = SessionModel() if "session" in history[chosen].result else QueueModel()
    assert isinstance(check(model, history), Violation)
