"""MCP over stdio: five tools for agents, which ask the daemon as the command line does (SPEC 11).

The models below are the schemas that agents get. Fields that an answer has besides are passed on.
"""

from __future__ import annotations

import functools
import inspect
import signal
from collections.abc import Callable
from typing import Annotated, Any, Literal, Protocol, TypeAlias, TypeVar, get_args

import trio
from attrs import define, field, frozen
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ResourceError, ToolError
from mcp.server.mcpserver.tools import Tool as RegisteredTool
from mcp_types import CallToolResult, InputRequiredResult, TextContent, ToolAnnotations
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nefia import __version__
from nefia.admin import READING_ACTIONS
from nefia.admin.why import explain
from nefia.errors import InvalidArgument, NefiaError, Permission, UnknownAction
from nefia.mcp_texts import INSTRUCTIONS, next_step, runbook

MAX_CALLS_AT_ONCE = 8
"""Questions to the daemon that are out; more of an agent's wait for their turn."""
READ_SECONDS = 5.0
CHANGE_SECONDS = 30.0
MEMBERSHIP_SECONDS = 150.0
"""Longer than the leader itself takes at most to add a node and have it catch up."""

R = TypeVar("R")


class Admin(Protocol):
    """The daemon, as the command line reaches it. Methods block, and raise NefiaError."""

    def ask(self, action: str, *, timeout: float | None, **params: object) -> dict[str, Any]:
        """The result of one admin action; parameters that are None are not sent."""
        ...

    def initialize(self, timeout: float | None) -> str:
        """The id of the new cluster, made by the daemon or, while none runs, on its data."""
        ...


# What tools answer.


class Answer(BaseModel):
    model_config = ConfigDict(extra="allow")


class NewCluster(Answer):
    """A cluster whose only member is this node."""

    cluster_id: str
    node_runs: bool = Field(description="Whether this node's daemon runs and so leads the cluster.")


State: TypeAlias = Literal[
    "Leader", "Follower", "Candidate", "Learner", "Uninitialized", "Removed", "Unreachable"
]


class Status(Answer):
    """How this node sees itself and its cluster."""

    node_id: str
    state: State
    is_leader: bool
    leader_id: str | None = Field(description="Null: no leader is known, and nothing can change.")
    leader_addr: str | None
    term: int
    commit_index: int
    applied_index: int
    last_index: int
    cluster_id: str | None
    failure_tolerance: int = Field(
        description="How many more voters may fail; negative: there is no majority."
    )
    healthy: bool = Field(description="A leader is known and every voter answers.")
    last_contact_ms: int | None = Field(
        default=None, description="Since this node heard the leader; null on the leader."
    )
    why: list[str] = Field(description="All of it in plain words, the conclusion first.")
    services: list[dict[str, Any]] = Field(description="Those of this node; the leader runs them.")
    digest: str = Field(description="Of the replicated state at `applied_index`.")
    hint: str | None = Field(default=None, description="What to do next, if there is anything.")
    warning: str | None = None


class MemberView(Answer):
    id: str
    address: str
    state: State
    local: bool = Field(description="Whether it is the node that answers.")
    voter: bool
    reachable: bool
    last_contact_ms: int | None = None
    match_index: int | None = None
    lag: int | None = Field(default=None, description="Entries that it lacks, if that is known.")


class Members(Answer):
    """All members, unreachable ones too."""

    members: list[MemberView]
    source: str = Field(description="The node whose view it is: the leader, if one is known.")
    note: str | None = None


class Side(Answer):
    voters: list[str]
    learners: list[str]
    quorum: int
    answering: list[str]
    failure_tolerance: int


class AddedMember(Answer):
    id: str
    address: str
    voter: bool


class Changed(Answer):
    """What became of a change of the members."""

    changed: bool
    before: Side | None = Field(default=None, description="With `dry_run` only.")
    after: Side | None = Field(default=None, description="With `dry_run` only.")


class Added(Changed):
    member: AddedMember | None = None


# What tools take.

NodeId: TypeAlias = Annotated[str, Field(description="The node's id, such as node-2.")]
Address: TypeAlias = Annotated[
    str, Field(description="Where other nodes dial it: host:port or [IPv6]:port.")
]
Forward: TypeAlias = Annotated[
    bool, Field(description="If this node does not lead, pass the change on to the leader.")
]
DryRun: TypeAlias = Annotated[
    bool, Field(description="Check, answer with voters and quorum before and after, and stop.")
]
Reason: TypeAlias = Annotated[
    str | None, Field(description="Why, for the cluster's history and the log.")
]
Wait: TypeAlias = Annotated[
    bool,
    Field(description="Answer only when it is a voter, for at most a minute; it goes on anyway."),
]
Force: TypeAlias = Annotated[
    bool,
    Field(
        description="Even if the cluster would not survive another failure then. Ask the operator."
    ),
]

