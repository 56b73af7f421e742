"""Lines that are decoded in one step come to what the careful way makes of them, to the byte."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.json import Decoder

from nefia.admin import protocol
from nefia.admin.decoding import Decoding
from nefia.admin.protocol import Refusal, Request, parse_carefully, parse_request
from nefia.admin.shapes import COMMON, Default, Form, Parameter
from nefia.admin.table import ACTIONS, TASK, TOPICS
from nefia.admin.values import MAX_NESTING, QUEUE, TEXT, Kind
from nefia.state.records import TaskState

texts = st.one_of(
    st.text().map(json.dumps),
    st.text(min_size=1).map(lambda text: json.dumps(text, ensure_ascii=False)),
    st.sampled_from([*TaskState, *TOPICS, "linearizable", "local", "default", "7"]).map(json.dumps),
)
strings = texts | st.sampled_from(
    [
        '""', '"\\u0061"', '"\\/"', '"\\x"', '"\u4e16"', '"\x7f"', '"\\u0000"', '"\n"', "'a'",
        '"_"', '"_own"', '"\\u005fown"', '"\\ud800"', '"\\udc00"', '"\\ud83d\\ude00"',
        *[json.dumps("x" * size) for size in (128, 129, 200, 201, 256, 257)],
    ]
)  # fmt: skip
durations = st.one_of(
    st.sampled_from(['"0"', '"0s"', '"1us"', '"1.5s"', '"30"', '"-1s"', '"1h0m0.0001s"']),
    st.integers(0, 10**4).map(lambda count: f'"{count}m"'),
)
counts = st.integers(1, 1_000).map(str)
numbers = counts | st.integers().map(str) | st.floats().map(json.dumps) | st.sampled_from(
    [
        "0", "-0", "1.0", "-0.0", "1e2", "1E-7", "1e400", "[1e400]", "01", "1.", "-", "+1",
        "9" * 400, "1" * 5_000,
        *[str(sign * (2**bits + more)) for bits in (31, 53, 63, 64) for more in (-1, 0, 1)
          for sign in (-1, 1)],
    ]
)  # fmt: skip
brackets = st.builds(
    lambda levels, wide, pair: (pair[0] * levels + pair[1] * levels) if not wide
    else "[" + ",".join(["[]"] * levels) + "]",
    st.integers(MAX_NESTING - 6, MAX_NESTING + 3), st.booleans(),
    st.sampled_from([("[", "]"), ('{"a":', "}"), ('{"a":[', "]}")]),
)  # fmt: skip
spaces = st.sampled_from(["", "", "", " ", "\t", "\r", "\x0c", "\u00a0"])


def objects(keys: st.SearchStrategy[str], values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Also with a key twice."""
    return st.lists(st.tuples(keys, spaces, values)).map(written)


def written(members: list[tuple[str, str, str]]) -> str:
    return "{" + ",".join(f"{key}{space}:{value}" for key, space, value in members) + "}"


anything = st.recursive(
    texts | counts | st.sampled_from(["null", "true", "false"]) | strings | numbers | brackets,
    lambda inner: objects(strings, inner) | st.lists(inner).map(lambda v: f"[{','.join(v)}]"),
    max_leaves=8,
)


def plausible(parameter: Parameter) -> st.SearchStrategy[str]:
    """What has a good chance to be right."""
    label = parameter.kind.label
    if parameter.name == "tasks":
        return st.lists(members_of(TASK.parameters).map(written), max_size=3).map(
            lambda tasks: f"[{','.join(tasks)}]"
        )
    if label == "list of strings":
        return st.lists(strings).map(lambda topics: f"[{','.join(topics)}]")
    if label == "object of strings":
        return objects(strings, strings)
    if label == "duration":
        return durations
    if label == "boolean":
        return st.sampled_from(["true", "false"])
    return counts | numbers if label.startswith("integer") else texts | strings


def members_of(parameters: tuple[Parameter, ...]) -> st.SearchStrategy[list[tuple[str, str, str]]]:
    """Those required nearly always, others at times, in any order, and now and then too many."""

    def member(parameter: Parameter) -> st.SearchStrategy[tuple[str, str, str]]:
        likely = plausible(parameter)
        value = (
            anything if parameter.kind.label == "any JSON" else likely | likely | likely | anything
        )
        return st.tuples(st.just(json.dumps(parameter.name)), spaces, value)

    needed = [parameter for parameter in parameters if parameter.default is Default.REQUIRED]
    return st.lists(st.sampled_from(parameters), max_size=4).flatmap(
        lambda some: st.permutations([*needed, *some]).flatmap(
            lambda order: st.tuples(*map(member, order)).map(list)
        )
    )


@st.composite
def lines(draw: st.DrawFn) -> bytes:
    action = ACTIONS[draw(st.just("queue_push") | st.sampled_from(sorted(ACTIONS)))]
    form = draw(st.sampled_from(action.forms))
    parameters = form.parameters + COMMON[action.mode]
    members = draw(members_of(parameters)) if parameters else []
    members.append(('"action"', "", json.dumps(action.name)))
    if draw(st.booleans()):
        members.append(('"seq"', "", draw(numbers | strings | anything)))
    if draw(st.integers(0, 7)) == 7:
        members.append((draw(strings), "", draw(anything)))
    if draw(st.booleans()):
        members.reverse()
    line = written(members).encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 9)) == 9:
        cut = draw(st.integers(0, len(line)))
        line = line[:cut] + draw(st.binary(max_size=2)) + line[cut:]
    return line


def told(parsed: Request | Refusal) -> str:
    """All that can be seen of it; -0.0, 0 and false are different things here."""
    if isinstance(parsed, Refusal):
        return repr((parsed.seq, parsed.error.to_json()))
    return repr(parsed)


@given(lines())
@example(b'{"action":"queue_push","payload":1,"queue":"default","tasks":[{"payload":1}]}')
@example(b'{"action":"queue_push","tasks":[{"payload":1}],"queue":"default"}')
@example(b'{"action":"queue_push","action":"status","payload":1}')
@example(b'{"action":"status","action":"queue_push","payload":1}')
@example(b'{"action":"queue_push","payload":1,"payload":{"a":1,"a":2},"queue":7,"queue":"q"}')
@example(b'{"action":"queue_ack","id":"1","token":1.0}')
@example(b'{"action":"queue_push","payload":[1.0,1e2,-0.0,1E-7,"\\u00e9\\/"],"seq":1.0}')
def test_both_ways_agree(line: bytes) -> None:
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


@pytest.mark.parametrize(
    "kind", [Kind("string", QUEUE.check, str, None), Kind("string", TEXT.check)]
)
def test_what_a_type_cannot_say_is_left_to_finish(kind: Kind) -> None:
    """Taken away: a kind that has nothing left to do lets through what `check` would refuse."""
    decoding = Decoding(Form((Parameter("queue", kind, ""),)))
    decoded = Decoder(decoding.kind).decode(b'{"queue":"_own"}')
    assert decoding.make(decoded).queue == "_own"
    with pytest.raises(Exception, match="own"):
        Decoding(Form((Parameter("queue", QUEUE, ""),))).make(decoded)
