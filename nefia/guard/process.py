"""The guard's process: one thread, one loop, which performs what the machine decides.

Nothing here waits, but the loop for its next event: not for the daemon, a command, the log, a disk.
Whatever goes wrong that nobody has thought of, all services are ended by force before it exits.
"""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, assert_never

from nefia.config.services import ServiceConfig
from nefia.errors import NefiaError
from nefia.guard.children import Child, Children
from nefia.guard.effects import (
    Act,
    Census,
    Effect,
    FenceOff,
    Kill,
    KillAll,
    Look,
    Note,
    RenewPlan,
    Spawn,
    Tell,
    Terminate,
)
from nefia.guard.kernel import BootTimer, boottime
from nefia.guard.kinds import cleaning_of, from_section, plan_of
from nefia.guard.life import Order
from nefia.guard.log import Log
from nefia.guard.machine import Machine
from nefia.guard.peer import Peer, PeerGone
from nefia.guard.plan import Plan
from nefia.guard.protocol import (
    VERSION,
    Answered,
    Ask,
    Begin,
    Configure,
    End,
    Fence,
    FromGuard,
    GuardMessageMalformed,
    Hello,
    Reload,
    Renew,
    Start,
    Statuses,
    Stop,
    ToGuard,
)

MAX_ROUNDS = 64
"""Inputs that may follow from effects before other events have their turn."""
MAX_SIGNALS_AT_ONCE = 4096
MAX_LINES_AT_ONCE = 50
"""Of a command's output that are logged, the last of what has come; to log takes time."""
SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


