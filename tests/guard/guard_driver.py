"""A real guard process, and the daemon's end of its connection in the test's hands."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from nefia.config import ServiceConfig
from nefia.config.services import CommandConfig, HookConfig
from nefia.guard.kernel import boottime
from nefia.guard.kinds import to_section
from nefia.guard.protocol import (
    MAX_MESSAGE_BYTES,
    SOCKET_NAME,
    Answered,
    Begin,
    Configure,
    End,
    FromGuard,
    Hello,
    Over,
    Renew,
    Start,
    Stop,
    ToGuard,
    decode_from_guard,
    encode,
)

WAIT_SECONDS = 20.0
POLL_SECONDS = 0.005
PROGRAM = ("-m", "nefia.guard")
LEADER = {"NEFIA_ROLE": "leader", "NEFIA_TERM": "1", "NEFIA_REASON": "it was elected"}

M = TypeVar("M", bound=FromGuard)


def until(condition: Callable[[], Any], what: str) -> Any:
    """The first true value of `condition()`."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(POLL_SECONDS)
    raise AssertionError(f"not within {WAIT_SECONDS:g} s: {what}")


def lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def pid_in(path: Path) -> int:
    """Of the process that writes its number there, once it has."""
    return int(until(lambda: path.exists() and path.read_text().strip(), f"a number in {path}"))


def shell(script: str, *, name: str = "app", **settings: Any) -> CommandConfig:
    return CommandConfig(name=name, run=("sh", "-c", script), **settings)


def hook(on_promote: str, on_demote: str = "true", *, name: str = "hook") -> HookConfig:
    return HookConfig(
        name=name, on_promote=("sh", "-c", on_promote), on_demote=("sh", "-c", on_demote)
    )


class GuardProcess:
    """Without `listens`, one that a daemon has started, and that daemon's end of the connection."""

    def __init__(self, state_dir: Path, *, listens: bool = False) -> None:
        self.state_dir = state_dir
        self.log = state_dir / "guard.log"
        self._seq = 0
        self._unread: list[FromGuard] = []
        command = [sys.executable, *PROGRAM, "--state-dir", str(state_dir)]
        self.connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.connection.settimeout(WAIT_SECONDS)
        if not listens:
            command += ["--connection", str(theirs.fileno())]
        with theirs, self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stderr=log, pass_fds=[theirs.fileno()], start_new_session=True
            )
        if listens:
            self.connection.close()

    def connect(self) -> None:
        """To one that listens."""
        path = self.state_dir / SOCKET_NAME

        def connected() -> bool:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            connection.settimeout(WAIT_SECONDS)
            try:
                connection.connect(str(path))
            except OSError:
                connection.close()
                return False
            self.connection = connection
            return True

        until(connected, "a guard that listens")

    # What is said.

    def send(self, message: ToGuard) -> None:
        self.connection.send(encode(message))

    def receive(self, kind: type[M]) -> M:
        """The next of that kind; others are kept."""
        for message in self._unread:
            if isinstance(message, kind):
                self._unread.remove(message)
                return message
        while True:
            data = self.connection.recv(MAX_MESSAGE_BYTES)
            assert data, "the guard has closed its end"
            message = decode_from_guard(data)
            if isinstance(message, kind):
                return message
            self._unread.append(message)

    def next_seq(self) -> int:
        self._seq += 1
        return self._seq

    def ask(self, make: Callable[[int], ToGuard]) -> str:
        """The error in the answer."""
        seq = self.next_seq()
        self.send(make(seq))
        while (answer := self.receive(Answered)).seq != seq:
            pass
        return answer.error

    def welcome(self) -> Hello:
        hello = self.receive(Hello)
        self.send(Configure(self.next_seq(), []))
        self._wait_until_over()
        return hello

    def end(self) -> None:
        self.send(End(self.next_seq(), "planned"))
        self._wait_until_over()

    def _wait_until_over(self) -> None:
        while self.receive(Over).seq != self._seq:
            pass

    def begin(self, term: int = 1, *, lease: float = 60.0, budget: float = 0.5) -> str:
        """Durations in seconds."""
        return self.ask(lambda seq: Begin(seq, term, boottime() + lease, budget))

    def renew(self, lease: float) -> None:
        self.send(Renew(boottime() + lease))

    def begin_start(self, config: ServiceConfig) -> int:
        seq = self.next_seq()
        self.send(Start(seq, to_section(config), LEADER))
        return seq

    def start(self, config: ServiceConfig) -> str:
        return self.ask(lambda seq: Start(seq, to_section(config), LEADER))

    def stop(self, name: str) -> str:
        return self.ask(lambda seq: Stop(seq, name, "planned"))

    def wait(self) -> int:
        return self.process.wait(WAIT_SECONDS)

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGKILL)
        self.process.wait(WAIT_SECONDS)
        self.connection.close()


@contextmanager
def guard(state_dir: Path, *, listens: bool = False) -> Iterator[GuardProcess]:
    """Ready for a tenure; gone in the end, with all that it has started."""
    running = GuardProcess(state_dir, listens=listens)
    try:
        if listens:
            running.connect()
        running.welcome()
        yield running
    finally:
        running.connection.close()
        if listens:
            running.process.terminate()
        try:
            running.process.wait(WAIT_SECONDS)
        finally:
            running.kill()
