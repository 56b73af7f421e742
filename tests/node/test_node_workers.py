"""Workers that die, stall and come late, while nodes crash, freeze and are cut off (issue 7)."""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import partial
from random import Random
from typing import Any

import pytest
import trio
from attrs import define, evolve, field

from nefia.errors import NefiaError
from tests.node.cluster import SETTINGS, Cluster, overlapping
from tests.node.simulated import run_simulated
from tests.node.test_node_leadership import faults
from tests.node.test_node_random import RECOVERY_SECONDS, _mend

FAULT_SECONDS = 20.0
TASKS = 40
HABITS = ("good", "good", "dies", "late", "stubborn")
LEASE_SECONDS = 2.0
LATE_SECONDS = 6.0
ASK_SECONDS = 5.0
UNKNOWN = {"timeout", "no_leader", "not_leader", "no_quorum", "shutting_down", "internal"}


@define
class Ledger:
    """What workers were told: claims as (task, token), and answers accepted and refused."""

    claims: list[tuple[str, int]] = field(factory=list)
    accepted: dict[str, list[int]] = field(factory=lambda: defaultdict(list))
    refused: Counter[str] = field(factory=Counter)
    """By habit."""
    codes: set[str] = field(factory=set)
    done: bool = False


@define
class Worker:
    name: str
    cluster: Cluster
    ledger: Ledger
    habit: str
    random: Random
    requests: int = 0

    async def run(self) -> None:
        while not self.ledger.done:
            task = (await self.ask("queue_claim", worker=self.habit, lease="2s", wait="1s"))["task"]
            if task is None:
                continue
            self.ledger.claims.append((task["id"], task["token"]))
            if self.habit == "dies":
                # Not so that it is the first in line each time when its own lease ends.
                await trio.sleep(self.random.uniform(0, LEASE_SECONDS))
                continue
            if self.habit == "late":
                await trio.sleep(LATE_SECONDS)
            for _ in range(2 if self.habit == "stubborn" else 1):
                await self.acknowledge(task)

    async def acknowledge(self, task: dict[str, Any]) -> None:
        try:
            await self.ask("queue_ack", id=task["id"], token=task["token"], result=self.habit)
        except NefiaError as error:
            self.ledger.refused[self.habit] += 1
            self.ledger.codes.add(error.code)
        else:
            self.ledger.accepted[task["id"]].append(task["token"])

    async def ask(self, action: str, **params: Any) -> dict[str, Any]:
        """Of any node, under one request id, until the outcome is known."""
        self.requests += 1
        request_id = f"{self.name}.{self.requests}"
        while True:
            with trio.move_on_after(ASK_SECONDS):
                try:
                    name = self.random.choice(sorted(self.cluster.up) or ["nobody"])
                    if name in self.cluster.up:
                        return await self.cluster.ask(
                            name, action, forward=True, request_id=request_id, **params
                        )
                except NefiaError as error:
                    if error.code not in UNKNOWN:
                        raise
            await trio.sleep(self.random.uniform(0.01, 0.1))


async def push_all(cluster: Cluster) -> None:
    """One is ready after the other, for as long as there are faults."""
    gap_ms = round(FAULT_SECONDS * 1000 / TASKS)
    tasks = [{"payload": n, "max_attempts": 1000, "delay": f"{n * gap_ms}ms"} for n in range(TASKS)]
    await cluster.ask("n1", "queue_push", tasks=tasks)


async def _run(seed: int) -> None:
    random = Random(seed)
    ledger = Ledger()
    async with trio.open_nursery() as nursery:
        cluster = Cluster(nursery, seed=seed, settings=evolve(SETTINGS, apply_timeout=2.0))
        await cluster.form("n1", "n2", "n3")
        await push_all(cluster)
        async with trio.open_nursery() as working:
            for number, habit in enumerate(HABITS):
                own = Random(seed * 10 + number)
                worker = Worker(f"worker-{number}", cluster, ledger, habit, own)
                working.start_soon(worker.run)
            await faults(cluster, random, FAULT_SECONDS)
            await _mend(cluster)
            await cluster.until(lambda: len(ledger.accepted) == TASKS)
            ledger.done = True
        await cluster.until(cluster.is_calm, RECOVERY_SECONDS)
        judge(cluster, ledger)
        nursery.cancel_scope.cancel()


def judge(cluster: Cluster, ledger: Ledger) -> None:
    assert len(cluster.digests()) == 1
    assert overlapping(cluster.leaderships) == []
    assert cluster.leader is not None
    tasks, _ = cluster.up[cluster.leader].machine.list_tasks(limit=1000)
    assert sorted(int(task.payload) for task in tasks) == list(range(TASKS))
    tokens = [token for _, token in ledger.claims]
    assert len(set(tokens)) == len(tokens), "a token was given twice"
    for task in tasks:
        assert task.state.value == "done"
        assert ledger.accepted[task.id] == [task.token], "not done once, under its newest token"
        assert max(token for one, token in ledger.claims if one == task.id) == task.token
    assert ledger.codes <= {"conflict", "lease_lost"}
    assert ledger.refused["late"]
    assert ledger.refused["stubborn"]


@pytest.mark.parametrize("seed", range(3))
def test_no_task_is_lost_and_no_token_has_two_holders(seed: int) -> None:
    try:
        run_simulated(partial(_run, seed), seed=seed)
    except BaseException:
        print(f"seed {seed}; see more with NEFIA_TEST_LOGS=1")
        raise
