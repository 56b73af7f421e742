"""What the Reactor does with which event: the rules in nefia.yaml, as frozen values (SPEC 10).

A rule has a `match` and a list of things to `do`. Texts that an action makes are templates:
`${host}` or `${data.disk.mount}` stands for a value of the event, and `$$` for a dollar.
"""

from __future__ import annotations

import json
import re
from typing import TypeAlias

from attrs import field, frozen

from nefia.config.kinds import (
    TEXT,
    Items,
    Kind,
    Pairs,
    Scalar,
    Section,
    Texts,
    Unusual,
    Variants,
    WrongValue,
    duration,
    name_of,
    one_of,
    optional,
    shown,
    whole_number,
)
from nefia.config.settings import described, setting, variant

MAX_RULES = 100
MAX_ACTIONS = 10
"""Of one rule. All of all rules are as many tasks as one change may push."""
MAX_CONDITIONS = 20
MAX_PAYLOAD_FIELDS = 50
MAX_ARGUMENTS = 100
SHORTEST_ACTION = "100ms"
LONGEST_ACTION = "10m"
LONGEST_DELAY = "8760h"
MAX_ATTEMPTS = 1_000
MAX_PRIORITY = 1_000_000
MAX_URLS = 100
MAX_PORT = 65_535
MAX_CONNECTIONS = 100_000
MAX_EVENTS_PER_SECOND = 100_000

SEVERITIES = ("debug", "info", "warning", "error", "critical")
"""From the least to the most severe."""
DEFAULT_SEVERITY = "info"
"""Of an event that says none."""

EVENT_FIELDS = ("id", "type", "host", "severity", "data")

_PLACEHOLDER = re.compile(r"\$(?:(?P<dollar>\$)|\{(?P<place>[^{}$]+)\}|)")
_COMPARISON = re.compile(r"(?P<operator>>=|<=|>|<|==|!=)\s*(?P<operand>.*)", re.DOTALL)
_URL = re.compile(r"https?://[^/\s?#]+[^\s#]*")
_WEBSOCKET_URL = re.compile(
    r"wss?://([^/\s?#:@\[\]]+|\[[0-9a-fA-F:.]+\])(:(?P<port>[0-9]{1,5}))?(/[^\s#]*)?", re.ASCII
)

Place: TypeAlias = tuple[str, ...]
"""Where in an event a value stands: ("data", "disk", "mount")."""


@frozen
class Template:
    """Text and places in the event by turns. A lone place stands for the value of any type."""

    parts: tuple[str | Place, ...]

    @property
    def is_plain(self) -> bool:
        """Whether it is the same for all events."""
        return all(isinstance(part, str) for part in self.parts)


NOTHING = Template(("",))

Rendered: TypeAlias = Template | int | bool
"""A value of a payload: numbers and truth values stand for themselves."""


@frozen
class Condition:
    """`operator` is one of the comparisons, or "glob" for text with wildcards."""

    operator: str
    operand: str | int | float | bool | None


def parse_template(text: str) -> Template:
    """Raises ValueError with a sentence."""
    parts: list[str | Place] = []
    literal, end = "", 0
    for match in _PLACEHOLDER.finditer(text):
        literal += text[end : match.start()]
        end = match.end()
        if match["place"] is not None:
            parts += [literal, _place(match["place"])] if literal else [_place(match["place"])]
            literal = ""
        elif match["dollar"]:
            literal += "$"
        else:
            raise WrongValue(
                f"{shown(text)} has a dollar that begins nothing; write ${{data.mount}} for a "
                "value of the event, or $$ for a dollar"
            )
    literal += text[end:]
    return Template((*parts, literal) if literal or not parts else tuple(parts))


def _place(text: str) -> Place:
    place = tuple(text.split("."))
    if place[0] not in EVENT_FIELDS or (place[0] != "data" and len(place) > 1) or "" in place:
        raise WrongValue(
            f'"${{{text}}}" is nothing that an event has; write one of '
            f"{', '.join(f'${{{name}}}' for name in EVENT_FIELDS)} or ${{data.NAME}}"
        )
    return place


def parse_condition(raw: Scalar) -> Condition:
    """Raises ValueError with a sentence."""
    if isinstance(raw, bool | int):
        return Condition("==", raw)
    if isinstance(raw, Unusual):
        raise WrongValue(
            f'{shown(raw)} is no text; write the value in quotes, such as ">= 0.5" or "== 0.5"'
        )
    match = _COMPARISON.fullmatch(raw)
    if match is None:
        return Condition("glob", raw)
    operator, operand = match["operator"], _operand(match["operand"].strip())
    is_number = isinstance(operand, int | float) and not isinstance(operand, bool)
    if operator not in ("==", "!=") and not is_number:
        raise WrongValue(f'{shown(raw)} compares with no number; write one, such as ">= 90"')
    return Condition(operator, operand)


def _operand(text: str) -> str | int | float | bool | None:
    """As JSON has it if it is a number, true, false or null; else the text itself."""
    try:
        value = json.loads(text, parse_constant=lambda _: text)
    except (ValueError, RecursionError):
        return text
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return text
    return value if isinstance(value, bool | int | float | None) else text


def _template(raw: Scalar) -> Template:
    if not isinstance(raw, str):
        raise WrongValue(f"{shown(raw)} is not text; write it in quotes")
    return parse_template(raw)


def _value(raw: Scalar) -> Rendered:
    return raw if isinstance(raw, bool | int) else _template(raw)


