"""Where the listener gets what it shows: the daemon's answers, as the admin socket has them."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import trio
from attrs import field, frozen

from nefia.admin.values import json_bytes
from nefia.admin.why import degradations, explain
from nefia.errors import NefiaError, OutcomeUnknown

Answer = Callable[[bytes], Awaitable[bytes]]
"""A line of the admin protocol to the line that answers it."""

ANSWER_SECONDS = 3.0
"""A follower asks the leader for the members, which takes a second at most if it is silent."""
FRESH_SECONDS = 0.5
"""For so long an overview is shown to all who ask, so that many of them cost no more than one."""
SHOWN_EVENTS = 50


class Source:
    """Asks through `answer`, which never raises."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._lock = trio.Lock()
        self._overview = Overview()
        self._taken_at = -FRESH_SECONDS

    async def ask(self, action: str, **params: object) -> dict[str, Any]:
        """The result of one admin action. Raises what it was refused with, or OutcomeUnknown."""
        with trio.move_on_after(ANSWER_SECONDS):
            answer = json.loads(await self._answer(json_bytes({"action": action} | params)))
            if answer["ok"]:
                result: dict[str, Any] = answer["result"]
                return result
            raise NefiaError.from_json(answer["error"])
        raise OutcomeUnknown(f"no answer within {ANSWER_SECONDS:g} s", changed=False)

    async def status(self) -> dict[str, Any]:
        """Of this node, now, without asking anybody else."""
        return await self.ask("status")

    async def overview(self) -> Overview:
        """Everything that the page shows, at most `FRESH_SECONDS` old."""
        async with self._lock:
            if trio.current_time() - self._taken_at >= FRESH_SECONDS:
                self._overview = await self._look()
                self._taken_at = trio.current_time()
            return self._overview

    async def _look(self) -> Overview:
        problems: list[str] = []

        async def part(action: str, **params: object) -> dict[str, Any]:
            try:
                return await self.ask(action, **params)
            except NefiaError as error:
                problems.append(f"{action}: {error.code}: {error.message}")
                return {}

        try:
            status = await self.status()
        except NefiaError as error:
            return Overview(problems=(f"{error.code}: {error.message}",))
        local = {"consistency": "local"}
        view = await part("members") if status["state"] != "Uninitialized" else {}
        queues = await part("queue_stats", **local)
        history = await part("history", limit=SHOWN_EVENTS, **local)
        return Overview(
            status=status,
            why=tuple(explain(status)),
            degraded=tuple(degradations(status)),
            queues=queues.get("queues", {}),
            members=tuple(view.get("members", ())),
            services=tuple(view.get("services", status["services"])),
            services_of=view.get("source", status["node_id"]),
            events=tuple(history.get("events", ())),
            problems=tuple(problems),
        )


@frozen
class Overview:
    """`status` is None where even this node does not answer; `problems` say what is missing.

    `services` are those of the node `services_of`: the leader, if one is known.
    """

    status: dict[str, Any] | None = None
    why: tuple[str, ...] = ()
    degraded: tuple[str, ...] = ()
    queues: dict[str, Any] = field(factory=dict)
    members: tuple[dict[str, Any], ...] = ()
    services: tuple[dict[str, Any], ...] = ()
    services_of: str = ""
    events: tuple[dict[str, Any], ...] = ()
    problems: tuple[str, ...] = ()
