"""Every limit of docs/admin-api.md ends in the error that stands there, and names what it is of."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nefia.admin import table
from nefia.admin.protocol import Refusal, parse_request
from nefia.admin.reference import _LIMITS
from nefia.errors import NefiaError
from nefia.state import limits
from tests.admin.perfect_node import Node, ask

LONG_NAME = "n" * (limits.MAX_NAME_BYTES + 1)
LONG_PATH = "/" * (limits.MAX_PATH_BYTES + 1)
LEASED = {"id": "1", "token": 1}
LABELS = {str(number): "" for number in range(limits.MAX_LABELS + 1)}
BIG = "x" * limits.MAX_PAYLOAD_BYTES

BEYOND: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "`payload`, `result`": [
        ("queue_push", {"payload": BIG}),
        ("queue_ack", LEASED | {"result": BIG}),
    ],
    "`error` of a task": [("queue_fail", LEASED | {"error": "x" * (limits.MAX_ERROR_BYTES + 1)})],
    "`queue`, `worker`, `user`, name of a label": [
        ("queue_push", {"payload": 1, "queue": LONG_NAME}),
        ("queue_claim", {"worker": LONG_NAME}),
        ("session_open", {"host": "h", "user": LONG_NAME}),
        ("session_open", {"host": "h", "labels": {LONG_NAME: ""}}),
    ],
    "`host`": [
        ("queue_push", {"payload": 1, "host": "h" * (limits.MAX_HOST_BYTES + 1)}),
        ("session_open", {"host": "h" * (limits.MAX_HOST_BYTES + 1)}),
    ],
    "`key`": [("queue_push", {"payload": 1, "key": "k" * (limits.MAX_KEY_BYTES + 1)})],
    "`root`, `cwd`, `shell`": [
        ("session_open", {"host": "h", name: LONG_PATH}) for name in ("root", "cwd", "shell")
    ],
    "`labels`": [
        ("session_open", {"host": "h", "labels": LABELS}),
        ("session_open", {"host": "h", "labels": {"a": "x" * (limits.MAX_LABEL_BYTES + 1)}}),
    ],
    "`request_id`": [("queue_cancel", {"id": "1", "request_id": "r" * 129})],
    "`reason`": [("remove_peer", {"id": "n", "reason": "r" * (limits.MAX_REASON_CHARACTERS + 1)})],
    "`tasks` of a push": [
        ("queue_push", {"tasks": [{"payload": 1}] * (limits.MAX_PUSH_TASKS + 1)}),
        ("queue_push", {"tasks": [{"payload": "x" * 250_000}] * 5}),
    ],
    "`limit` of a claim": [
        ("queue_claim", {"worker": "w", "limit": limit})
        for limit in (0, limits.MAX_CLAIM_TASKS + 1)
    ],
    "`limit` of a page": [
        (action, {"limit": limit})
        for action in ("queue_list", "session_list")
        for limit in (0, limits.MAX_PAGE_RECORDS + 1)
    ],
    "`limit` of the history": [
        ("history", {"limit": limit}) for limit in (0, limits.MAX_EVENTS + 1)
    ],
    "`wait`": [("queue_claim", {"worker": "w", "wait": f"{table.MAX_CLAIM_WAIT_MS + 1}ms"})],
    "`lease`": [("queue_claim", {"worker": "w", "lease": lease}) for lease in ("999ms", "24h0m1s")],
    "`delay`, `retry_after`": [
        ("queue_push", {"payload": 1, "delay": "8760h1s"}),
        ("queue_fail", LEASED | {"retry_after": "8760h1s"}),
    ],
    "`priority`": [
        ("queue_push", {"payload": 1, "priority": sign * (limits.MAX_PRIORITY + 1)})
        for sign in (-1, 1)
    ],
    "`max_attempts`": [
        ("queue_push", {"payload": 1, "max_attempts": attempts})
        for attempts in (0, limits.MAX_ATTEMPTS + 1)
    ],
}
ELSEWHERE = {
    "a line, request or answer",
    "connections",
    "clients that watch",
    "sessions",
    "all tasks, finished ones too",
    "request ids remembered",
}
"""What no single request can pass; other tests have these."""

CODES = {what: code for what, _, code in _LIMITS if code}


def test_every_limit_is_here() -> None:
    assert BEYOND.keys() | ELSEWHERE == CODES.keys()


@pytest.mark.trio
@pytest.mark.parametrize(
    ("what", "action", "params"),
    [(what, *case) for what, cases in BEYOND.items() for case in cases],
)
async def test_beyond_a_limit(node: Node, what: str, action: str, params: dict[str, Any]) -> None:
    line = json.dumps({"action": action, **params}).encode()
    request = parse_request(line)
    if isinstance(request, Refusal):
        error = request.error
    else:
        with pytest.raises(NefiaError) as caught:
            await ask(node, action, **params)
        error = caught.value
    assert error.code == CODES[what]
    assert error.changed is False
    assert len(error.message) < 200
    assert node.changes == []
