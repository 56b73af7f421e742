"""Checks of single JSON values: strict about types, and with messages that say what is right.

A `Kind` turns a decoded JSON value into what the state machine wants, or raises InvalidArgument.
How long a host name or how large a payload may be is the business of `nefia.state`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from functools import lru_cache
from math import ceil
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from attrs import Factory, field, frozen
from msgspec import Meta
from msgspec.structs import asdict

from nefia.errors import InvalidArgument
from nefia.state.commands import OWN_QUEUE_PREFIX
from nefia.units import format_duration, parse_duration

MAX_NESTING = 200
"""Levels of arrays and objects in a request: far from where Python's own recursion ends."""

LEVELS_ABOVE_JSON = 3
"""How deep in a request a payload may lie: in it, its tasks, one of them."""

MAX_SHOWN_CHARACTERS = 60
"""How much of a wrong value or unknown name an error message repeats."""

MAX_REQUEST_ID_CHARACTERS = 128
DURATION_LABEL = "duration"

INTEGER_RANGE = range(-(2**63), 2**63)
"""What msgpack holds."""


def _plain(value: msgspec.Raw | msgspec.Struct) -> Any:
    return json.loads(bytes(value)) if isinstance(value, msgspec.Raw) else asdict(value)


_encoder = msgspec.json.Encoder()
_encode = _encoder.encode
_careful_encoder = json.JSONEncoder(
    ensure_ascii=False,
    allow_nan=False,
    check_circular=False,
    separators=(",", ":"),
    default=_plain,
)


def json_bytes(value: Any) -> bytes:
    """Compact JSON in UTF-8; msgspec's classes may be part of `value`, and JSON as its `Raw`.

    Lone surrogates, which UTF-8 has no bytes for, are escaped. There must be no infinities and
    no NaN in it, which JSON does not have.
    """
    try:
        return _encode(value)
    except UnicodeEncodeError:
        return _careful_encoder.encode(value).encode("utf-8", "backslashreplace")


def append_json(text: bytearray, value: Any) -> None:
    """Put the same behind `text`; for much that is sent together, a copy less."""
    start = len(text)
    try:
        _encoder.encode_into(value, text, start)
    except UnicodeEncodeError:
        text[start:] = json_bytes(value)


def shown(value: Any) -> str:
    """`value` for a message: as JSON, shortened."""
    text = json.dumps(value)
    if len(text) <= MAX_SHOWN_CHARACTERS:
        return text
    return text[: MAX_SHOWN_CHARACTERS - 3] + "..."


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint that names the known word most like `name`, or lists all if none is."""
    known = sorted(known)
    if matches := get_close_matches(name[:MAX_SHOWN_CHARACTERS], known, n=1):
        return f'did you mean "{matches[0]}"?'
    return f"known are {', '.join(known)}" if known else "it takes none"


def brackets(text: bytes) -> int:
    """Of JSON; no less than its levels. To count them takes a hundredth of the time."""
    return text.count(b"{") + text.count(b"[")


def nesting(value: Any) -> int:
    """Levels of arrays and objects: 0 for a scalar, 1 for an array of scalars."""
    levels = 0
    containers = [value] if isinstance(value, dict | list) else []
    while containers:
        levels += 1
        containers = [
            inner
            for outer in containers
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
    return levels


Check: TypeAlias = Callable[[str, Any], Any]
"""Given a parameter's name and a value of it, the value for who performs the request."""


@frozen
class Kind:
    """`check(name, value)` gives the checked value; `label` is how the reference calls it.

    `decoded` is the type that a decoder can see to by itself. Of a value of that type `finish` does
    what is left for `check` to do; None if that is nothing.
    """

    label: str
    check: Check
    decoded: Any = Any
    finish: Check | None = field(default=Factory(lambda self: self.check, takes_self=True))


def _wrong(name: str, wanted: str, value: Any) -> InvalidArgument:
    return InvalidArgument(f'"{name}" must be {wanted}, not {shown(value)}')


def _any_text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong(name, "a string", value)
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise _wrong(name, "valid Unicode", value) from None
    return value


def _name(name: str, value: Any) -> str:
    if not _any_text(name, value):
        raise _wrong(name, "a string that is not empty", value)
    return str(value)


