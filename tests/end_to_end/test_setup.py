"""SPEC 2 and 3: the set-up as written, and what it prints, to the letter."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from tests.end_to_end.cluster import Cluster, free_ports, new_cluster, until


def test_three_nodes_are_set_up_as_the_guide_says(cluster: Cluster) -> None:
    first, second, third = cluster.daemons
    addresses = [daemon.address for daemon in cluster.daemons]

    status = first.cli("cluster", "status")
    assert status.stdout == (
        "Node ID:    node-1\nState:      Leader\nIs Leader:  true\nLeader ID:  node-1\n"
    )
    assert second.cli("cluster", "status").stdout == (
        "Node ID:    node-2\nState:      Follower\nIs Leader:  false\nLeader ID:  node-1\n"
    )
    expected = (
        "ID       ADDRESS           STATE      LOCAL\n"
        f"node-1   {addresses[0]:<17} Leader     *\n"
        f"node-2   {addresses[1]:<17} Follower\n"
        f"node-3   {addresses[2]:<17} Follower\n"
    )
    assert first.cli("cluster", "members").stdout == expected
    relayed = third.cli("cluster", "members").stdout
    assert relayed == expected.replace("Leader     *", "Leader").replace(
        f"{addresses[2]:<17} Follower", f"{addresses[2]:<17} Follower   *"
    )


def test_a_second_init_is_refused_and_names_the_cluster(cluster: Cluster) -> None:
    first, second, _ = cluster.daemons
    cluster_id = first.status()["cluster_id"]
    again = first.cli("cluster", "init")
    assert again.returncode == 5
    assert cluster_id in again.stderr
    assert first.cli("cluster", "init", "--if-needed").returncode == 0
    assert second.cli("cluster", "init").returncode == 5, "it belongs to the cluster by now"
    first.stop()
    offline = first.cli("cluster", "init")
    assert offline.returncode == 5
    assert cluster_id in offline.stderr


def test_init_while_the_daemon_runs(place: Path) -> None:
    with new_cluster(place, 1) as cluster:
        (node,) = cluster.daemons
        node.start()
        node.wait_ready()
        waiting = node.cli("cluster", "status")
        assert waiting.stdout == (
            "Node ID:    node-1\nState:      Uninitialized\nIs Leader:  false\nLeader ID:  -\n"
        )
        assert json.loads(node.cli("cluster", "status", "-o", "json").stdout)["leader_id"] is None
        assert node.cli("queue", "push", "1").returncode == 4
        initialised = node.cli("cluster", "init")
        assert initialised.returncode == 0, initialised.stderr
        assert cluster.wait_leader() is node
        assert node.cli("cluster", "init").returncode == 5


def test_a_waiting_node_says_how_it_is_added(place: Path) -> None:
    with new_cluster(place, 2) as cluster:
        first, second = cluster.daemons
        first.cli("cluster", "init")
        first.start()
        cluster.wait_leader()
        second.start()
        second.wait_ready()
        command = f"nefia cluster add-peer --id node-2 --addr {second.address}"
        until(lambda: "cluster_found" in second.log_text, "it finds the cluster")
        hint = second.status()["hint"]
        assert command in hint
        assert "node-1" in hint


def test_adding_again_changes_nothing(cluster: Cluster) -> None:
    first, second, _ = cluster.daemons
    before = first.status()["last_index"]
    again = first.call("add_peer", id="node-2", addr=second.address)
    assert again["changed"] is False
    assert first.status()["last_index"] == before


def test_a_node_of_another_cluster_is_not_added(cluster: Cluster, tmp_path: Path) -> None:
    with new_cluster(tmp_path, 1) as other:
        (stranger,) = other.daemons
        stranger.cli("cluster", "init")
        stranger.start()
        other.wait_leader()
        first = cluster.daemons[0]
        before = first.call("members")
        refused = first.cli("cluster", "add-peer", "--id", "node-9", "--addr", stranger.address)
        assert refused.returncode != 0  # that address is node-1's, of another cluster
        assert "Nothing was changed" in refused.stderr
        assert [m["id"] for m in first.call("members")["members"]] == [
            m["id"] for m in before["members"]
        ]


def test_bad_configurations_are_told_at_once(place: Path) -> None:
    config = place / "nefia.yaml"
    config.write_text("cluster:\n  enabled: true\n  node_id: a b\n  bind_adr: x\n")
    with new_cluster(place, 1) as cluster:
        (node,) = cluster.daemons
        node.config = config
        for command in (("config", "check"), ("daemon",)):
            checked = node.cli(*command)
            assert checked.returncode == 2, checked.stderr
            assert f"{config}:3" in checked.stderr
            assert f"{config}:4" in checked.stderr
            assert "bind_addr" in checked.stderr
            assert "Traceback" not in checked.stderr


def test_a_single_node_runs_without_a_cluster(place: Path) -> None:
    with new_cluster(place, 1) as cluster:
        (node,) = cluster.daemons
        node.config.write_text("cluster:\n  enabled: false\n")
        node.start()
        node.wait_ready()
        cluster.wait_leader()
        assert node.cli("queue", "push", '{"a": 1}').returncode == 0
        told = node.cli("cluster", "members")
        assert told.returncode == 4
        assert "cluster.enabled" in told.stderr


def test_a_node_with_other_settings_is_warned_of(place: Path) -> None:
    with new_cluster(place, 2) as cluster:
        first, second = cluster.daemons
        changed = json.loads(second.config.read_text())
        changed["cluster"]["raft"] = {"trailing_logs": 77}
        second.config.write_text(json.dumps(changed))
        cluster.form()
        shown = second.cli("cluster", "status")
        assert (
            "raft: or services: settings of this node differ from those of node-1" in shown.stderr
        )
        assert "settings_differ" in second.log_text
        assert first.cli("cluster", "status").stderr == ""


def test_so_is_one_that_was_reloaded_alone(place: Path) -> None:
    with new_cluster(place, 2) as cluster:
        cluster.form()
        second = cluster.daemons[1]
        alike = json.loads(second.config.read_text())
        [port] = free_ports(1)
        reactor = {"name": "reactor", "kind": "reactor", "listen": f"127.0.0.1:{port}"}

        def reload(services: list[dict[str, str]]) -> None:
            second.config.write_text(json.dumps(alike | {"services": services}))
            os.kill(second.pid, signal.SIGHUP)

        assert "warning" not in second.call("status")
        reload([reactor])
        until(lambda: "settings of this" in second.call("status").get("warning", ""), "they differ")
        reload([])
        until(lambda: "warning" not in second.call("status"), "they are alike again")
