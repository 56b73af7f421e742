"""The daemon: the only place that wires. It opens the nurseries, and nothing else decides here.

daemon > admin server > node > (mesh, replica > leadership scope, discovery)

Cancelling an outer scope would cancel all of these at once, so a planned stop cancels nothing at
first: `Daemon.stop` has the node hand over and say goodbye, then cancels the rest (DESIGN).
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from random import Random
from typing import TYPE_CHECKING

import structlog
import trio
from attrs import evolve

from nefia import collector
from nefia.admin import SOCKET_NAME
from nefia.admin.actions import Actions, SessionLifetimes
from nefia.admin.protocol import (
    Refusal,
    Reply,
    Request,
    Stream,
    encode_answer,
    encode_error,
    parse_request,
)
from nefia.admin.server import serve_admin
from nefia.clock import BootClock, TrioNodeClock
from nefia.config import EXTERNAL_KINDS, ClusterConfig, Config, load, parse_address
from nefia.errors import (
    DiskFailed,
    InvalidConfiguration,
    NefiaError,
    NotInitialized,
    ShuttingDown,
)
from nefia.net.network import Network, TcpNetwork
from nefia.node.founding import first_configuration, found_cluster
from nefia.node.node import Node
from nefia.node.opening import open_node
from nefia.node.settings import Settings
from nefia.services.program import PROGRAM_STOP_SECONDS, Program, Serve
from nefia.services.wiring import Equipment
from nefia.starting import make_state_dir
from nefia.storage.claim import Claim
from nefia.storage.lmdb_store import LmdbStore, open_lmdb
from nefia.systemd import ServiceManager

if TYPE_CHECKING:
    from nefia.http.serving import HttpListener
    from nefia.rotation import Rotation
    from nefia.services.interface import Guard
    from nefia.state.application import Host

FIRST_RESTART_SECONDS = 1.0
MAX_RESTART_SECONDS = 30.0
SWITCH_INTERVAL_SECONDS = 0.0005
"""LMDB gives up the interpreter at each record that it writes; at Python's own 5 ms a busy event
loop would make a write of a thousand entries wait for a quarter of a second (measured)."""
STOP_SECONDS = 10.0
"""How long a planned stop may take, besides that of services, before all is cancelled."""

PROGRAM = "program"
"""What the service of an embedding program is called."""
CLUSTER_ACTIONS = frozenset({"init", "members", "add_peer", "remove_peer", "transfer_leader"})

_log = structlog.get_logger("nefia.daemon")


def run(config: Config, claim: Claim | None) -> int:
    """Run the daemon until it is told to stop; returns the exit code. Raises NefiaError.

    For `nefia.starting`, which has made the `claim` on `config.data_dir`.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    collector.configure()
    try:
        trio.run(Daemon(config, claim=claim).main, clock=BootClock())
    except BaseExceptionGroup as group:
        raise unwrapped(group) from group
    return 0


def initialize(config: Config) -> str:
    """Create a cluster of this one node while its daemon does not run; returns the cluster's id.

    Raises AlreadyInitialized, DataInUse while a daemon runs, and what opening the data does.
    """
    _require_cluster(config)
    make_state_dir(config)
    return trio.run(_initialize, config)


async def _initialize(config: Config) -> str:
    cluster = config.cluster
    store = await open_lmdb(cluster.data_dir, cluster.node_id)
    try:
        utc_ms = time.time_ns() // 1_000_000
        return await found_cluster(
            store, first_configuration(store, cluster.advertise_addr, utc_ms=utc_ms)
        )
    finally:
        await store.close()


