"""A disk without room, on real processes: clear errors, nothing lost, and service when there is."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nefia.errors import NefiaError
from tests.end_to_end.cluster import Cluster, Daemon, all_tasks, new_cluster, until

FILE_SYSTEM_MIB = 40
PAYLOAD = "x" * 100_000
MAX_PUSHES = 2000

needs_mount = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a file system")


@contextmanager
def small_disk(directory: Path) -> Iterator[None]:
    """An ext4 of its own, in a file, mounted there for a while."""
    image = directory.with_suffix(".img")
    with image.open("wb") as file:
        file.truncate(FILE_SYSTEM_MIB << 20)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
    mounted = subprocess.run(
        ["mount", "-o", "loop", str(image), str(directory)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount here: {mounted.stderr.strip()}")
    directory.chmod(0o700)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def push_until_refused(daemon: Daemon) -> tuple[list[str], dict[str, Any]]:
    """(ids of acknowledged tasks, the error that ended it)."""
    pushed: list[str] = []
    for _ in range(MAX_PUSHES):
        try:
            pushed.append(daemon.call("queue_push", payload=PAYLOAD)["task"]["id"])
        except NefiaError as error:
            return pushed, error.to_json()
    raise AssertionError("the disk never filled")


@needs_mount
def test_a_full_disk_on_a_single_node(place: Path) -> None:
    with new_cluster(place, 1) as cluster:
        (node,) = cluster.daemons
        data_dir = node.state_dir / "cluster"
        with small_disk(data_dir):
            ballast = data_dir / "ballast"
            ballast.write_bytes(b"\0" * (12 << 20))
            assert node.cli("cluster", "init").returncode == 0
            node.start()
            cluster.wait_leader()
            pushed, error = push_until_refused(node)
            assert pushed
            assert error["code"] == "timeout"
            assert "No room left" in error["message"]
            assert node.cli("queue", "push", "1").returncode in (0, 1, 4)  # 0: a small one may fit
            ballast.unlink()  # room again: it comes back by itself
            until(lambda: node.ask("queue_push", payload=PAYLOAD), "it serves again", 60)
            kept = {task["id"] for task in all_tasks(node)}
            assert kept >= set(pushed), error
            assert "Traceback" not in node.log_text
            node.kill()


@needs_mount
def test_a_leader_with_a_full_disk_makes_way(place: Path) -> None:
    cluster: Cluster
    with new_cluster(place) as cluster:
        first = cluster.daemons[0]
        with small_disk(first.state_dir / "cluster"):
            cluster.form()
            assert cluster.wait_leader() is first
            (first.state_dir / "cluster" / "ballast").write_bytes(b"\0" * (16 << 20))
            pushed, _ = push_until_refused(first)
            successor = until(
                lambda: (found := cluster.leader()) is not first and found, "another leads"
            )
            successor.call("queue_push", payload="after")
            kept = {task["id"] for task in all_tasks(successor)}
            assert kept >= set(pushed)
            first.kill()
