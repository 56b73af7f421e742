"""The MCP server in this process, before a daemon of canned answers (SPEC 11)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from attrs import define, field
from mcp.client import Client
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, TextContent, Tool

from nefia.admin.why import explain
from nefia.errors import (
    Internal,
    NefiaError,
    NoDaemon,
    NotLeader,
    OutcomeUnknown,
    Permission,
    WouldLoseQuorum,
)
from nefia.mcp_server import TOOLS, Door, Server, ToolNames, Tools, build
from tests.admin.statuses import BOTH, status

CHANGING = {"nefia.cluster.init", "nefia.cluster.add_peer", "nefia.cluster.remove_peer"}
READING = {"nefia.cluster.status", "nefia.cluster.members"}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "add_peer": {"id": "node-2", "addr": "10.99.0.2:9700"},
    "remove_peer": {"id": "node-2"},
}
STATUS = {
    "node_id": "node-1",
    "state": "Leader",
    "is_leader": True,
    "leader_id": "node-1",
    "leader_addr": "10.99.0.1:9700",
    "term": 3,
    "commit_index": 17,
    "applied_index": 17,
    "last_index": 17,
    "cluster_id": "c1",
    "failure_tolerance": 0,
    "healthy": True,
    "digest": "d",
    "services": [],
    "of_a_later_version": [1],
}
MEMBER = {
    "id": "node-1",
    "address": "10.99.0.1:9700",
    "state": "Leader",
    "local": True,
    "voter": True,
    "reachable": True,
}


@define
class FakeAdmin:
    """`answers` by action: a result or an error. `asked` is what was asked, in order."""

    answers: dict[str, dict[str, Any] | NefiaError]
    asked: list[tuple[str, dict[str, object]]] = field(factory=list)

    def ask(self, action: str, *, timeout: float | None, **params: object) -> dict[str, Any]:
        assert timeout is not None
        self.asked.append((action, params))
        answer = self.answers[action]
        if isinstance(answer, NefiaError):
            raise answer
        return answer

    def initialize(self, timeout: float | None) -> str:
        return str(self.ask("init", timeout=timeout)["cluster_id"])


def server_of(admin: FakeAdmin, *, read_only: bool = False, names: ToolNames = "dotted") -> Server:
    return build(admin, read_only=read_only, names=names)


async def call(server: Server, name: str, **arguments: Any) -> CallToolResult:
    async with Client(server) as client:
        return await client.call_tool(f"nefia.cluster.{name}", arguments)


def text_of(result: CallToolResult) -> str:
    [block] = result.content
    assert isinstance(block, TextContent)
    return block.text


async def tools_of(server: Server) -> dict[str, Tool]:
    async with Client(server) as client:
        return {tool.name: tool for tool in (await client.list_tools()).tools}


async def test_the_five_tools_say_what_they_do() -> None:
    tools = await tools_of(server_of(FakeAdmin({})))
    assert tools.keys() == CHANGING | READING
    for name, tool in tools.items():
        assert tool.description
        assert tool.annotations is not None
        assert tool.annotations.read_only_hint == (name in READING)
        assert tool.input_schema["additionalProperties"] is False
        assert tool.output_schema is not None
        assert tool.output_schema["type"] == "object"
    destructive = {
        name
        for name, tool in tools.items()
        if tool.annotations and tool.annotations.destructive_hint
    }
    assert destructive == {"nefia.cluster.remove_peer"}
    assert tools["nefia.cluster.add_peer"].input_schema["required"] == ["id", "addr"]


async def test_names_without_dots() -> None:
    tools = await tools_of(server_of(FakeAdmin({}), names="underscore"))
    assert tools.keys() == {name.replace(".", "_") for name in CHANGING | READING}


async def test_a_structured_answer_with_what_later_versions_add() -> None:
    result = await call(server_of(FakeAdmin({"status": STATUS})), "status")
    assert not result.is_error
    assert result.structured_content is not None
    assert result.structured_content.items() >= STATUS.items()
    assert result.structured_content["why"] == []  # a daemon that gives no evidence
    assert json.loads(text_of(result)) == result.structured_content


async def test_the_status_in_words() -> None:
    shown = status(BOTH) | {"last_index": 40, "digest": "d"}
    result = await call(server_of(FakeAdmin({"status": shown})), "status")
    assert result.structured_content is not None
    assert result.structured_content["why"] == explain(shown)
    assert result.structured_content["evidence"] == shown["evidence"]


async def test_members_keep_their_states() -> None:
    answer = {"members": [MEMBER], "source": "node-1", "note": None}
    result = await call(server_of(FakeAdmin({"members": answer})), "members")
    assert result.structured_content is not None
    assert [each["state"] for each in result.structured_content["members"]] == ["Leader"]


async def test_arguments_reach_the_daemon() -> None:
    admin = FakeAdmin({"remove_peer": {"changed": True}})
    result = await call(server_of(admin), "remove_peer", id="node-2", force=True, reason="old")
    assert result.structured_content == {"changed": True, "before": None, "after": None}
    expected = {"id": "node-2", "force": True, "dry_run": False, "forward": False, "reason": "old"}
    assert admin.asked == [("remove_peer", expected)]


async def test_init_says_whether_the_node_runs() -> None:
    running = FakeAdmin({"init": {"cluster_id": "c1"}, "status": STATUS})
    result = await call(server_of(running), "init")
    assert result.structured_content == {"cluster_id": "c1", "node_runs": True}
    stopped = FakeAdmin({"init": {"cluster_id": "c1"}, "status": NoDaemon("none", socket="s")})
    result = await call(server_of(stopped), "init")
    assert result.structured_content == {"cluster_id": "c1", "node_runs": False}


@pytest.mark.parametrize(
    ("error", "lines"),
    [
        (
            NotLeader("node-2 does not lead", leader_id="node-1", leader_addr="10.99.0.1:9700"),
            [
                "not_leader: node-2 does not lead",
                "changed: false",
                "leader_id: node-1",
                "leader_addr: 10.99.0.1:9700",
                "next: repeat the call with forward=true, or make it on the leader's machine",
            ],
        ),
        (
            WouldLoseQuorum("only 1 of 2 would answer", hint="bring node-3 back first"),
            [
                "would_lose_quorum: only 1 of 2 would answer",
                "changed: false",
                "next: bring node-3 back first",
            ],
        ),
        (
            OutcomeUnknown("no majority has confirmed it"),
            [
                "timeout: no majority has confirmed it",
                "changed: unknown",
                "next: look at the members before repeating it: it may have happened",
            ],
        ),
        (Internal("odd"), ["internal: odd", "changed: false"]),
    ],
)
async def test_an_error_has_its_code_and_the_next_step(error: NefiaError, lines: list[str]) -> None:
    server = server_of(FakeAdmin({"remove_peer": error}))
    result = await call(server, "remove_peer", id="node-2")
    assert result.is_error
    assert text_of(result).splitlines() == lines
    # Clients check structured content against the output schema, which an error does not fit.
    assert result.structured_content is None


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"id": "node-2", "dryRun": True}, "dryRun: Extra inputs are not permitted"),
        ({}, "id: Field required"),
        ({"id": 7}, "id: Input should be a valid string"),
    ],
)
async def test_faulty_arguments_change_nothing(arguments: dict[str, Any], what: str) -> None:
    """A misspelt dry_run that was ignored would remove the node."""
    admin = FakeAdmin({"remove_peer": {"changed": True}})
    result = await call(server_of(admin), "remove_peer", **arguments)
    assert result.is_error
    assert text_of(result).startswith(f"invalid_argument: {what}")
    assert admin.asked == []


async def test_an_unknown_tool() -> None:
    result = await call(server_of(FakeAdmin({})), "destroy")
    assert text_of(result).startswith("unknown_action: there is no tool 'nefia.cluster.destroy'")


class TestReadOnly:
    async def test_lists_only_what_reads(self) -> None:
        assert (await tools_of(server_of(FakeAdmin({}), read_only=True))).keys() == READING

    @pytest.mark.parametrize("name", ["init", "add_peer", "remove_peer"])
    async def test_refuses_a_call_all_the_same(self, name: str) -> None:
        admin = FakeAdmin({name: {"changed": True, "cluster_id": "c1"}, "status": STATUS})
        server = server_of(admin, read_only=True)
        result = await call(server, name, **ARGUMENTS.get(name, {}))
        assert result.is_error
        assert text_of(result).startswith("permission: ")
        assert admin.asked == []

    @pytest.mark.parametrize("name", ["init", "add_peer", "remove_peer"])
    async def test_the_door_is_closed_even_to_a_tool_that_is_there(self, name: str) -> None:
        admin = FakeAdmin({name: {"changed": True, "cluster_id": "c1"}})
        tool = getattr(Tools(Door(admin, read_only=True)), name)
        with pytest.raises(Permission, match="only reads"):
            await tool(**ARGUMENTS.get(name, {}))
        assert admin.asked == []

    async def test_without_it_the_same_calls_pass(self) -> None:
        """Else the two tests above would show nothing."""
        admin = FakeAdmin(
            {
                "init": {"cluster_id": "c1"},
                "status": STATUS,
                "add_peer": {"changed": True, "member": None},
                "remove_peer": {"changed": True},
            }
        )
        for name in ("init", "add_peer", "remove_peer"):
            assert not (await call(server_of(admin), name, **ARGUMENTS.get(name, {}))).is_error

    def test_only_reading_tools_are_said_to_read(self) -> None:
        reading = {tool.name for tool in TOOLS if tool.annotations.read_only_hint}
        assert reading == {"status", "members"}


class TestTexts:
    async def test_the_status_resource(self) -> None:
        admin = FakeAdmin({"status": STATUS, "members": {"members": [MEMBER]}})
        async with Client(server_of(admin)) as client:
            [content] = (await client.read_resource("nefia://status")).contents
        shown = json.loads(getattr(content, "text", ""))
        assert shown == {"status": STATUS, "members": {"members": [MEMBER]}}

    async def test_the_resource_without_a_daemon(self) -> None:
        admin = FakeAdmin({"status": NoDaemon("no daemon answers", socket="/run/x")})
        async with Client(server_of(admin)) as client:
            with pytest.raises(MCPError, match="no_daemon: no daemon answers"):
                await client.read_resource("nefia://status")

    @pytest.mark.parametrize("read_only", [False, True])
    async def test_the_runbook_names_the_tools_there_are(self, read_only: bool) -> None:
        server = server_of(FakeAdmin({}), read_only=read_only, names="underscore")
        async with Client(server) as client:
            prompt = await client.get_prompt("nefia_runbook", {"symptom": "the VPN is down"})
        [message] = prompt.messages
        text = getattr(message.content, "text", "")
        assert "the VPN is down" in text
        assert "nefia_cluster_status" in text
        assert ("nefia_cluster_remove_peer" in text) == (not read_only)
        assert "nefia.cluster." not in text