LOOKS = ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False)
ADDS = ToolAnnotations(
    read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=False
)
FOUNDS = ToolAnnotations(
    read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=False
)
DESTROYS = ToolAnnotations(
    read_only_hint=False, destructive_hint=True, idempotent_hint=False, open_world_hint=False
)


@define
class Door:
    """The one way to the daemon. If `read_only`, what changes anything raises Permission."""

    admin: Admin
    read_only: bool
    _slots: trio.CapacityLimiter = field(factory=lambda: trio.CapacityLimiter(MAX_CALLS_AT_ONCE))

    async def ask(self, action: str, timeout: float, **params: object) -> dict[str, Any]:
        self._require(action)
        return await self._aside(
            functools.partial(self.admin.ask, action, timeout=timeout, **params)
        )

    async def initialize(self) -> str:
        self._require("init")
        return await self._aside(functools.partial(self.admin.initialize, CHANGE_SECONDS))

    def _require(self, action: str) -> None:
        if self.read_only and action not in READING_ACTIONS:
            raise Permission(
                f"{action} changes the cluster, and this MCP server only reads",
                hint="ask the operator, or start nefia mcp serve without --read-only",
            )

    async def _aside(self, call: Callable[[], R]) -> R:
        """In a thread; a caller that is cancelled leaves it to its timeout."""
        return await trio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=self._slots)


@frozen
class Tools:
    """The tools as functions. Their signatures are the schemas, their docstrings what agents read.

    Without a leader, or on another node, changes fail as those of the command line do.
    """

    door: Door

    async def init(self) -> NewCluster:
        """Initialise a new cluster on this node, with it as the only member.

        For the first node only: the others are added to it. Changes nothing if there is a cluster.
        """
        cluster_id = await self.door.initialize()
        try:
            await self.door.ask("status", READ_SECONDS)
        except NefiaError:
            return NewCluster(cluster_id=cluster_id, node_runs=False)
        return NewCluster(cluster_id=cluster_id, node_runs=True)

    async def status(self) -> Status:
        """This node's view: its state, the leader, term, commit index, and whether all is well."""
        status = await self.door.ask("status", READ_SECONDS)
        return Status(**status, why=explain(status))

    async def members(self) -> Members:
        """All members with address, state (Leader, Follower, Candidate, ...) and reachability."""
        return Members(**await self.door.ask("members", READ_SECONDS))

    async def add_peer(
        self,
        id: NodeId,  # noqa: A002, the parameter's public name
        addr: Address,
        wait: Wait = True,
        dry_run: DryRun = False,
        forward: Forward = False,
        reason: Reason = None,
    ) -> Added:
        """Add a node to the cluster, or change the address of a member.

        The node is dialled and checked first, then follows as a learner, and votes once it has
        caught up. Its daemon must run. Repeating it changes nothing.
        """
        params = {"id": id, "addr": addr, "wait": wait, "dry_run": dry_run, "forward": forward}
        answer = await self.door.ask("add_peer", MEMBERSHIP_SECONDS, **params, reason=reason)
        return Added(**answer)

    async def remove_peer(
        self,
        id: NodeId,  # noqa: A002
        force: Force = False,
        dry_run: DryRun = False,
        forward: Forward = False,
        reason: Reason = None,
    ) -> Changed:
        """Remove a member from the cluster for good; a removed leader hands over.

        Refused where it would cost the cluster its majority. Use dry_run first.
        """
        params = {"id": id, "force": force, "dry_run": dry_run, "forward": forward}
        answer = await self.door.ask("remove_peer", MEMBERSHIP_SECONDS, **params, reason=reason)
        return Changed(**answer)


@frozen
class Tool:
    """`name` is the method's of `Tools` and the last part of the tool's own."""

    name: str
    title: str
    annotations: ToolAnnotations


TOOLS = (
    Tool("init", "Initialise a new cluster", FOUNDS),
    Tool("status", "Status of this node", LOOKS),
    Tool("members", "Members of the cluster", LOOKS),
    Tool("add_peer", "Add a node", ADDS),
    Tool("remove_peer", "Remove a node", DESTROYS),
)

ToolNames = Literal["dotted", "underscore"]