class Guard:
    """`listener` is where daemons come to; without one, `connection` is the only daemon that ever
    comes, and the guard goes once it has gone and all is clean."""

    def __init__(
        self,
        mark: str,
        log: Log,
        *,
        listener: socket.socket | None,
        connection: socket.socket | None,
    ) -> None:
        self._log = log
        self._children = Children(mark)
        self._machine = Machine(boottime())
        self._peer: Peer | None = None
        self._listener = listener
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._timer = BootTimer()
        self._watch(self._timer.fd, self._timer.clear)
        self._signals = _signal_pipe()
        self._watch(self._signals, self._heed_signals)
        if listener is not None:
            self._watch(listener.fileno(), self._accept)
        self._first_connection = connection

    def clean(self, services: Sequence[ServiceConfig]) -> None:
        """Before anything else: remove what an earlier guard left."""
        self._clean(0, services)

    def run(self) -> None:
        """Until it is told to end, or its only daemon has gone, and nothing is left."""
        try:
            if self._first_connection is not None:
                self._welcome(self._first_connection)
            while True:
                is_settled = self._settle()
                if self._machine.leaving and self._machine.is_idle:
                    return
                self._timer.set(self._machine.deadline)
                for fd, _ in self._epoll.poll(None if is_settled else 0):
                    # A handler may have closed what another event is about.
                    if handler := self._handlers.get(fd):
                        handler()
        except BaseException:
            self._end_by_force()
            raise

    def _end_by_force(self) -> None:
        self._children.kill_all()
        for plan in self._machine.plans:
            self._fence(plan)

    # Events.

    def _watch(self, fd: int, handler: Callable[[], None], events: int = select.EPOLLIN) -> None:
        self._handlers[fd] = handler
        self._epoll.register(fd, events)

    def _heed_signals(self) -> None:
        with suppress(BlockingIOError):
            if signal.SIGTERM in os.read(self._signals, MAX_SIGNALS_AT_ONCE):
                self._machine.shut_down(boottime(), "the guard was told to end")
        for child, code in self._children.reap():
            if child is None:
                self._machine.reaped(boottime())
            else:
                self._ended(child, code)

    def _accept(self) -> None:
        assert self._listener is not None
        if self._peer is not None:
            self._hear()  # the end of the one before, if it has come
        try:
            connection, _ = self._listener.accept()
        except OSError as error:
            self._log.warning("no_connection", reason=str(error))
            return
        self._welcome(connection)

    def _welcome(self, connection: socket.socket) -> None:
        refused = self._machine.connect(boottime())
        peer, hello = Peer(connection), Hello(VERSION, os.getpid(), refused)
        if refused:
            self._log.warning("daemon_refused", reason=refused)
            with suppress(PeerGone):
                peer.send(hello)
            peer.close()
        else:
            self._peer = peer
            self._watch(peer.fd, self._hear)
            self._say(hello)

    def _hear(self) -> None:
        assert self._peer is not None
        try:
            self._peer.send_waiting()
            for message in self._peer.receive():
                if self._peer is not None:  # cut off by an answer that did not go
                    self._heed(message)
        except (PeerGone, GuardMessageMalformed) as error:
            self._cut_off(str(error))
        else:
            self._watch_peer()

    def _watch_peer(self) -> None:
        if self._peer is not None:
            wants = select.EPOLLOUT if self._peer.wants_to_send else 0
            self._epoll.modify(self._peer.fd, select.EPOLLIN | wants)

    def _cut_off(self, reason: str) -> None:
        if self._peer is None:
            return
        self._log.warning("daemon_gone", reason=reason)
        del self._handlers[self._peer.fd]
        self._epoll.unregister(self._peer.fd)
        self._peer.close()
        self._peer = None
        now = boottime()
        self._machine.disconnect(now)
        if self._listener is None:
            self._machine.shut_down(now, "the daemon has gone")

    def _heed(self, message: ToGuard) -> None:
        """Raises GuardMessageMalformed."""
        machine, now = self._machine, boottime()
        match message:
            case Renew(lease_end):
                machine.renew(now, lease_end)
            case Configure(seq, services):
                self._clean(seq, [from_section(section) for section in services])
            case Begin(seq, term, lease_end, stop_budget):
                machine.begin(now, seq, term=term, lease_end=lease_end, stop_budget=stop_budget)
            case End(seq, reason):
                machine.end(now, seq, reason)
            case Start():
                self._start(message)
            case Stop(seq, name, reason):
                machine.stop(now, seq, name, reason)
            case Fence(name):
                machine.fence(now, name)
            case Reload(seq, name):
                machine.reload(now, seq, name)
            case Ask():
                plans = machine.running.items()
                self._say(Statuses({name: self._status(plan) for name, plan in plans}))
            case _:
                assert_never(message)
        self._settle()

    def _start(self, message: Start) -> None:
        config = from_section(message.service)
        try:
            plan = plan_of(config, message.hub)
        except OSError as error:
            self._say(Answered(message.seq, str(error)))
            return
        order = Order(
            config.name, plan, message.environment, config.start_timeout, config.stop_timeout
        )
        self._machine.start(boottime(), message.seq, order)

    def _clean(self, seq: int, services: Sequence[ServiceConfig]) -> None:
        plans: dict[str, Plan] = {}
        for config in services:
            try:
                plans[config.name] = cleaning_of(config)
            except OSError as error:
                # It cannot be started either, and says why when it is to be.
                self._log.warning("no_plan", service=config.name, reason=str(error))
        self._machine.clean(boottime(), seq, plans)

    # Effects.

    def _settle(self) -> bool:
        """Whether nothing is left to be done."""
        for _ in range(MAX_ROUNDS):
            now = boottime()
            if now >= self._machine.deadline:
                self._machine.tick(now)
            effects = self._machine.take()
            if not effects:
                return True
            for effect in effects:
                self._perform(effect)
        return False

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Spawn():
                self._spawn(effect)
            case Act():
                self._act(effect)
            case Terminate(run):
                self._children.send(signal.SIGTERM, run)
            case Kill(run):
                self._children.kill(run)
            case KillAll():
                self._children.kill_all()
            case FenceOff(_, plan):
                self._fence(plan)
            case RenewPlan(_, plan, lease_end):
                self._renew(plan, lease_end)
            case Look(plans):
                running, strangers = self._children.census()
                present = frozenset(run for run, plan in plans.items() if self._is_present(plan))
                self._machine.seen(boottime(), Census(running, present, strangers))
            case Tell(message):
                self._say(message)
            case Note(event, details):
                self._log.info(event, **details)
            case _:
                assert_never(effect)

    def _spawn(self, spawn: Spawn) -> None:
        try:
            child = self._children.begin(spawn)
        except OSError as error:
            self._machine.done(boottime(), spawn.number, failed=True, detail=str(error))
            return
        self._watch(child.output, lambda: self._read(child))
        self._watch(child.execed, lambda: self._executed(child))

    def _executed(self, child: Child) -> None:
        has_executed = child.has_executed()
        if has_executed is not None:
            self._close(child.execed)
            if has_executed and child.spawn.is_main:
                self._machine.executed(boottime(), child.spawn.number)

    def _read(self, child: Child) -> None:
        data = child.read_output()
        if data is None:
            return
        lines = data.decode(errors="replace").splitlines()
        for line in lines[-MAX_LINES_AT_ONCE:]:
            self._log.info("output", service=child.spawn.service, line=line)
        if not data:
            self._close(child.output)

    def _ended(self, child: Child, code: int) -> None:
        if child.output in self._handlers:
            self._read(child)  # of what holds the pipe open beyond its end, nothing is heard
            self._close(child.output)
        self._close(child.execed)
        number = child.spawn.number
        self._machine.done(boottime(), number, failed=code != 0, detail=child.account(code))

    def _close(self, fd: int) -> None:
        if self._handlers.pop(fd, None):
            self._epoll.unregister(fd)
            os.close(fd)

    def _act(self, act: Act) -> None:
        failure = ""
        if boottime() >= act.not_after:
            failure = "the lease has ended"
        else:
            try:
                act.step.action()
            except (NefiaError, OSError) as error:
                failure = str(error)
        self._machine.done(boottime(), act.number, failed=bool(failure), detail=failure)

    def _fence(self, plan: Plan) -> None:
        try:
            plan.fence()
        except Exception as error:  # whatever it is, the other services have to be fenced too
            self._log.warning("fence_failed", reason=repr(error))

    def _is_present(self, plan: Plan) -> bool:
        try:
            return plan.is_present()
        except OSError as error:
            self._log.warning("presence_unknown", reason=str(error))
            return True

    def _status(self, plan: Plan) -> dict[str, Any]:
        try:
            return plan.status()
        except (NefiaError, OSError) as error:
            return {"error": str(error)}

    def _renew(self, plan: Plan, lease_end: float) -> None:
        try:
            plan.renew(lease_end)
        except OSError as error:
            self._log.warning("renewal_failed", reason=str(error))

    def _say(self, message: FromGuard) -> None:
        if self._peer is not None:
            try:
                self._peer.send(message)
            except PeerGone as error:
                self._cut_off(str(error))
            except GuardMessageMalformed as error:
                self._log.warning("not_said", reason=error.message)
            else:
                self._watch_peer()


def _signal_pipe() -> int:
    """An end to read the numbers of signals from; they do nothing else."""
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    os.set_blocking(write_end, False)
    for number in SIGNALS:
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    return read_end
