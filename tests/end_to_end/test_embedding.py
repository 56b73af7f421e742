"""Programs that embed a node, as real processes: the example of docs/embedding.md, and more."""

from __future__ import annotations

import signal
import sys
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

import pytest

from nefia.errors import NefiaError, Refused
from tests.end_to_end.cluster import Cluster, Daemon, new_cluster, until
from tests.end_to_end.documents import program
from tests.end_to_end.embedded import COUNTER


class Counting(Daemon):
    """The example, as it stands."""

    def program(self) -> list[str]:
        return [sys.executable, str(COUNTER), str(self.config)]


class Locking(Daemon):
    """The same with a service that holds a lock."""

    def program(self) -> list[str]:
        lock = str(self.config.parent / "lock")
        return [sys.executable, "-m", "tests.end_to_end.embedded", str(self.config), lock]


def count(node: Daemon, what: str, request_id: str = "") -> int:
    command = b64encode(what.encode()).decode()
    named: dict[str, Any] = {"request_id": request_id} if request_id else {}
    answer = node.call("apply", machine="counter", command=command, forward=True, **named)
    return int(b64decode(answer["result"]))


def counted_again(node: Daemon, what: str, request_id: str) -> int | None:
    try:
        return count(node, what, request_id)
    except NefiaError:
        return None


def test_the_document_shows_the_example() -> None:
    assert program("docs/embedding.md", "counter.py") == COUNTER.read_text(encoding="utf-8")


def test_the_example(place: Path) -> None:
    with new_cluster(place, of=Counting) as cluster:
        cluster.form()
        leader = cluster.wait_leader()
        follower = next(node for node in cluster.daemons if node is not leader)
        assert [count(follower, "sheep") for _ in range(5)] == [1, 2, 3, 4, 5]
        assert count(leader, "sheep", "r-1") == 6
        with pytest.raises(Refused, match="nothing to count"):
            count(follower, "2")
        follower.call("snapshot")
        leader.kill()
        # Once, although the one who has answered is gone.
        assert until(lambda: counted_again(follower, "sheep", "r-1"), "a new leader") == 6
        successor = cluster.wait_leader()
        until(lambda: f"{successor.node_id}, term" in successor.log_text, "the service runs there")
        follower.kill()
        leader.start()
        follower.start()  # from the snapshot, and the log behind it
        cluster.wait_healthy()
        assert count(follower, "sheep") == 7
        cluster.wait_equal()
        assert [node.stop() for node in cluster.daemons] == [0, 0, 0]


def serving(cluster: Cluster, *, but: Daemon | None = None) -> Daemon:
    """The leader, once the service runs there.

    A machine that stalls for too long costs a program its process (docs/embedding.md), and those on
    which tests run do: whoever is gone is started, but for `but`.
    """

    def leader() -> Daemon | None:
        for node in cluster.daemons:
            if node is not but and node.process and node.process.poll() is not None:
                node.start()
        leader = cluster.leader()
        term = leader and (leader.ask("status") or {}).get("term")
        serves = leader and leader is not but and f"in term {term}\n" in leader.log_text
        return leader if serves else None

    found: Daemon = until(leader, "the service runs")
    return found


def overlap(cluster: Cluster) -> bool:
    return any("OVERLAP" in node.log_text for node in cluster.daemons)


def test_the_service_is_never_there_twice(place: Path) -> None:
    with new_cluster(place, of=Locking) as cluster:
        cluster.form()
        served: list[Daemon] = []
        for _ in range(2):
            leader = serving(cluster)
            served.append(leader)
            leader.call("transfer_leader")
        leader = serving(cluster)
        leader.kill()
        serving(cluster)
        cluster.wait_healthy()
        leader = serving(cluster)
        assert not overlap(cluster)
        assert len({node.node_id for node in served}) == 2
        # Without a majority, and with a service that does not end: the process does.
        (place / "lock.stubborn").touch()
        others = [node for node in cluster.daemons if node is not leader]
        for node in others:
            node.pause()
        assert leader.process is not None
        assert leader.process.wait(10) == -signal.SIGKILL
        (place / "lock.stubborn").unlink()
        for node in others:
            node.resume()
        serving(cluster)
        assert not overlap(cluster)


def test_a_service_that_blocks_the_loop_is_gone_in_time(place: Path) -> None:
    """By the kernel's timer: the loop could not even cancel it. Without, two of them run."""
    with new_cluster(place, of=Locking) as cluster:
        cluster.form()
        for is_timed in (True, False):
            serving(cluster)
            cluster.wait_healthy()
            leader = serving(cluster)
            (place / "lock.blocks").write_text(leader.node_id)
            serving(cluster, but=leader)
            (place / "lock.blocks").unlink()
            assert overlap(cluster) != is_timed
            assert leader.process is not None
            if is_timed:
                assert leader.process.wait(10) == -signal.SIGKILL
                (place / "lock.untimed").touch()
