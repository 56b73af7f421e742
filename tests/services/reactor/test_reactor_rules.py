"""Which rules an event passes, and what comes of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nefia.config.kinds import Scalar
from nefia.config.reactor import (
    SEVERITIES,
    AlertConfig,
    EnqueueConfig,
    ExecConfig,
    parse_condition,
    parse_template,
)
from nefia.errors import InvalidArgument, NotFound
from nefia.services.reactor.events import Event, parse_event
from nefia.services.reactor.rules import (
    OUTBOX_QUEUE,
    Order,
    Rules,
    decode_order,
    rendered_argument,
    rendered_text,
    rendered_values,
)
from nefia.state.commands import NewTask
from tests.services.reactor.driving import rule
from tests.services.reactor.test_reactor_events import EVENTS

ENQUEUE = EnqueueConfig()


def event(**fields: Any) -> Event:
    return Event(**{"id": "1", "type": "disk.usage", "host": "web-1"} | fields)


def tasks(rules: Rules, raw: dict[str, Any]) -> tuple[NewTask, ...]:
    return rules.tasks(*parse_event(json.dumps(raw)))


def passes(given: Event, **match: Any) -> bool:
    return bool(Rules([rule(ENQUEUE, **match)]).tasks(given, b"{}"))


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        ({}, True),
        ({"type": "disk.*"}, True),
        ({"type": "disk"}, False),
        ({"type": "DISK.*"}, False),
        ({"host": "web-?"}, True),
        ({"host": "db-*"}, False),
        ({"severity": ("warning", "error")}, True),
        ({"severity": ("error",)}, False),
        ({"min_severity": "warning"}, True),
        ({"min_severity": "error"}, False),
        ({"severity": ("warning",), "min_severity": "error"}, False),
        ({"type": "disk.*", "host": "db-*"}, False),
    ],
)
def test_all_of_a_match_has_to_pass(match: dict[str, Any], expected: bool) -> None:
    assert passes(event(severity="warning"), **match) is expected


@pytest.mark.parametrize(
    ("condition", "value", "expected"),
    [
        (90, 90, True),
        (90, 90.0, True),
        (1, True, False),
        (True, True, True),
        (True, 1, False),
        ("/var*", "/var/log", True),
        ("/var*", "/usr", False),
        ("90", 90, False),
        (">= 90", 90, True),
        (">= 90", 89.9, False),
        (">=90", True, False),
        (">= 90", "91", False),
        ("< -1.5", -2, True),
        ("> 3", 4, True),
        ("<= 3", 4, False),
        ("== 0.5", 0.5, True),
        ("== null", None, True),
        ("== true", True, True),
        ("== a b", "a b", True),
        ("!= a", "b", True),
        ("!= a", "a", False),
        ("!= 1", "1", True),
        ("!= 1", 1.0, False),
    ],
)
def test_a_condition_on_data(condition: Scalar, value: object, expected: bool) -> None:
    parsed = parse_condition(condition)
    assert passes(event(data={"x": value}), data=(("x", parsed),)) is expected
    assert passes(event(data={"in": {"x": value}}), data=(("in.x", parsed),)) is expected
    without: list[dict[str, object]] = [{}, {"in": 5}, {"in": {}}]
    for missing in without:
        assert not passes(event(data=missing), data=(("in.x", parsed),))


@given(st.integers() | st.floats(allow_nan=False, allow_infinity=False), st.integers())
def test_a_number_passes_exactly_one_of_three(value: float, bound: int) -> None:
    passed = [
        passes(event(data={"x": value}), data=(("x", parse_condition(f"{operator} {bound}")),))
        for operator in ("<", "==", ">")
    ]
    assert sum(passed) == 1


@given(EVENTS)
def test_all_rules_that_pass_apply_and_keys_tell_tasks_apart(raw: dict[str, Any]) -> None:
    rules = Rules([rule(ENQUEUE, ENQUEUE, name="a"), rule(ENQUEUE, name="b", min_severity="info")])
    given = tasks(rules, raw)
    assert len(given) == (2 if raw.get("severity") == "debug" else 3)
    assert len({task.key for task in given}) == len(given)
    assert tasks(rules, raw) == given
    assert all(json.loads(task.payload) == raw for task in given)


@given(EVENTS, EVENTS)
def test_keys_are_of_host_and_id(one: dict[str, Any], other: dict[str, Any]) -> None:
    rules = Rules([rule(ENQUEUE)])
    same = (one["host"], one["id"]) == (other["host"], other["id"])
    assert (tasks(rules, one)[0].key == tasks(rules, other)[0].key) is same


def test_host_and_id_do_not_run_together() -> None:
    rules = Rules([rule(ENQUEUE)])
    [one], [other] = (
        tasks(rules, {"host": host, "id": name, "type": "t"})
        for host, name in (("a", "bc"), ("ab", "c"))
    )
    assert one.key != other.key


def test_a_key_outlives_a_change_of_order_and_match() -> None:
    """After a reload an event that comes again still adds nothing."""
    raw = {"id": "1", "type": "t", "host": "h"}
    [before] = tasks(Rules([rule(ENQUEUE, name="a")]), raw)
    *_, after = tasks(Rules([rule(ENQUEUE, name="b"), rule(ENQUEUE, name="a", type="t*")]), raw)
    assert before.key == after.key


def test_what_enqueue_makes() -> None:
    action = EnqueueConfig(
        queue="cleanup",
        host=parse_template("${host}"),
        priority=5,
        delay=1.5,
        max_attempts=9,
        payload=(
            ("mount", parse_template("${data.mount}")),
            ("text", parse_template("$$5 for ${data.mount} at ${data.used}%")),
            ("used", parse_template("${data.used}")),
            ("all", parse_template("${data}")),
            ("gone", parse_template("${data.gone}")),
            ("n", 3),
            ("yes", True),
        ),
    )
    data = {"mount": "/var", "used": 91.5}
    [task] = tasks(Rules([rule(action)]), {"id": "1", "type": "t", "host": "web-1", "data": data})
    assert (task.queue, task.host, task.priority) == ("cleanup", "web-1", 5)
    assert (task.delay_ms, task.max_attempts) == (1500, 9)
    assert json.loads(task.payload) == {
        "mount": "/var",
        "text": "$5 for /var at 91.5%",
        "used": 91.5,
        "all": data,
        "gone": None,
        "n": 3,
        "yes": True,
    }


def test_what_exec_and_alert_make() -> None:
    command = ExecConfig(run=(parse_template("/bin/secret"),), max_attempts=2)
    rules = Rules([rule(ENQUEUE, command, AlertConfig(webhook="https://x/secret"))])
    raw = {"id": "1", "type": "t", "host": "web-1"}
    _, execution, alert = tasks(rules, raw)
    assert (execution.queue, alert.queue) == (OUTBOX_QUEUE, OUTBOX_QUEUE)
    assert execution.max_attempts == 2
    order = decode_order(execution.payload)
    assert (order.rule, order.action, order.do) == ("rule", 1, "exec")
    assert json.loads(bytes(order.event)) == raw
    assert rules.action(order) is command
    # Whoever can read the queue, or push to it, neither sees nor chooses what runs.
    assert b"secret" not in execution.payload + alert.payload


@pytest.mark.parametrize(
    "order",
    [
        Order("other", 0, "exec", b"{}"),  # type: ignore[arg-type]
        Order("rule", 5, "exec", b"{}"),  # type: ignore[arg-type]
        Order("rule", 0, "exec", b"{}"),  # type: ignore[arg-type]
    ],
)
def test_an_order_that_the_configuration_no_longer_knows(order: Order) -> None:
    with pytest.raises(NotFound, match=order.rule):
        Rules([rule(AlertConfig())]).action(order)


def test_templates_of_arguments_have_no_gaps() -> None:
    template = parse_template("--mount=${data.mount}")
    assert rendered_argument(template, event(data={"mount": "/x"})) == "--mount=/x"
    assert rendered_text(template, event()) == "--mount="
    with pytest.raises(InvalidArgument, match=r"data\.mount"):
        rendered_argument(template, event())
    with pytest.raises(InvalidArgument, match="NUL"):
        rendered_argument(template, event(data={"mount": "\0"}))


@given(st.text(st.characters(codec="utf-8")))
def test_values_are_never_templates_themselves(text: str) -> None:
    values = (("x", parse_template("${data.x}!")),)
    assert rendered_values(values, event(data={"x": text})) == {"x": f"{text}!"}


@given(st.text())
def test_a_template_is_parsed_or_refused_with_a_sentence(text: str) -> None:
    try:
        template = parse_template(text)
    except ValueError as error:
        problem = str(error)
    else:
        problem = ""
        assert template.is_plain or "${" in text
        if template.is_plain:
            assert rendered_text(template, event()) == text.replace("$$", "$")
    assert not problem or ("write" in problem and "$" in text)


def test_severities_are_in_order() -> None:
    for number, least in enumerate(SEVERITIES):
        passed = [each for each in SEVERITIES if passes(event(severity=each), min_severity=least)]
        assert passed == list(SEVERITIES[number:])
