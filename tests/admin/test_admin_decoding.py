"""Lines that are decoded in one step come to what the careful way makes of them, to the byte."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nefia.admin import protocol
from nefia.admin.protocol import Refusal, Request, parse_carefully, parse_request
from nefia.admin.shapes import Action, Default, Parameter
from nefia.admin.table import ACTIONS, TASK, TOPICS
from nefia.admin.values import MAX_NESTING
from nefia.state.records import TaskState

VALUES = (
    "null", "true", "false", "nul", "", "NaN", "{}", "[]", "[[]]", '{"a":1}', '{"a":"b"}',
    '{"a":"\\ud800"}', '{"a":{"b":1,"b":[2]},"a":null}', "[1.0,1e2,-0.0,1E-7]", "[1e400]", "[1,]",
    '["role"]', '["role","rule"]', "[1]", '[{"payload":1}]', '[{"payload":1},{}]', '[{"host":"h"}]',
    # Numbers.
    "0", "-0", "1", "7", "1000", "1001", "-1", "01", "1.", "+1", "1.0", "-0.0", "1.5", "1e2",
    *[str(sign * (2**bits + more)) for bits in (31, 53, 63, 64) for more in (-1, 0, 1)
      for sign in (-1, 1)],
    "1e400", "9" * 400, "1" * 5_000,
    # Text.
    '""', '"a"', '"\\u0061"', '"\\/"', '"\\x"', '"\u4e16"', '"\x7f"', '"\\u0000"', '"\n"', "'a'",
    '"_"', '"_own"', '"\\u005fown"', '"own_"', '"\\ud800"', '"\\udc00"', '"\\ud83d\\ude00"',
    *[json.dumps(character * size) for size in (128, 129, 200, 201, 256, 257)
      for character in "x\u4e16"],
    *[json.dumps(word) for word in (*TaskState, *TOPICS, "linearizable", "local", "eventual")],
    # Durations.
    '"0"', '"0s"', '"1us"', '"1.5s"', '"30"', '"-1s"', '"1h0m0.0001s"', '"1h"', '"1h1ms"',
    '"9999999h"',
    # Levels, and brackets.
    *[text for levels in range(MAX_NESTING - 5, MAX_NESTING + 2)
      for text in ("[" * levels + "]" * levels, f"[{','.join(['[]'] * levels)}]")],
)  # fmt: skip
"""As they may stand in a line."""

RIGHT = {"any JSON": "1", "integer": "1", "list of objects": '[{"payload":1}]'}


def least(parameters: Iterable[Parameter]) -> dict[str, str]:
    """What they require, and no more."""
    required = [parameter for parameter in parameters if parameter.default is Default.REQUIRED]
    return {parameter.name: RIGHT.get(parameter.kind.label, '"1"') for parameter in required}


def written(members: dict[str, str]) -> str:
    return "{" + ",".join(f'"{name}":{value}' for name, value in members.items()) + "}"


def alone(action: Action) -> Iterator[str]:
    """Lines of which all but one value, or what is beside it, is as simple as can be."""
    for form in action.forms:
        members = {"action": json.dumps(action.name)} | least(form.parameters)
        names = [*action.shape.known, "seq", "action", "other"]
        yield from (written(members | {name: value}) for name in names for value in VALUES)
    if action.name == "queue_push":
        tasks = [least(TASK.parameters) | {n: v} for n in (*TASK.known, "other") for v in VALUES]
        yield from (f'{{"action":"queue_push","tasks":[{written(task)}]}}' for task in tasks)


@st.composite
def lines(draw: st.DrawFn) -> bytes:
    """Any parameters together, in any order and some twice; now and then something else."""
    action = ACTIONS[draw(st.just("queue_push") | st.sampled_from(sorted(ACTIONS)))]
    values = st.sampled_from(VALUES) | st.sampled_from(['"a"', '"7"', "7", "true", '"1s"'])
    members = [
        (name, draw(values))
        for name in draw(st.lists(st.sampled_from([*action.shape.known, "seq"]), max_size=4))
    ]
    members += least(draw(st.sampled_from(action.forms)).parameters).items()
    members = draw(st.permutations([*members, ("action", json.dumps(action.name))]))
    space = draw(st.sampled_from(["", "", " ", "\t", "\r", "\x0c", "\u00a0"]))
    text = f",{space}".join(f'"{name}":{space}{value}' for name, value in members)
    line = f"{{{text}}}{space}".encode()
    if draw(st.integers(0, 9)):
        return line
    cut = draw(st.integers(0, len(line)))
    return line[:cut] + draw(st.binary(max_size=2)) + line[cut:]


def told(parsed: Request | Refusal) -> str:
    """All that can be seen of it; -0.0, 0 and false are different things here."""
    if isinstance(parsed, Refusal):
        return repr((parsed.seq, parsed.error.to_json()))
    return repr(parsed)


@pytest.mark.parametrize("name", ACTIONS)
def test_both_ways_agree_on_each_value(name: str) -> None:
    for line in alone(ACTIONS[name]):
        assert told(parse_request(line.encode())) == told(parse_carefully(line.encode()))


@given(lines())
@example(b'{"action":"queue_push","payload":1,"queue":"default","tasks":[{"payload":1}]}')
@example(b'{"action":"queue_push","tasks":[{"payload":1}],"queue":"default"}')
@example(b'{"action":"queue_push","action":"status","payload":1}')
@example(b'{"action":"status","action":"queue_push","payload":1}')
@example(b'{"action":"queue_push","payload":1,"payload":{"a":1,"a":2},"queue":7,"queue":"q"}')
@example(b'{"action":"queue_ack","id":"1","token":1.0}')
@example(b'{"action":"queue_push","payload":[1.0,1e2,-0.0,1E-7,"\\u00e9\\/"],"seq":1.0}')
def test_both_ways_agree_on_values_together(line: bytes) -> None:
    assert told(parse_request(line)) == told(parse_carefully(line))


USUAL: list[dict[str, Any]] = [
    {"action": "queue_push", "payload": {"n": [1, None, "x"]}, "priority": 3, "delay": "1.5s"},
    {"action": "queue_push", "tasks": [{"payload": 1, "queue": "q"}], "request_id": "r"},
    {"action": "queue_claim", "worker": "w", "wait": "30s", "limit": 5, "queue": ""},
    {"action": "queue_extend", "id": "1", "token": 2**62, "lease": "1m"},
    {"action": "queue_ack", "id": "1", "token": 7, "result": {"a": "b"}, "forward": True},
    {"action": "queue_fail", "id": "1", "token": 7, "error": "e", "retry_after": "1s"},
    {"action": "queue_list", "state": "leased", "cursor": "x", "consistency": "local"},
    {"action": "session_open", "host": "h", "labels": {"a": "b"}, "seq": "a"},
    {"action": "add_peer", "id": "n", "addr": "h:1", "wait": False, "reason": "why", "seq": 1.5},
    {"action": "watch", "events": ["role", "queue"]},
    {"action": "status", "seq": 2**70},
]


@pytest.mark.parametrize("raw", USUAL, ids=[str(raw["action"]) for raw in USUAL])
def test_what_is_usual_goes_the_short_way(
    raw: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(line: bytes) -> Request:
        raise AssertionError(line)

    line = json.dumps(raw).encode()
    careful = parse_carefully(line)
    monkeypatch.setattr(protocol, "parse_carefully", refuse)
    assert told(parse_request(line)) == told(careful)


def test_every_action_can_go_the_short_way() -> None:
    kinds = {name for name, _ in protocol._MAKERS.values()}
    assert kinds == ACTIONS.keys()
