"""Figures for snapshots of a large state: `python -m benchmarks.snapshots` or `nox -s big`.

Three real daemons on loopback are filled with tasks of 256 bytes. Then, while changes go on at a
fixed rate, a snapshot is taken, a follower is restarted, and one is emptied and added again. Memory
is what /proc says. A stall is the longest time that an asker who asks for the status every 5 ms had
to wait; so it has in it what other processes take away from the daemon.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import trio
from attrs import define, field

from nefia import collector
from nefia.admin.client import AdminClient
from nefia.clock import TrioNodeClock
from nefia.errors import NefiaError
from nefia.node.snapshotter import SnapshotSettings, Snapshotter
from nefia.raft.configuration import Configuration
from nefia.raft.entries import SnapshotMeta
from nefia.raft.log import Log
from nefia.state.commands import Change, NewTask, PushTasks
from nefia.state.machine import Machine
from nefia.storage.snapshot_files import FileSnapshots
from tests.end_to_end.cluster import Cluster, Daemon, new_cluster, until

TASKS = 1_000_000
PAYLOAD_CHARACTERS = 254
"""And two quotation marks: 256 bytes."""
TASKS_PER_PUSH = 1_000
CHANGES_PER_SECOND = 500
CLIENTS = 16
"""That together make so many."""
ASK_SECONDS = 0.005
LIMIT_SECONDS = 900.0
MIB = 1024 * 1024


@define
class Figures:
    rows: list[tuple[str, str]] = field(factory=list)

    def add(self, what: str, value: float, unit: str) -> None:
        text = f"{value:.0f}" if value >= 100 else f"{value:.3g}"
        self.rows.append((what, f"{text} {unit}"))
        print(f"{what}: {text} {unit}", flush=True)

    def markdown(self) -> str:
        lines = ["| what | figure |", "|---|---|", *(f"| {a} | {b} |" for a, b in self.rows)]
        return "\n".join(lines)


def payload(random: Random) -> str:
    return random.randbytes(PAYLOAD_CHARACTERS // 2).hex()


def fill(cluster: Cluster, count: int) -> None:
    """Whoever leads: where other programs take the machine away, that may change."""
    random = Random(1)
    for number in range(count // TASKS_PER_PUSH):
        tasks = [{"payload": payload(random)} for _ in range(TASKS_PER_PUSH)]
        until(lambda: pushed(cluster, tasks, f"fill-{number}"), "a push", LIMIT_SECONDS)  # noqa: B023


def pushed(cluster: Cluster, tasks: list[dict[str, str]], request_id: str) -> bool:
    leader = cluster.wait_leader()
    return leader.ask("queue_push", 60.0, tasks=tasks, request_id=request_id) is not None


# What goes on meanwhile.


@contextmanager
def in_background(work: Any) -> Iterator[None]:
    """`work(stop)` in a thread until the block ends."""
    stop = threading.Event()
    thread = threading.Thread(target=work, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def changing(leader: Daemon, made: list[int]) -> Any:
    """`CHANGES_PER_SECOND` small changes; how many there were comes into `made`."""

    def one(stop: threading.Event, counts: list[int]) -> None:
        random, count, began = Random(2), 0, time.monotonic()
        pause = CLIENTS / CHANGES_PER_SECOND
        with AdminClient(leader.socket) as client:
            while not stop.is_set():
                client.call("queue_push", timeout=60.0, payload=payload(random))
                count += 1
                time.sleep(max(0.0, began + count * pause - time.monotonic()))
        counts.append(count)

    def work(stop: threading.Event) -> None:
        counts: list[int] = []
        began = time.monotonic()
        threads = [threading.Thread(target=one, args=(stop, counts)) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        made.append(round(sum(counts) / (time.monotonic() - began)))

    return work


def asking(daemon: Daemon, waits: list[float]) -> Any:
    def work(stop: threading.Event) -> None:
        with AdminClient(daemon.socket) as client:
            while not stop.is_set():
                began = time.monotonic()
                client.call("members", timeout=60.0)
                waits.append(time.monotonic() - began)
                time.sleep(ASK_SECONDS)

    return work


# Memory.


def memory_mib(daemon: Daemon, key: str) -> float:
    """VmRSS or VmHWM."""
    for line in Path(f"/proc/{daemon.pid}/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) / 1024
    raise AssertionError(key)


def forget_peak(daemon: Daemon) -> None:
    Path(f"/proc/{daemon.pid}/clear_refs").write_text("5")


# The figures.


def snapshot(leader: Daemon, figures: Figures) -> None:
    waits: list[float] = []
    rates: list[int] = []
    with in_background(changing(leader, rates)):
        quiet: list[float] = []
        with in_background(asking(leader, quiet)):
            time.sleep(10)
        before = memory_mib(leader, "VmRSS")
        forget_peak(leader)
        began = time.monotonic()
        with in_background(asking(leader, waits)):
            taken = leader.call("snapshot", timeout=LIMIT_SECONDS)
        seconds = time.monotonic() - began
    figures.add("RSS of the leader", before, "MiB")
    figures.add("changes meanwhile", rates[0], "/s")
    figures.add("snapshot: time", seconds, "s")
    figures.add("snapshot: additional peak memory", memory_mib(leader, "VmHWM") - before, "MiB")
    figures.add("snapshot: size on disk", taken["bytes"] / MIB, "MiB")
    figures.add("longest wait of an asker without a snapshot", 1000 * max(quiet), "ms")
    figures.add("longest wait of an asker during it", 1000 * max(waits), "ms")


def restart(leader: Daemon, follower: Daemon, figures: Figures) -> None:
    follower.call("snapshot", timeout=LIMIT_SECONDS)
    follower.kill()
    began = time.monotonic()
    follower.start()
    until(lambda: follower.ask("status"), "it answers", LIMIT_SECONDS)
    figures.add("restart: time to serving", time.monotonic() - began, "s")
    target = leader.status()["applied_index"]
    until(lambda: _applied(follower) >= target, "it has caught up", LIMIT_SECONDS)
    figures.add("restart: time to level with the leader", time.monotonic() - began, "s")
    figures.add("restart: RSS", memory_mib(follower, "VmRSS"), "MiB")
    figures.add("restart: peak memory", memory_mib(follower, "VmHWM"), "MiB")


def _applied(daemon: Daemon) -> int:
    status = daemon.ask("status")
    return int(status["applied_index"]) if status else 0


def empty_follower(leader: Daemon, follower: Daemon, figures: Figures) -> None:
    leader.call("remove_peer", timeout=60.0, id=follower.node_id)
    follower.kill()
    shutil.rmtree(follower.state_dir / "cluster")
    follower.start()
    follower.wait_ready()
    rates: list[int] = []
    waits: list[float] = []
    with in_background(changing(leader, rates)), in_background(asking(leader, waits)):
        time.sleep(1)
        began = time.monotonic()
        _add(leader, follower)
        seconds = time.monotonic() - began
    figures.add("an empty follower: time to voter", seconds, "s")
    figures.add("an empty follower: changes meanwhile", rates[0], "/s")
    figures.add("an empty follower: longest wait of an asker", 1000 * max(waits), "ms")
    figures.add("an empty follower: its peak memory", memory_mib(follower, "VmHWM"), "MiB")


def _add(leader: Daemon, follower: Daemon) -> None:
    def voter() -> bool:
        members = leader.call("members", timeout=60.0)["members"]
        return any(m["id"] == follower.node_id and m["voter"] for m in members)

    try:
        leader.call("add_peer", timeout=LIMIT_SECONDS, id=follower.node_id, addr=follower.address)
    except NefiaError as error:
        print(f"add-peer: {error.message}", flush=True)
    until(voter, "it votes", LIMIT_SECONDS)


# The event loop alone.


class Steps(trio.abc.Instrument):
    """The longest that one step of a task kept the event loop, by the clock and by its own work."""

    def __init__(self) -> None:
        self.longest_seconds = self.longest_work_seconds = 0.0
        self._began = self._work_began = 0.0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._began, self._work_began = time.perf_counter(), time.thread_time()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        work_seconds = time.thread_time() - self._work_began
        self.longest_work_seconds = max(self.longest_work_seconds, work_seconds)
        self.longest_seconds = max(self.longest_seconds, time.perf_counter() - self._began)


def filled_machine(count: int) -> Machine:
    machine, random = Machine(), Random(1)
    for index in range(1, count // TASKS_PER_PUSH + 1):
        tasks = [NewTask(b'"%s"' % payload(random).encode()) for _ in range(TASKS_PER_PUSH)]
        machine.apply(index, [Change(1_000, "", PushTasks(tuple(tasks)))])
    return machine


async def one_snapshot(machine: Machine, directory: Path) -> None:
    """As a node takes it, on a log of which nothing but the state is left."""
    place = SnapshotMeta(machine.applied_index, 1, Configuration(), 0)
    replica: Any = SimpleNamespace(
        applier=SimpleNamespace(machine=machine),
        raft=SimpleNamespace(log=Log(base=place)),
        post=lambda action: None,
    )
    store = FileSnapshots(directory)
    await store.open()
    settings = SnapshotSettings()
    await Snapshotter(replica, store, TrioNodeClock(), settings, lambda: "cluster").take()
    await store.close()


def event_loop(count: int, figures: Figures) -> None:
    collector.configure()  # as in the daemon
    machine, steps = filled_machine(count), Steps()
    with tempfile.TemporaryDirectory(prefix="nefia-big-") as directory:
        trio.run(one_snapshot, machine, Path(directory) / "snapshots", instruments=[steps])
    figures.add("snapshot: longest step of the event loop", 1000 * steps.longest_seconds, "ms")
    figures.add("snapshot: longest step, processor time", 1000 * steps.longest_work_seconds, "ms")


def run(count: int) -> Figures:
    figures = Figures()
    event_loop(count, figures)
    directory = Path(tempfile.mkdtemp(prefix="nefia-big-"))
    try:
        with new_cluster(directory) as cluster:
            measure(cluster.form(), count, figures)
    finally:
        shutil.rmtree(directory)
    return figures


def measure(cluster: Cluster, count: int, figures: Figures) -> None:
    began = time.monotonic()
    fill(cluster, count)
    figures.add("tasks", count, f"of {PAYLOAD_CHARACTERS + 2} bytes")
    figures.add("filling", time.monotonic() - began, "s")
    cluster.wait_equal()
    leader = cluster.wait_leader()
    snapshot(leader, figures)
    leader = cluster.wait_leader()
    follower = next(daemon for daemon in cluster.daemons if daemon is not leader)
    restart(leader, follower, figures)
    empty_follower(cluster.wait_leader(), follower, figures)
    cluster.wait_equal()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.snapshots")
    parser.add_argument("--tasks", type=int, default=TASKS)
    figures = run(parser.parse_args().tasks)
    print(f"\n{os.cpu_count()} CPUs\n\n{figures.markdown()}")


if __name__ == "__main__":
    main()
