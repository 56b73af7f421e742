"""One connection to a guard: how it comes to be, and what passes through it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

import trio

from nefia.clock import NodeClock
from nefia.errors import GuardLost
from nefia.guard.protocol import (
    MAX_MESSAGE_BYTES,
    PATIENCE_SECONDS,
    SOCKET_NAME,
    VERSION,
    Answered,
    FromGuard,
    GuardMessageMalformed,
    Hello,
    Renew,
    ToGuard,
    decode_from_guard,
    encode,
)

HELLO_SECONDS = PATIENCE_SECONDS + 10.0
"""A guard says hello once the one before it has ended."""
MAX_WAITING = 128
"""Messages that the guard has not taken yet. It takes them at once, unless it is stopped."""


class GuardConnection:
    """Made by `connect_guard` or `start_guard`; `hello` is heard first, then it is `run`.

    `lost_because`: why it has ended, empty if it has not.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._waiting: deque[bytes] = deque()
        self._lease: Renew | None = None
        """The newest that could not be sent yet; older ones are worth nothing then."""
        self._can_send = trio.Event()
        self._answers: dict[int, _Answer] = {}
        self._seq = 0
        self.lost_because = ""

    def next_seq(self) -> int:
        self._seq += 1
        return self._seq

    async def hello(self, clock: NodeClock) -> Hello:
        """Raises GuardLost."""
        with clock.deadline_scope(clock.now() + HELLO_SECONDS):
            message = await self._receive()
            if not isinstance(message, Hello):
                raise GuardLost("the guard did not say hello")
            if message.refused:
                raise GuardLost(f"the guard refuses this daemon: {message.refused}")
            if message.version != VERSION:
                raise GuardLost(
                    f"the guard speaks version {message.version}, not {VERSION}",
                    hint="restart the guard: systemctl restart nefia-guard",
                )
            return message
        raise GuardLost(
            f"the guard has not become ready within {HELLO_SECONDS:g} s",
            hint="its log says what it waits for",
        )

    # Sending.

    def send(self, message: ToGuard) -> None:
        """Never waits. A guard that takes nothing is as good as lost."""
        if len(self._waiting) >= MAX_WAITING:
            self.close("it does not read")
        elif not self.lost_because:
            self._waiting.append(encode(message))
            self._send_what_goes()

    def renew(self, message: Renew) -> None:
        self._lease = message
        self._send_what_goes()

    async def ask(self, make: Callable[[int], ToGuard]) -> str:
        """The error in the answer to a request; empty if there is none. Raises GuardLost."""
        seq = self.next_seq()
        answer = self._answers[seq] = _Answer()
        try:
            self.send(make(seq))
            if not self.lost_because:
                await answer.arrived.wait()
        finally:
            del self._answers[seq]
        if self.lost_because:
            raise GuardLost(self.lost_because)
        return answer.error

    def _send_what_goes(self) -> None:
        try:
            while self._waiting or self._lease:
                # A lease after all else that waits: it can wait, the order of the rest counts.
                if self._waiting:
                    self._socket.send(self._waiting[0])
                    self._waiting.popleft()
                elif self._lease:
                    self._socket.send(encode(self._lease))
                    self._lease = None
        except BlockingIOError:
            self._can_send.set()
        except OSError as error:
            self.close(str(error))

    # Running.

    async def run(self, heed: Callable[[FromGuard], None]) -> None:
        """Until the connection ends; `heed` gets what is not an answer."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send_later)
                while not self.lost_because:
                    message = await self._receive()
                    if isinstance(message, Answered):
                        self._answered(message)
                    else:
                        heed(message)
                nursery.cancel_scope.cancel()
        except* GuardLost as group:
            self.close(str(group.exceptions[0]))
        finally:
            self.close("it is not needed any more")

    async def _send_later(self) -> None:
        while True:
            await self._can_send.wait()
            self._can_send = trio.Event()
            await trio.lowlevel.wait_writable(self._socket)
            self._send_what_goes()

    async def _receive(self) -> FromGuard:
        """Raises GuardLost."""
        while True:
            try:
                data = self._socket.recv(MAX_MESSAGE_BYTES)
                if not data:
                    raise GuardLost("the guard has ended", hint="its log says why")
                return decode_from_guard(data)
            except BlockingIOError:
                try:
                    await trio.lowlevel.wait_readable(self._socket)
                except trio.ClosedResourceError:
                    raise GuardLost(self.lost_because) from None
            except (OSError, GuardMessageMalformed) as error:
                raise GuardLost(f"the connection to the guard has failed: {error}") from error

    def _answered(self, message: Answered) -> None:
        # Who asked may have gone meanwhile.
        if answer := self._answers.get(message.seq):
            answer.error = message.error
            answer.arrived.set()

    def close(self, reason: str) -> None:
        """The guard then ends whatever runs. Idempotent; the first reason counts."""
        if self.lost_because:
            return
        self.lost_because = reason
        trio.lowlevel.notify_closing(self._socket)
        self._socket.close()
        for answer in self._answers.values():
            answer.arrived.set()


class _Answer:
    def __init__(self) -> None:
        self.arrived = trio.Event()
        self.error = ""


def connect_guard(state_dir: Path) -> GuardConnection | None:
    """To one that listens; None if none does. Raises GuardLost if it cannot take us now."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.setblocking(False)
    try:
        connection.connect(str(state_dir / SOCKET_NAME))
    except (FileNotFoundError, ConnectionRefusedError):
        connection.close()
        return None
    except OSError as error:
        connection.close()
        raise GuardLost(f"cannot connect to the guard: {error.strerror or error}") from error
    return GuardConnection(connection)


async def start_guard(
    state_dir: Path, environment: Mapping[str, str]
) -> tuple[GuardConnection, trio.Process]:
    """One of this daemon's own, in a session of its own: it outlives the daemon, to clean up.

    Raises GuardLost.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        command = [sys.executable, "-m", "nefia.guard", "--state-dir", os.fspath(state_dir)]
        try:
            process = await trio.lowlevel.open_process(
                [*command, "--connection", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                env={**os.environ, **environment},
            )
        except OSError as error:
            ours.close()
            raise GuardLost(f"cannot start a guard: {error.strerror}") from error
    return GuardConnection(ours), process
