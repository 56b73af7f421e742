"""Events of many beacons through failovers: every acknowledged event has its task, none twice.

    python -m tests.end_to_end.reactor_load --events 10000 --beacons 20 --failovers 5

prints the figures. Without failovers it measures events per second.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any

import trio
from attrs import define, field
from trio_websocket import ConnectionClosed, ConnectionRejected, WebSocketConnection

from nefia.clock import BootClock, TrioNodeClock
from nefia.services.reactor.client import open_beacon
from tests.end_to_end.cluster import Cluster, Daemon, all_tasks, free_ports, new_cluster, until

WINDOW = 8
"""Events of one beacon that are sent and not acknowledged."""
ANSWER_SECONDS = 3.0
"""After so long without an answer a beacon tries another node."""
PAUSE_SECONDS = 0.05
EVENTS_PER_SECOND = 100_000
DEADLINE_SECONDS = 300.0


def with_reactors(cluster: Cluster, **fields: Any) -> list[str]:
    """Give each node, none of which runs yet, a Reactor; returns their URLs."""
    ports = free_ports(len(cluster.daemons))
    urls = {d.node_id: f"ws://127.0.0.1:{p}" for d, p in zip(cluster.daemons, ports, strict=True)}
    rule = {"name": "all", "do": [{"action": "enqueue", "queue": "events"}]}
    for daemon, url in zip(cluster.daemons, urls.values(), strict=True):
        reactor = {
            "name": "reactor",
            "kind": "reactor",
            "listen": url.removeprefix("ws://"),
            "urls": urls,
            "events_per_second": EVENTS_PER_SECOND,
            "rules": [rule],
        }
        config = json.loads(daemon.config.read_text())
        daemon.config.write_text(json.dumps(config | {"services": [reactor | fields]}))
    return list(urls.values())


@define
class Beacon:
    """Sends `count` events of `host`, each again until it is acknowledged."""

    host: str
    count: int
    urls: Sequence[str]
    acknowledged: set[str] = field(factory=set)
    sent: int = 0
    closes: Counter[int] = field(factory=Counter)
    acknowledged_at: list[float] = field(factory=list)

    async def run(self) -> None:
        clock, unsent = TrioNodeClock(), deque(str(number) for number in range(self.count))
        for url in cycle(self.urls):
            if len(self.acknowledged) == self.count:
                return
            pending: set[str] = set()
            try:
                async with open_beacon(url, clock) as socket:
                    await self._exchange(socket, unsent, pending)
            except ConnectionClosed as closed:
                self.closes[closed.reason.code if closed.reason else 0] += 1
            except (OSError, trio.BrokenResourceError, ConnectionRejected, trio.TooSlowError):
                pass
            unsent.extendleft(sorted(pending))
            await trio.sleep(PAUSE_SECONDS)

    async def _exchange(
        self, socket: WebSocketConnection, unsent: deque[str], pending: set[str]
    ) -> None:
        while unsent or pending:
            while unsent and len(pending) < WINDOW:
                event = {"id": unsent[0], "type": "load", "host": self.host}
                pending.add(unsent.popleft())
                self.sent += 1
                await socket.send_message(json.dumps(event))
            with trio.fail_after(ANSWER_SECONDS):
                answer = json.loads(await socket.get_message())
            if "ack" in answer:
                pending.discard(answer["ack"])
                self.acknowledged.add(answer["ack"])
                self.acknowledged_at.append(time.monotonic())
            else:
                assert answer["error"]["again"], answer
                pending.discard(answer["id"])
                unsent.append(answer["id"])
                await trio.sleep(PAUSE_SECONDS)


class Beacons(threading.Thread):
    """Beacons in an event loop of their own."""

    def __init__(self, urls: Sequence[str], beacons: int, events: int) -> None:
        super().__init__()
        each = events // beacons
        self.all = [Beacon(f"web-{number}", each, urls) for number in range(beacons)]
        self.events = each * beacons
        self.began = self.ended = math.nan

    def run(self) -> None:
        async def main() -> None:
            with trio.move_on_after(DEADLINE_SECONDS):
                async with trio.open_nursery() as nursery:
                    for beacon in self.all:
                        nursery.start_soon(beacon.run)

        self.began = time.monotonic()
        trio.run(main, clock=BootClock())
        self.ended = time.monotonic()

    @property
    def acknowledged(self) -> int:
        return sum(len(beacon.acknowledged) for beacon in self.all)

    def wait_for(self, count: int) -> None:
        until(lambda: self.acknowledged >= count, f"{count} acknowledged events", DEADLINE_SECONDS)

    def longest_gap(self) -> float:
        """Seconds in which nobody was acknowledged anything."""
        times = sorted(each for beacon in self.all for each in beacon.acknowledged_at)
        return max((b - a for a, b in pairwise(times)), default=0.0)


def check(beacons: Beacons, daemon: Daemon) -> Counter[tuple[str, str]]:
    """Every acknowledged event has its task on this node, and no event has two."""
    tasks = Counter(
        (task["payload"]["host"], task["payload"]["id"])
        for task in all_tasks(daemon)
        if task["queue"] == "events"
    )
    told = {(each.host, event) for each in beacons.all for event in each.acknowledged}
    assert not told - tasks.keys(), f"{daemon.node_id} lost {len(told - tasks.keys())}"
    assert set(tasks.values()) <= {1}, f"{daemon.node_id} has some twice"
    return tasks


def go_through(cluster: Cluster, beacons: Beacons, failovers: int) -> None:
    """Kill and transfer in turns, evenly over the events."""
    for number in range(1, failovers + 1):
        beacons.wait_for(number * beacons.events // (failovers + 1))
        leader = cluster.wait_leader()
        if number % 2:
            leader.kill()
            leader.start()
            leader.wait_ready()
        else:
            leader.ask("transfer_leader", timeout=15.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--beacons", type=int, default=20)
    parser.add_argument("--failovers", type=int, default=5)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="nefia-", dir="/tmp") as directory,
        new_cluster(Path(directory)) as cluster,
    ):
        urls = with_reactors(cluster)
        cluster.form()
        beacons = Beacons(urls, options.beacons, options.events)
        beacons.start()
        go_through(cluster, beacons, options.failovers)
        beacons.join()
        cluster.wait_healthy()
        cluster.wait_equal()
        show(beacons, {daemon.node_id: len(check(beacons, daemon)) for daemon in cluster.daemons})


def show(beacons: Beacons, tasks: dict[str, int]) -> None:
    took = beacons.ended - beacons.began
    closes: Counter[int] = sum((beacon.closes for beacon in beacons.all), Counter())
    by_code = {int(code): count for code, count in closes.items()}
    print(f"events acknowledged  {beacons.acknowledged} of {beacons.events}")
    print(f"sent                 {sum(beacon.sent for beacon in beacons.all)}")
    print(f"tasks                {tasks}")
    print(f"connections closed   {by_code}, by code: 1012 told so, 1006 broken")
    print(f"longest gap          {beacons.longest_gap():.2f} s")
    print(f"events a second      {beacons.acknowledged / took:.0f} over {took:.1f} s")


if __name__ == "__main__":
    main()
