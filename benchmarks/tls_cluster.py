"""What TLS costs a whole cluster: changes a second and take-overs, with and without, in one run.

python -m benchmarks.tls_cluster [--rounds 7] [--count 3000] [--in-flight 64]

Two clusters of three daemons on this machine, which take turns, so that a busy machine
slows both: look at the ratio of the medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tests.end_to_end.cluster import Cluster, new_cluster
from tests.end_to_end.takeover import next_change

TRIES = 5
"""An overloaded machine costs a leader its lease now and then."""
KINDS = {"plain": False, "TLS": True}


def changes_per_second(cluster: Cluster, count: int, in_flight: int) -> float:
    options = ["--count", str(count), "--in-flight", str(in_flight), "-o", "json"]
    failure = ""
    for _ in range(TRIES):
        done = cluster.wait_healthy().cli("bench", *options, timeout=300.0)
        if done.returncode == 0:
            return float(json.loads(done.stdout)["changes_per_second"])
        failure = done.stderr
    raise AssertionError(failure)


def takeover_milliseconds(cluster: Cluster) -> float:
    leader = cluster.wait_healthy()
    leader.kill()
    seconds = next_change(cluster, without=leader)
    leader.start()
    leader.wait_ready()
    return seconds * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--in-flight", type=int, default=64)
    asked = parser.parse_args()
    figures: dict[str, dict[str, list[float]]] = {
        what: {kind: [] for kind in KINDS} for what in ("changes/s", "kill -9: next change, ms")
    }
    with ExitStack() as stack:
        clusters = {}
        for kind, tls in KINDS.items():
            place = stack.enter_context(tempfile.TemporaryDirectory(prefix="nefia-"))
            cluster = stack.enter_context(new_cluster(Path(place), tls=tls))
            clusters[kind] = cluster.form()
        for _ in range(asked.rounds):
            for kind, cluster in clusters.items():
                rate = changes_per_second(cluster, asked.count, asked.in_flight)
                figures["changes/s"][kind].append(rate)
            for kind, cluster in clusters.items():
                figures["kill -9: next change, ms"][kind].append(takeover_milliseconds(cluster))
    print("| median of " + str(asked.rounds) + " | plain | TLS | TLS / plain |")
    print("|---|---|---|---|")
    for what, by_kind in figures.items():
        plain, tls_figure = (statistics.median(by_kind[kind]) for kind in KINDS)
        print(f"| {what} | {plain:.0f} | {tls_figure:.0f} | {tls_figure / plain:.2f} |")


if __name__ == "__main__":
    main()
