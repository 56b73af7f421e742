"""`nefia mcp serve` with another implementation's client: the MCP inspector's command line.

It is on npm and needs Node 22: `npm install -g @modelcontextprotocol/inspector@0.22.0`. The tests
are skipped where `mcp-inspector` is not on the PATH.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.cluster import Daemon, new_cluster
from tests.end_to_end.conftest import place  # noqa: F401

INSPECTOR = shutil.which("mcp-inspector")
SECONDS = 60.0

pytestmark = [
    pytest.mark.end_to_end,
    pytest.mark.skipif(INSPECTOR is None, reason="needs mcp-inspector of npm on the PATH"),
]


@pytest.fixture
def daemon(place: Path) -> Iterator[Daemon]:  # noqa: F811
    with new_cluster(place, 1) as cluster:
        [one] = cluster.daemons
        one.start()
        one.wait_ready()
        yield one


def inspect(daemon: Daemon, method: str, *options: str, serve: tuple[str, ...] = ()) -> Any:
    program, *arguments = daemon.argv("mcp", "serve", *serve)
    servers = daemon.state_dir.parent / "servers.json"
    server = {"command": program, "args": arguments}
    servers.write_text(json.dumps({"mcpServers": {"nefia": server}}))
    chosen = ["--config", str(servers), "--server", "nefia"]
    done = subprocess.run(
        [str(INSPECTOR), "--cli", *chosen, "--method", method, *options],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_a_session(daemon: Daemon) -> None:
    tools = inspect(daemon, "tools/list")["tools"]
    assert len(tools) == 5

    made = inspect(daemon, "tools/call", "--tool-name", "nefia.cluster.init")
    assert made["isError"] is False
    assert made["structuredContent"]["cluster_id"] == daemon.status()["cluster_id"]

    again = inspect(daemon, "tools/call", "--tool-name", "nefia.cluster.init")
    assert again["isError"] is True
    assert again["content"][0]["text"].startswith("already_initialized: ")

    listed = inspect(
        daemon,
        "tools/call",
        "--tool-name",
        "nefia_cluster_members",
        serve=("--tool-names", "underscore"),
    )
    assert [each["id"] for each in listed["structuredContent"]["members"]] == [daemon.node_id]


def test_read_only(daemon: Daemon) -> None:
    refused = inspect(
        daemon, "tools/call", "--tool-name", "nefia.cluster.init", serve=("--read-only",)
    )
    assert refused["isError"] is True
    assert refused["content"][0]["text"].startswith("permission: ")
    assert daemon.status()["state"] == "Uninitialized"