def unwrapped(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one place where exception groups end: the error that an operator should see.

    Errors of the world go to the operator as they are; a mistake of ours stays whole.
    """
    errors, others = group.split(NefiaError)
    if others is not None or errors is None:
        return group
    first: BaseException = errors
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first


class Daemon:
    """An admin socket, and a node that is started again when its disk fails.

    `main` makes a process of it. A program that embeds it has a machine of its own (`host`) and a
    service of its own (`serve`), and uses `opened`, `start` and `stop` (`embedding`).
    """

    def __init__(
        self,
        config: Config,
        host: Host | None = None,
        serve: Serve | None = None,
        claim: Claim | None = None,
    ) -> None:
        self._config = config
        self._host = host
        self._serve = serve
        self._claim = claim
        self._clock = TrioNodeClock()
        self._manager = ServiceManager(os.environ)
        self._plain_network = TcpNetwork(config.cluster.raft.transport_timeout)
        self._network: Network = self._plain_network
        self._guard: Guard | None = None
        self._equipment: Equipment | None = None
        self._reloading = trio.Lock()
        self._rotation = self._secure(config.cluster)
        self._http = self._listener(config.http.listen)
        self._actions: Actions | None = None
        self._node: Node | None = None
        self._unavailable = NefiaError("the daemon is starting", hint="try again in a moment")
        self._lifetimes = SessionLifetimes(
            ttl_ms=config.session_ttl_minutes * 60_000,
            idle_timeout_ms=config.session_idle_timeout_minutes * 60_000,
        )

    def _secure(self, cluster: ClusterConfig) -> Rotation | None:
        """With TLS, all that this node says and hears goes through it. Raises TLSFailed."""
        if not (cluster.enabled and cluster.tls_enabled):
            return None
        from nefia.credentials import tls_files
        from nefia.rotation import Rotation  # it takes a while, and memory, that only TLS needs

        rotation = Rotation(tls_files(cluster), cluster.node_id, self._network, self._renew)
        self._network = rotation.network
        return rotation

    def _listener(self, address: str | None) -> HttpListener | None:
        if address is None:
            return None
        from nefia.http.serving import HttpListener  # it takes a while, and memory

        return HttpListener(address, self.answer)

    async def _renew(self) -> None:
        if self._node is not None and self._actions is not None:
            await self._node.renew_connections()

    async def main(self) -> None:
        async with self.opened() as nursery:
            await nursery.start(self._heed_signals, nursery.cancel_scope)
            await self.start(nursery)
            self._manager.tell("READY=1")
            nursery.start_soon(self._manager.feed_watchdog, self._pulse)
            nursery.start_soon(collector.run, self._may_pause)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[trio.Nursery]:
        """The nursery of all there is; the guard outlives it."""
        make_state_dir(self._config)
        async with self._have_guard() as self._guard, trio.open_nursery() as nursery:
            yield nursery

    async def start(self, nursery: trio.Nursery) -> None:
        """Return when requests are answered. Raises NefiaError."""
        await nursery.start(self._run_node_for_ever)
        socket_path = self._config.state_dir / SOCKET_NAME
        await nursery.start(
            lambda task_status: serve_admin(
                socket_path,
                self.handle,
                proceed=self._proceed,
                group=self._config.admin_group,
                task_status=task_status,
            )
        )
        if self._rotation is not None:
            nursery.start_soon(self._rotation.run)
        if self._http is not None:
            await nursery.start(self._http.run)
        _log.info("ready", admin_socket=str(socket_path))

    @asynccontextmanager
    async def _have_guard(self) -> AsyncIterator[Guard | None]:
        """It outlives the node, which begins anew when its disk fails."""
        services = self._config.services
        if not any(each.kind in EXTERNAL_KINDS for each in services):
            yield None
            return
        from nefia.guard.environment import NODE_ID
        from nefia.services.guard_client import open_guard

        names = {NODE_ID: self._config.node_id}
        async with open_guard(services, self._config.state_dir, self._clock, names) as guard:
            yield guard

    async def _pulse(self) -> None:
        """Return once the node has shown that it goes on, unless it is starting anew."""
        if self._node is not None and self._actions is not None:
            await self._node.pulse()

    def _may_pause(self) -> bool:
        return self._node is None or not self._node.leads

    # Requests.

    def handle(
        self, request: Request, reply: Reply
    ) -> Callable[[], Awaitable[None]] | Stream | None:
        """The admin server's handler."""
        try:
            return self._acting(request).handle(request, reply)
        except NefiaError as error:
            reply(error)
            return None

    def _proceed(self) -> None:
        """What the admin server has handed over is all there is for now."""
        if self._node is not None:
            self._node.proceed()

    def _acting(self, request: Request) -> Actions:
        if not self._config.cluster.enabled and request.action in CLUSTER_ACTIONS:
            raise _not_clustered()
        if self._actions is None:
            raise self._unavailable
        return self._actions

    async def answer(self, line: bytes) -> bytes:
        """The answer to a request that another node, or a program, has passed on."""
        request = parse_request(line)
        if isinstance(request, Refusal):
            return encode_error(request.seq, request.error)
        try:
            return encode_answer(request.seq, await self._acting(request)(request))
        except NefiaError as error:
            return encode_error(request.seq, error)

    # The node.

    @property
    def node(self) -> Node:
        """Raises NefiaError while there is none that can be asked."""
        if self._node is None or self._actions is None:
            raise self._unavailable
        return self._node

    async def _run_node_for_ever(
        self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Run the node; when its disk fails, begin anew with what the disk holds (SPEC 5)."""
        pause = FIRST_RESTART_SECONDS
        while True:
            began = trio.current_time()
            try:
                await self._run_node(task_status)
            except* DiskFailed as group:
                if self._node is None:
                    raise  # it never ran: that is for the operator and the service manager
                self._actions = None
                error = unwrapped(group)
                assert isinstance(error, DiskFailed)
                self._unavailable = error
            if trio.current_time() - began > MAX_RESTART_SECONDS:
                pause = FIRST_RESTART_SECONDS
            _log.warning("node_restarts", after_seconds=pause, reason=self._unavailable.message)
            await trio.sleep(pause)
            pause = min(2 * pause, MAX_RESTART_SECONDS)

    async def _run_node(self, task_status: trio.TaskStatus[None]) -> None:
        cluster = self._config.cluster
        claim, self._claim = self._claim, None  # good for one opening
        store = await open_lmdb(self._config.data_dir, self._config.node_id, claim=claim)
        if self._http is not None:
            store.wrote = self._http.meters.write_seconds.observe
        try:
            node = await self._open_node(store)
            if self._http is not None:
                self._http.meters.attend(node.replica)
            if self._rotation is not None:
                node.annotate = self._rotation.annotate
            collector.settle()
            listeners = await self._listen()
            first_run, self._node = self._node is None, node
            self._actions = Actions(node, self._lifetimes)
            async with trio.open_nursery() as nursery:
                self._equipment = Equipment(
                    node,
                    self._config.services,
                    guard=self._guard,
                    clock=self._clock,
                    network=self._plain_network,
                    nursery=nursery,
                    own=self._own_services(nursery),
                )
                nursery.start_soon(node.run, listeners)
                if not cluster.enabled and not store.identity.cluster_id:
                    await node.initialize()
                if first_run:
                    task_status.started()
        finally:
            await store.close()

    async def _open_node(self, store: LmdbStore) -> Node:
        return await open_node(
            settings=Settings.of(self._config),
            store=store,
            clock=self._clock,
            network=self._network,
            random=Random(),  # its seed is the kernel's
            answer=self.answer,
            host=self._host,
        )

    def _own_services(self, nursery: trio.Nursery) -> list[Program]:
        if self._serve is None:
            return []
        return [Program(PROGRAM, self._serve, nursery)]

    async def _listen(self) -> Sequence[trio.abc.Listener[trio.abc.Stream]]:
        cluster = self._config.cluster
        if not cluster.enabled:
            return []
        try:
            listeners = await self._network.listen(cluster.bind_addr)
        except OSError as error:
            raise InvalidConfiguration(
                f"cannot listen on cluster.bind_addr {cluster.bind_addr}: {error.strerror}",
                hint="is another daemon running there, or is the address another machine's?",
            ) from error
        host = parse_address(cluster.bind_addr)[0]
        is_loopback = host in ("localhost", "::1") or host.startswith("127.")
        if self._rotation is None and not is_loopback:
            _log.warning(
                "no_tls",
                bind_addr=cluster.bind_addr,
                meaning="whoever can reach this address can take part in the cluster",
            )
        return listeners

    # Signals.

    async def _heed_signals(
        self,
        everything: trio.CancelScope,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        stopping = False
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            task_status.started()
            async with trio.open_nursery() as nursery:
                async for number in signals:
                    if number == signal.SIGHUP:
                        nursery.start_soon(self._reload)
                    elif stopping:
                        everything.cancel()  # asked twice: at once
                    else:
                        stopping = True
                        self._manager.tell("STOPPING=1")
                        nursery.start_soon(self.stop, everything, signal.Signals(number).name)

    async def _reload(self) -> None:
        """Certificates, services, tokens and rules (SPEC 1). All else needs a new start."""
        if self._rotation is not None:
            await self._rotation.reload("SIGHUP")
        if self._reloading.statistics().tasks_waiting:
            return  # whoever waits already will read the same
        async with self._reloading:
            await self._reload_services()

    async def _reload_services(self) -> None:
        if self._config.path is None or self._equipment is None:
            return
        read = partial(
            load,
            self._config.path,
            state_dir=str(self._config.state_dir),
            environ=os.environ,
            is_root=os.geteuid() == 0,
        )
        try:
            # In a thread: it takes longer than the lease, for a large file or on a hung disk.
            config = await trio.to_thread.run_sync(read, abandon_on_cancel=True)
        except NefiaError as error:
            _log.error("configuration_not_reloaded", error=error.message)
            return
        self._config = evolve(self._config, services=config.services)
        if not await self._equipment.reload(config.services):
            return
        if self._node is not None:
            self._node.take_fingerprint(Settings.of(self._config).fingerprint)
        _log.info("configuration_reloaded", services=len(config.services))

    async def stop(self, everything: trio.CancelScope, reason: str) -> None:
        """A planned stop: services, leadership, goodbye; then cancel `everything`."""
        _log.info("stopping", reason=reason)
        node, self._unavailable = self._node, ShuttingDown("the daemon is shutting down")
        services_seconds = sum(each.stop_timeout for each in self._config.services)
        if self._serve is not None:
            services_seconds += PROGRAM_STOP_SECONDS
        with trio.move_on_after(STOP_SECONDS + services_seconds):
            if node is not None and self._actions is not None:
                await node.leave()
        self._actions = None
        everything.cancel()


def _require_cluster(config: Config) -> None:
    if not config.cluster.enabled:
        raise _not_clustered()


def _not_clustered() -> NotInitialized:
    return NotInitialized(
        "this node runs without a cluster, since cluster.enabled is false",
        hint="set cluster.enabled: true, node_id, bind_addr and advertise_addr in nefia.yaml, "
        "restart the daemon, and run nefia cluster init",
    )
