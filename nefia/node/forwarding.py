"""Passing a request on to the leader (SPEC 4, `forward`)."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import trio

from nefia.errors import NefiaError, NoLeader, OutcomeUnknown, PeerUnreachable
from nefia.node.replica import Replica

Ask = Callable[[str, bytes, float], Awaitable[bytes]]
"""The answer of a peer to a line of the admin protocol, within so many seconds."""


async def forward(
    replica: Replica, ask: Ask, request: dict[str, Any], timeout_seconds: float
) -> dict[str, Any]:
    """The leader's result for `request`; raises its error, NoLeader, or OutcomeUnknown.

    The latter also as soon as another leads, since the old leader may be silent for ever.
    """
    leader_id = replica.raft.leader_id
    if leader_id is None or leader_id == replica.raft.node_id:
        raise replica.not_leader()
    request_id = request.get("request_id")
    line = b""
    try:
        with _while_it_leads(replica, leader_id) as scope:
            line = await ask(leader_id, json.dumps(request).encode(), timeout_seconds)
    except OutcomeUnknown as error:
        raise OutcomeUnknown(error.message, hint=error.hint, request_id=request_id) from error
    except PeerUnreachable as error:
        raise NoLeader(f"the leader {leader_id} does not answer: {error.message}") from error
    if scope.cancelled_caught:
        raise OutcomeUnknown(
            f"{leader_id} leads no more and has not answered", request_id=request_id
        )
    answer: dict[str, Any] = json.loads(line)
    if not answer["ok"]:
        raise NefiaError.from_json(answer["error"])
    result: dict[str, Any] = answer["result"]
    return result


@contextmanager
def _while_it_leads(replica: Replica, leader_id: str) -> Iterator[trio.CancelScope]:
    with trio.CancelScope() as scope:

        def look() -> None:
            if replica.raft.leader_id not in (leader_id, None):
                scope.cancel()

        replica.observers.append(look)
        try:
            yield scope
        finally:
            replica.observers.remove(look)
