"""A disk without room, and one that hangs, on real processes: clear errors, and nothing is lost."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from nefia.errors import NefiaError
from nefia.storage.direct_writer import DirectWriter
from nefia.storage.journal import HALF_BYTES
from nefia.storage.layout import JOURNAL_FILE
from tests.end_to_end.cluster import Cluster, Daemon, all_tasks, new_cluster, until
from tests.end_to_end.takeover import next_change

FILE_SYSTEM_MIB = 40
PAYLOAD = "x" * 100_000
MAX_PUSHES = 2000

SLOW = "fdatasync,fsync,msync:delay_enter=30000000"
"""What a thread writes, and all of raft.db, takes 30 s, or until strace is gone."""
LOST = "io_submit:retval=1"
"""What the kernel was asked to write never ends, until the daemon is started again."""

needs_strace = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("strace") is None,
    reason="needs root and strace, to delay another process's system calls",
)
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


@needs_mount
def test_a_follower_with_a_full_disk_holds_nobody_up_and_comes_back(place: Path) -> None:
    cluster: Cluster
    with new_cluster(place) as cluster:
        *others, last = cluster.daemons
        with small_disk(last.state_dir / "cluster"):
            cluster.form()
            ballast = last.state_dir / "cluster" / "ballast"
            ballast.write_bytes(b"\0" * (16 << 20))
            leader = cluster.wait_leader()
            assert leader in others
            pushed = [leader.call("queue_push", payload=PAYLOAD)["task"]["id"] for _ in range(200)]
            until(lambda: "No room left" in last.log_text, "its disk is full")
            assert cluster.leader() is leader
            pushed.append(leader.call("queue_push", payload="still")["task"]["id"])
            ballast.unlink()
            cluster.wait_healthy()
            cluster.wait_equal()
            assert {task["id"] for task in all_tasks(last)} == set(pushed)
            last.kill()


@needs_mount
def test_a_leader_whose_file_system_is_frozen_makes_way_and_comes_back(place: Path) -> None:
    """As for a snapshot of a virtual machine: whoever writes waits, the event loop included."""
    cluster: Cluster
    with new_cluster(place) as cluster:
        first = cluster.daemons[0]
        data_dir = first.state_dir / "cluster"
        with small_disk(data_dir):
            cluster.form()
            assert cluster.wait_leader() is first
            first.call("queue_push", payload="before")
            subprocess.run(["fsfreeze", "--freeze", str(data_dir)], check=True)
            try:
                with suppress(NefiaError):
                    first.call("queue_push", timeout=0.2, payload="frozen")
                next_change(cluster, without=first)
            finally:
                subprocess.run(["fsfreeze", "--unfreeze", str(data_dir)], check=True)
            cluster.wait_healthy()
            cluster.wait_equal()
            first.kill()


@contextmanager
def hung_disk(daemon: Daemon, *faults: str) -> Iterator[None]:
    """What the daemon begins to write meanwhile meets the `faults`."""
    injected = [option for fault in faults for option in ("-e", f"inject={fault}")]
    command = ["strace", "-f", "-qq", "-o", os.devnull, *injected, "-p", str(daemon.pid)]
    tracer = subprocess.Popen(command)
    try:
        until(lambda: _is_traced(daemon), "strace is attached")
        yield
    finally:
        tracer.terminate()
        tracer.wait()


def needs_direct_writes(daemon: Daemon) -> None:
    try:
        DirectWriter(daemon.state_dir / "cluster" / JOURNAL_FILE, HALF_BYTES).close()
    except OSError as error:
        pytest.skip(f"writes wait in a thread here: {error}")


def _is_traced(daemon: Daemon) -> bool:
    """All of its threads: each one may be the one that syncs."""
    statuses = [path.read_text() for path in Path(f"/proc/{daemon.pid}/task").glob("*/status")]
    return bool(statuses) and not any("TracerPid:\t0\n" in status for status in statuses)


@needs_strace
@pytest.mark.parametrize("fault", [SLOW, LOST])
def test_a_leader_whose_disk_hangs_makes_way_and_comes_back(cluster: Cluster, fault: str) -> None:
    leader = cluster.wait_leader()
    if fault == LOST:
        needs_direct_writes(leader)

    def makes_way() -> bool:
        with suppress(NefiaError):  # its followers may well store and confirm it
            leader.call("queue_push", timeout=0.2, payload="hangs")
        return bool(leader.status()["state"] == "Follower")

    with hung_disk(leader, fault):
        until(makes_way, "it leads no more")
        next_change(cluster, without=leader)
        assert "a write to the disk hangs" in leader.log_text
    if fault == LOST:
        leader.kill()
        leader.start()
    cluster.wait_healthy()
    cluster.wait_equal()
