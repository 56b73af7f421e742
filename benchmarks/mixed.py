"""How long others wait while a cluster is busy: status and reads, beside many changes in flight.

python -m benchmarks.mixed [--rounds 3] [--seconds 5]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from attrs import define, field, frozen

from benchmarks.measure import machine, measure_once, sync_seconds, table
from benchmarks.nefia_cluster import NefiaCluster
from nefia.admin.client import AdminClient
from nefia.cli.load import Plan, percentile
from nefia.errors import NefiaError

PAYLOAD_BYTES = 256
IN_FLIGHT = 256
MAX_CHANGES = 200_000
BEFORE = Plan(in_flight=IN_FLIGHT, count=20_000)
"""What a follower misses that comes back, or what the first snapshot holds."""
PAUSE_SECONDS = 0.02
SHARES = (0.50, 0.99, 1.0)
PROBES: dict[str, tuple[str, dict[str, Any]]] = {
    "status": ("status", {}),
    "linearizable read": ("queue_get", {"id": "1"}),
    "local read": ("queue_get", {"id": "1", "consistency": "local"}),
}
"""By what they are: action and parameters."""


@frozen
class Situation:
    """With `busy`, `IN_FLIGHT` changes are always on their way. `raft`: settings of the cluster."""

    busy: bool = True
    returning: bool = False
    """A follower that missed some starts with the measurement."""
    raft: dict[str, Any] = field(factory=dict)


SITUATIONS = {
    "idle": Situation(busy=False),
    f"{IN_FLIGHT} changes in flight": Situation(),
    "and snapshots, one a second": Situation(
        raft={"snapshot_threshold": 1, "snapshot_interval": "1s"}
    ),
    "and a follower that comes back": Situation(returning=True),
}


@define
class Answers:
    """How long the calls took, in seconds, and how many were answered with an error."""

    taken: list[float] = field(factory=list)
    failed: int = 0

    def row(self) -> list[object]:
        ordered = [1000 * each for each in sorted(self.taken)]
        shares: list[object] = [percentile(ordered, share) for share in SHARES if ordered]
        return [len(self.taken), self.failed, *(shares or ["-"] * len(SHARES))]


def probe(path: str, action: str, params: dict[str, Any], seconds: float) -> Answers:
    """Ask again and again, with a pause after each answer."""
    answers = Answers()
    end = time.perf_counter() + seconds
    with AdminClient(path) as client:
        while (begun := time.perf_counter()) < end:
            try:
                client.call(action, **params)
                answers.taken.append(time.perf_counter() - begun)
            except NefiaError:
                answers.failed += 1
            time.sleep(PAUSE_SECONDS)
    return answers


def load(cluster: NefiaCluster, plan: Plan) -> None:
    """A load that fails is told; the others' answers are of interest all the same."""
    try:
        measure_once(cluster, plan, PAYLOAD_BYTES)
    except NefiaError as error:
        print(f"The changes ended early: {error.code}: {error.message}\n", flush=True)


def one_round(situation: Situation, directory: Path, seconds: float) -> dict[str, Answers]:
    """A new cluster; by probe, what each call took. The probes are processes of their own."""
    with (
        tempfile.TemporaryDirectory(dir=directory, prefix="nefia-") as place,
        NefiaCluster(Path(place), raft=situation.raft) as cluster,
        ProcessPoolExecutor(len(PROBES)) as pool,
    ):
        follower = cluster.follower
        path = str(cluster.leader.socket)
        if situation.returning:
            follower.kill()
        load(cluster, BEFORE)
        if situation.returning:
            follower.start()
        asked = {name: pool.submit(probe, path, *each, seconds) for name, each in PROBES.items()}
        if situation.busy:
            plan = Plan(in_flight=IN_FLIGHT, count=MAX_CHANGES, seconds=seconds)
            load(cluster, plan)
        return {name: answers.result() for name, answers in asked.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of one measurement")
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    sync = sync_seconds(options.directory)
    print(f"{machine()}; append and sync of 4 KiB: {sync * 1e6:.0f} us\n", flush=True)
    found: defaultdict[tuple[str, str], Answers] = defaultdict(Answers)
    for _ in range(options.rounds):
        for name, situation in SITUATIONS.items():
            taken = one_round(situation, options.directory, options.seconds)
            for asked, answers in taken.items():
                found[name, asked].taken += answers.taken
                found[name, asked].failed += answers.failed
    rows = [[name, asked, *answers.row()] for (name, asked), answers in found.items()]
    headers = ["", "asked on the leader", "answered", "failed", "p50 ms", "p99 ms", "max ms"]
    print(table(headers, rows))


if __name__ == "__main__":
    main()
