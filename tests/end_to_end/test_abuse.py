"""Garbage, oversized and partial input on both doors: cut or answered, and nobody else notices."""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import suppress
from random import Random

import pytest

from tests.end_to_end.cluster import Cluster, Daemon, until

MAX_GROWTH_KIB = 48 * 1024
"""What abuse may cost in memory: buffers in flight, not what was sent."""


def memory_kib(daemon: Daemon) -> int:
    with open(f"/proc/{daemon.pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


def open_files(daemon: Daemon) -> int:
    return len(os.listdir(f"/proc/{daemon.pid}/fd"))


def dial(daemon: Daemon) -> socket.socket:
    host, port = daemon.address.rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=10)


def send_quietly(connection: socket.socket, data: bytes) -> None:
    with suppress(OSError):  # cut in the middle: that is an answer too
        connection.sendall(data)


def read_to_the_end(connection: socket.socket) -> None:
    """Until the other side has ended the connection; a reset is an end. Raises TimeoutError."""
    with suppress(ConnectionError):
        while connection.recv(65536):
            pass


GARBAGE = {
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "tls": bytes.fromhex("16030100c8010000c40303") + b"\0" * 190,
    "huge length": b"\xff\xff\xff\xff" + b"x" * 65536,
    "zeros": b"\0" * 65536,
    "noise": Random(7).randbytes(1 << 20),
}


@pytest.mark.parametrize("kind", GARBAGE)
def test_garbage_on_the_raft_port_is_cut(cluster: Cluster, kind: str) -> None:
    leader = cluster.wait_leader()
    term, files = leader.status()["term"], open_files(leader)
    for _ in range(20):
        with dial(leader) as connection:
            connection.settimeout(15)
            send_quietly(connection, GARBAGE[kind])
            read_to_the_end(connection)
    assert leader.status()["is_leader"]
    assert leader.status()["term"] == term
    until(lambda: open_files(leader) <= files + 2, "its connections are closed")
    assert "Traceback" not in leader.log_text


def test_silent_connections_do_not_keep_the_nodes_apart(cluster: Cluster) -> None:
    leader = cluster.wait_leader()
    term, before = leader.status()["term"], memory_kib(leader)
    idle = [dial(leader) for _ in range(300)]
    try:
        for connection in idle[::2]:
            send_quietly(connection, b"\0\0\0\x20neff")  # the beginning of something
        follower = next(daemon for daemon in cluster.daemons if daemon is not leader)
        follower.kill()
        follower.start()  # its connections have to come through
        cluster.wait_healthy()
        assert leader.status()["term"] == term
        assert memory_kib(leader) - before < MAX_GROWTH_KIB
    finally:
        for connection in idle:
            connection.close()


def admin(daemon: Daemon) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(15)
    connection.connect(str(daemon.socket))
    return connection


BAD_LINES = {
    b"not json": "invalid_argument",
    b"[]": "invalid_argument",
    b"\xff\xfe": "invalid_argument",
    b'{"action": "statu"}': "unknown_action",
    b'{"action": "queue_push"}': "invalid_argument",
    b'{"action": "queue_push", "payload": 1, "priorty": 2}': "invalid_argument",
    b'{"action": "status", "x": NaN}': "invalid_argument",
    b"[" * 100_000: "invalid_argument",
    b"x" * (3 << 20): "too_large",
}


def test_bad_lines_get_an_answer_each(cluster: Cluster) -> None:
    leader = cluster.wait_leader()
    with admin(leader) as connection, connection.makefile("rb") as answers:
        for line, code in BAD_LINES.items():
            connection.sendall(line + b"\n")
            answer = json.loads(answers.readline())
            assert answer["ok"] is False
            assert answer["error"]["code"] == code, line[:60]
            assert answer["error"]["message"]
        connection.sendall(b'{"action": "status", "seq": 7}\n')
        assert json.loads(answers.readline())["seq"] == 7
    assert "Traceback" not in leader.log_text


def test_lines_without_end_and_readers_that_do_not_read(cluster: Cluster) -> None:
    leader = cluster.wait_leader()
    before = memory_kib(leader)
    with admin(leader) as endless, admin(leader) as deaf:
        endless.settimeout(0.5)
        deaf.settimeout(0.5)
        try:
            for _ in range(200):
                endless.sendall(b"x" * (1 << 20))
        except OSError:
            pass
        try:
            for _ in range(50):
                deaf.sendall(b'{"action": "status"}\n' * 5000)
        except OSError:
            pass
        time.sleep(0.5)
        assert leader.status()["is_leader"]
        assert memory_kib(leader) - before < 2 * MAX_GROWTH_KIB
