"""What a cluster costs that has nothing to do, and what a question to it costs."""

from __future__ import annotations

import os
import time

from tests.end_to_end.cluster import Cluster, Daemon
from tests.end_to_end.test_abuse import memory_kib

IDLE_SECONDS = 6.0
MAX_IDLE_CPU = 0.03
MAX_IDLE_GROWTH_KIB = 512


def cpu_seconds(daemon: Daemon) -> float:
    with open(f"/proc/{daemon.pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_an_idle_cluster_rests(cluster: Cluster) -> None:
    """CPU time is counted by the kernel for each process, so a busy machine does not distort it."""
    cluster.wait_healthy()
    time.sleep(1.0)
    log_index = cluster.daemons[0].status()["last_index"]
    cpu = [cpu_seconds(daemon) for daemon in cluster.daemons]
    memory = [memory_kib(daemon) for daemon in cluster.daemons]
    time.sleep(IDLE_SECONDS)
    for daemon, cpu_before, memory_before in zip(cluster.daemons, cpu, memory, strict=True):
        share = (cpu_seconds(daemon) - cpu_before) / IDLE_SECONDS
        growth = memory_kib(daemon) - memory_before
        print(f"{daemon.node_id}: {100 * share:.1f} % of a core, {growth:+d} KiB")
        assert share < MAX_IDLE_CPU, daemon.node_id
        assert growth < MAX_IDLE_GROWTH_KIB, daemon.node_id
    assert cluster.daemons[0].status()["last_index"] == log_index, "an idle log does not grow"


def test_a_question_needs_little_to_import(cluster: Cluster) -> None:
    """The answer within 0.3 s rests on not importing the daemon's libraries (SPEC 3)."""
    daemon = cluster.daemons[0]
    command = daemon.argv("cluster", "status")
    command[1:1] = ["-X", "importtime"]
    asked = daemon.run(command)
    assert asked.returncode == 0
    imported = {line.rsplit("|", 1)[-1].strip() for line in asked.stderr.splitlines()}
    assert not imported & {"trio", "cattrs", "structlog", "lmdb", "msgpack"}
