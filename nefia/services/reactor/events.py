"""Messages between beacons and the Reactor: bytes to values and back, without I/O (SPEC 10).

    beacon   {"id", "type", "host", "severity"?, "data"?}
    Reactor  {"ack": id}, or {"error": {"code", "message", "hint"?, "again"}, "id": id or null}

An error is about one message, and the connection goes on. `again` says whether the same event may
be acknowledged if it is sent once more, here or to the next leader.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from nefia.config.reactor import DEFAULT_SEVERITY, SEVERITIES
from nefia.errors import InvalidArgument, NefiaError, TooLarge

MAX_EVENT_BYTES = 64 * 1024
MAX_ID_CHARACTERS = 128
MAX_TYPE_CHARACTERS = 128
MAX_HOST_CHARACTERS = 255
MAX_NESTING = 64
"""Levels of objects and arrays: what any reader of a task's payload can follow."""
MAX_CLOSE_REASON_BYTES = 123
"""RFC 6455, 5.5: a control frame has 125 bytes, two of them for the code."""

SERVICE_RESTART = 1012
"""The code of a close at the end of leadership (IANA's registry of RFC 6455 close codes)."""

AGAIN = frozenset(
    {
        "not_leader",
        "no_leader",
        "no_quorum",
        "timeout",
        "overloaded",
        "shutting_down",
        "disk_failed",
    }
)
"""Codes of errors that are about the cluster's condition and not about the event."""

SEND_AGAIN = "send it again under the same id: it cannot happen twice"


class Event(Struct, frozen=True, forbid_unknown_fields=True):
    """What a beacon says. `id` is unique among those of its host for a day and more."""

    id: Annotated[str, Meta(min_length=1, max_length=MAX_ID_CHARACTERS)]
    type: Annotated[str, Meta(min_length=1, max_length=MAX_TYPE_CHARACTERS)]
    host: Annotated[str, Meta(min_length=1, max_length=MAX_HOST_CHARACTERS)]
    severity: str = DEFAULT_SEVERITY
    data: dict[str, Any] = {}


class _Named(Struct):
    """As much as a wrong message needs to have to be answered by its id."""

    id: str | None = None


_decode_event = msgspec.json.Decoder(Event).decode
_decode_id = msgspec.json.Decoder(_Named).decode
_encode = msgspec.json.Encoder().encode


def parse_event(message: str | bytes) -> tuple[Event, bytes]:
    """The event, and its JSON as it was sent but on one line. Raises InvalidArgument, TooLarge."""
    if not isinstance(message, str):
        raise InvalidArgument("an event is a text message, not a binary one")
    text = message.encode()
    if len(text) > MAX_EVENT_BYTES:
        raise TooLarge(f"the event has {len(text)} bytes; at most {MAX_EVENT_BYTES} are allowed")
    try:
        event = _decode_event(text)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise InvalidArgument(f"this is no event: {error}") from None
    if event.severity not in SEVERITIES:
        raise InvalidArgument(f'"severity" must be one of {", ".join(SEVERITIES)}')
    for name in ("id", "type", "host"):
        if not getattr(event, name).isprintable():
            raise InvalidArgument(f'"{name}" must hold printable characters only')
    if _nesting(event.data) > MAX_NESTING:
        raise InvalidArgument(f'"data" has more than {MAX_NESTING} levels of objects and arrays')
    # As payloads have to be, since answers of the admin API are lines.
    return event, msgspec.json.format(text, indent=-1)


def id_of(message: str | bytes) -> str | None:
    """The `id` of a message that may be no event; None if it cannot be read."""
    if len(message) > MAX_EVENT_BYTES:
        return None
    try:
        found = _decode_id(message).id
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    return found[:MAX_ID_CHARACTERS] if found else None


def acknowledged(event_id: str) -> str:
    return str(_encode({"ack": event_id}), "utf-8")


def refused(event_id: str | None, error: NefiaError) -> str:
    again = error.code in AGAIN
    answer = {"code": error.code, "message": error.message, "again": again}
    if hint := SEND_AGAIN if again else error.hint:
        answer["hint"] = hint
    return str(_encode({"error": answer, "id": event_id}), "utf-8")


def close_reason(leader_id: str | None, url: str | None) -> str:
    """{"leader_id", "url"} as JSON that fits a close frame; what does not is null, `url` first."""
    given = ((leader_id, url), (leader_id, None), (None, None))
    texts = (_encode({"leader_id": leader, "url": at}) for leader, at in given)
    return str(next(text for text in texts if len(text) <= MAX_CLOSE_REASON_BYTES), "utf-8")


def _nesting(value: object) -> int:
    levels, containers = 0, [value]
    while containers and levels <= MAX_NESTING:
        levels += 1
        containers = [
            inner
            for outer in containers
            for inner in (outer.values() if isinstance(outer, dict) else outer)  # type: ignore[attr-defined]
            if isinstance(inner, dict | list)
        ]
    return levels
