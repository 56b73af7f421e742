"""How a guard begins: alone with its state directory, locked into memory, and after a clean-up.

    python -m nefia.guard --state-dir DIR [--connection FD] [--services FD]

A daemon that starts its own guard gives it one end of a socket pair as `--connection`. Without
that the guard listens at `<state-dir>/guard.sock`, as a unit of systemd's. `--services` has the
services of nefia.yaml as JSON: their leftovers are removed before any daemon has come.
"""

from __future__ import annotations

import fcntl
import gc
import getopt
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from nefia.config.services import ServiceConfig
from nefia.errors import EXIT_FAILED, EXIT_USAGE
from nefia.guard.children import exiting, guard_mark, marked
from nefia.guard.kernel import become_subreaper, become_urgent, lock_memory
from nefia.guard.kinds import from_section
from nefia.guard.log import Log
from nefia.guard.process import Guard
from nefia.guard.protocol import LOCK_NAME, PATIENCE_SECONDS, SOCKET_NAME, Section

LOOK_SECONDS = 0.01
EXIT_SECONDS = 2.0
"""How long processes are awaited that exit, since they may be what an earlier guard has left."""
MAX_DAEMONS_WAITING = 8
"""Connections that are not accepted yet."""
MAX_SERVICES_BYTES = 1024 * 1024
_NOT_FOR_CHILDREN = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC")


class NotAlone(Exception):
    """What an earlier guard has left does not go."""


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code."""
    try:
        options, rest = getopt.getopt(
            list(arguments), "", ["state-dir=", "connection=", "services="]
        )
        given = dict(options)
        state_dir = Path(given["--state-dir"])
        connection = _connection(given.get("--connection"))
        services = _services(given.get("--services"))
        assert not rest
    except (getopt.GetoptError, KeyError, ValueError, AssertionError):
        sys.stderr.write(__doc__)
        return EXIT_USAGE
    notify = os.environ.get("NOTIFY_SOCKET", "")
    log = Log(os.environ)
    try:
        lock = _prepare(state_dir, log, connection)
    except (NotAlone, OSError) as error:
        log.warning("guard_ends", reason=str(error))
        return EXIT_FAILED
    _settle_in(log)
    listener = None if connection else _listen(state_dir / SOCKET_NAME)
    guard = Guard(guard_mark(state_dir), log, listener=listener, connection=connection)
    guard.clean(services)
    log.info("guard_ready", pid=os.getpid())
    if notify and listener is not None:
        _tell_manager(notify)
    guard.run()
    os.close(lock)
    return 0


def _connection(fd: str | None) -> socket.socket | None:
    if fd is None:
        return None
    # A service that holds it would keep the daemon from noticing that the guard has gone.
    os.set_inheritable(int(fd), False)
    return socket.socket(fileno=int(fd))


def _services(fd: str | None) -> list[ServiceConfig]:
    if fd is None:
        return []
    with open(int(fd), "rb") as file:
        sections = msgspec.json.decode(file.read(MAX_SERVICES_BYTES), type=list[Section])
    return [from_section(section) for section in sections]


def _prepare(state_dir: Path, log: Log, connection: socket.socket | None) -> int:
    """Returns the lock, which is held for life. Raises NotAlone and OSError."""
    for name in _NOT_FOR_CHILDREN:
        os.environ.pop(name, None)
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    lock = os.open(state_dir / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def is_alone() -> bool:
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        return False

    _wait_until(is_alone, "another guard of this directory still runs", log, connection)
    mark = guard_mark(state_dir)
    awaits_exits_until = time.monotonic() + EXIT_SECONDS

    def is_swept() -> bool:
        left = marked(mark)
        for pid in left:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        return not left and (time.monotonic() >= awaits_exits_until or not exiting())

    _wait_until(is_swept, "processes that an earlier guard left do not end", log, connection)
    become_subreaper()
    return lock


def _wait_until(
    condition: Callable[[], bool], trouble: str, log: Log, connection: socket.socket | None
) -> None:
    """Raises NotAlone if it takes too long, or if who waits for this guard has gone."""
    if condition():
        return
    log.warning("guard_waits", reason=trouble)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() >= deadline:
            raise NotAlone(trouble)
        if connection and _has_ended(connection):
            raise NotAlone(f"{trouble}, and the daemon has gone meanwhile")
        time.sleep(LOOK_SECONDS)


def _has_ended(connection: socket.socket) -> bool:
    with suppress(BlockingIOError):
        return not connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    return False


def _listen(path: Path) -> socket.socket:
    """Who holds the lock owns the path: what stands there is a dead guard's."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    listener.listen(MAX_DAEMONS_WAITING)
    listener.setblocking(False)
    return listener


def _settle_in(log: Log) -> None:
    """What needs privileges: without them the guard works too, but not as surely."""
    gc.collect()
    gc.freeze()
    for what, act in (("memory_not_locked", lock_memory), ("not_urgent", become_urgent)):
        try:
            act()
        except OSError as error:
            log.warning(what, reason=str(error))


def _tell_manager(address: str) -> None:
    """sd_notify(3)."""
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"READY=1", socket.MSG_DONTWAIT, address.replace("@", "\0", 1))
