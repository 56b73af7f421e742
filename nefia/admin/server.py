"""The daemon's end of the admin socket: many clients, many requests in flight in each (SPEC 4).

Answers come as they complete: the handler calls back when a change is committed, and gets a task
for a request that takes more than one step. Completed answers are gathered, and one writer per
connection sends all that are ready at once. What a client may cost is bounded: when too many of
its requests are unanswered or their answers unread, no more of its lines are read; when it does
not read at all, it is cut off.

A client's faults and a broken connection end here. Anything but a `NefiaError` out of the handler
is a mistake of ours and ends the daemon.
"""

from __future__ import annotations

import errno
import grp
import os
import select
import socket
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import structlog
import trio

from nefia.admin.lines import LineBuffer
from nefia.admin.protocol import (
    Handler,
    Refusal,
    Result,
    Seq,
    Stream,
    append_answer,
    encode_error,
    encode_event,
    parse_request,
)
from nefia.errors import DataInUse, DiskFailed, InvalidConfiguration, NefiaError, Overloaded
from nefia.errors import Permission as PermissionRefused
from nefia.streams import receive, send_now

MAX_CONNECTIONS = 512
MAX_IN_FLIGHT_PER_CONNECTION = 4096
"""Requests read and not yet answered into the socket; beyond it no more are read."""
MAX_UNSENT_BYTES = 64 << 20
"""Answers waiting for a client to read; beyond it the client is cut off."""
READ_CHUNK_BYTES = 64 << 10
SEND_CHUNK_BYTES = 256 << 10
SEND_TIMEOUT_SECONDS = 30.0
"""How long a client may take to read one chunk."""
LAST_ANSWERS_SECONDS = 10.0
"""How long requests may still run for a client that has stopped sending but may be reading."""
LISTEN_BACKLOG = 128
MAX_PATH_BYTES = 107
"""What the kernel takes as the path of a Unix socket."""

_log = structlog.get_logger()


