"""How the cost of a change grows: with nodes, payload, requests in flight, log length, state size.

python -m benchmarks.growth [--only nodes,payload,in-flight,log,state] [--rounds 3] [--quick]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from attrs import frozen

from benchmarks.measure import (
    HEADERS,
    Figures,
    cpu_of,
    machine,
    measure,
    median,
    memory_mib,
    sync_seconds,
    table,
)
from benchmarks.nefia_cluster import NefiaCluster
from nefia.cli.load import Plan

PAYLOAD_BYTES = 256
IN_FLIGHT = 64
WARM_UP = Plan(in_flight=8, count=1_000, seconds=3.0)
CHANGES = 20_000
MIN_TURNS = 8
"""Each of those in flight is answered so often at least."""
MAX_MEASURED_BYTES = 64 << 20
"""Of payload in one measurement, since all of it stays in every server's memory."""

NODES = (3, 5, 7)
PAYLOADS = (16, 256, 4096, 65_536)
IN_FLIGHTS = (1, 4, 16, 64, 256, 1024, 4096)
LOG_ENTRIES = (0, 10_000, 100_000)
STATE_TASKS = (0, 10_000, 100_000)
NO_SNAPSHOTS = {"snapshot_threshold": 10_000_000, "trailing_logs": 10_000_000}
"""So that the log is as long as it is meant to be."""

IDLE_SECONDS = 5.0
STATUS_CALLS = 20


@frozen
class Budget:
    """What one run may take. Sizes beyond `most` are left out."""

    rounds: int
    seconds: float
    most: int
    directory: Path

    def plan(self, in_flight: int = IN_FLIGHT, payload_bytes: int = PAYLOAD_BYTES) -> Plan:
        count = min(max(CHANGES, MIN_TURNS * in_flight), MAX_MEASURED_BYTES // payload_bytes)
        return Plan(in_flight=in_flight, count=count, seconds=self.seconds)

    @contextmanager
    def cluster(self, nodes: int = 3, raft: dict[str, int] | None = None) -> Iterator[NefiaCluster]:
        """A new one, warmed up."""
        with (
            tempfile.TemporaryDirectory(dir=self.directory, prefix="nefia-") as place,
            NefiaCluster(Path(place), nodes, raft) as cluster,
        ):
            measure(cluster, WARM_UP, PAYLOAD_BYTES)
            yield cluster


def by_nodes(budget: Budget) -> str:
    found: defaultdict[int, list[Figures]] = defaultdict(list)
    for _ in range(budget.rounds):
        for nodes in NODES:
            with budget.cluster(nodes) as cluster:
                found[nodes].append(measure(cluster, budget.plan(), PAYLOAD_BYTES))
    return _table("nodes", found)


def by_payload(budget: Budget) -> str:
    found: defaultdict[int, list[Figures]] = defaultdict(list)
    for _ in range(budget.rounds):
        for payload_bytes in PAYLOADS:
            with budget.cluster() as cluster:
                plan = budget.plan(payload_bytes=payload_bytes)
                found[payload_bytes].append(measure(cluster, plan, payload_bytes))
    return _table("bytes", found)


def by_in_flight(budget: Budget) -> str:
    found: defaultdict[int, list[Figures]] = defaultdict(list)
    for _ in range(budget.rounds):
        with budget.cluster() as cluster:
            for in_flight in IN_FLIGHTS:
                plan = budget.plan(in_flight)
                found[in_flight].append(measure(cluster, plan, PAYLOAD_BYTES))
    return _table("in flight", found)


def by_log(budget: Budget) -> str:
    """Entries that leave no state: a session is touched, one entry at a time, again and again."""
    return _by_stages(budget, "entries", LOG_ENTRIES, NefiaCluster.lengthen_log)


def by_state(budget: Budget) -> str:
    """Tasks that are pushed many at a time, so that the log stays short."""
    return _by_stages(budget, "tasks", STATE_TASKS, NefiaCluster.fill)


def _by_stages(
    budget: Budget, what: str, stages: Sequence[int], grow: Callable[[NefiaCluster, int], None]
) -> str:
    """One cluster that grows; at each stage, what a change costs and what idleness costs.

    A stage of 0 has what the warm-up left.
    """
    rows = []
    with budget.cluster(raft=NO_SNAPSHOTS) as cluster:
        for stage in stages:
            if stage > budget.most:
                break
            grow(cluster, stage)
            plan = budget.plan()
            rounds = [measure(cluster, plan, PAYLOAD_BYTES) for _ in range(budget.rounds)]
            rows.append([stage, *median(rounds).row(), *_at_rest(cluster)])
    return table([what, *HEADERS, "idle CPU %", "status ms", "leader MiB"], rows)


def _at_rest(cluster: NefiaCluster) -> tuple[float, float, float]:
    """All servers' CPU share, the median time of a status call, the leader's memory."""
    time.sleep(1.0)
    before, begun = cpu_of(cluster.pids), time.perf_counter()
    time.sleep(IDLE_SECONDS)
    share = (cpu_of(cluster.pids) - before) / (time.perf_counter() - begun)
    return 100 * share, cluster.status_seconds(STATUS_CALLS) * 1000, memory_mib(cluster.leader.pid)


def _table(what: str, found: dict[int, list[Figures]]) -> str:
    return table([what, *HEADERS], [[key, *median(found[key]).row()] for key in found])


TABLES: dict[str, tuple[str, Callable[[Budget], str]]] = {
    "nodes": (f"Nodes ({IN_FLIGHT} in flight, {PAYLOAD_BYTES} bytes)", by_nodes),
    "payload": (f"Payload (3 nodes, {IN_FLIGHT} in flight)", by_payload),
    "in-flight": (f"Requests in flight (3 nodes, {PAYLOAD_BYTES} bytes)", by_in_flight),
    "log": (f"Length of the log (3 nodes, {IN_FLIGHT} in flight)", by_log),
    "state": (f"Size of the state (3 nodes, {IN_FLIGHT} in flight)", by_state),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", default=",".join(TABLES), help="which tables, with commas")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of one measurement, at most")
    parser.add_argument("--quick", action="store_true", help="one short round, to see it work")
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    make = partial(Budget, directory=options.directory)
    budget = make(1, 1.0, 10_000) if options.quick else make(options.rounds, options.seconds, 10**9)
    sync = sync_seconds(options.directory)
    print(f"{machine()}; append and sync of 4 KiB: {sync * 1e6:.0f} us\n", flush=True)
    for name in options.only.split(","):
        title, run = TABLES[name]
        print(f"### {title}\n\n{run(budget)}", flush=True)


if __name__ == "__main__":
    main()
