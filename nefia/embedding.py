"""A node in a program of one's own, with a state machine and a service of its own.

All that a daemon has is there too, the admin socket among it, but for what belongs to a process:
signals, systemd, log output. docs/embedding.md says what it is for; the names are in `nefia`.
"""

from __future__ import annotations

import inspect
import json
import os
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import trio

from nefia import config as configuration
from nefia.clock import BootClock
from nefia.config import Config
from nefia.daemon import Daemon, unwrapped
from nefia.errors import (
    InvalidArgument,
    InvalidConfiguration,
    NefiaError,
    NotLeader,
    OutcomeUnknown,
    ShuttingDown,
)
from nefia.services.interface import Tenure
from nefia.starting import require_assertions
from nefia.state.application import StateMachine
from nefia.state.commands import ApplicationCommand
from nefia.state.limits import validate
from nefia.state.machine import Machine
from nefia.state.records import ApplicationOutcome, Refusal

M = TypeVar("M", bound=StateMachine)

_OVER = "this node was left, or has failed"


def load_config(path: str | os.PathLike[str], *, state_dir: str | None = None) -> Config:
    """What the nefia.yaml at `path` says; `state_dir` comes first.

    Raises InvalidConfiguration with all mistakes at once, and Permission if it is unreadable.
    """
    is_root = os.geteuid() == 0
    return configuration.load(Path(path), state_dir=state_dir, environ=os.environ, is_root=is_root)


class EmbeddedNode(Generic[M]):
    """Made by `open_node`. For tasks of the same event loop."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: set[trio.CancelScope] = set()
        self._over = False
        self._daemon: Daemon

    async def apply(self, command: bytes, *, request_id: str = "", forward: bool = False) -> bytes:
        """What the machine has answered to `command`, which a majority has on disk.

        Under a `request_id` it is performed once, however often it is repeated within an hour. With
        `forward` a follower passes it to the leader. Raises Refused as the machine does, NotLeader,
        NoLeader, NoQuorum, Overloaded, TooLarge, Conflict, NotInitialized, OtherMachine and
        NewerFormat, after which nothing has changed; and OutcomeUnknown.
        """
        if type(command) is not bytes:
            raise InvalidArgument(f"a command is bytes, not {type(command).__name__}")
        change = ApplicationCommand(self._name, command)
        validate(change, request_id)
        with self._call(OutcomeUnknown(_OVER, request_id=request_id or None)):
            node = self._daemon.node
            try:
                node.check_machine(self._name)
                outcome = await node.change(change, request_id)
            except NotLeader:
                if not forward:
                    raise
                return await self._forward(command, request_id)
        if isinstance(outcome, Refusal):
            raise outcome.to_error()
        assert isinstance(outcome, ApplicationOutcome)
        return outcome.result

    async def _forward(self, command: bytes, request_id: str) -> bytes:
        text = b64encode(command).decode()
        named = {"request_id": request_id} if request_id else {}
        answer = await self.ask("apply", machine=self._name, command=text, forward=True, **named)
        return b64decode(answer["result"])

    async def read(self) -> M:
        """The machine, on the leader, with all that was acknowledged before this call.

        To be looked at before the next checkpoint, and never changed. Raises NotLeader, NoLeader,
        NoQuorum, Overloaded, NotInitialized.
        """
        with self._call(ShuttingDown(_OVER)):
            return self._of(await self._daemon.node.machine(linearizable=True))

    def local(self) -> M:
        """The machine as far as this node has applied; as `read`, but anywhere and maybe old."""
        return self._of(self._daemon.node.replica.applier.machine)

    async def ask(self, action: str, **params: Any) -> dict[str, Any]:
        """The result of an action of the admin API (docs/admin-api.md). Raises NefiaError."""
        unknown = OutcomeUnknown(_OVER, request_id=params.get("request_id"))
        with self._call(unknown):
            line = json.dumps({"action": action, **params}).encode()
            answer = json.loads(await self._daemon.answer(line))
        if not answer["ok"]:
            raise NefiaError.from_json(answer["error"])
        result: dict[str, Any] = answer["result"]
        return result

    @property
    def leads(self) -> bool:
        """Whether this node believes so; only what `apply` and `read` answer is certain."""
        return not self._over and self._daemon.node.leads

    def _of(self, machine: Machine) -> M:
        assert machine.application is not None
        return cast(M, machine.application.machine)

    @contextmanager
    def _call(self, over: NefiaError) -> Iterator[None]:
        """Ends with `over` when the node does."""
        if self._over:
            raise ShuttingDown(_OVER)
        with trio.CancelScope() as scope:
            self._calls.add(scope)
            try:
                yield
            finally:
                self._calls.discard(scope)
        if scope.cancelled_caught:
            raise over

    def _end(self) -> None:
        self._over = True
        for scope in self._calls:
            scope.cancel()


Serve = Callable[[EmbeddedNode[M], Tenure], Awaitable[None]]


@asynccontextmanager
async def open_node(
    config: Config, *, machine: Callable[[], M], serve: Serve[M] | None = None
) -> AsyncIterator[EmbeddedNode[M]]:
    """Run a node while the block lasts. `machine()` makes a state machine in its first state.

    `serve(node, tenure)` runs on the leader and on no other node, is cancelled when that ends, and
    is started anew if it ends before; `tenure.term` is the fencing token. Leaving the block is a
    planned stop, also by an error or when it is cancelled: it takes up to 10 s, and 10 s more for
    each service.

    Raises InvalidArgument, InvalidConfiguration, and what ends the node: DiskFailed at the start,
    DataDamaged, DataInUse, OtherMachine, MachineFailed and others. The block is cancelled then.
    """
    _check_process()
    node: EmbeddedNode[M] = EmbeddedNode(_name_of(machine()))
    daemon = node._daemon = Daemon(config, machine, partial(serve, node) if serve else None)
    failure: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            everything = await nursery.start(_run, daemon, node)
            try:
                yield node
            except BaseException as error:
                failure = error
                raise
            finally:
                with trio.CancelScope(shield=True):
                    if not node._over:
                        await daemon.stop(everything, "its program leaves the node")
    except BaseExceptionGroup as group:
        if group.exceptions != (failure,):
            failure = unwrapped(group)
    if failure is not None:
        raise failure


async def _run(
    daemon: Daemon,
    node: EmbeddedNode[M],
    task_status: trio.TaskStatus[trio.CancelScope] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Once it runs, only a planned stop ends it, in whatever is cancelled around it."""
    try:
        with trio.CancelScope() as scope:
            async with daemon.opened() as nursery:
                await daemon.start(nursery)
                scope.shield = True
                task_status.started(nursery.cancel_scope)
    finally:
        node._end()


def _check_process() -> None:
    require_assertions()
    if not isinstance(trio.lowlevel.current_clock(), BootClock):
        raise InvalidConfiguration(
            "nefia needs a clock that goes on while the machine is suspended",
            hint="trio.run(main, clock=nefia.BootClock())",
        )


def _name_of(machine: StateMachine) -> str:
    """Raises InvalidArgument for a machine that cannot be right."""
    validate(ApplicationCommand(machine.name, b""))
    if inspect.isgeneratorfunction(machine.snapshot):
        raise InvalidArgument(
            f"snapshot of the state machine {machine.name} is a generator function, whose body "
            "would run only after later commands",
            hint="return a list, or an iterator over something that never changes",
        )
    return machine.name
