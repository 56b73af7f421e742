"""Workers that die, stall and come back late, while leaders die and freeze (issue 7).

Every task is done in the end; no token is given to two claims; an answer under a token that is not
the task's newest, or after its lease, is refused.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from random import Random
from typing import Any
from uuid import uuid4

from attrs import define, field, frozen

from nefia.errors import NefiaError
from tests.end_to_end.cluster import Cluster, Daemon, all_tasks, paused, until

TASKS = 90
GAP_MS = 100
"""So far apart they get ready, so that there is something to do throughout."""
LEASE_SECONDS = 1.0
LATE_SECONDS = 2.5
"""When a stalled worker comes back: the lease, and what a failover can prolong it by."""
UNKNOWN = {"timeout", "no_daemon", "no_leader", "no_quorum", "not_leader", "internal"}
DONE_WITHIN_SECONDS = 60.0


@frozen
class Held:
    """What a claim was answered with, and when."""

    id: str
    token: int
    payload: int
    worker: str


@define
class Ledger:
    """What workers were told. The lock is for all of it."""

    lock: threading.Lock = field(factory=threading.Lock)
    held: list[Held] = field(factory=list)
    acknowledged: dict[str, list[int]] = field(factory=lambda: defaultdict(list))
    refused: Counter[str] = field(factory=Counter)
    stop: threading.Event = field(factory=threading.Event)

    def note_claim(self, held: Held) -> None:
        with self.lock:
            self.held.append(held)

    def note_end(self, held: Held, error: NefiaError | None, habit: str) -> None:
        with self.lock:
            if error is None:
                self.acknowledged[held.id].append(held.token)
            else:
                assert error.code in ("conflict", "lease_lost"), error
                self.refused[habit] += 1


class Worker(threading.Thread):
    """`habit`: "good" answers in time, "dead" never, "late" after its lease, "stubborn" twice."""

    def __init__(self, cluster: Cluster, ledger: Ledger, habit: str, seed: int) -> None:
        super().__init__()
        self._cluster = cluster
        self._ledger = ledger
        self._habit = habit
        self._random = Random(seed)
        self._name = f"{habit}-{seed}"

    def run(self) -> None:
        while not self._ledger.stop.is_set():
            asked = {"worker": self._name, "lease": f"{LEASE_SECONDS}s", "wait": "1s"}
            task = self._until_told("queue_claim", **asked)["task"]
            if task is not None:
                held = Held(task["id"], task["token"], task["payload"], self._name)
                self._ledger.note_claim(held)
                self._treat(held)

    def _treat(self, held: Held) -> None:
        if self._habit == "dead":
            self._ledger.stop.wait(LEASE_SECONDS)  # it is another worker that starts then
            return
        if self._habit == "late":
            self._ledger.stop.wait(LATE_SECONDS)
        self._acknowledge(held)
        if self._habit == "stubborn":
            self._acknowledge(held)

    def _acknowledge(self, held: Held) -> None:
        try:
            self._until_told("queue_ack", id=held.id, token=held.token, result=held.payload)
        except NefiaError as error:
            self._ledger.note_end(held, error, self._habit)
        else:
            self._ledger.note_end(held, None, self._habit)

    def _until_told(self, action: str, **params: Any) -> dict[str, Any]:
        """Ask any node, again and again under one request id, until the outcome is known."""
        request_id = uuid4().hex
        while True:
            daemon = self._random.choice(self._cluster.daemons)
            try:
                return daemon.call(
                    action, timeout=3.0, forward=True, request_id=request_id, **params
                )
            except NefiaError as error:
                if error.code not in UNKNOWN:
                    raise
            time.sleep(0.02)


def push_all(cluster: Cluster) -> None:
    for start in range(0, TASKS, 10):
        tasks = [
            {"payload": n, "max_attempts": 1000, "delay": f"{n * GAP_MS}ms"}
            for n in range(start, start + 10)
        ]
        request_id = uuid4().hex

        def pushed(
            tasks: list[dict[str, Any]] = tasks, request_id: str = request_id
        ) -> dict[str, Any] | None:
            for daemon in cluster.daemons:
                if done := daemon.ask(
                    "queue_push", timeout=3.0, forward=True, request_id=request_id, tasks=tasks
                ):
                    return done
            return None

        until(pushed, "a batch of tasks is pushed")


def disturb(cluster: Cluster) -> None:
    """Two leaders die, one freezes for longer than an election takes."""
    for _ in range(2):
        leader = cluster.wait_leader()
        leader.kill()
        until(lambda: other_leader(cluster, leader), "another leader")  # noqa: B023
        leader.start()
        cluster.wait_healthy()
    leader = cluster.wait_leader()
    with paused(leader):
        until(lambda: other_leader(cluster, leader), "another leader")
    cluster.wait_healthy()


def other_leader(cluster: Cluster, old: Daemon) -> Daemon | None:
    for daemon in cluster.daemons:
        if daemon is not old and (status := daemon.ask("status")) and status["is_leader"]:
            return daemon
    return None


def test_no_task_is_lost_and_no_token_has_two_holders(cluster: Cluster) -> None:
    ledger = Ledger()
    habits = ["good", "good", "dead", "late", "late", "stubborn"]
    workers = [Worker(cluster, ledger, habit, seed) for seed, habit in enumerate(habits)]
    push_all(cluster)
    for worker in workers:
        worker.start()
    try:
        disturb(cluster)
        until(lambda: all_done(cluster), "every task is done", DONE_WITHIN_SECONDS)
        until(lambda: ledger.refused["late"], "a late worker was refused")
    finally:
        ledger.stop.set()
        for worker in workers:
            worker.join()
    judge(ledger, all_tasks(cluster.wait_healthy()))
    cluster.wait_equal()


def all_done(cluster: Cluster) -> bool:
    return all(task["state"] == "done" for task in all_tasks(cluster.wait_leader()))


def judge(ledger: Ledger, tasks: list[dict[str, Any]]) -> None:
    assert sorted(task["payload"] for task in tasks) == list(range(TASKS))
    assert all(task["result"] == task["payload"] for task in tasks)
    tokens = Counter(held.token for held in ledger.held)
    assert max(tokens.values()) == 1, "a token was given to two claims"
    for task in tasks:
        # One worker was told that it had done the task: the one with the token that counts.
        assert ledger.acknowledged[task["id"]] == [task["token"]]
        held = [held for held in ledger.held if held.id == task["id"]]
        assert all(held.payload == task["payload"] for held in held)
        assert max(held.token for held in held) == task["token"]
    assert ledger.refused["stubborn"]
    assert not ledger.refused["dead"]