def tool_name(name: str, names: ToolNames) -> str:
    dotted = f"nefia.cluster.{name}"
    return dotted if names == "dotted" else dotted.replace(".", "_")


class Server(MCPServer[Any]):
    """Errors of a tool reach the agent with their code and the next step, whoever found them."""

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[Any, Any] | None = None
    ) -> CallToolResult | InputRequiredResult:
        """Raises ToolError for our own mistakes only."""
        try:
            if name not in {tool.name for tool in await self.list_tools()}:
                raise _no_such_tool(name)
            return await super().call_tool(name, arguments, context)
        except NefiaError as error:
            return _refusal(error)
        except ToolError as error:
            match error.__cause__:
                case NefiaError() as cause:
                    return _refusal(cause)
                case ValidationError() as cause:
                    return _refusal(_faulty(cause))
            raise


def _no_such_tool(name: str) -> NefiaError:
    if any(name == tool_name(tool.name, names) for tool in TOOLS for names in get_args(ToolNames)):
        return Permission(
            f"{name} is not offered: this server only reads, or has other names for its tools",
            hint="list the tools; what is not there is for the operator to do",
        )
    return UnknownAction(f"there is no tool {name!r}", hint="list the tools")


def _faulty(error: ValidationError) -> InvalidArgument:
    mistakes = (
        f"{'.'.join(map(str, mistake['loc']))}: {mistake['msg']}" for mistake in error.errors()
    )
    return InvalidArgument("; ".join(mistakes), hint="see the tool's input schema")


def _refusal(error: NefiaError) -> CallToolResult:
    return CallToolResult(content=[TextContent(text=told(error))], is_error=True)


def build(admin: Admin, *, read_only: bool, names: ToolNames) -> Server:
    """The server, ready to run. `read_only` leaves out what changes anything, and refuses it."""
    door = Door(admin, read_only)
    listed = [tool for tool in TOOLS if tool.annotations.read_only_hint or not read_only]
    server = Server(
        "nefia",
        title="nefia cluster",
        instructions=INSTRUCTIONS,
        version=__version__,
        log_level="WARNING",
        tools=[_registered(tool, Tools(door), tool_name(tool.name, names)) for tool in listed],
    )
    _add_texts(server, door, lambda name: tool_name(name, names))
    return server


def _registered(tool: Tool, tools: Tools, name: str) -> RegisteredTool:
    function = getattr(tools, tool.name)
    registered = RegisteredTool.from_function(
        function,
        name=name,
        title=tool.title,
        description=inspect.cleandoc(function.__doc__),
        annotations=tool.annotations,
    )
    # A misspelt dry_run must not be ignored.
    arguments = registered.fn_metadata.arg_model
    arguments.model_config["extra"] = "forbid"
    arguments.model_rebuild(force=True)
    registered.parameters = arguments.model_json_schema(by_alias=True)
    return registered


def _add_texts(server: MCPServer[Any], door: Door, named: Callable[[str], str]) -> None:
    @server.resource(
        "nefia://status",
        title="The cluster now",
        description="Status and members as this node sees them, in one JSON object.",
        mime_type="application/json",
    )
    async def nefia_status() -> str:
        try:
            status = await door.ask("status", READ_SECONDS)
            members = await door.ask("members", READ_SECONDS) if status["cluster_id"] else None
        except NefiaError as error:
            raise ResourceError(told(error)) from None
        return _Snapshot(status=status, members=members).model_dump_json(indent=2)

    @server.prompt(
        "nefia_runbook",
        title="nefia runbook",
        description="How to find out what is wrong with a nefia cluster, and what to do about it.",
    )
    def nefia_runbook(symptom: str = "") -> str:
        return runbook(symptom, named, read_only=door.read_only)


class _Snapshot(BaseModel):
    status: dict[str, Any]
    members: dict[str, Any] | None


def told(error: NefiaError) -> str:
    """The code, what happened, whether anything was changed, and the next step: a line each.

    Not as structured content: clients check that against the tool's output schema, errors too.
    """
    lines = [f"{error.code}: {error.message}", f"changed: {str(error.changed).lower()}"]
    lines += [f"{name}: {value}" for name, value in error.details.items() if value is not None]
    if step := next_step(error):
        lines.append(f"next: {step}")
    return "\n".join(lines)


def serve(admin: Admin, *, read_only: bool, names: ToolNames) -> None:
    """Speak MCP on stdin and stdout until the client closes them."""
    # A thread that waits for stdin cannot be interrupted, and nothing here needs an orderly end.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    trio.run(build(admin, read_only=read_only, names=names).run_stdio_async)
