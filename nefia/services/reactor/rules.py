"""Which rules an event passes, and the tasks that come of it: pure.

An event becomes one task for each action of each rule that it passes. A task's key is made of the
event's host and id, the rule's name and the action's number, so that the same event pushed again
adds nothing while that task lives and for 24 h after (SPEC 8). What `exec` and `alert` want goes to
nefia's own queue as an `Order`; it names the action, whose command and URL stay in the leader's
configuration and are not for an event, or for whoever may push a task, to choose.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from fnmatch import translate
from hashlib import blake2b
from operator import eq, ge, gt, le, lt, ne
from typing import Any

import msgspec
from attrs import frozen
from msgspec import Raw, Struct

from nefia.config.reactor import (
    SEVERITIES,
    ActionConfig,
    Condition,
    EnqueueConfig,
    MatchConfig,
    RuleConfig,
    Template,
    Values,
)
from nefia.errors import InvalidArgument, NotFound
from nefia.services.reactor.events import Event
from nefia.state.commands import OWN_QUEUE_PREFIX, NewTask

OUTBOX_QUEUE = f"{OWN_QUEUE_PREFIX}reactor"
KEY_DIGEST_BYTES = 16

Test = Callable[[Any], bool]

_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "==": eq,
    "!=": ne,
    ">=": ge,
    ">": gt,
    "<=": le,
    "<": lt,
}
_MISSING = object()
_encode = msgspec.json.Encoder().encode


class Order(Struct, frozen=True, forbid_unknown_fields=True):
    """The payload of a task in the outbox: rule and number of an action, and the event as sent.

    `do` is for people who look at the queue.
    """

    rule: str
    action: int
    do: str
    event: Raw


decode_order = msgspec.json.Decoder(Order).decode


@frozen
class _Rule:
    """A rule with its tests made ready."""

    config: RuleConfig
    is_type: Test
    is_host: Test
    severities: frozenset[str]
    conditions: tuple[tuple[tuple[str, ...], Test], ...]

    @staticmethod
    def of(config: RuleConfig) -> _Rule:
        match = config.match
        conditions = [(("data", *name.split(".")), _test(test)) for name, test in match.data]
        return _Rule(
            config, _glob(match.type), _glob(match.host), _severities(match), tuple(conditions)
        )

    def passes(self, event: Event) -> bool:
        return (
            event.severity in self.severities
            and self.is_type(event.type)
            and self.is_host(event.host)
            and all(test(value_at(event, place)) for place, test in self.conditions)
        )


class Rules:
    """Those of one configuration; all that an event passes apply."""

    def __init__(self, configs: Iterable[RuleConfig]) -> None:
        self._rules = {config.name: _Rule.of(config) for config in configs}

    def __len__(self) -> int:
        return len(self._rules)

    def tasks(self, event: Event, text: bytes) -> tuple[NewTask, ...]:
        """What comes of the event, whose JSON is `text`; empty if it passes no rule."""
        passed = [rule.config for rule in self._rules.values() if rule.passes(event)]
        if not passed:
            return ()
        about = _digest(event)
        return tuple(
            [
                _task(event, text, rule.name, number, action, f"event:{about}:{rule.name}:{number}")
                for rule in passed
                for number, action in enumerate(rule.do)
            ]
        )

    def action(self, order: Order) -> ActionConfig:
        """What an order means in the present configuration. Raises NotFound."""
        rule = self._rules.get(order.rule)
        if rule is not None and order.action < len(rule.config.do):
            action = rule.config.do[order.action]
            if action.action == order.do:
                return action
        raise NotFound(
            f'the rule "{order.rule}" has no action {order.action} of the kind {order.do} any more',
            hint="put it back and retry the task, or cancel it",
        )


def _digest(event: Event) -> str:
    """Of host and id; what stands between them is in neither, since it is not printable."""
    return blake2b(f"{event.host}\0{event.id}".encode(), digest_size=KEY_DIGEST_BYTES).hexdigest()


def _task(
    event: Event, text: bytes, rule: str, number: int, action: ActionConfig, key: str
) -> NewTask:
    if not isinstance(action, EnqueueConfig):
        order = Order(rule, number, action.action, Raw(text))
        return NewTask(
            _encode(order), queue=OUTBOX_QUEUE, key=key, max_attempts=action.max_attempts
        )
    return NewTask(
        _encode(rendered_values(action.payload, event)) if action.payload else text,
        queue=action.queue,
        host=rendered_text(action.host, event),
        priority=action.priority,
        delay_ms=round(action.delay * 1000),
        key=key,
        max_attempts=action.max_attempts,
    )


# Matching.


def _glob(pattern: str) -> Test:
    matches = re.compile(translate(pattern)).match
    return lambda value: isinstance(value, str) and matches(value) is not None


def _severities(match: MatchConfig) -> frozenset[str]:
    enough = SEVERITIES[SEVERITIES.index(match.min_severity) :]
    return frozenset(enough).intersection(match.severity or enough)


def _test(condition: Condition) -> Test:
    """A comparison holds only between values of one type; a missing value passes none."""
    if condition.operator == "glob":
        return _glob(str(condition.operand))
    compare, operand = _COMPARE[condition.operator], condition.operand
    if condition.operator == "!=":
        return lambda value: (
            value is not _MISSING and not (_type(value) == _type(operand) and value == operand)
        )
    return lambda value: _type(value) == _type(operand) and compare(value, operand)


def _type(value: object) -> type:
    """All numbers are of one type, and true and false are none."""
    return float if type(value) is int else type(value)


def value_at(event: Event, place: tuple[str, ...]) -> Any:
    """The value at a place of the event; a mark of its own if there is none."""
    value: Any = getattr(event, place[0])
    for name in place[1:]:
        if not isinstance(value, dict) or name not in value:
            return _MISSING
        value = value[name]
    return value


# Templates.


def rendered_values(values: Values, event: Event) -> dict[str, Any]:
    """A lone `${...}` becomes the value itself, null if the event has none."""
    return {
        name: _rendered(value, event) if isinstance(value, Template) else value
        for name, value in values
    }


def _rendered(template: Template, event: Event) -> Any:
    match template.parts:
        case (tuple() as place,):
            value = value_at(event, place)
            return None if value is _MISSING else value
    return rendered_text(template, event)


def rendered_text(template: Template, event: Event) -> str:
    """A missing value is empty text; one that is no text is JSON."""
    return "".join(_pieces(template, event, missing=lambda place: ""))


def rendered_argument(template: Template, event: Event) -> str:
    """As `rendered_text`, but a command gets no argument with a gap. Raises InvalidArgument."""

    def refuse(place: tuple[str, ...]) -> str:
        raise InvalidArgument(f"the event has no {'.'.join(place)}, which the command needs")

    text = "".join(_pieces(template, event, missing=refuse))
    if "\0" in text:
        raise InvalidArgument("an argument of the command would hold a NUL character")
    return text


def _pieces(
    template: Template, event: Event, missing: Callable[[tuple[str, ...]], str]
) -> Iterator[str]:
    for part in template.parts:
        if isinstance(part, str):
            yield part
            continue
        value = value_at(event, part)
        if value is _MISSING:
            yield missing(part)
        else:
            yield value if isinstance(value, str) else str(_encode(value), "utf-8")
