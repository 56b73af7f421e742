"""Users neither push to nefia's own queues nor claim from them, but may look."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nefia.admin.protocol import Refusal, Request, parse_request

OWN = "_reactor"


@pytest.mark.parametrize(
    "raw",
    [
        {"action": "queue_push", "payload": 1, "queue": OWN},
        {"action": "queue_push", "payload": 1, "queue": "_"},
        {"action": "queue_push", "tasks": [{"payload": 1}, {"payload": 1, "queue": OWN}]},
        {"action": "queue_claim", "worker": "w", "queue": OWN},
    ],
)
def test_what_is_refused(raw: dict[str, Any]) -> None:
    refusal = parse_request(json.dumps(raw).encode())
    assert isinstance(refusal, Refusal)
    assert refusal.error.code == "invalid_argument"
    assert "nefia's own" in refusal.error.message


@pytest.mark.parametrize(
    "raw",
    [
        {"action": "queue_push", "payload": 1, "queue": "a_b"},
        {"action": "queue_claim", "worker": "w"},
        {"action": "queue_list", "queue": OWN},
        {"action": "queue_stats", "queue": OWN},
        {"action": "queue_retry", "id": "1"},
    ],
)
def test_what_is_not(raw: dict[str, Any]) -> None:
    assert isinstance(parse_request(json.dumps(raw).encode()), Request)