def _webhook(raw: Scalar) -> str:
    if not isinstance(raw, str) or not _URL.fullmatch(raw):
        raise WrongValue(f'{shown(raw)} is not a URL; write one that begins with "https://"')
    return raw


def websocket_url(raw: Scalar) -> str:
    """`raw`, if it can be dialled as `ws://` or `wss://`. Raises ValueError with a sentence."""
    match = _WEBSOCKET_URL.fullmatch(raw) if isinstance(raw, str) else None
    if match is None or not 1 <= int(match["port"] or 1) <= MAX_PORT:
        raise WrongValue(
            f'{shown(raw)} is not a WebSocket URL; write one such as "wss://host:9500"'
        )
    return match[0]


def _queue(raw: Scalar) -> str:
    if not isinstance(raw, str) or not raw.isprintable() or not raw or raw.startswith("_"):
        raise WrongValue(
            f"{shown(raw)} cannot be a queue here; write a name that does not begin with an "
            "underscore, since such queues are nefia's own"
        )
    return raw


TEMPLATE = Kind("text, may have `${...}`", _template)
VALUES = Pairs(Kind("value, may have `${...}`", _value), MAX_PAYLOAD_FIELDS)
_CONDITIONS = Pairs(Kind("condition", parse_condition), MAX_CONDITIONS)
_ATTEMPTS = whole_number(1, MAX_ATTEMPTS)
_TIMEOUT = duration(SHORTEST_ACTION, LONGEST_ACTION)

Values: TypeAlias = tuple[tuple[str, Rendered], ...]


@frozen(kw_only=True)
class MatchConfig:
    """An event has to pass all of it; what is left out passes all events."""

    type: str = setting(TEXT, "*", "The event's `type`; `*`, `?` and `[...]` are wildcards.")
    host: str = setting(TEXT, "*", "Its `host`, likewise.")
    severity: tuple[str, ...] = field(
        default=(),
        metadata=described(
            Texts(one_of(*SEVERITIES), len(SEVERITIES)), "", "Its `severity` is one of these."
        ),
    )
    min_severity: str = setting(
        one_of(*SEVERITIES), SEVERITIES[0], "Its `severity` is this or a worse one."
    )
    data: tuple[tuple[str, Condition], ...] = field(
        default=(),
        metadata=described(
            _CONDITIONS,
            "",
            "By the name of a field of `data`, dots for fields within: a value, text with "
            'wildcards, or a comparison such as `">= 90"`. A field that is missing does not pass.',
        ),
    )


@frozen(kw_only=True)
class EnqueueConfig:
    """A task for a queue."""

    action: str = variant("enqueue", "What is done.")
    queue: str = setting(Kind("text", _queue), "default", "Which queue.")
    host: Template = field(
        default=NOTHING, metadata=described(TEMPLATE, "", "The host that the task is for.")
    )
    priority: int = setting(whole_number(-MAX_PRIORITY, MAX_PRIORITY), 0, "Higher goes first.")
    delay: float = setting(duration("0s", LONGEST_DELAY), "0s", "Not before so long from now.")
    max_attempts: int = setting(_ATTEMPTS, 3, "Claims before it is dead.")
    payload: Values = field(
        default=(),
        metadata=described(VALUES, "", "The fields of the task's payload. Empty: the whole event."),
    )


@frozen(kw_only=True)
class ExecConfig:
    """A command on the leader, once, with the event on its standard input."""

    action: str = variant("exec", "What is done.")
    run: tuple[Template, ...] = field(
        metadata=described(Texts(TEMPLATE, MAX_ARGUMENTS), None, "The program and its arguments.")
    )
    timeout: float = setting(_TIMEOUT, "30s", "After so long it is killed and has failed.")
    max_attempts: int = setting(_ATTEMPTS, 5, "How often it is tried.")


@frozen(kw_only=True)
class AlertConfig:
    """Tell people: a webhook, or a line in the leader's log."""

    action: str = variant("alert", "What is done.")
    webhook: str = setting(
        optional(Kind("URL", _webhook), absent=""),
        "",
        "Where JSON is posted to. Empty: a line in the leader's log.",
    )
    payload: Values = field(
        default=(),
        metadata=described(
            VALUES, "", "The fields of that JSON. Empty: the rule's name and the event."
        ),
    )
    timeout: float = setting(_TIMEOUT, "10s", "How long the webhook may take to answer.")
    max_attempts: int = setting(_ATTEMPTS, 5, "How often it is tried.")


ActionConfig: TypeAlias = EnqueueConfig | ExecConfig | AlertConfig

ACTIONS: dict[str, type[ActionConfig]] = {
    "enqueue": EnqueueConfig,
    "exec": ExecConfig,
    "alert": AlertConfig,
}


@frozen(kw_only=True)
class RuleConfig:
    name: str = field(
        metadata=described(name_of("a rule"), None, "Unique among the rules of this Reactor.")
    )
    match: MatchConfig = field(
        factory=MatchConfig,
        metadata=described(Section(MatchConfig), "", "Which events. Empty: all."),
    )
    do: tuple[ActionConfig, ...] = field(
        metadata=described(
            Variants("action", ACTIONS, MAX_ACTIONS), None, "What is done, all of it."
        )
    )


URLS = Pairs(Kind("URL", websocket_url), MAX_URLS)
CONNECTIONS = whole_number(1, MAX_CONNECTIONS)
EVENTS_PER_SECOND = whole_number(1, MAX_EVENTS_PER_SECOND)
RULES = Items(RuleConfig, MAX_RULES)
