"""docs/admin-api.md, from the table: `python -m nefia.admin.reference > docs/admin-api.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

from nefia.admin import MAX_LINE_BYTES, SOCKET_NAME
from nefia.admin.protocol import MAX_SEQ_CHARACTERS
from nefia.admin.server import (
    MAX_CONNECTIONS,
    MAX_IN_FLIGHT_PER_CONNECTION,
    SEND_TIMEOUT_SECONDS,
)
from nefia.admin.shapes import COMMON, Action, Default, Mode, Parameter
from nefia.admin.table import ACTIONS, MAX_CLAIM_WAIT_MS
from nefia.admin.values import DURATION_LABEL, MAX_NESTING, MAX_REQUEST_ID_CHARACTERS, json_bytes
from nefia.errors import BY_CODE, EXIT_CODES, EXIT_FAILED
from nefia.node.watching import MAX_UNREAD_EVENTS, MAX_WATCHERS
from nefia.state import limits
from nefia.state.commands import OWN_QUEUE_PREFIX
from nefia.state.records import RECORD_OVERHEAD_BYTES
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

Queues whose name begins with `{OWN_QUEUE_PREFIX}` are nefia's own: they can be listed and read, but
nothing is pushed to them or claimed from them, and a claim of any queue does not look there.
"""


_WATCHING = f"""\
## Watching

The answer to `watch` is a stream: lines with the request's `seq` and an `event`. The first says how
this node is: `{{"seq": 7, "event": "watching", "node_id", "state", "term", "leader_id",
"leader_addr", "applied_index"}}`. Then come, as they happen on this node:

| `event` | when | with |
|---|---|---|
| `role` | this node's state changes | `state`, `term`, `reason` |
| `leader` | another leads, or null: nobody known | `leader_id`, `leader_addr`, `term` |
| `membership` | members change: in effect, then committed | `members`, `committed` |
| `service` | a service of the leader changes | see the services' documentation |
| `queue` | this node applies a change of a task | `change`, `task` without payload and result |
| `session` | this node applies a change of a session | `change`, `session` |
| `missed` | this client was too slow | `count` of the events left out, or null |

`change` of a task: `pushed`, `claimed`, `extended`, `done`, `failed`, `lease_lost`, `dead`,
`cancelled`, `retried`, `removed`. Of a session: `opened`, `used`, `updated`, `closed`, `expired`.

A follower shows the changes that it applies, a moment after the leader. Nothing is kept for a
client that is not there: one that has to miss nothing lists what it needs after each `watching`
and each `missed`, which is also sent, with a null, where a snapshot took the place of the state: a
follower was brought one, or an operator has restored one. At most {MAX_UNREAD_EVENTS} events wait
for a slow client; what comes beyond is counted as missed. One that reads nothing at all for
{SEND_TIMEOUT_SECONDS:g} s is cut off. At most {MAX_WATCHERS} clients watch a node. A stream
ends with an error (`shutting_down`) when the node stops or begins anew.
"""


def _duration(milliseconds: int) -> str:
    return format_duration(milliseconds / 1000)


_LIMITS: tuple[tuple[str, str, str], ...] = (
    ("a line, request or answer", f"{MAX_LINE_BYTES} bytes", "too_large"),
    ("requests in flight on a connection", f"{MAX_IN_FLIGHT_PER_CONNECTION}; more wait", ""),
    ("connections", f"{MAX_CONNECTIONS}", "overloaded"),
    ("clients that watch", f"{MAX_WATCHERS}", "overloaded"),
    ("`payload`, `result`", f"{limits.MAX_PAYLOAD_BYTES} bytes of JSON each", "too_large"),
    ("`error` of a task", f"{limits.MAX_ERROR_BYTES} bytes", "too_large"),
    ("`queue`, `worker`, `user`, name of a label", f"{limits.MAX_NAME_BYTES} bytes", "too_large"),
    ("`host`", f"{limits.MAX_HOST_BYTES} bytes", "too_large"),
    ("`key`", f"{limits.MAX_KEY_BYTES} bytes", "too_large"),
    ("`root`, `cwd`, `shell`", f"{limits.MAX_PATH_BYTES} bytes", "too_large"),
    ("`labels`", f"{limits.MAX_LABELS}, of {limits.MAX_LABEL_BYTES} bytes each", "too_large"),
    ("`request_id`", f"{MAX_REQUEST_ID_CHARACTERS} characters", "invalid_argument"),
    ("`reason`", f"{limits.MAX_REASON_CHARACTERS} characters", "invalid_argument"),
    (
        "`tasks` of a push",
        f"{limits.MAX_PUSH_TASKS}, their payloads together {limits.MAX_PUSH_BYTES} bytes",
        "too_large",
    ),
    ("`limit` of a claim", f"1 to {limits.MAX_CLAIM_TASKS}", "invalid_argument"),
    ("`limit` of a page", f"1 to {limits.MAX_PAGE_RECORDS}", "invalid_argument"),
    ("`limit` of the history", f"1 to {limits.MAX_EVENTS}", "invalid_argument"),
    ("a page, or the tasks of a claim", f"{limits.MAX_ANSWER_BYTES} bytes; it ends early", ""),
    ("`wait`", f"up to {_duration(MAX_CLAIM_WAIT_MS)}", "invalid_argument"),
    (
        "`lease`",
        f"{_duration(limits.MIN_LEASE_MS)} to {_duration(limits.MAX_LEASE_MS)}",
        "invalid_argument",
    ),
    ("`delay`, `retry_after`", f"up to {_duration(limits.MAX_DELAY_MS)}", "invalid_argument"),
    ("`priority`", f"{-limits.MAX_PRIORITY} to {limits.MAX_PRIORITY}", "invalid_argument"),
    ("`max_attempts`", f"1 to {limits.MAX_ATTEMPTS}", "invalid_argument"),
    ("sessions", f"{limits.MAX_SESSIONS}", "overloaded"),
    (
        "all tasks, finished ones too",
        f"{limits.MAX_TASKS_BYTES} bytes, each counted as its texts and {RECORD_OVERHEAD_BYTES}",
        "overloaded",
    ),
    (
        "request ids remembered",
        f"{limits.MAX_REQUESTS}, each for {_duration(limits.REQUEST_MEMORY_MS)}",
        "overloaded",
    ),
    ("events of the history", f"{limits.MAX_EVENTS}; older ones are forgotten", ""),
)
"""What is limited, to what, and the code of the error beyond; no code: there is no error."""


def _limits() -> Iterator[str]:
    yield "## Limits"
    yield ""
    yield "| of | limit | beyond it |"
    yield "|---|---|---|"
    for what, limit, code in _LIMITS:
        assert not code or code in BY_CODE, code
        yield f"| {what} | {limit} | {f'`{code}`' if code else ''} |"
    yield ""


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
    yield _WATCHING
    yield from _limits()
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
