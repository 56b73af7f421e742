"""Clients of the queue and of sessions, and the operator who changes the members.

A client that does not learn an outcome repeats the same call under the same request id, on any
node; a share of the clients uses no request ids and just goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import trio

from nefia.errors import NefiaError
from tests.simulation.daemon_world import World
from tests.simulation.history import Json

PATIENCE_SECONDS = 4.0
RETRY_SECONDS = (0.02, 0.3)
MAX_RETRIES = 12
QUEUES = ("default", "other")
KNOWN = 12
"""Of tasks and sessions, the newest so many are asked for."""

SETTLED = ("not_found", "conflict", "lease_lost")
"""Errors that another attempt would not change."""

WEIGHTS = {
    "queue_push": 5,
    "queue_claim": 5,
    "queue_get": 2,
    "session_open": 2,
    "session_touch": 2,
    "session_update": 2,
    "session_get": 2,
    "session_close": 1,
}


class Client:
    """`claimed`: the tasks it works on, with their tokens."""

    def __init__(self, world: World, number: int) -> None:
        self.name = f"c{number}"
        self.done = False
        self._world = world
        self._random = Random(f"client {world.scenario.seed} {number}")
        self._with_ids = self._random.random() < 0.7
        self._forward = self._random.random() < 0.6
        self._count = 0
        self._claimed: list[tuple[str, int]] = []

    async def run(self, shared: dict[str, list[str]]) -> None:
        """`shared`: what all clients know of, ids of "tasks" and "sessions"."""
        random, rate = self._random, self._world.scenario.client_rate
        while not self.done:
            await trio.sleep(random.expovariate(rate))
            if self._claimed and random.random() < 0.6:
                await self._answer_claim()
                continue
            action = random.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
            args = self._args(action, shared)
            if args is not None:
                self._learn(await self._do(action, args), shared)

    def _args(self, action: str, shared: dict[str, list[str]]) -> dict[str, Json] | None:
        random = self._random
        match action:
            case "queue_push":
                args: dict[str, Json] = {"payload": f"{self.name}.{self._count}"}
                args["queue"] = random.choice(QUEUES)
                args["priority"] = random.choice([0, 0, 0, 1])
                if random.random() < 0.1:
                    args["key"] = f"key {random.randint(1, 5)}"
                if random.random() < 0.1:
                    args["delay"] = "500ms"
                return args
            case "queue_claim":
                return {
                    "worker": self.name,
                    "queue": random.choice(("", *QUEUES)),
                    "lease": random.choice(["500ms", "2s", "10s"]),
                }
            case "session_open":
                return {"host": random.choice(["a", "b"]), "cwd": f"/{self._count}"}
        known = shared["tasks" if action == "queue_get" else "sessions"]
        if not known:
            return None
        args = {"id": random.choice(known[-KNOWN:])}
        if action == "session_update":
            args["cwd"] = f"/{self.name}/{self._count}"
        return args

    async def _answer_claim(self) -> None:
        task, token = self._random.choice(self._claimed)
        action = self._random.choice(["queue_ack", "queue_ack", "queue_fail", "queue_extend"])
        args: dict[str, Json] = {"id": task, "token": token}
        match action:
            case "queue_ack":
                args["result"] = self._count
            case "queue_extend":
                args["lease"] = "2s"
            case _:
                args["error"], args["retry_after"] = "failed", "100ms"
        await self._do(action, args)
        if action != "queue_extend" and self._random.random() < 0.8:
            self._claimed.remove((task, token))

    def _learn(self, answer: Json | None, shared: dict[str, list[str]]) -> None:
        if answer is None or not answer["ok"]:
            return
        if (task := answer["result"].get("task")) is not None:
            shared["tasks"].append(task["id"])
            if task["worker"] == self.name and task["state"] == "leased":
                self._claimed.append((task["id"], task["token"]))
        elif (session := answer["result"].get("session")) is not None:
            shared["sessions"].append(session["id"])

    async def _do(self, action: str, args: dict[str, Json]) -> Json | None:
        """The answer that settles it; None if none came, or no attempt was worth another."""
        self._count += 1
        if not action.endswith("_get"):
            if self._with_ids:
                args["request_id"] = f"{self.name}-{self._count}"
            args["forward"] = self._forward
        for _ in range(MAX_RETRIES):
            up = sorted(self._world.up)
            if up:
                name = self._random.choice(up)
                said = await self._world.call(name, self.name, action, args, PATIENCE_SECONDS)
                if said is not None and (said["ok"] or said["error"]["code"] in SETTLED):
                    return said
                unknown = said is None or said["error"]["changed"] is not False
                if unknown and not self._with_ids:
                    return None
            await trio.sleep(self._random.uniform(*RETRY_SECONDS))
        return None


class Operator:
    """Does one thing after the other; what it has asked for may be done later all the same."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._random = Random(f"operator {world.scenario.seed}")
        self._moves = 0
        self._kinds: dict[str, Callable[[], Any]] = {
            "add": self._add,
            "remove": self._remove,
            "remove_leader": self._remove_leader,
            "transfer": self._transfer,
            "move": self._move,
            "replace": self._replace,
        }

    async def run(self) -> None:
        changes = dict(self._world.scenario.changes)
        if not changes:
            return
        kinds, rates = list(changes), [1 / interval for interval in changes.values()]
        while True:
            await trio.sleep(self._random.expovariate(sum(rates)))
            await self._kinds[self._random.choices(kinds, rates)[0]]()
            await self._renew_damaged()

    async def _order(self, action: str, **params: Any) -> bool:
        """Whether it was done, as far as is known."""
        world = self._world
        if not world.up:
            return False
        name = self._random.choice(world.leaders() or sorted(world.up))
        outcome = "no answer"
        with trio.move_on_after(2 * PATIENCE_SECONDS):
            try:
                await world.order(name, action, forward=True, **params)
                outcome = "done"
            except NefiaError as error:
                outcome = error.code
        said = " ".join(f"{key}={value}" for key, value in params.items())
        world.journal.record("op", f"{name} {action} {said}: {outcome}")
        world.journal.count(f"{action}: {outcome}")
        return outcome == "done"

    def _any_member(self) -> str:
        members = sorted(self._world.named() & set(self._world.names))
        return self._random.choice(members or self._world.names)

    async def _add(self, name: str | None = None) -> None:
        world = self._world
        outside = sorted(set(world.names) - world.named())
        name = name or self._random.choice(outside or world.names)
        params = {"wait": self._random.random() < 0.5, "preflight": self._random.random() < 0.8}
        await self._order("add_peer", id=name, addr=world.addresses[name], **params)

    async def _remove(self, name: str | None = None) -> bool:
        name = name or self._any_member()
        return await self._order("remove_peer", id=name, force=self._random.random() < 0.3)

    async def _remove_leader(self) -> None:
        for name in self._world.leaders()[:1]:
            await self._remove(name)

    async def _transfer(self) -> None:
        to = self._any_member() if self._random.random() < 0.5 else None
        await self._order("transfer_leader", **({"to": to} if to else {}))

    async def _move(self) -> None:
        """A node gets another address; the leader is told before or after it has it.

        Two that move before each knows where the other is do not reach each other any more; and a
        paused process would go on where it was.
        """
        world, name = self._world, self._any_member()
        if name in world.paused or not self._everybody_knows_where_the_others_are():
            return
        self._moves += 1
        world.addresses[name] = f"{name}:{9700 + self._moves}"
        if name in world.up:
            world.bring_down(name)
            world.revive_later(name, self._random.uniform(0.02, 0.5))
        await self._add(name)

    def _everybody_knows_where_the_others_are(self) -> bool:
        world = self._world
        configurations = [process.raft.log.configuration for process in world.up.values()]
        return world.named() <= world.up.keys() and all(
            member.address == world.addresses[member.id]
            for configuration in configurations
            for member in configuration.members
        )

    async def _replace(self, name: str | None = None) -> None:
        """Remove a node, empty its disk, and add it again."""
        world = self._world
        name = name or self._any_member()
        removed = await self._remove(name)
        if not (removed or name in world.damaged) or name in world.named():
            return
        world.journal.record(name, "is wiped")
        world.journal.count("nodes wiped and added again")
        world.bring_down(name)
        world.new_disk(name)
        world.damaged.discard(name)
        world.revive_later(name, 0.05)
        await world.wait_for(lambda: name in world.up, PATIENCE_SECONDS)
        await self._add(name)

    async def _renew_damaged(self) -> None:
        for name in sorted(self._world.damaged):
            await self._replace(name)
