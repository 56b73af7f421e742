"""The promise as a whole: whatever happens, what was acknowledged is there, once, everywhere."""

from __future__ import annotations

from collections import Counter
from functools import partial
from random import Random

import pytest
import trio
from attrs import evolve

from nefia.errors import NefiaError
from tests.node.cluster import SETTINGS, Cluster, overlapping
from tests.node.simulated import run_simulated
from tests.node.test_node_leadership import faults

FAULT_SECONDS = 20.0
CLIENTS = 3
RECOVERY_SECONDS = 30.0


class Client:
    """Pushes one task after the other, each until it is acknowledged, under one request id."""

    def __init__(self, cluster: Cluster, number: int, random: Random) -> None:
        self.acknowledged: list[str] = []
        self.done = False
        self._cluster = cluster
        self._number = number
        self._random = random

    async def run(self) -> None:
        while not self.done:
            payload = f"{self._number}.{len(self.acknowledged)}"
            while not await self._push(payload):  # noqa: ASYNC110
                await trio.sleep(self._random.uniform(0.01, 0.2))
            self.acknowledged.append(payload)
            await trio.sleep(self._random.uniform(0, 0.2))

    async def _push(self, payload: str) -> bool:
        if not self._cluster.up:
            return False
        name = self._random.choice(sorted(self._cluster.up))
        with trio.move_on_after(3.0):
            try:
                await self._cluster.push(name, payload, request_id=payload, forward=True)
            except NefiaError:
                return False
            return True
        return False


async def _run(seed: int) -> None:
    random = Random(seed)
    async with trio.open_nursery() as nursery:
        cluster = Cluster(nursery, seed=seed, settings=evolve(SETTINGS, apply_timeout=2.0))
        await cluster.form("n1", "n2", "n3")
        clients = [Client(cluster, number, Random(seed * 10 + number)) for number in range(CLIENTS)]
        async with trio.open_nursery() as pushing:
            for client in clients:
                pushing.start_soon(client.run)
            await faults(cluster, random, FAULT_SECONDS)
            await _mend(cluster)
            for client in clients:
                client.done = True
        await cluster.until(cluster.is_calm, RECOVERY_SECONDS)
        _check(cluster, [payload for client in clients for payload in client.acknowledged])
        nursery.cancel_scope.cancel()


async def _mend(cluster: Cluster) -> None:
    for name in sorted(cluster.paused):
        cluster.resume(name)
    cluster.heal()
    for name in sorted(cluster.disks.keys() - cluster.up.keys()):
        await cluster.restart(name)


def _check(cluster: Cluster, acknowledged: list[str]) -> None:
    assert acknowledged
    assert len(cluster.digests()) == 1
    for process in cluster.up.values():
        tasks: list[bytes] = []
        cursor = ""
        while True:
            page, following = process.machine.list_tasks(limit=100, cursor=cursor)
            tasks += [task.payload for task in page]
            if following is None:
                break
            cursor = following
        assert Counter(tasks) == Counter(f'"{payload}"'.encode() for payload in acknowledged)
    assert overlapping(cluster.leaderships) == []


@pytest.mark.parametrize("seed", range(10))
def test_nothing_acknowledged_is_lost_or_done_twice(seed: int) -> None:
    try:
        run_simulated(partial(_run, seed), seed=seed)
    except BaseException:
        print(f"seed {seed}; see more with NEFIA_TEST_LOGS=1")
        raise


def test_the_same_seed_gives_the_same_history() -> None:
    """Else a failing seed could not be looked at again."""
    histories: list[list[tuple[str, int, float]]] = []
    for _ in range(2):
        history: list[tuple[str, int, float]] = []
        run_simulated(partial(_history, history), seed=9)
        histories.append(history)
    assert histories[0] == histories[1]
    assert len(histories[0]) > 2


async def _history(history: list[tuple[str, int, float]]) -> None:
    async with trio.open_nursery() as nursery:
        cluster = Cluster(nursery, seed=9)
        await cluster.form("n1", "n2", "n3")
        await faults(cluster, Random(9), 10)
        history += [(one.node_id, one.term, one.periods[0][0]) for one in cluster.leaderships]
        nursery.cancel_scope.cancel()