async def serve_admin(
    path: str | Path,
    handler: Handler,
    *,
    proceed: Callable[[], None] = lambda: None,
    group: str | None = None,
    task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled. `path` is the socket's; members of `group` may use it too.

    `proceed` is called when `handler` has been given all requests that arrived together.

    Raises DataInUse if another daemon serves there, InvalidConfiguration if the path or the group
    cannot be, Permission or DiskFailed if the socket cannot be made.
    """
    async with _listening(Path(path), group) as listener:
        slots = _Slots(MAX_CONNECTIONS)

        async def serve(stream: trio.SocketStream) -> None:
            if slots.take():
                try:
                    await serve_connection(stream, handler, proceed)
                finally:
                    slots.give_back()
            else:
                await _turn_away(stream)

        await trio.serve_listeners(serve, [listener], task_status=task_status)


async def serve_connection(
    stream: trio.abc.Stream, handler: Handler, proceed: Callable[[], None] = lambda: None
) -> None:
    """Serve one client on `stream` until it leaves, and close the stream."""
    async with stream, trio.open_nursery() as nursery:
        connection = _Connection(stream, handler, proceed, nursery)
        nursery.start_soon(connection.write)
        nursery.start_soon(connection.read)


class _Slots:
    def __init__(self, most: int) -> None:
        self._free = most

    def take(self) -> bool:
        if not self._free:
            return False
        self._free -= 1
        return True

    def give_back(self) -> None:
        self._free += 1


class _Connection:
    """One client. A request holds its place in flight until its answer is in the socket."""

    def __init__(
        self,
        stream: trio.abc.Stream,
        handler: Handler,
        proceed: Callable[[], None],
        nursery: trio.Nursery,
    ) -> None:
        self._stream = stream
        self._handler = handler
        self._proceed = proceed
        self._nursery = nursery
        self._lines = LineBuffer()
        self._in_flight = 0
        self._lines_out = bytearray()
        self._answered = 0
        """How many lines have gone there, each of which holds a place in flight."""
        self._sending_bytes = 0
        self._read_all = False
        self._room = trio.Event()
        self._work = trio.Event()
        self._sent = trio.Event()

    async def read(self) -> None:
        try:
            while data := await receive(self._stream, READ_CHUNK_BYTES):
                for line in self._lines.feed(data):
                    if self._in_flight >= MAX_IN_FLIGHT_PER_CONNECTION:
                        self._proceed()
                        await self._room_in_flight()
                    self._take(line)
                self._proceed()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._cut()
            return
        for line in self._lines.finish():
            self._take(line)
        self._proceed()
        self._read_all = True
        self._work.set()
        if _hung_up(self._stream):
            # Nobody is left to answer, and a claim that waits must not lease a task to nobody.
            self._cut()
        else:
            self._nursery.cancel_scope.deadline = trio.current_time() + LAST_ANSWERS_SECONDS

    async def write(self) -> None:
        """Send answers until all that will ever come are sent."""
        while self._in_flight or not self._read_all:
            await self._work.wait()
            self._work = trio.Event()
            lines, answered = self._lines_out, self._answered
            self._lines_out, self._answered = bytearray(), 0
            if not await self._send(lines):
                return
            self._have_sent(answered)

    async def _room_in_flight(self) -> None:
        while self._in_flight >= MAX_IN_FLIGHT_PER_CONNECTION:
            self._room = trio.Event()
            await self._room.wait()

    def _take(self, line: bytes | None) -> None:
        self._in_flight += 1
        request = parse_request(line)
        if isinstance(request, Refusal):
            self._reply(request.seq, request.error)
        elif rest := self._handler(request, partial(self._reply, request.seq)):
            if isinstance(rest, AsyncGenerator):
                self._nursery.start_soon(self._follow, request.seq, rest)
            else:
                self._nursery.start_soon(rest)

    async def _follow(self, seq: Seq, stream: Stream) -> None:
        """Send what a stream brings; more is taken from it when that has been read.

        Each line of it holds a place in flight until it is in the socket, as an answer does.
        """
        async with aclosing(stream):
            try:
                async for events in stream:
                    self._in_flight += len(events)
                    for event in events:
                        self._lines_out += encode_event(seq, event)
                        self._line_goes_out()
                    while self._lines_out or self._sending_bytes:
                        await self._sent.wait()
            except NefiaError as error:
                self._reply(seq, error)

    def _reply(self, seq: Seq, result: Result) -> None:
        if isinstance(result, NefiaError):
            self._lines_out += encode_error(seq, result)
        else:
            append_answer(self._lines_out, seq, result)
        self._line_goes_out()

    def _line_goes_out(self) -> None:
        self._answered += 1
        if self._answered == self._in_flight:
            self._send_now()  # all that this client has asked for: there is nothing to wait for
        else:
            self._work.set()
        if len(self._lines_out) + self._sending_bytes > MAX_UNSENT_BYTES:
            self._give_up()

    def _send_now(self) -> None:
        """What the kernel does not take at once is left to `write`."""
        del self._lines_out[: send_now(self._stream, [self._lines_out])]
        if not self._lines_out:
            answered, self._answered = self._answered, 0
            self._have_sent(answered)
        if self._lines_out or self._read_all:
            self._work.set()

    def _have_sent(self, answers: int) -> None:
        self._in_flight -= answers
        self._room.set()
        self._sent.set()
        self._sent = trio.Event()

    async def _send(self, data: bytearray) -> bool:
        self._sending_bytes = len(data)
        for start in range(0, len(data), SEND_CHUNK_BYTES):
            chunk = data[start : start + SEND_CHUNK_BYTES]
            with trio.move_on_after(SEND_TIMEOUT_SECONDS) as patience:
                try:
                    await self._stream.send_all(chunk)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    self._cut()
                    return False
            if patience.cancelled_caught:
                self._give_up()
                return False
            self._sending_bytes -= len(chunk)
        return True

    def _give_up(self) -> None:
        unsent_bytes = len(self._lines_out) + self._sending_bytes
        _log.warning("admin_client_cut_off", unsent_bytes=unsent_bytes)
        self._cut()

    def _cut(self) -> None:
        self._nursery.cancel_scope.cancel()


def _hung_up(stream: trio.abc.Stream) -> bool:
    """Whether the other end is closed altogether, and not only for sending."""
    if not isinstance(stream, trio.SocketStream):
        return False
    poll = select.poll()
    poll.register(stream.socket.fileno(), 0)
    return any(events & select.POLLHUP for _, events in poll.poll(0))


async def _turn_away(stream: trio.abc.Stream) -> None:
    error = Overloaded(f"the daemon serves {MAX_CONNECTIONS} clients already, its most")
    async with stream:
        with trio.move_on_after(SEND_TIMEOUT_SECONDS):
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await stream.send_all(encode_error(None, error))


@asynccontextmanager
async def _listening(path: Path, group: str | None) -> AsyncIterator[trio.SocketListener]:
    """A listener at `path`, whose socket file goes with it unless somebody has replaced it."""
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise InvalidConfiguration(
            f"the admin socket's path, {path}, is longer than the {MAX_PATH_BYTES} bytes that a "
            "Unix socket's can have",
            hint="choose a shorter state directory",
        )
    group_id = _group_id(group)
    try:
        _remove_stale(path)
        listener, made = _listen(path, group_id)
    except PermissionError as error:
        raise PermissionRefused(f"cannot make the admin socket {path}: {error.strerror}") from None
    except OSError as error:
        raise DiskFailed(
            f"cannot make the admin socket {path}: {error.strerror}",
            full=error.errno in (errno.ENOSPC, errno.EDQUOT),
        ) from None
    async with listener:
        try:
            yield listener
        finally:
            _remove(path, made)


def _group_id(group: str | None) -> int | None:
    if group is None:
        return None
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise InvalidConfiguration(f'admin_group: there is no group "{group}"') from None


def _remove_stale(path: Path) -> None:
    """Make way at `path`, unless somebody answers there or it is no socket at all."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise DataInUse(f"{path} is where the admin socket belongs, but is no socket")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            _remove(path, found)
            return
        except BlockingIOError:
            pass  # Its backlog is full: somebody is there, if only frozen.
    raise DataInUse(f"another daemon serves {path}", socket=os.fspath(path))


def _remove(path: Path, made: os.stat_result) -> None:
    try:
        found = path.lstat()
        if (found.st_dev, found.st_ino) == (made.st_dev, made.st_ino):
            path.unlink()
    except FileNotFoundError:
        pass


def _listen(path: Path, group_id: int | None) -> tuple[trio.SocketListener, os.stat_result]:
    server = socket.socket(socket.AF_UNIX)
    try:
        server.setblocking(False)
        # Linux gives the file the mode of the unbound socket: there is no moment of wider rights.
        os.fchmod(server.fileno(), 0o600)
        server.bind(os.fspath(path))
        if group_id is not None:
            _open_to_group(path, group_id)
        server.listen(LISTEN_BACKLOG)
        return trio.SocketListener(trio.socket.from_stdlib_socket(server)), path.lstat()
    except BaseException:
        server.close()
        raise


def _open_to_group(path: Path, group_id: int) -> None:
    os.chown(path, -1, group_id)
    path.chmod(0o660)
    directory = path.parent.stat()
    reachable = directory.st_mode & (0o010 if directory.st_gid == group_id else 0o001)
    if not reachable:
        # The group may pass through the state directory, but neither list nor read it.
        os.chown(path.parent, -1, group_id)
        path.parent.chmod(stat.S_IMODE(directory.st_mode) & 0o700 | 0o010)
