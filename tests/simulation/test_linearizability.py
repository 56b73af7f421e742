"""The checker and its models: histories that are legal, and some that are not."""

from __future__ import annotations

import pytest

from tests.simulation.history import Json, Operation, Recorder, from_lines, to_lines
from tests.simulation.linearizability import Linearizable, Undecided, Violation, check
from tests.simulation.models import QueueModel, SessionModel

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
