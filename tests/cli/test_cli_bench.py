"""`nefia bench` against a real daemon of one node; what goes wrong against a fake one."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from nefia.admin import server
from nefia.admin.protocol import Request
from nefia.cli import bench
from nefia.cli.bench import Calls
from nefia.cli.load import Load, Plan, percentile
from nefia.cli.processes import cpu_seconds, listeners_at, server_of
from nefia.errors import NotLeader, Overloaded
from nefia.net import acceptor
from nefia.state import limits
from nefia.state.commands import CancelTask
from nefia.state.records import TaskState
from nefia.units import parse_duration
from tests.cli.asking import TASK, run
from tests.cli.fake_daemon import Answer, FakeDaemon
from tests.end_to_end.cluster import Daemon, free_ports, until

MEMBERS = {"members": [{"id": "node-1", "address": "192.0.2.1:9700", "local": False}]}


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    directory = Path(tempfile.mkdtemp(prefix="nefia-"))
    node = Daemon(directory, "node-1", f"127.0.0.1:{free_ports(1)[0]}")
    assert node.cli("cluster", "init").returncode == 0
    node.start()
    try:
        until(lambda: (node.ask("status") or {}).get("is_leader"), "node-1 leads")
        yield node
    finally:
        node.kill()
        shutil.rmtree(directory)


def counts(daemon: Daemon, queue: str) -> dict[str, int]:
    """How many tasks are in which state, without the states that none is in."""
    stats = daemon.call("queue_stats", queue=queue)["queues"][queue]
    return {state.value: stats[state.value] for state in TaskState if stats[state.value]}


class TestOnARealDaemon:
    def test_measures_and_leaves_nothing_to_do(self, daemon: Daemon) -> None:
        result = run(
            "bench", "--state-dir", str(daemon.state_dir), "--count", "300", "--queue", "a",
            "-o", "json",
        )  # fmt: skip
        assert (result.exit_code, result.stderr) == (0, "")
        measured = json.loads(result.stdout)
        assert measured["changes"] == 300
        assert measured["interrupted"] is False
        rate = measured["changes"] / measured["seconds"]
        assert measured["changes_per_second"] == pytest.approx(rate, rel=0.05)
        latencies = measured["latency_ms"]
        assert 0 < latencies["p50"] <= latencies["p99"] <= latencies["max"]
        assert measured["cpu_seconds"].keys() == {"node-1"}
        assert counts(daemon, "a") == {"cancelled": 300}

    def test_shows_it_line_by_line(self, daemon: Daemon) -> None:
        result = run("bench", "--state-dir", str(daemon.state_dir), "--count", "5", "--queue", "b")
        lines = (
            r"Changes: +5 in \d+\.\d{3} s",
            r"Changes/s: +\d+",
            *(rf"Latency {name}: +\d+\.\d\d ms" for name in ("p50", "p99", "max")),
            r"CPU of node-1: +\d+\.\d\d s",
            r"CPU of nefia bench: +\d+\.\d\d s",
        )
        assert re.fullmatch("\n".join(lines) + "\n", result.stdout)

    def test_batches_are_filled(self, daemon: Daemon) -> None:
        result = run(
            "bench", "--state-dir", str(daemon.state_dir), "--count", "95", "--batch", "10",
            "--queue", "c", "-o", "json", "--payload", "0",
        )  # fmt: skip
        assert json.loads(result.stdout)["changes"] == 100
        assert counts(daemon, "c") == {"cancelled": 100}

    def test_a_duration_ends_it(self, daemon: Daemon) -> None:
        result = run(
            "bench", "--state-dir", str(daemon.state_dir), "--duration", "50ms", "--queue", "d",
            "-o", "json",
        )  # fmt: skip
        measured = json.loads(result.stdout)
        assert measured["seconds"] >= 0.05
        assert counts(daemon, "d") == {"cancelled": measured["changes"]}

    def test_ctrl_c_shows_what_was_measured(self, daemon: Daemon) -> None:
        command = daemon.argv("bench", "--duration", "10m", "--queue", "e")
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        until(lambda: counts(daemon, "e"), "tasks are pushed")
        child.send_signal(signal.SIGINT)
        stdout, stderr = child.communicate(timeout=30)
        assert (child.returncode, stderr) == (130, "")
        found = re.match(r"Changes: +(\d+) in ", stdout)
        assert found is not None
        assert counts(daemon, "e") == {"cancelled": int(found[1])}

    def test_a_second_ctrl_c_waits_for_nothing(self, tmp_path: Path, daemon: Daemon) -> None:
        with FakeDaemon(tmp_path, members=MEMBERS, queue_push=None) as fake:
            command = [*daemon.argv("bench"), "--state-dir", str(tmp_path)]
            child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
            until(lambda: len(fake.requests) > 1, "tasks are pushed")
            child.send_signal(signal.SIGINT)
            with pytest.raises(subprocess.TimeoutExpired):
                child.wait(0.5)
            child.send_signal(signal.SIGINT)
            _, stderr = child.communicate(timeout=30)
        assert child.returncode == 130
        assert "note: up to 64 tasks are left" in stderr

    def test_a_terminal_gets_a_progress_bar(self, daemon: Daemon) -> None:
        ours, theirs = pty.openpty()
        command = daemon.argv("bench", "--count", "50", "--queue", "f")
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs)
        os.close(theirs)
        shown = ""
        with suppress(OSError):  # How a terminal says that its last user has left.
            while True:
                shown += os.read(ours, 65_536).decode()
        os.close(ours)
        assert child.wait() == 0
        assert re.search(r"pushing tasks +\[#+\] +100%", shown)
        assert re.search(r"cancelling them +\[#+\] +100%", shown)

    def test_nothing_heavy_is_imported(self, daemon: Daemon) -> None:
        command = daemon.argv("bench", "--count", "1", "--queue", "g")
        command[1:1] = ["-X", "importtime"]
        imported = {line.rsplit("|")[-1].strip() for line in daemon.run(command).stderr.split("\n")}
        assert "nefia.cli.load" in imported
        assert imported.isdisjoint({"trio", "cattrs", "structlog", "lmdb", "msgpack"})


class TestWhatIsPushed:
    def test_is_out_of_every_workers_reach(self, tmp_path: Path) -> None:
        answers: dict[str, Answer] = {
            "queue_push": {"task": TASK, "changed": True},
            "queue_cancel": {"task": TASK},
        }
        with FakeDaemon(tmp_path, members=MEMBERS, **answers) as daemon:
            result = run("bench", "--count", "1", "--payload", "3", "--forward")
        assert "CPU of node-1:       not known" in result.stdout
        _, push, cancel = daemon.requests
        assert push.params.payload == b'"xxx"'
        assert push.params.queue == "nefia-bench"
        assert push.params.delay_ms == limits.MAX_DELAY_MS
        assert push.forward
        assert push.request_id == ""
        assert (cancel.action, cancel.params) == ("queue_cancel", CancelTask("12"))

    def test_limits_are_those_of_the_daemon(self) -> None:
        assert bench.MAX_IN_FLIGHT == server.MAX_IN_FLIGHT_PER_CONNECTION
        assert bench.MAX_BATCH == limits.MAX_PUSH_TASKS
        assert bench.MAX_PAYLOAD_BYTES + len('""') == limits.MAX_PAYLOAD_BYTES
        assert parse_duration(bench.DELAY) * 1000 == limits.MAX_DELAY_MS
        assert bench.FORWARDED_IN_FLIGHT < acceptor.MAX_ASKS_PER_PEER


class TestErrors:
    def test_nothing_measured(self, tmp_path: Path) -> None:
        error = NotLeader("this node is not the leader", leader_id="n", leader_addr="a:1")
        with FakeDaemon(tmp_path, members=MEMBERS, queue_push=error):
            result = run("bench")
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith("error: not_leader: ")

    def test_a_refusal_ends_it_and_what_was_measured_is_shown(self, tmp_path: Path) -> None:
        pushed = 0

        def push(request: Request) -> object:
            nonlocal pushed
            pushed += 1
            if pushed > 3:
                return Overloaded("too much")
            return {"task": TASK | {"id": str(pushed)}, "changed": True}

        with FakeDaemon(
            tmp_path, members=MEMBERS, queue_push=push,
            queue_cancel=lambda request: {"task": TASK | {"id": request.params.id}},
        ) as daemon:  # fmt: skip
            result = run("bench", "--in-flight", "2", "-o", "json")
        assert result.exit_code == 1
        assert json.loads(result.stdout)["changes"] == 3
        assert pushed <= 5, "none is sent after a refusal"
        assert "error: overloaded: too much." in result.stderr
        cancelled = [r.params.id for r in daemon.requests if r.action == "queue_cancel"]
        assert cancelled == ["1", "2", "3"]

    def test_silence(self, tmp_path: Path) -> None:
        with FakeDaemon(tmp_path, members=MEMBERS, queue_push=None):
            result = run("bench", "--timeout", "50ms", "--in-flight", "3", "--batch", "2")
        assert result.exit_code == 7
        assert "note: up to 6 tasks are left in the queue nefia-bench." in result.stderr
        assert "error: timeout: no answer within 0.05 s; 3 requests" in result.stderr

    def test_tasks_that_cannot_be_cancelled_are_told(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(bench, "CANCEL_PAUSE_SECONDS", 0.0)
        answers: dict[str, Answer] = {
            "queue_push": {"task": TASK, "changed": True},
            "queue_cancel": Overloaded("no"),
        }
        with FakeDaemon(tmp_path, members=MEMBERS, **answers) as daemon:
            result = run("bench", "--count", "1")
        assert "up to 1 tasks are left" in result.stderr
        cancels = [request for request in daemon.requests if request.action == "queue_cancel"]
        assert [request.forward for request in cancels] == [False, True, True, True, True]

    @pytest.mark.parametrize(
        "args",
        [
            ("--in-flight", "0"),
            ("--in-flight", "5000"),
            ("--payload", "262143"),
            ("--count", "0"),
            ("--count", "100000000"),
            ("--payload", "262142", "--count", "2000"),
            ("--duration", "0s"),
            ("--duration", "5"),
            ("--batch", "1001"),
        ],
    )
    def test_usage(self, args: tuple[str, ...]) -> None:
        result = run("bench", *args)
        assert result.exit_code == 2
        assert result.stderr.startswith("error: invalid_argument: ")

    def test_a_request_that_fits_no_line(self) -> None:
        result = run("bench", "--batch", "100", "--payload", "20000")
        assert result.exit_code == 1
        assert "error: too_large: 100 tasks of 20000 bytes" in result.stderr

    def test_no_daemon(self) -> None:
        assert run("bench").exit_code == 8


def answer(connection: socket.socket, most: list[int]) -> None:
    """Answer one request at a time; `most` is told how many were waiting before each answer."""
    waiting: list[bytes] = []
    data = b""
    with connection:
        while True:
            with suppress(BlockingIOError):
                flags = socket.MSG_DONTWAIT if waiting else 0
                more = connection.recv(1 << 20, flags)
                if not more:
                    return
                *lines, data = (data + more).split(b"\n")
                waiting += lines
            if waiting:
                most.append(len(waiting))
                number = json.loads(waiting.pop(0))["seq"]
                connection.sendall(b'{"seq":%d,"ok":true,"result":{}}\n' % number)


class TestLoad:
    def measured(self, plan: Plan, line: bytes = b'{"seq":%d}\n') -> tuple[Load, list[int]]:
        ours, theirs = socket.socketpair()
        waiting: list[int] = []
        thread = threading.Thread(target=answer, args=(theirs, waiting))
        thread.start()
        with ours:
            load = Load(ours, Calls(lambda number: line % number), plan)
            load.run()
        thread.join()
        return load, waiting

    def test_no_more_are_in_flight_than_planned(self) -> None:
        load, waiting = self.measured(Plan(7, 100))
        assert (load.error, load.sent, len(load.latencies)) == (None, 100, 100)
        assert len(waiting) == 100
        assert max(waiting) <= 7

    def test_requests_larger_than_the_sockets_buffer(self) -> None:
        line = b'{"x":"' + b"x" * 1_000_000 + b'","seq":%d}\n'
        load, _ = self.measured(Plan(4, 12), line)
        assert (load.error, len(load.latencies)) == (None, 12)

    def test_a_stop_lets_those_in_flight_be_answered(self) -> None:
        ours, theirs = socket.socketpair()
        load = Load(ours, Calls(lambda number: b"%d\n" % number), Plan(3, 100))
        thread = threading.Thread(target=load.run)
        thread.start()
        with ours, theirs:
            until(lambda: load.sent == 3, "three are sent")
            load.stop()
            for number in range(3):
                theirs.sendall(b'{"seq":%d,"ok":true}\n' % number)
            thread.join()
        assert (load.error, load.sent, len(load.latencies)) == (None, 3, 3)

    def test_giving_up_waits_for_none(self) -> None:
        ours, theirs = socket.socketpair()
        load = Load(ours, Calls(lambda number: b"%d\n" % number), Plan(3, 100))
        thread = threading.Thread(target=load.run)
        thread.start()
        with ours, theirs:
            until(lambda: load.sent == 3, "three are sent")
            load.give_up()
            thread.join()
        assert (load.error, load.outstanding) == (None, 3)

    @pytest.mark.parametrize("how", [socket.SHUT_RDWR, socket.SHUT_WR])
    def test_a_connection_that_breaks_leaves_doubt(self, how: int) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.shutdown(how)
            load = Load(ours, Calls(lambda number: b"%d\n" % number), Plan(3, 100))
            load.run()
        assert load.error is not None
        assert (load.error.code, load.error.changed) == ("timeout", "unknown")
        assert load.outstanding == 3

    def test_latencies_count_from_the_sending(self) -> None:
        """The other side waits, so every latency is at least as long as its wait."""
        ours, theirs = socket.socketpair()

        def slow() -> None:
            with theirs:
                for number in range(3):
                    theirs.recv(100)
                    time.sleep(0.02)
                    theirs.sendall(b'{"seq": %d, "ok": true}\n' % number)

        thread = threading.Thread(target=slow)
        thread.start()
        with ours:
            load = Load(ours, Calls(lambda number: b"%d\n" % number), Plan(1, 3))
            load.run()
        thread.join()
        assert min(load.latencies) >= 0.02
        assert load.seconds >= sum(load.latencies)

    @pytest.mark.parametrize(
        ("share", "value"),
        [(0.0, 1.0), (0.01, 1.0), (0.5, 50.0), (0.985, 99.0), (0.99, 99.0), (1.0, 100.0)],
    )
    def test_percentiles_are_nearest_ranks(self, share: float, value: float) -> None:
        assert percentile([float(number) for number in range(1, 101)], share) == value


class TestProcesses:
    def test_who_listens_where(self) -> None:
        with (
            socket.create_server(("127.0.0.1", 0)) as listener,
            socket.create_connection(listener.getsockname()) as client,
        ):
            port = listener.getsockname()[1]
            found = listeners_at(
                {
                    "here": f"127.0.0.1:{port}",
                    "elsewhere": f"192.0.2.1:{port}",
                    "by name": f"localhost:{port}",
                    "a client": f"127.0.0.1:{client.getsockname()[1]}",
                    "nobody": "127.0.0.1:1",
                }
            )
        assert found.pop("here") == os.getpid()
        assert found == dict.fromkeys(("elsewhere", "by name", "a client", "nobody"))

    def test_over_ipv6(self) -> None:
        try:
            listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
        except OSError:
            pytest.skip("no IPv6 here")
        with listener:
            address = f"[::1]:{listener.getsockname()[1]}"
            assert listeners_at({"here": address}) == {"here": os.getpid()}

    def test_who_serves_a_socket(self, daemon: Daemon) -> None:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(daemon.socket))
            assert server_of(connection) == daemon.pid

    def test_cpu_time(self) -> None:
        known = cpu_seconds(os.getpid())
        assert known is not None
        assert abs(known - time.process_time()) < 0.5
        assert cpu_seconds(None) is None
        assert cpu_seconds(2**22 + 1) is None
