"""As much as a cluster can take, and a follower that takes nothing (issue 4)."""

from __future__ import annotations

import json
import socket
from collections import Counter
from pathlib import Path
from typing import Any

from tests.end_to_end.cluster import Cluster, Daemon, paused

CONNECTIONS = 5
PER_CONNECTION = 4096
"""What the daemon takes of one connection before it reads on."""

TASK_BYTES = 64 * 1024
BATCH_TASKS = 8
BATCHES = 100
GROWTH = 1.3
"""How much memory a task may take for each of its bytes: a second copy in a queue would be 2."""


def flood(leader: Daemon) -> Counter[str]:
    """Send from several connections at once, and read nothing before all is sent: the answers."""
    line = json.dumps({"action": "queue_push", "payload": "x"}).encode() + b"\n"
    clients = [socket.socket(socket.AF_UNIX) for _ in range(CONNECTIONS)]
    answers: Counter[str] = Counter()
    try:
        for client in clients:
            client.connect(str(leader.socket))
            client.sendall(line * PER_CONNECTION)
        for client in clients:
            with client.makefile("rb") as lines:
                for _ in range(PER_CONNECTION):
                    said: dict[str, Any] = json.loads(next(lines))
                    answers["ok" if said["ok"] else said["error"]["code"]] += 1
    finally:
        for client in clients:
            client.close()
    return answers


def test_a_flood_is_answered_and_the_leader_leads_on(cluster: Cluster) -> None:
    leader = cluster.wait_leader()
    term = leader.status()["term"]
    answers = flood(leader)
    assert answers.total() == CONNECTIONS * PER_CONNECTION
    assert answers.keys() <= {"ok", "overloaded"}
    assert cluster.wait_leader() is leader
    assert leader.status()["term"] == term
    tasks = leader.call("queue_stats")["queues"]["default"]
    assert tasks["pending"] == answers["ok"]
    cluster.wait_equal()


def private_bytes(daemon: Daemon) -> int:
    """What the process has for itself; the mapped raft.db is the kernel's to take back."""
    status = Path(f"/proc/{daemon.pid}/status").read_text(encoding="ascii")
    [line] = [line for line in status.splitlines() if line.startswith("RssAnon:")]
    return int(line.split()[1]) * 1024


def push(leader: Daemon, batches: int) -> None:
    for number in range(batches):
        payload = f"{number:08}" * (TASK_BYTES // 8)
        leader.call("queue_push", tasks=[{"payload": payload}] * BATCH_TASKS)


def test_a_follower_that_stands_still_costs_the_others_nothing(cluster: Cluster) -> None:
    leader = cluster.wait_leader()
    follower = next(daemon for daemon in cluster.daemons if daemon is not leader)
    with paused(follower):
        push(leader, BATCHES)  # by then the log in memory and all queues to the follower are full
        before_bytes = private_bytes(leader)
        push(leader, BATCHES)
        grown_bytes = private_bytes(leader) - before_bytes
    assert grown_bytes < GROWTH * BATCHES * BATCH_TASKS * TASK_BYTES
    cluster.wait_equal()
    assert cluster.wait_leader() is leader
