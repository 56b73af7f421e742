"""Nodes that die, freeze, are cut off and come back: nothing acknowledged is lost."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from uuid import uuid4

from nefia.errors import NefiaError
from tests.end_to_end.cluster import Cluster, all_tasks, new_cluster, paused, until
from tests.end_to_end.namespaces import Hosts, needs_namespaces
from tests.end_to_end.takeover import form_on_hosts, next_change

TASKS = 1000
KILLS = 5


class Pusher(threading.Thread):
    """Pushes numbered tasks, each again under its request id until it is acknowledged."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__()
        self.acknowledged: list[int] = []
        self._cluster = cluster

    def run(self) -> None:
        for number in range(TASKS):
            request_id = uuid4().hex
            while not self._push(number, request_id):
                pass
            self.acknowledged.append(number)

    def wait_for(self, count: int) -> None:
        until(lambda: len(self.acknowledged) >= count, f"{count} tasks", 60)

    def _push(self, number: int, request_id: str) -> bool:
        for daemon in self._cluster.daemons:
            try:
                daemon.call("queue_push", timeout=2, payload=number, request_id=request_id)
            except NefiaError:
                continue
            return True
        return False


def test_a_thousand_tasks_through_five_kills(cluster: Cluster) -> None:
    pusher = Pusher(cluster)
    pusher.start()
    for kill in range(1, KILLS + 1):
        pusher.wait_for(kill * TASKS // (KILLS + 1))
        leader = cluster.wait_leader()
        leader.kill()
        leader.start()
    pusher.join(120)
    assert not pusher.is_alive()
    cluster.wait_healthy()
    cluster.wait_equal()
    for daemon in cluster.daemons:
        payloads = Counter(task["payload"] for task in all_tasks(daemon))
        assert payloads == Counter(range(TASKS)), daemon.node_id


def test_all_killed_at_once_and_started_again(cluster: Cluster) -> None:
    leader = cluster.wait_leader()
    pushed = [leader.call("queue_push", payload=number)["task"]["id"] for number in range(20)]
    before = leader.status()
    for daemon in cluster.daemons:
        daemon.process.kill()  # type: ignore[union-attr]
    for daemon in cluster.daemons:
        daemon.kill()
        daemon.start()
    after = cluster.wait_healthy().status()
    assert after["term"] > before["term"]
    assert after["cluster_id"] == before["cluster_id"]
    cluster.wait_equal()
    assert [task["id"] for task in all_tasks(cluster.daemons[1])] == pushed


def test_a_killed_leader_is_replaced(cluster: Cluster) -> None:
    leader = cluster.wait_leader()
    leader.kill()
    next_change(cluster, without=leader)
    assert cluster.wait_leader() is not leader


def test_a_frozen_leader_is_replaced_and_follows_when_it_wakes(cluster: Cluster) -> None:
    leader = cluster.wait_leader()
    with paused(leader):
        next_change(cluster, without=leader)
    cluster.wait_healthy()
    assert leader.status()["state"] == "Follower"
    cluster.wait_equal()


@needs_namespaces
def test_a_leader_that_is_cut_off_is_replaced(place: Path) -> None:
    with Hosts(3) as hosts, form_on_hosts(place, hosts) as cluster:
        leader = cluster.wait_leader()
        hosts.cut(cluster.daemons.index(leader))
        next_change(cluster, without=leader)
        until(lambda: not leader.status()["is_leader"], "it knows that it leads no more")
        refused = leader.cli("queue", "push", "1")
        assert refused.returncode == 4
        hosts.heal(cluster.daemons.index(leader))
        cluster.wait_healthy()
        cluster.wait_equal()


def test_a_leader_that_is_terminated_hands_over(cluster: Cluster) -> None:
    leader = cluster.wait_leader()
    assert leader.stop() == 0
    successor = cluster.wait_leader()
    assert "hands over" in successor.log_text
    assert "Traceback" not in leader.log_text


def test_leadership_is_transferred_on_request(cluster: Cluster) -> None:
    done = cluster.daemons[0].cli("cluster", "transfer-leader", "--to", "node-3")
    assert done.returncode == 0, done.stderr
    assert cluster.wait_leader().node_id == "node-3"


def test_what_only_the_leader_does(cluster: Cluster) -> None:
    """On a follower: who leads; with forwarding it works."""
    leader = cluster.wait_leader()
    follower = next(daemon for daemon in cluster.daemons if daemon is not leader)
    refused = follower.cli("queue", "push", '{"n": 1}')
    assert refused.returncode == 1
    assert "not_leader" in refused.stderr
    assert leader.node_id in refused.stderr
    assert leader.address in refused.stderr
    assert "Nothing was changed" in refused.stderr
    assert follower.cli("queue", "push", '{"n": 1}', "--forward").returncode == 0
    assert [task["payload"] for task in all_tasks(leader)] == [{"n": 1}]


def test_without_a_quorum(place: Path) -> None:
    with new_cluster(place, raft={"apply_timeout": "2s"}) as cluster:
        leader = cluster.form().wait_leader()
        others = [daemon for daemon in cluster.daemons if daemon is not leader]
        for daemon in others:
            daemon.pause()
        # Proposed while it still takes itself for the leader: nobody knows the outcome.
        unknown = leader.cli("queue", "push", "1", "--request-id", "r-1")
        assert unknown.returncode == 7, unknown.stderr
        assert "r-1" in unknown.stderr
        refused = leader.cli("queue", "push", "2")
        assert refused.returncode == 4, refused.stderr
        for daemon in others:
            daemon.resume()
        leader = cluster.wait_healthy()
        assert leader.cli("queue", "push", "1", "--request-id", "r-1").returncode == 0
        assert [task["payload"] for task in all_tasks(leader)] == [1]


def test_a_removed_node_disturbs_nobody(cluster: Cluster) -> None:
    leader = cluster.wait_leader()
    removed = next(daemon for daemon in cluster.daemons if daemon is not leader)
    removed.kill()  # it cannot hear of its removal
    assert leader.cli("cluster", "remove-peer", "--id", removed.node_id).returncode == 0
    term = leader.status()["term"]
    removed.start()
    until(lambda: (s := removed.ask("status")) and s["state"] == "Removed", "it learns of it")
    shown = removed.cli("cluster", "status")
    assert "State:      Removed" in shown.stdout
    assert leader.status()["is_leader"]
    assert leader.status()["term"] == term
    added = leader.cli("cluster", "add-peer", removed.node_id, "--addr", removed.address)
    assert added.returncode == 0, added.stderr
    cluster.wait_equal()


def test_removing_the_leader_hands_over(cluster: Cluster) -> None:
    leader = cluster.wait_leader()
    done = leader.cli("cluster", "remove-peer", leader.node_id)
    assert done.returncode == 0, done.stderr
    until(lambda: leader.status()["state"] == "Removed", "it knows of its removal")
    successor = cluster.wait_leader()
    assert successor is not leader
    assert len(successor.call("members")["members"]) == 2
