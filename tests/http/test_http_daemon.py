"""The listener of real daemons: load balancers, metrics, and the page in a real browser."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.cluster import Cluster, Daemon, free_ports, new_cluster, paused, until
from tests.end_to_end.conftest import place  # noqa: F401

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(90)]

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
BROWSER_SECONDS = 60
LOOK_MS = 3000
"""For so long the browser lets the page live before it is looked at."""


def observable(daemon: Daemon, events_port: int) -> str:
    """Have it listen, and run a service when it leads; returns where it listens."""
    [port] = free_ports(1)
    config = json.loads(daemon.config.read_text())
    config["http"] = {"listen": f"127.0.0.1:{port}"}
    events = {"name": "events", "kind": "reactor", "listen": f"127.0.0.1:{events_port}"}
    config["services"] = [events]
    daemon.config.write_text(json.dumps(config))
    return f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def three() -> Iterator[tuple[Cluster, dict[str, str]]]:
    """Formed, and where each node listens. One for all tests: the last of them kills it."""
    with (
        tempfile.TemporaryDirectory(prefix="nefia-") as directory,
        new_cluster(Path(directory)) as cluster,
    ):
        [port] = free_ports(1)
        at = {daemon.node_id: observable(daemon, port) for daemon in cluster.daemons}
        yield cluster.form(), at


def code(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def text(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return str(answer.read().decode())


def count(metrics: str, name: str) -> float:
    """The value of a metric without labels."""
    [line] = [line for line in metrics.splitlines() if line.startswith(f"nefia_{name} ")]
    return float(line.split()[1])


@pytest.mark.skipif(BROWSER is None, reason="needs chromium")
def test_the_page_in_a_browser(three: tuple[Cluster, dict[str, str]], tmp_path: Path) -> None:
    """It runs under its own policy, and shows what there is; a screenshot is left behind."""
    cluster, at = three
    leader = cluster.wait_healthy()
    leader.call("queue_push", payload={"a": 1}, queue="<b>mail")
    dom = browse(at[leader.node_id], tmp_path, "--dump-dom")
    for shown in (">healthy<", f">{leader.node_id}<", "node-3", "Follower", "&lt;b&gt;mail"):
        assert shown in dom, shown
    assert f"{leader.node_id} leads in term" in dom
    assert f">Services on {leader.node_id}<" in dom
    assert '<span class="good">running</span>' in dom

    silent = next(daemon for daemon in cluster.daemons if daemon is not leader)
    with paused(silent):
        until(lambda: leader.status()["healthy"] is False, "it is missed")
        dom = browse(at[leader.node_id], tmp_path, "--dump-dom")
        for shown in (">degraded<", "Unreachable", f"{silent.node_id} ({silent.address})"):
            assert shown in dom, shown
        picture = tmp_path / "page.png"
        browse(at[leader.node_id], tmp_path, f"--screenshot={picture}", "--window-size=1120,1000")
        assert picture.read_bytes().startswith(b"\x89PNG")


def browse(url: str, profile: Path, *options: str) -> str:
    command = [
        str(BROWSER),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--user-data-dir={profile / 'browser'}",
        f"--virtual-time-budget={LOOK_MS}",
        *options,
        url,
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=BROWSER_SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_load_balancers_follow_the_leader(three: tuple[Cluster, dict[str, str]]) -> None:
    cluster, at = three
    leader = cluster.wait_healthy()
    others = [daemon for daemon in cluster.daemons if daemon is not leader]
    assert code(at[leader.node_id] + "/leader") == 200
    assert code(at[leader.node_id] + "/replica") == 503
    for other in others:
        assert code(at[other.node_id] + "/leader") == 503
        assert code(at[other.node_id] + "/replica") == 200
    leader.call("queue_push", payload={"a": 1}, queue="mail")
    metrics = text(at[leader.node_id] + "/metrics")
    assert "nefia_is_leader 1.0" in metrics
    assert 'nefia_queue_tasks{queue="mail",state="pending"} 1.0' in metrics
    assert f'nefia_peer_lag_entries{{peer="{others[0].node_id}"}} 0.0' in metrics
    assert count(metrics, "log_write_seconds_count") > 0

    assert count(metrics, "apply_seconds_count") > 0
    won = [count(text(at[node] + "/metrics"), "elections_won_total") for node in at]
    assert sum(won) >= 1
    overviews = [json.loads(text(at[node] + "/api/overview")) for node in at]
    assert {each["services_of"] for each in overviews} == {leader.node_id}
    assert {each["services"][0]["state"] for each in overviews} == {"running"}

    leader.kill()
    found = until(
        lambda: next((o for o in others if code(at[o.node_id] + "/leader") == 200), None),
        "a new leader takes the traffic",
    )
    won_later = count(text(at[found.node_id] + "/metrics"), "elections_won_total")
    assert won_later > won[[*at].index(found.node_id)]
    [last] = [other for other in others if other is not found]
    found.kill()
    until(lambda: code(at[last.node_id] + "/readyz") == 503, "the last one is not ready")
    assert code(at[last.node_id] + "/livez") == 200
    assert "nefia_has_leader 0.0" in text(at[last.node_id] + "/metrics")


def test_an_address_that_is_taken_is_a_mistake_of_the_configuration(place: Path) -> None:  # noqa: F811
    with new_cluster(place, 2) as cluster:
        first, second = cluster.daemons
        observable(first, *free_ports(1))
        config = json.loads(second.config.read_text())
        config["http"] = json.loads(first.config.read_text())["http"]
        second.config.write_text(json.dumps(config))
        first.start()
        first.wait_ready()
        done = second.cli("daemon", timeout=20)
        assert done.returncode == 2
        assert "cannot listen on http.listen 127.0.0.1:" in done.stderr
        assert "Traceback" not in done.stderr
