"""`nefia drill` on real daemons: it measures, it judges, and it leaves nothing behind."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nefia.drill import drilling
from nefia.drill.drilling import Course, Kind, prepare
from nefia.drill.judging import judge
from tests.end_to_end.cluster import Cluster, Daemon, all_tasks, new_cluster, until

TIMEOUT_SECONDS = 60


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Three nodes with a service, for all tests here: each leaves it whole."""
    with tempfile.TemporaryDirectory(prefix="nefia-") as name, new_cluster(Path(name)) as three:
        for daemon in three.daemons:
            config = json.loads(daemon.config.read_text())
            config["services"] = [{"name": "app", "kind": "command", "run": ["sleep", "600"]}]
            daemon.config.write_text(json.dumps(config))
        yield three.form()


@pytest.fixture
def leader(cluster: Cluster) -> Daemon:
    """With all voters answering, and the service running."""

    def ready() -> Daemon | None:
        found = cluster.wait_healthy()
        services = (found.ask("service_list") or {"services": []})["services"]
        return found if [each["state"] for each in services] == ["running"] else None

    found: Daemon = until(ready, "a leader with its service")
    return found


def follower(cluster: Cluster, leader: Daemon) -> Daemon:
    return next(daemon for daemon in cluster.daemons if daemon is not leader)


def drill(daemon: Daemon, *arguments: str) -> dict[str, Any]:
    done = daemon.cli("drill", "--yes", "-o", "json", *arguments, timeout=TIMEOUT_SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["passed"]
    assert report["acknowledged"] > 20
    assert report["before"]["term"] < report["after"]["term"]
    assert report["services"] == ["app"]
    return report


def assert_nothing_is_left(cluster: Cluster) -> None:
    cluster.wait_equal()
    assert {task["state"] for task in all_tasks(cluster.daemons[0])} == {"cancelled"}


def state_of(pid: int) -> str:
    """As /proc/pid/stat has it: T for stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_handing_over(cluster: Cluster, leader: Daemon) -> None:
    """From the leader itself."""
    report = drill(leader)
    assert report["kind"] == "transfer"
    assert report["before"]["node_id"] == leader.node_id != report["after"]["node_id"]
    assert report["compared"] == ["node-1", "node-2", "node-3"]
    assert_nothing_is_left(cluster)


def test_freezing(cluster: Cluster, leader: Daemon) -> None:
    report = drill(follower(cluster, leader), "--kind", "freeze")
    # A frozen leader is only missed after heartbeat_timeout, 1 s after its last heartbeat.
    assert report["gap_ms"] > 500
    assert report["missing"] == []
    assert len(report["compared"]) == 3
    assert state_of(leader.pid) != "T"
    assert_nothing_is_left(cluster)


def test_killing_at_a_terminal(cluster: Cluster, leader: Daemon) -> None:
    """It asks first. Nobody starts the daemon again, and the report says so."""
    argv = follower(cluster, leader).argv(
        "drill", "--kind", "kill", "--patience", "6s", "-o", "json"
    )
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        argv, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        os.write(ours, b"y\n")
        output, told = process.communicate(timeout=TIMEOUT_SECONDS)
    os.close(ours)
    os.close(theirs)
    assert f"pid {leader.pid}" in told
    assert leader.process is not None
    assert leader.process.wait(TIMEOUT_SECONDS) == -signal.SIGKILL
    report = json.loads(output)
    leader.start()
    assert process.returncode == 0, report
    assert report["missing"] == [leader.node_id]
    assert len(report["compared"]) == 2
    # The lease and the stop budget are waited out: longer than changes are missed.
    assert report["services_gap_ms"] > report["gap_ms"] > report["usual_ms"]
    cluster.wait_healthy()
    assert_nothing_is_left(cluster)


def test_by_hand(cluster: Cluster, leader: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the leader is on another machine: it says what to run there, and watches."""
    monkeypatch.setattr(drilling, "find_ways", lambda own, *_: [own])
    own = follower(cluster, leader)
    plan = prepare(Kind.KILL, str(own.socket), own.pid)
    assert plan.by_hand
    told: list[str] = []

    def operator(sentence: str) -> None:
        told.append(sentence)
        leader.kill()
        leader.start()

    evidence, left = Course(plan, 30.0, operator).run()
    report = judge(evidence)
    assert left == 0
    assert report.passed, report
    assert report.by_hand
    assert report.compared == (own.node_id,)
    assert "systemctl kill --kill-whom=main --signal=KILL nefia.service" in told[0]
    assert leader.address in told[0]
    assert_nothing_is_left(cluster)


def test_an_interrupted_drill_leaves_nothing_behind(cluster: Cluster, leader: Daemon) -> None:
    argv = follower(cluster, leader).argv("drill", "--yes", "--kind", "freeze")
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        until(lambda: state_of(leader.pid) == "T", "it is frozen")
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT_SECONDS) == 130
    assert state_of(leader.pid) != "T"
    cluster.wait_healthy()
    assert_nothing_is_left(cluster)


def test_what_is_refused(cluster: Cluster, leader: Daemon) -> None:
    before = len(all_tasks(leader))
    unasked = leader.cli("drill", "--kind", "kill")
    assert unasked.returncode == 5
    assert "--yes" in unasked.stderr
    gone = follower(cluster, leader)
    gone.kill()
    until(lambda: not leader.status()["healthy"], "it is missed")
    for kind in ("transfer", "kill", "freeze"):
        refused = leader.cli("drill", "--yes", "--kind", kind)
        assert refused.returncode == 5
        assert f"{gone.node_id} does not answer" in refused.stderr
    assert leader.status()["is_leader"]
    assert len(all_tasks(leader)) == before
    gone.start()
