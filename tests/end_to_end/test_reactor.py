"""The Reactor on real daemons: acknowledged events survive, and what rules say is done."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio_websocket import ConnectionClosed

from nefia.clock import TrioNodeClock
from nefia.services.reactor.client import open_beacon
from tests.end_to_end.cluster import Cluster, Daemon, all_tasks, new_cluster, until
from tests.end_to_end.documents import program
from tests.end_to_end.reactor_load import Beacons, check, go_through, with_reactors

TOKEN = "0123456789abcdef0123456789abcdef"
EVENTS = 1000
BEACONS = 20
FAILOVERS = 2


def test_events_through_failovers(place: Path) -> None:
    """Every acknowledged event has its task, none twice, on every node."""
    with new_cluster(place) as cluster:
        urls = with_reactors(cluster)
        cluster.form()
        beacons = Beacons(urls, BEACONS, EVENTS)
        beacons.start()
        go_through(cluster, beacons, FAILOVERS)
        beacons.join(60)
        assert beacons.acknowledged == EVENTS
        cluster.wait_healthy()
        cluster.wait_equal()
        for daemon in cluster.daemons:
            assert len(check(beacons, daemon)) == EVENTS


def test_the_check_notices(place: Path) -> None:
    """An acknowledgement without a task, and an event with two."""
    with new_cluster(place, 1) as cluster:
        urls = with_reactors(cluster)
        daemon = cluster.form().wait_leader()
        beacons = Beacons(urls, 1, 10)
        beacons.start()
        beacons.join(30)
        check(beacons, daemon)
        payload = {"id": "0", "type": "load", "host": "web-0"}
        daemon.call("queue_push", queue="events", payload=payload)
        with pytest.raises(AssertionError, match="twice"):
            check(beacons, daemon)
        beacons.all[0].acknowledged.add("never sent")
        with pytest.raises(AssertionError, match="lost 1"):
            check(beacons, daemon)


@contextmanager
def acting(place: Path, nodes: int) -> Iterator[tuple[Cluster, list[str]]]:
    """Nodes whose rules enqueue, write a file and log; and their URLs."""
    token_file = place / "token"
    token_file.touch(mode=0o600)
    token_file.write_text(TOKEN)
    script = 'read -r event; echo "$NEFIA_NODE_ID $event" >> "$1"'.replace("$", "$$")
    rules = [
        {
            "name": "disk",
            "match": {"type": "disk.*", "data": {"used": ">= 90"}},
            "do": [
                {"action": "enqueue", "queue": "events", "payload": {"used": "${data.used}"}},
                {"action": "exec", "run": ["/bin/sh", "-c", script, "sh", str(place / "said")]},
                {"action": "alert"},
            ],
        }
    ]
    with new_cluster(place, nodes) as cluster:
        urls = with_reactors(cluster, rules=rules, token_file=str(token_file))
        yield cluster.form(), urls


def send(daemon: Daemon, *options: str, used: int = 95) -> subprocess.CompletedProcess[str]:
    data = json.dumps({"used": used})
    return daemon.cli(
        "event", "send", "--type", "disk.usage", "--host", "web-1", "--data", data, *options
    )


def outbox(daemon: Daemon) -> list[dict[str, Any]]:
    tasks: list[dict[str, Any]] = daemon.call("queue_list", queue="_reactor")["tasks"]
    return tasks


def hear_the_end(cluster: Cluster, urls: list[str]) -> None:
    """A beacon that is connected when leadership is transferred."""
    leader = cluster.wait_leader()

    async def listen() -> None:
        url = urls[cluster.daemons.index(leader)]
        async with open_beacon(url, TrioNodeClock(), token=TOKEN) as beacon:
            leader.call("transfer_leader")
            with trio.fail_after(10), pytest.raises(ConnectionClosed) as caught:
                await beacon.get_message()
        assert caught.value.reason is not None
        assert caught.value.reason.code == 1012
        assert json.loads(caught.value.reason.reason or "").keys() == {"leader_id", "url"}

    trio.run(listen)


def test_what_rules_say_is_done_and_goes_on_elsewhere(place: Path) -> None:
    with acting(place, 3) as (cluster, urls):
        hear_the_end(cluster, urls)
        first = cluster.wait_leader()
        follower = next(daemon for daemon in cluster.daemons if daemon is not first)
        sent = send(follower, "--id", "one")
        assert (sent.returncode, sent.stdout) == (0, "one\n"), sent.stderr
        assert send(first, "--id", "one").returncode == 0
        assert send(first, used=5).returncode == 0, "acknowledged, though no rule wants it"
        until(lambda: [t["state"] for t in outbox(first)] == ["done", "done"], "both are done")
        assert "event=alert rule=disk" in first.log_text
        assert [task["payload"] for task in all_tasks(first)] == [{"used": 95}]

        first.kill()
        sent = send(follower, "--id", "two")
        assert sent.returncode == 0, sent.stderr
        leader = cluster.wait_leader()
        until(lambda: {t["state"] for t in outbox(leader)} == {"done"}, "all are done")
        lines = [line.partition(" ") for line in (place / "said").read_text().splitlines()]
        assert [node for node, _, _ in lines] == [first.node_id, leader.node_id]
        assert [json.loads(event)["id"] for _, _, event in lines] == ["one", "two"]


def test_what_event_send_says(place: Path) -> None:
    with acting(place, 1) as (cluster, [url]):
        daemon = cluster.wait_leader()
        wrong = send(daemon, "--id", "a\nb")
        assert wrong.returncode == 2
        assert "printable" in wrong.stderr
        assert "add --id" in wrong.stderr
        refused = send(daemon, "--url", url)
        assert refused.returncode == 6
        assert "token" in refused.stderr
        assert send(daemon, "--url", url, "--token-file", str(place / "token")).returncode == 0
        daemon.kill()
        gone = send(daemon, "--url", url, "--timeout", "300ms")
        assert gone.returncode == 4
        assert "Traceback" not in wrong.stderr + refused.stderr + gone.stderr


def test_sighup_takes_up_rules(place: Path) -> None:
    with acting(place, 1) as (cluster, _):
        leader = cluster.wait_leader()
        config = json.loads(leader.config.read_text())
        config["services"][0]["rules"] = [{"name": "new", "do": [{"action": "enqueue"}]}]
        leader.config.write_text(json.dumps(config))
        os.kill(leader.pid, signal.SIGHUP)

        def taken_up() -> bool:
            assert send(leader, used=1).returncode == 0
            return bool(all_tasks(leader))

        until(taken_up, "an event passes the new rule", 10)
        assert {task["queue"] for task in all_tasks(leader)} == {"default"}


def test_the_beacon_of_the_document(place: Path) -> None:
    """As it stands there, while its Reactor is killed and comes back."""
    script = place / "beacon.py"
    script.write_text(program("docs/reactor.md", "beacon.py"))
    count = 200
    with acting(place, 1) as (cluster, urls):
        leader = cluster.wait_leader()
        with subprocess.Popen(
            [sys.executable, str(script), "disk.usage", "ws://127.0.0.1:1", *urls],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"REACTOR_TOKEN": TOKEN},
            text=True,
        ) as beacon:
            assert beacon.stdin is not None
            assert beacon.stderr is not None
            beacon.stdin.writelines(json.dumps({"used": 90 + n}) + "\n" for n in range(count))
            beacon.stdin.close()
            until(lambda: len(all_tasks(leader)) > count // 4, "some have come")
            leader.kill()
            leader.start()
            assert beacon.wait(60) == 0
            assert beacon.stderr.read() == ""
        leader.wait_ready()
        used = [task["payload"]["used"] for task in all_tasks(leader)]
        assert sorted(used) == list(range(90, 90 + count))