def _not_own(name: str, queue: str) -> str:
    """Its tasks would be taken for nefia's own orders, or be missed by those who wait for them."""
    if queue.startswith(OWN_QUEUE_PREFIX):
        raise InvalidArgument(
            f'"{name}" must not begin with "{OWN_QUEUE_PREFIX}": such queues are nefia\'s own',
            hint="push to, and claim from, a queue of another name",
        )
    return queue


def _users_queue(name: str, value: Any) -> str:
    return _not_own(name, _any_text(name, value))


def _users_queue_name(name: str, value: Any) -> str:
    return _users_queue(name, value) or _name(name, value)


def _boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong(name, "true or false", value)
    return value


def _integer(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value not in INTEGER_RANGE:
        raise _wrong(name, "an integer", value)
    return value


def _labels(name: str, value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise _wrong(name, "an object of strings", value)
    for label, text in value.items():
        _any_text(name, label)
        _any_text(f"{name}.{label[:MAX_SHOWN_CHARACTERS]}", text)
    return value


def _json(_: str, value: Any) -> bytes:
    return _copied % json_bytes(value)


def _surely_flat_json(name: str, value: Any) -> bytes:
    """Of a value whose levels nobody has counted. Raises InvalidArgument if somebody should."""
    text = _encode(value)
    if isinstance(value, _CONTAINERS) and brackets(text) > MAX_NESTING - LEVELS_ABOVE_JSON:
        raise InvalidArgument(f'"{name}" may have too many levels of arrays and objects')
    return _copied % text


_CONTAINERS = (dict, list)

_copied = b"%b"
"""For what is kept for long: the encoder's own bytes lie in a block half as large again."""


def _from_to(lowest: int, highest: int) -> Any:
    return Annotated[int, Meta(ge=lowest, le=highest)]


_NOT_EMPTY = Annotated[str, Meta(min_length=1)]

TEXT = Kind("string", _any_text, str, finish=None)
NAME = Kind("string, not empty", _name, _NOT_EMPTY, finish=None)
QUEUE = Kind(NAME.label, _users_queue_name, _NOT_EMPTY, finish=_not_own)
QUEUE_OR_ANY = Kind(TEXT.label, _users_queue, str, finish=_not_own)
BOOLEAN = Kind("boolean", _boolean, bool, finish=None)
INTEGER = Kind("integer", _integer, _from_to(INTEGER_RANGE[0], INTEGER_RANGE[-1]), finish=None)
LABELS = Kind("object of strings", _labels, dict[str, str], finish=None)
JSON = Kind("any JSON", _json, finish=_surely_flat_json)


def one_of(*choices: str) -> Kind:
    def check(name: str, value: Any) -> str:
        if not isinstance(value, str) or value not in choices:
            raise _wrong(name, f"one of {', '.join(choices)}", value)
        return value

    label = " or ".join(f"`{choice}`" for choice in choices)
    return Kind(label, check, Literal[tuple(map(str, choices))], finish=None)


def whole_number(lowest: int, highest: int) -> Kind:
    def check(name: str, value: Any) -> int:
        number = _integer(name, value)
        if not lowest <= number <= highest:
            raise _wrong(name, f"from {lowest} to {highest}", value)
        return number

    label = f"integer from {lowest} to {highest}"
    return Kind(label, check, _from_to(lowest, highest), finish=None)


def text_up_to(most_characters: int) -> Kind:
    def check(name: str, value: Any) -> str:
        text = _name(name, value)
        if len(text) > most_characters:
            raise _wrong(name, f"at most {most_characters} characters long", value)
        return text

    decoded = Annotated[str, Meta(min_length=1, max_length=most_characters)]
    return Kind(f"string, 1 to {most_characters} characters", check, decoded, finish=None)


@lru_cache(maxsize=1024)
def _milliseconds(text: str) -> int:
    """Kept, since most durations are one of a few. Raises ValueError, for long texts too."""
    return ceil(round(parse_duration(text) * 1000, 3))


def duration(most_ms: int | None = None) -> Kind:
    """Go-style text to whole milliseconds, rounded up so that no wait becomes none."""

    def check(name: str, value: Any) -> int:
        if not isinstance(value, str):
            raise _wrong(name, 'a duration such as "30s" or "1m30s"', value)
        try:
            milliseconds = _milliseconds(value)
        except ValueError as error:
            raise InvalidArgument(f'"{name}": {error}') from None
        if most_ms is not None and milliseconds > most_ms:
            raise _wrong(name, f"at most {format_duration(most_ms / 1000)}", value)
        return milliseconds

    return Kind(DURATION_LABEL, check, str)
