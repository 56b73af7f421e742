"""What the admin API needs of a node."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from typing import Any, Protocol

from nefia.errors import NefiaError
from nefia.node.watching import Watcher
from nefia.state.commands import Command
from nefia.state.machine import Machine
from nefia.state.records import Outcome


class Watchable(Protocol):
    def watch(self, topics: Collection[str]) -> AbstractContextManager[Watcher]:
        """Raises Overloaded."""
        ...


class NodeApi(Protocol):
    """What the admin API needs of a node."""

    def propose(
        self,
        command: Command,
        request_id: str,
        settle: Callable[[Outcome | NefiaError], None],
    ) -> None:
        """Apply `command` through the log, and remember the outcome under a `request_id` not empty.

        `settle` is called once, later. Errors, raised at once or given to it: NotLeader, NoLeader,
        NoQuorum, OutcomeUnknown, Overloaded, NotInitialized.
        """
        ...

    async def change(self, command: Command, request_id: str) -> Outcome:
        """The outcome of `propose`, whose errors are raised.

        A caller that is cancelled has withdrawn from waiting, not the change.
        """
        ...

    async def machine(self, linearizable: bool) -> Machine:
        """The state to read from, before the next checkpoint. Raises NotLeader, NoLeader, NoQuorum.

        Not `linearizable`: what this node has applied, at once.
        """
        ...

    def check_machine(self, name: str) -> None:
        """Raises OtherMachine unless enough nodes have the program's state machine of that name.

        Raises NewerFormat if a voter does not know of such machines.
        """
        ...

    def status(self) -> dict[str, Any]: ...

    async def members(self) -> dict[str, Any]: ...

    async def initialize(self) -> str:
        """The new cluster's id. Raises AlreadyInitialized."""
        ...

    async def add_peer(
        self,
        node_id: str,
        address: str,
        *,
        wait: bool,
        preflight: bool,
        reason: str,
        dry_run: bool,
    ) -> dict[str, Any]: ...

    async def remove_peer(
        self, node_id: str, *, force: bool, reason: str, dry_run: bool
    ) -> dict[str, Any]: ...

    async def transfer_leader(self, to: str | None, reason: str) -> dict[str, Any]: ...

    def first_of_next_epoch(self, seen: int) -> int:
        """Above every term and token there is, and above `seen`.

        Raises NewerFormat while a voter does not know how to restore a snapshot.
        """
        ...

    def service_status(self) -> list[dict[str, Any]]: ...

    async def service_restart(self, name: str) -> None:
        """Raises NotFound, and NotLeader and NoLeader."""
        ...

    async def service_reload(self, name: str) -> None:
        """Raises NotFound and ServiceFailed, and NotLeader and NoLeader."""
        ...

    async def snapshot(self) -> dict[str, Any]:
        """Where in the log it stands, and its size. Raises NotInitialized and DiskFailed."""
        ...

    async def forward(
        self, request: dict[str, Any], timeout_seconds: float | None = None
    ) -> dict[str, Any]:
        """The leader's result of a request; raises its error, NoLeader, or OutcomeUnknown.

        `request` is as a client would send it, without `seq` and `forward`. Without a timeout:
        as long as a change may take.
        """
        ...

    async def wait_for_task(self, queue: str, host: str, deadline_seconds: float) -> None:
        """Return when a claim may find a task, or `deadline_seconds` from now; "" means any."""
        ...

    def wall_offset_ms(self) -> int:
        """The wall clock minus the cluster time, now."""
        ...

    @property
    def watching(self) -> Watchable: ...
