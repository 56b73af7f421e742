"""`nefia mcp serve` over stdio with the official client, before real daemons (SPEC 11)."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp_types import TextContent

from tests.end_to_end.cluster import Cluster, Daemon, new_cluster
from tests.end_to_end.conftest import place  # noqa: F401

pytestmark = pytest.mark.end_to_end

SECONDS = 60.0


@asynccontextmanager
async def agent(daemon: Daemon, *options: str) -> AsyncIterator[Client]:
    program, *arguments = daemon.argv("mcp", "serve", *options)
    with trio.fail_after(SECONDS):
        async with Client(
            stdio_client(StdioServerParameters(command=program, args=arguments))
        ) as client:
            yield client


async def done(client: Client, name: str, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool(f"nefia.cluster.{name}", arguments)
    assert not result.is_error, result.content
    assert result.structured_content is not None
    structured: dict[str, Any] = result.structured_content
    return structured


async def refused(client: Client, name: str, **arguments: Any) -> str:
    result = await client.call_tool(f"nefia.cluster.{name}", arguments)
    assert result.is_error, result.content
    [block] = result.content
    assert isinstance(block, TextContent)
    return block.text


@pytest.fixture
def two(place: Path) -> Iterator[Cluster]:  # noqa: F811
    """Neither initialised nor started."""
    with new_cluster(place, 2) as cluster:
        yield cluster


async def test_a_cluster_is_made_and_unmade(two: Cluster) -> None:
    first, second = two.daemons
    async with agent(first) as client:
        # Before the daemon runs, as SPEC 2 has it for the command.
        made = await done(client, "init")
        assert made["node_runs"] is False
        assert (await refused(client, "init")).startswith("already_initialized: ")
        assert (await refused(client, "status")).startswith("no_daemon: ")

        for daemon in two.daemons:
            daemon.start()
        for daemon in two.daemons:
            await trio.to_thread.run_sync(daemon.wait_ready)
        await trio.to_thread.run_sync(two.wait_leader)
        assert made["cluster_id"] in await refused(client, "init")

        new = {"id": "node-2", "addr": second.address}
        preview = await done(client, "add_peer", **new, dry_run=True)
        assert preview["changed"] is False
        assert preview["after"]["voters"] == ["node-1", "node-2"]
        added = await done(client, "add_peer", **new, reason="the test")
        assert added["member"] == {"id": "node-2", "address": second.address, "voter": True}
        assert (await done(client, "add_peer", **new))["changed"] is False

        status = await done(client, "status")
        assert (status["state"], status["leader_id"]) == ("Leader", "node-1")
        assert status["cluster_id"] == made["cluster_id"]
        assert status["commit_index"] > 0
        members = (await done(client, "members"))["members"]
        assert [(each["id"], each["state"]) for each in members] == [
            ("node-1", "Leader"),
            ("node-2", "Follower"),
        ]

        async with agent(second) as follower:
            error = await refused(follower, "remove_peer", id="node-2")
            assert error.startswith("not_leader: ")
            assert f"leader_addr: {first.address}" in error
            removed = await done(follower, "remove_peer", id="node-2", forward=True)
            assert removed["changed"] is True
        members = (await done(client, "members"))["members"]
        assert [each["id"] for each in members] == ["node-1"]


async def test_read_only_before_a_real_daemon(two: Cluster) -> None:
    first, second = two.daemons
    async with agent(first, "--read-only") as client:
        assert (await refused(client, "init")).startswith("permission: ")
        first.start()
        await trio.to_thread.run_sync(first.wait_ready)
        assert (await done(client, "status"))["state"] == "Uninitialized"
        assert {tool.name for tool in (await client.list_tools()).tools} == {
            "nefia.cluster.status",
            "nefia.cluster.members",
        }
        assert (await refused(client, "init")).startswith("permission: ")
        peer = await refused(client, "add_peer", id="node-2", addr=second.address)
        assert peer.startswith("permission: ")
        assert first.status()["state"] == "Uninitialized"


def test_it_ends_with_its_client(two: Cluster) -> None:
    """Nobody is left behind when the agent closes stdin, and stdout carries nothing else."""
    command = two.daemons[0].argv("mcp", "serve")
    done = subprocess.run(
        command, input="", capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
