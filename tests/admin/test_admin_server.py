"""The daemon's end of the admin socket, over memory streams and real Unix sockets (SPEC 4)."""

from __future__ import annotations

import grp
import json
import os
import socket
import stat
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from nefia.admin import MAX_LINE_BYTES, server
from nefia.admin.client import AdminClient
from nefia.admin.protocol import Handler, Reply, Request
from nefia.admin.server import serve_admin, serve_connection
from nefia.errors import (
    DataInUse,
    InvalidConfiguration,
    NefiaError,
    NoDaemon,
    NotFound,
    OutcomeUnknown,
    Permission,
    TooLarge,
)


def echo(request: Request, reply: Reply) -> None:
    """Answers at once, or fails as the id says."""
    match request.params.id:
        case "absent":
            reply(NotFound("no such task"))
        case "bug":
            raise ZeroDivisionError
        case task_id:
            reply({"action": request.action, "id": task_id})


class Gate:
    """A handler that keeps each request until it is let through."""

    def __init__(self) -> None:
        self.waiting: dict[object, trio.Event] = {}
        self.cancelled: list[object] = []
        self.cancelled_one = trio.Event()

    def __call__(self, request: Request, reply: Reply) -> Callable[[], Awaitable[None]]:
        return partial(self.keep, request, reply)

    async def keep(self, request: Request, reply: Reply) -> None:
        self.waiting[request.seq] = trio.Event()
        try:
            await self.waiting[request.seq].wait()
        except trio.Cancelled:
            self.cancelled.append(request.seq)
            self.cancelled_one.set()
            raise
        reply({})


def line(action: str = "queue_get", **fields: Any) -> bytes:
    return json.dumps({"action": action, **fields}).encode() + b"\n"


