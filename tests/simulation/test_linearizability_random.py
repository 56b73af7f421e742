"""The checker and its models against what the real state machine and the real actions answer.

The log is perfect: each action takes effect at one moment, while the intervals in which clients
wait overlap, and some of the answers get lost.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from random import Random
from typing import cast

import pytest
import trio
from attrs import define, evolve, field
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nefia.admin.actions import Actions, SessionLifetimes
from nefia.admin.node_api import NodeApi
from nefia.admin.protocol import Request, encode_answer, encode_error, parse_request
from nefia.errors import NefiaError
from nefia.state.commands import Change, Command
from nefia.state.machine import Machine
from nefia.state.records import Outcome
from tests.simulation.history import Json, Operation
from tests.simulation.linearizability import Linearizable, Violation, check
from tests.simulation.models import QueueModel, SessionModel

DAY_MS = 86_400_000
CLIENTS = 8
NOBODY = "f" * 16


@define
class Truth:
    """A node of one. Each action takes effect at `now`, in seconds of cluster time."""

    now: float = 0.0
    state: Machine = field(factory=Machine)

    async def change(self, command: Command, request_id: str) -> Outcome:
        change = Change(round(self.now * 1000), request_id, command)
        return self.state.apply(self.state.applied_index + 1, [change])[0]

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
            history.append(Operation(client, op, args, call, None, None))
            continue
        answer = await truth.perform(op, args)
        if fate < unknown_share:
            history.append(Operation(client, op, args, call, None, None))
            continue
        if answer["ok"]:
            result = answer["result"]
            clients.learn(result)
        else:
            result = {"error": answer["error"]["code"]}
        history.append(Operation(client, op, args, call, result, returned))
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
    assume(told)
    chosen = random.choice(told)
    history[chosen] = _wrong(history[chosen], random)
    of_session = "session" in history[chosen].result
    verdict = check(SessionModel(), history) if of_session else check(QueueModel(), history)
    assert isinstance(verdict, Violation)
