"""nefia beside etcd and PySyncObj: the same load on each, interleaved round by round.

python -m benchmarks.compare [--rounds 3] [--only nefia,etcd] [--directory DIRECTORY]
"""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from attrs import evolve, frozen

from benchmarks.measure import HEADERS, Cluster, Figures, machine, measure, median, sync_seconds
from benchmarks.measure import table as markdown
from benchmarks.nefia_cluster import NefiaCluster
from benchmarks.peers.etcd import EtcdCluster
from benchmarks.peers.pysyncobj import PySyncObjCluster
from nefia.cli.load import Plan

PAYLOAD_BYTES = 256
WARM_UP = Plan(in_flight=8, count=1_000, seconds=3.0)
PLANS = (
    Plan(in_flight=1, count=2_000),
    Plan(in_flight=64, count=20_000),
    Plan(in_flight=256, count=20_000),
)
TUNED_TICK_SECONDS = 0.001
TUNED_APPEND_SECONDS = 0.002


@frozen
class Peer:
    """`start` takes a directory. `missing` says what to install, if anything."""

    start: Callable[[Path], AbstractContextManager[Cluster]]
    missing: Callable[[], str] = str


PEERS = {
    "nefia": Peer(NefiaCluster),
    "etcd": Peer(EtcdCluster, EtcdCluster.missing),
    "PySyncObj (no sync)": Peer(PySyncObjCluster, PySyncObjCluster.missing),
    "PySyncObj, short ticks (no sync)": Peer(
        partial(
            PySyncObjCluster,
            tick_seconds=TUNED_TICK_SECONDS,
            append_seconds=TUNED_APPEND_SECONDS,
        ),
        PySyncObjCluster.missing,
    ),
}


def one_round(peer: Peer, directory: Path, seconds: float) -> list[Figures]:
    """A new cluster, warmed up, under each plan."""
    with tempfile.TemporaryDirectory(dir=directory) as place, peer.start(Path(place)) as cluster:
        measure(cluster, WARM_UP, PAYLOAD_BYTES)
        return [measure(cluster, evolve(plan, seconds=seconds), PAYLOAD_BYTES) for plan in PLANS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", help=f"some of: {', '.join(PEERS)}; the first letters will do")
    parser.add_argument("--seconds", type=float, default=10.0, help="of one measurement, at most")
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    wanted = tuple((options.only or "").split(","))
    peers = {name: peer for name, peer in PEERS.items() if name.startswith(wanted)}
    for name, peer in list(peers.items()):
        if missing := peer.missing():
            print(f"Without {name}: {missing}\n")
            del peers[name]
    sync = sync_seconds(options.directory)
    print(f"{machine()}; append and sync of 4 KiB: {sync * 1e6:.0f} us\n", flush=True)
    found: defaultdict[tuple[str, int], list[Figures]] = defaultdict(list)
    for _ in range(options.rounds):
        for name, peer in peers.items():
            figures = one_round(peer, options.directory, options.seconds)
            for plan, each in zip(PLANS, figures, strict=True):
                found[name, plan.in_flight].append(each)
    for plan in PLANS:
        print(f"{plan.in_flight} in flight, median of {options.rounds} rounds:\n")
        print(report({name: found[name, plan.in_flight] for name in peers}), flush=True)


def report(found: dict[str, list[Figures]]) -> str:
    """A table with a row for each peer."""
    rows = []
    for name, rounds in found.items():
        middle = median(rounds)
        rates = [each.changes_per_second for each in rounds]
        spread = f"{min(rates):,.0f} to {max(rates):,.0f}"
        rows.append([name, *middle.row(), spread])
    return markdown(["", *HEADERS, "changes/s, all rounds"], rows)


if __name__ == "__main__":
    main()