class Client:
    """One end of a connection, with answers as dictionaries."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._received = b""

    async def send(self, *lines: bytes) -> None:
        await self.stream.send_all(b"".join(lines))

    async def answer(self) -> dict[str, Any]:
        while b"\n" not in self._received:
            data = await self.stream.receive_some(1 << 20)
            if not data:
                raise EOFError
            self._received += data
        head, self._received = self._received.split(b"\n", 1)
        answer: dict[str, Any] = json.loads(head)
        return answer


@asynccontextmanager
async def connected(handler: Handler) -> AsyncIterator[Client]:
    mine, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_connection, theirs, handler)
        yield Client(mine)
        await mine.aclose()


@asynccontextmanager
async def serving(path: Path, handler: Handler = echo, **options: Any) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:

        async def serve(task_status: trio.TaskStatus[Any]) -> None:
            await serve_admin(path, handler, task_status=task_status, **options)

        await nursery.start(serve)
        yield
        nursery.cancel_scope.cancel()


@pytest.mark.trio
class TestConnection:
    async def test_answers_with_the_seq(self) -> None:
        async with connected(echo) as client:
            await client.send(line(id="1", seq="x"))
            result = {"action": "queue_get", "id": "1"}
            assert await client.answer() == {"seq": "x", "ok": True, "result": result}

    async def test_answers_errors_and_goes_on(self) -> None:
        async with connected(echo) as client:
            await client.send(
                line(id="absent", seq=1), b"nonsense\n", line(seq=2), line(id="1", seq=3)
            )
            answers = {a["seq"]: a for a in [await client.answer() for _ in range(4)]}
            codes = {seq: a.get("error", {}).get("code") for seq, a in answers.items()}
            assert codes == {
                1: "not_found",
                None: "invalid_argument",
                2: "invalid_argument",
                3: None,
            }

    async def test_skips_an_overlong_line(self) -> None:
        async with connected(echo) as client:
            await client.send(b"x" * (2 * MAX_LINE_BYTES), b"\n", line(id="1", seq=1))
            assert (await client.answer())["error"]["code"] == "too_large"
            assert (await client.answer())["seq"] == 1

    async def test_answers_as_requests_complete(self) -> None:
        gate = Gate()
        async with connected(gate) as client:
            await client.send(line(id="1", seq=1), line(id="2", seq=2))
            await trio.testing.wait_all_tasks_blocked()
            gate.waiting[2].set()
            assert (await client.answer())["seq"] == 2
            gate.waiting[1].set()
            assert (await client.answer())["seq"] == 1

    async def test_sends_what_is_ready_together(self) -> None:
        gate = Gate()
        async with connected(gate) as client:
            await client.send(*(line(id="1", seq=seq) for seq in range(100)))
            await trio.testing.wait_all_tasks_blocked()
            for event in gate.waiting.values():
                event.set()
            await trio.testing.wait_all_tasks_blocked()
            data = await client.stream.receive_some(1 << 20)
            assert data.count(b"\n") == 100

    async def test_stops_reading_when_too_much_is_in_flight(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(server, "MAX_IN_FLIGHT_PER_CONNECTION", 3)
        gate = Gate()
        async with connected(gate) as client:
            await client.send(*(line(id="1", seq=seq) for seq in range(5)))
            await trio.testing.wait_all_tasks_blocked()
            assert sorted(gate.waiting, key=str) == [0, 1, 2]
            gate.waiting[1].set()
            assert (await client.answer())["seq"] == 1
            await trio.testing.wait_all_tasks_blocked()
            assert sorted(gate.waiting, key=str) == [0, 1, 2, 3]
            for seq in (0, 2, 3):
                gate.waiting[seq].set()
            await trio.testing.wait_all_tasks_blocked()
            gate.waiting[4].set()
            rest = {(await client.answer())["seq"] for _ in range(4)}
            assert rest == {0, 2, 3, 4}

    async def test_cuts_off_who_lets_answers_pile_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(server, "MAX_UNSENT_BYTES", 1000)
        gate = Gate()
        mine, theirs = trio.testing.lockstep_stream_pair()  # Sends wait for the other end to read.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_connection, theirs, gate)
            await mine.send_all(b"".join(line(id="1", seq=seq) for seq in range(100)))
            await trio.testing.wait_all_tasks_blocked()
            for seq in range(99):
                gate.waiting[seq].set()
            await trio.testing.wait_all_tasks_blocked()
        assert gate.cancelled == [99]

    async def test_cuts_off_who_reads_too_slowly(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        gate = Gate()
        mine, theirs = trio.testing.lockstep_stream_pair()
        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_connection, theirs, gate)
            await mine.send_all(line(id="1", seq=1) + line(id="1", seq=2))
            await trio.testing.wait_all_tasks_blocked()
            gate.waiting[1].set()
        assert trio.current_time() - started == server.SEND_TIMEOUT_SECONDS
        assert gate.cancelled == [2]

    async def test_answers_what_came_before_the_end(self) -> None:
        mine, theirs = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_connection, theirs, echo)
            await mine.send_all(line(id="1", seq=1) + line(id="2", seq=2).rstrip())
            await mine.send_eof()
            client = Client(mine)
            assert {(await client.answer())["seq"] for _ in range(2)} == {1, 2}
            with pytest.raises(EOFError):
                await client.answer()

    async def test_waits_only_so_long_for_the_last_answers(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        gate = Gate()
        mine, theirs = trio.testing.memory_stream_pair()
        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_connection, theirs, gate)
            await mine.send_all(line(id="1", seq=1))
            await mine.send_eof()
        assert trio.current_time() - started == server.LAST_ANSWERS_SECONDS
        assert gate.cancelled == [1]

    async def test_lets_our_own_mistakes_through(self) -> None:
        mine, theirs = trio.testing.memory_stream_pair()
        await mine.send_all(line(id="bug"))
        with pytest.raises(ExceptionGroup) as caught:
            await serve_connection(theirs, echo)
        assert caught.group_contains(ZeroDivisionError, depth=None)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def leave_stale(path: Path) -> None:
    """A socket file as a daemon leaves it that was killed."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))


