"""docs/admin-api.md, from the table: `python -m nefia.admin.reference > docs/admin-api.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

from nefia.admin import MAX_LINE_BYTES, SOCKET_NAME
from nefia.admin.protocol import MAX_SEQ_CHARACTERS
from nefia.admin.table import ACTIONS, COMMON, Action, Default, Mode, Parameter
from nefia.admin.values import DURATION_LABEL, MAX_NESTING, json_bytes
from nefia.errors import BY_CODE, EXIT_CODES, EXIT_FAILED
from nefia.units import format_duration

_INTRODUCTION = f"""\
# Admin API

This file is written by `python -m nefia.admin.reference` from the table that requests are checked
against; a test compares them.

The daemon serves `<state-dir>/{SOCKET_NAME}`, a Unix stream socket of mode 0600 (0660 with
`admin_group:`). Each line is one JSON object in UTF-8 of at most {MAX_LINE_BYTES} bytes,
with at most {MAX_NESTING} levels of arrays and objects.

Request: `{{"action": "status", "seq": 7, ...parameters}}`. `seq`, a number or a string of
at most {MAX_SEQ_CHARACTERS} characters, is optional; answers carry it, or null. Many requests may
be in flight on one connection, and their answers come as they complete.

Answer: `{{"seq": 7, "ok": true, "result": {{...}}}}`, or
`{{"seq": 7, "ok": false, "error": {{"code": "not_leader", "message": "...", "changed": false}}}}`.
`changed` is `false`, `true` or `"unknown"`: whether anything is different now. A `hint`, where
there is one, says what to do. `not_leader` carries `leader_id` and `leader_addr`; the `timeout` of
a change carries the `request_id` under which it may be repeated.

Durations are text such as `"30s"` or `"1m30s"`; instants in answers are RFC 3339 in UTC. Unknown
parameters are errors.
"""


def render() -> str:
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    yield _INTRODUCTION
    for mode in Mode:
        yield f"## Actions: {mode.value}"
        yield ""
        if COMMON[mode]:
            yield "Each of them also takes:"
            yield ""
            yield from _table(COMMON[mode])
        for action in ACTIONS.values():
            if action.mode is mode:
                yield from _section(action)
    yield "## Error codes"
    yield ""
    yield "With the exit code that the command line gives each."
    yield ""
    yield "| code | exit |"
    yield "|---|---|"
    for code in sorted(BY_CODE):
        yield f"| `{code}` | {EXIT_CODES.get(code, EXIT_FAILED)} |"
    yield ""


def _section(action: Action) -> Iterator[str]:
    yield f"### `{action.name}`"
    yield ""
    yield f"{action.doc} Result: {action.result}."
    yield ""
    yield from _table(action.parameters)


def _table(parameters: Iterable[Parameter]) -> Iterator[str]:
    rows = [f"| `{p.name}` | {p.kind.label} | {_default(p)} | {p.doc} |" for p in parameters]
    if rows:
        yield "| parameter | type | default | |"
        yield "|---|---|---|---|"
        yield from rows
        yield ""


def _default(parameter: Parameter) -> str:
    match parameter.default:
        case Default.REQUIRED:
            return "required"
        case Default.ABSENT | None | "":
            return ""
        case int(milliseconds) if parameter.kind.label == DURATION_LABEL:
            return f'`"{format_duration(milliseconds / 1000)}"`'
        case bytes(text):
            return f"`{text.decode()}`"
        case value:
            return f"`{json_bytes(value).decode()}`"


if __name__ == "__main__":
    sys.stdout.write(render())
