"""One measurement of one cluster, and what has to be known of the machine that it ran on."""

from __future__ import annotations

import os
import platform
import socket
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from attrs import astuple, frozen

from nefia.cli.load import Exchange, Load, Plan, percentile
from nefia.cli.processes import cpu_seconds
from nefia.errors import NefiaError

SYNCS = 200
SYNC_BYTES = 4096
FASTEST_DISK_SECONDS = 20e-6
"""What syncs faster keeps its files in memory."""
ATTEMPTS = 3
CHANGES = 10_000
"""What CPU seconds are given for."""


class Cluster(Protocol):
    """A cluster that runs."""

    @property
    def pids(self) -> Sequence[int]:
        """Of its servers."""
        ...

    @property
    def changes(self) -> int:
        """How many changes its leader has applied until now."""
        ...

    def connect(self, payload_bytes: int) -> tuple[socket.socket, Exchange]:
        """A connection to its leader, and how changes are asked for there."""
        ...


@frozen
class Figures:
    """Of one measurement. The CPU seconds are of all servers, and of the client, for `CHANGES`."""

    changes_per_second: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    cpu_seconds: float
    client_cpu_seconds: float

    def row(self) -> tuple[float, ...]:
        """In the order of `HEADERS`."""
        return astuple(self)


HEADERS = ("changes/s", "p50 ms", "p99 ms", "max ms", "CPU s", "client CPU s")


def measure(cluster: Cluster, plan: Plan, payload_bytes: int) -> Figures:
    """Run the plan; again, and not in silence, if a request failed. Raises NefiaError in the end.

    On a busy machine a leader may lose its lease: what was measured until then is no figure.
    """
    for _ in range(ATTEMPTS - 1):
        try:
            return measure_once(cluster, plan, payload_bytes)
        except NefiaError as error:
            print(f"A measurement failed and is repeated: {error.code}: {error}", file=sys.stderr)
    return measure_once(cluster, plan, payload_bytes)


def measure_once(cluster: Cluster, plan: Plan, payload_bytes: int) -> Figures:
    """Raises NefiaError if a request failed.

    What is acknowledged has to be there, or nobody measured what was meant.
    """
    changes = cluster.changes
    connection, exchange = cluster.connect(payload_bytes)
    with connection:
        before = cpu_of(cluster.pids)
        load = Load(connection, exchange, plan)
        load.run()
        cpu = cpu_of(cluster.pids) - before
    if load.error:
        raise load.error
    applied = cluster.changes - changes
    assert applied >= len(load.latencies), (applied, len(load.latencies))
    ordered = sorted(load.latencies)
    per_change = CHANGES / len(ordered)
    return Figures(
        changes_per_second=len(ordered) / load.seconds,
        p50_ms=percentile(ordered, 0.50) * 1000,
        p99_ms=percentile(ordered, 0.99) * 1000,
        max_ms=ordered[-1] * 1000,
        cpu_seconds=cpu * per_change,
        client_cpu_seconds=load.cpu_seconds * per_change,
    )


def median(rounds: Sequence[Figures]) -> Figures:
    """Of each figure by itself."""
    return Figures(*map(statistics.median, zip(*(each.row() for each in rounds), strict=True)))


def cpu_of(pids: Iterable[int]) -> float:
    return sum(cpu_seconds(pid) or 0.0 for pid in pids)


def memory_mib(pid: int) -> float:
    """What the process holds in memory now."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def sync_seconds(directory: Path) -> float:
    """Median of appending 4 KiB and fdatasync. Exits if that costs nothing here."""
    path = directory / "calibration"
    taken = []
    with path.open("wb", buffering=0) as file:
        for _ in range(SYNCS):
            begun = time.perf_counter()
            file.write(bytes(SYNC_BYTES))
            os.fdatasync(file.fileno())
            taken.append(time.perf_counter() - begun)
    path.unlink()
    found = statistics.median(taken)
    if found < FASTEST_DISK_SECONDS:
        raise SystemExit(f"{directory} is in memory; choose one on a disk with --directory")
    return found


def machine() -> str:
    """One line for above a table."""
    with open("/proc/cpuinfo") as file:
        models = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    return (
        f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} x {models[0] if models else '?'}, "
        f"Linux {platform.release()}, Python {platform.python_version()}, "
        f"load {os.getloadavg()[0]:.1f} before"
    )


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """In Markdown; floats with three digits."""
    lines = [headers, ["---"] * len(headers), *([shown(cell) for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def shown(value: object) -> str:
    match value:
        case float() if abs(value) >= 100:
            return f"{value:,.0f}"
        case float():
            return f"{value:.3g}"
        case int():
            return f"{value:,}"
    return str(value)