@pytest.mark.trio
class TestSocket:
    async def test_is_its_owners_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "admin.sock"
        old = os.umask(0)
        try:
            async with serving(path):
                assert mode_of(path) == 0o600
        finally:
            os.umask(old)

    async def test_never_has_wider_rights(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "admin.sock"
        modes = []

        class Watched(socket.socket):
            def bind(self, address: Any) -> None:
                super().bind(address)
                modes.append(mode_of(path))

        monkeypatch.setattr("nefia.admin.server.socket.socket", Watched)
        old = os.umask(0)
        try:
            async with serving(path):
                assert modes == [0o600]
        finally:
            os.umask(old)

    async def test_opens_to_a_group(self, tmp_path: Path) -> None:
        os.chmod(tmp_path, 0o700)
        path = tmp_path / "admin.sock"
        group = grp.getgrgid(os.getgid())
        async with serving(path, group=group.gr_name):
            assert mode_of(path) == 0o660
            assert path.stat().st_gid == group.gr_gid
            assert mode_of(tmp_path) == 0o710

    async def test_leaves_a_directory_alone_that_the_group_can_pass(self, tmp_path: Path) -> None:
        os.chmod(tmp_path, 0o750)
        async with serving(tmp_path / "admin.sock", group=grp.getgrgid(os.getgid()).gr_name):
            assert mode_of(tmp_path) == 0o750

    async def test_refuses_an_unknown_group(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidConfiguration, match="no group"):
            await serve_admin(tmp_path / "admin.sock", echo, group="no-such-group")

    async def test_replaces_a_dead_daemons_and_goes_with_the_daemon(self, tmp_path: Path) -> None:
        path = tmp_path / "admin.sock"
        leave_stale(path)
        async with serving(path):
            stream = await trio.open_unix_socket(path)
            await stream.aclose()
        assert not path.exists()

    async def test_leaves_a_live_daemons_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "admin.sock"
        async with serving(path):
            with pytest.raises(DataInUse, match="another daemon"):
                await serve_admin(path, echo)
            stream = await trio.open_unix_socket(path)
            client = Client(stream)
            await client.send(line(id="1", seq=1))
            assert (await client.answer())["ok"] is True
            await stream.aclose()

    async def test_leaves_another_kind_of_file_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "admin.sock"
        path.write_text("precious")
        with pytest.raises(DataInUse, match="no socket"):
            await serve_admin(path, echo)
        assert path.read_text() == "precious"

    async def test_does_not_remove_a_successors_socket(self, tmp_path: Path) -> None:
        path = tmp_path / "admin.sock"
        async with serving(path):
            path.unlink()
            successor = socket.socket(socket.AF_UNIX)
            successor.bind(str(path))
        assert path.exists()
        successor.close()

    async def test_says_that_a_path_is_too_long(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidConfiguration, match="longer than the 107 bytes"):
            await serve_admin(tmp_path / ("x" * 100) / "admin.sock", echo)

    async def test_says_that_it_cannot_be_made(self, tmp_path: Path) -> None:
        with pytest.raises(NefiaError, match="cannot make the admin socket"):
            await serve_admin(tmp_path / "absent" / "admin.sock", echo)

    async def test_turns_away_more_than_the_most_clients(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(server, "MAX_CONNECTIONS", 1)
        path = tmp_path / "admin.sock"
        async with serving(path):
            first = Client(await trio.open_unix_socket(path))
            await first.send(line(id="1"))
            await first.answer()
            second = Client(await trio.open_unix_socket(path))
            assert (await second.answer())["error"]["code"] == "overloaded"
            await first.stream.aclose()
            await second.stream.aclose()
            await trio.testing.wait_all_tasks_blocked()
            third = Client(await trio.open_unix_socket(path))
            await third.send(line(id="1"))
            assert (await third.answer())["ok"] is True
            await third.stream.aclose()

    async def test_cancels_what_a_client_waited_for_that_hung_up(self, tmp_path: Path) -> None:
        gate = Gate()
        path = tmp_path / "admin.sock"
        async with serving(path, gate):
            stream = await trio.open_unix_socket(path)
            await stream.send_all(line("queue_claim", worker="w", seq=1))
            await trio.testing.wait_all_tasks_blocked()
            await stream.aclose()
            with trio.fail_after(5):
                await gate.cancelled_one.wait()
            assert gate.cancelled == [1]

    async def test_one_clients_rubbish_disturbs_no_other(self, tmp_path: Path) -> None:
        path = tmp_path / "admin.sock"
        async with serving(path):
            bad = await trio.open_unix_socket(path)
            good = Client(await trio.open_unix_socket(path))
            await bad.send_all(os.urandom(100_000))
            await good.send(line(id="1", seq=1))
            assert (await good.answer())["ok"] is True
            await bad.aclose()
            await good.stream.aclose()


@contextmanager
def daemon(path: Path, handler: Handler) -> Iterator[None]:
    """A real server in a thread of its own, for the blocking client."""
    started = threading.Event()
    stop: list[trio.CancelScope] = []
    tokens: list[trio.lowlevel.TrioToken] = []

    async def main() -> None:
        with trio.CancelScope() as scope:
            stop.append(scope)
            tokens.append(trio.lowlevel.current_trio_token())
            async with serving(path, handler):
                started.set()
                await trio.sleep_forever()

    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    assert started.wait(10)
    try:
        yield
    finally:
        tokens[0].run_sync_soon(stop[0].cancel)
        thread.join()


class TestClient:
    def test_gets_results_and_errors(self, tmp_path: Path) -> None:
        path = tmp_path / "admin.sock"
        with daemon(path, echo), AdminClient(path) as client:
            assert client.call("queue_get", id="1") == {"action": "queue_get", "id": "1"}
            with pytest.raises(NotFound, match="no such task"):
                client.call("queue_get", id="absent")
            assert client.call("queue_get", id="2")["id"] == "2"

    def test_says_that_no_daemon_answers(self, tmp_path: Path) -> None:
        path = tmp_path / "admin.sock"
        with pytest.raises(NoDaemon, match=str(path)) as caught:
            AdminClient(path)
        assert caught.value.details == {"socket": str(path)}
        leave_stale(path)
        with pytest.raises(NoDaemon, match="refused"):
            AdminClient(path)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may connect anywhere")
    def test_says_that_it_may_not_connect(self, tmp_path: Path) -> None:
        path = tmp_path / "admin.sock"
        with daemon(path, echo):
            path.chmod(0)
            with pytest.raises(Permission, match="may not use"):
                AdminClient(path)

    def test_leaves_no_doubt_at_a_timeout(self, tmp_path: Path) -> None:
        path = tmp_path / "admin.sock"
        with daemon(path, Gate()), AdminClient(path) as client:
            with pytest.raises(OutcomeUnknown, match=r"no answer within 0\.05 s") as change:
                client.call("queue_cancel", timeout=0.05, id="1", request_id="r")
            assert change.value.changed == "unknown"
            assert change.value.details == {"request_id": "r"}
            with pytest.raises(OutcomeUnknown) as read:
                client.call("queue_get", timeout=0.05, id="1")
            assert read.value.changed is False

    def test_takes_no_late_answer_for_its_own(self, tmp_path: Path) -> None:
        async def late(request: Request, reply: Reply) -> None:
            await trio.sleep(0.2 if request.seq == 1 else 0.4)
            reply({"seq": request.seq})

        path = tmp_path / "admin.sock"
        with daemon(path, lambda *given: partial(late, *given)), AdminClient(path) as client:
            with pytest.raises(OutcomeUnknown):
                client.call("status", timeout=0.01)
            assert client.call("status") == {"seq": 2}

    @pytest.mark.parametrize("last_words", [b"", b"not json\n", b'{"half":'])
    def test_says_that_the_daemon_broke_off(self, tmp_path: Path, last_words: bytes) -> None:
        path = tmp_path / "admin.sock"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen()

            def serve() -> None:
                for _ in range(2):
                    connection, _ = listener.accept()
                    with connection:
                        connection.recv(1000)
                        connection.sendall(last_words)

            thread = threading.Thread(target=serve)
            thread.start()
            with AdminClient(path) as client, pytest.raises(NoDaemon, match="broke off"):
                client.call("queue_get", id="1")
            with AdminClient(path) as client, pytest.raises(OutcomeUnknown) as caught:
                client.call("queue_cancel", id="1", request_id="r")
            assert caught.value.details == {"request_id": "r"}
            thread.join()

    def test_sends_no_line_that_is_too_long(self, tmp_path: Path) -> None:
        path = tmp_path / "admin.sock"
        with daemon(path, echo), AdminClient(path) as client:
            with pytest.raises(TooLarge):
                client.call("queue_push", payload="x" * MAX_LINE_BYTES)
            assert client.call("queue_get", id="1")["id"] == "1"

    def test_carries_lone_surrogates_and_big_numbers(self, tmp_path: Path) -> None:
        def payload(request: Request, reply: Reply) -> None:
            reply({"payload": json.loads(request.params.payload)})

        path = tmp_path / "admin.sock"
        sent = ["\ud800", 2**70, "\U0001f600"]
        with daemon(path, payload), AdminClient(path) as client:
            assert client.call("queue_push", payload=sent) == {"payload": sent}
