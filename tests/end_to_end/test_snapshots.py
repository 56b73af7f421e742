"""Snapshots on real processes: brought to a follower under load, and through kills at bad times."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

from nefia.errors import NefiaError
from tests.end_to_end.cluster import (
    Cluster,
    Daemon,
    all_tasks,
    new_cluster,
    paused,
    until,
)

OFTEN = {"snapshot_threshold": 50, "snapshot_interval": "500ms", "trailing_logs": 20}
BY_HAND = {
    "snapshot_threshold": 1_000_000,
    "trailing_logs": 1,
    # Nothing here is about how quickly another leads.
    "heartbeat_timeout": "3s",
    "election_timeout": "3s",
    "leader_lease": "1500ms",
}
LARGE_CHARACTERS = 200_000
LARGE_TASKS = 80
"""Some 8 MB that cannot be compressed: it takes a moment to write them and to bring them over."""

ATTEMPTS = 5
NEW_EPOCH = 1 << 40


def snapshots(daemon: Daemon) -> Path:
    return daemon.state_dir / "cluster" / "snapshots"


def newest(daemon: Daemon) -> int:
    """The index of the newest snapshot on its disk."""
    names = [path.name for path in snapshots(daemon).glob("[0-9]*-[0-9]*")]
    return max((int(name.partition("-")[2]) for name in names), default=0)


def text(random: Random, characters: int) -> str:
    return random.randbytes(characters // 2).hex()


@contextmanager
def pushing(cluster: Cluster, pushed: list[str]) -> Iterator[None]:
    """Changes without end; the ids of those that were acknowledged come into `pushed`."""
    stop = threading.Event()

    def push() -> None:
        random = Random(1)
        while not stop.is_set():
            try:
                leader = cluster.wait_leader()
                pushed.append(leader.call("queue_push", payload=text(random, 1_000))["task"]["id"])
            except NefiaError:
                continue

    thread = threading.Thread(target=push)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_a_follower_far_behind_catches_up_under_load(place: Path) -> None:
    pushed: list[str] = []
    with new_cluster(place, raft=OFTEN) as cluster:
        cluster.form()
        leader, (last, *_) = cluster.wait_leader(), cluster.daemons[::-1]
        last.kill()
        missed = leader.status()["applied_index"]
        with pushing(cluster, pushed):
            until(lambda: newest(leader) > missed + 200, "a snapshot of what it has missed")
            taken = newest(leader)
            last.start()
            until(lambda: "snapshot_installed" in last.log_text, "it has installed a snapshot")
            until(lambda: newest(leader) > taken + 100, "the load goes on")
        cluster.wait_equal()
        assert [task["id"] for task in all_tasks(last)] == pushed
        assert len(list(snapshots(leader).iterdir())) == 2
        cluster.wait_healthy()


def test_kills_at_bad_times(place: Path) -> None:
    with new_cluster(place, raft=BY_HAND) as cluster:
        cluster.form()
        first, second, third = cluster.daemons
        third.kill()
        random = Random(1)
        for _ in range(LARGE_TASKS):
            first.call("queue_push", payload=text(random, LARGE_CHARACTERS))
        killed_while_saving(cluster, second)
        first.call("snapshot")
        second.call("snapshot")
        leader = leader_killed_while_sending(cluster, third)
        leader.start()
        leader.wait_ready()
        cluster.wait_equal()
        assert len(all_tasks(third)) > LARGE_TASKS
        assert not (snapshots(third) / ".incoming").exists()
        saved_and_restored(cluster, third, place)


def told(daemon: Daemon) -> list[tuple[str, str, str]]:
    """Of each task what does not depend on the present offset of the wall clock."""
    return [(task["id"], task["state"], task["payload"]) for task in all_tasks(daemon)]


def killed_while_saving(cluster: Cluster, daemon: Daemon) -> None:
    """It begins again with the snapshots that it had, and with nothing half written."""
    for _ in range(ATTEMPTS):
        cluster.wait_leader().call("queue_push", payload=1)
        before = newest(daemon)
        asking = threading.Thread(target=daemon.ask, args=("snapshot", 10.0))
        asking.start()
        until(lambda: list(snapshots(daemon).glob(".new-*")), "it writes a snapshot")
        daemon.kill()
        asking.join()
        after = newest(daemon)
        daemon.start()
        daemon.wait_ready()
        assert not list(snapshots(daemon).glob(".*"))
        cluster.wait_equal()
        if after == before:
            return
    raise AssertionError("it was always quicker than the kill")


def leader_killed_while_sending(cluster: Cluster, follower: Daemon) -> Daemon:
    """The one that was killed. Whoever leads next brings the follower what it lacks."""
    leader = cluster.wait_leader()
    follower.start()
    until((snapshots(follower) / ".incoming" / "data").exists, "some of it is there")
    with paused(follower):
        leader.kill()
        assert newest(follower) == 0
    until(lambda: newest(follower) > 0, "another leader brings its own")
    cluster.wait_equal()
    return leader


def saved_and_restored(cluster: Cluster, daemon: Daemon, place: Path) -> None:
    file = place / "saved"
    saved = daemon.cli("snapshot", "save", str(file))
    assert saved.returncode == 0, saved.stderr
    shown = json.loads(daemon.cli("snapshot", "inspect", str(file), "-o", "json").stdout)
    assert shown["kinds"]["task"]["count"] == len(all_tasks(daemon))
    assert shown["members"] == ["node-1", "node-2", "node-3"]
    tasks = told(daemon)
    leader = cluster.wait_leader()
    token = leader.call("queue_claim", worker="w")["task"]["token"]
    leader.call("queue_push", payload=2)
    restored = daemon.cli("snapshot", "restore", str(file), "--forward")
    assert restored.returncode == 0, restored.stderr
    cluster.wait_equal()
    assert told(daemon) == tasks
    until(lambda: cluster.wait_leader().status()["term"] >= NEW_EPOCH, "a new epoch")
    claimed = cluster.wait_leader().call("queue_claim", worker="w")["task"]
    assert claimed["token"] > max(token, NEW_EPOCH)
    spoilt = bytearray(file.read_bytes())
    spoilt[-7] ^= 1
    file.write_bytes(spoilt)
    refused = daemon.cli("snapshot", "inspect", str(file))
    assert refused.returncode == 1
    assert "data_damaged" in refused.stderr
