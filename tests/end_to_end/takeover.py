"""How long a take-over lasts, seen by a client that goes on asking.

python -m tests.end_to_end.takeover [--trials 20] [--tls] [kill|stop|cut ...]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from random import Random

from nefia.errors import NefiaError
from tests.end_to_end.cluster import Cluster, Daemon, certified, new_cluster
from tests.end_to_end.namespaces import Hosts

LIMIT_SECONDS = 20.0
TRY_SECONDS = 0.5
PAUSE_SECONDS = 0.002


def next_change(cluster: Cluster, *, without: Daemon) -> float:
    """Ask everyone but one until a change is acknowledged; how long that took, in seconds."""
    began = time.monotonic()
    while time.monotonic() - began < LIMIT_SECONDS:
        for daemon in cluster.daemons:
            if daemon is not without:
                try:
                    daemon.call("queue_push", timeout=TRY_SECONDS, payload="next")
                except NefiaError:
                    continue
                return time.monotonic() - began
        time.sleep(PAUSE_SECONDS)
    raise AssertionError(f"no change was acknowledged within {LIMIT_SECONDS:g} s")


@contextmanager
def form_on_hosts(directory: Path, hosts: Hosts, *, tls: bool = False) -> Iterator[Cluster]:
    """One node on each host."""
    with Cluster(hosted_daemons(directory, hosts, tls=tls)) as cluster:
        yield cluster.form()


def hosted_daemons(directory: Path, hosts: Hosts, *, tls: bool = False) -> list[Daemon]:
    """Configured, not started."""
    return [
        Daemon(
            directory,
            f"node-{number}",
            f"{address}:9700",
            prefix=hosts.prefix(number - 1),
            tls=certified(directory, f"node-{number}") if tls else None,
        )
        for number, address in enumerate(hosts.addresses, 1)
    ]


def _trial(kind: str, cluster: Cluster, hosts: Hosts | None) -> float:
    leader = cluster.wait_healthy()
    time.sleep(Random().uniform(0.2, 0.6))  # anywhere between two heartbeats
    match kind:
        case "kill":
            leader.kill()
        case "stop":
            leader.pause()
        case "cut":
            assert hosts is not None
            hosts.cut(cluster.daemons.index(leader))
    seconds = next_change(cluster, without=leader)
    match kind:
        case "kill":
            leader.start()
        case "stop":
            leader.resume()
        case "cut":
            assert hosts is not None
            hosts.heal(cluster.daemons.index(leader))
    return seconds


def measure(kind: str, trials: int, tls: bool) -> list[float]:
    with tempfile.TemporaryDirectory(prefix="nefia-") as name:
        if kind == "cut":
            with Hosts(3) as hosts, form_on_hosts(Path(name), hosts, tls=tls) as cluster:
                return [_trial(kind, cluster, hosts) for _ in range(trials)]
        with new_cluster(Path(name), tls=tls) as cluster:
            cluster.form()
            return [_trial(kind, cluster, None) for _ in range(trials)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", default=["kill", "stop", "cut"])
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--tls", action="store_true", help="once without TLS and once with it")
    asked = parser.parse_args()
    print("| the leader is | trials | min | median | worst |")
    print("|---|---|---|---|---|")
    for kind, tls in product(asked.kinds, (False, True) if asked.tls else (False,)):
        times = [seconds * 1000 for seconds in measure(kind, asked.trials, tls)]
        median = statistics.median(times)
        print(
            f"| {kind}{', TLS' if tls else ''} | {len(times)} | {min(times):.0f} ms "
            f"| {median:.0f} ms | {max(times):.0f} ms |",
            flush=True,
        )


if __name__ == "__main__":
    main()
