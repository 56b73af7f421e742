"""`nefia dev` with real processes: its screen and supervision, and that nothing is left behind."""

from __future__ import annotations

import os
import re
import selectors
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nefia.admin.client import AdminClient
from nefia.config import load
from nefia.dev import layout, main
from nefia.errors import InvalidArgument, InvalidConfiguration, NefiaError

PATIENCE_SECONDS = 60.0


class Dev:
    """A running `nefia dev`, whose output is read as it comes."""

    def __init__(self, *arguments: str, temporary: Path) -> None:
        self.seen = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "nefia", "dev", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | {"TMPDIR": str(temporary)},
            process_group=0,
        )
        assert self.process.stdout is not None
        self._output = self.process.stdout.fileno()

    def until(self, pattern: str) -> re.Match[str]:
        """The first match in the output from here on, which is then used up to its end."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        with selectors.DefaultSelector() as selector:
            selector.register(self._output, selectors.EVENT_READ)
            while (match := re.search(pattern, self.seen)) is None:
                assert selector.select(deadline - time.monotonic()), f"{pattern}: {self.seen}"
                data = os.read(self._output, 1 << 16)
                assert data, f"{pattern}: {self.seen}"
                self.seen += data.decode()
        self.seen = self.seen[match.end() :]
        return match

    def ready(self) -> dict[str, int]:
        """Waits for the screen; the pids of the daemons by their ids."""
        screen = self.until(r"(?s).*Ctrl-C ends it.*?\n")[0]
        return {name: int(pid) for name, pid in re.findall(r"(node-\d)  \S+  pid (\d+)", screen)}

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_SECONDS)


Start = Callable[..., Dev]


@pytest.fixture
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("t")


@pytest.fixture
def start(temporary: Path) -> Iterator[Start]:
    running: list[Dev] = []

    def begin(*arguments: str) -> Dev:
        running.append(Dev(*arguments, temporary=temporary))
        return running[-1]

    yield begin
    for dev in running:
        dev.process.kill()
        dev.process.wait()
        assert dev.process.stdout is not None
        dev.process.stdout.close()


def is_running(pid: int) -> bool:
    """Not a zombie either: somebody else may have to reap what lost its parent."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while any(is_running(pid) for pid in pids):
        assert time.monotonic() < deadline, f"still there: {pids}"
        time.sleep(0.02)


@pytest.mark.end_to_end
def test_a_killed_leader_is_replaced_and_started_again(start: Start, temporary: Path) -> None:
    dev = start()
    screen = dev.until(r"(?s).*Ctrl-C ends it.*?\n")[0]
    commands = [line.strip() for line in screen.splitlines() if " --state-dir " in line]
    leader_pid = int(re.search(r"kill -9 (\d+)", screen)[1])  # type: ignore[index]
    assert len(commands) == 5
    for command in commands[:4]:
        # Just as it would be pasted.
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
        assert done.returncode == 0, (command, done.stderr)
        if command.endswith("cluster members"):
            assert done.stdout.count("Follower") == 2

    os.kill(leader_pid, signal.SIGKILL)
    dead = dev.until(r"(node-\d) \(leader\) died \(SIGKILL\); it is started again in 1 s\n")[1]
    new = dev.until(r"(node-\d) leads after \d+\.\d{3} s \(term \d+\)\n")[1]
    assert new != dead
    dev.until(rf"{dead} has rejoined as Follower \(pid \d+\)\n")

    follower = dev_state(temporary) / dead
    with AdminClient(follower / "admin.sock") as client:
        assert client.call("status")["leader_id"] == new
    subprocess.run(shlex.split(commands[4].replace("node-1", new)), check=True)
    dev.until(r"node-\d leads now \(term \d+\)\n")

    assert dev.end(signal.SIGINT) == 0
    assert list(temporary.iterdir()) == []


def dev_state(temporary: Path) -> Path:
    [root] = temporary.glob("nefia-dev-*")
    return root


@pytest.mark.end_to_end
def test_a_kept_cluster_is_started_again(start: Start, tmp_path: Path) -> None:
    first = start("--nodes", "1", "--directory", str(tmp_path))
    [pid] = first.ready().values()
    with AdminClient(tmp_path / "node-1" / "admin.sock") as client:
        before = client.call("status")
    second = start("--directory", str(tmp_path))
    second.until(rf"data_in_use: {tmp_path} is in use by process {first.process.pid}")
    assert second.process.wait(PATIENCE_SECONDS) == 5
    assert first.end(signal.SIGTERM) == 0
    wait_until_gone([pid])

    # Now with two more, which join the cluster that is there.
    third = start("--nodes", "3", "--directory", str(tmp_path))
    assert set(third.ready()) == {"node-1", "node-2", "node-3"}
    with AdminClient(tmp_path / "node-1" / "admin.sock") as client:
        after = client.call("status")
        members = client.call("members")["members"]
    assert after["cluster_id"] == before["cluster_id"]
    assert after["term"] > before["term"]
    assert [member["voter"] for member in members] == [True] * 3
    assert third.end(signal.SIGHUP) == 0


@pytest.mark.end_to_end
def test_nothing_outlives_a_dev_that_is_killed(start: Start) -> None:
    dev = start("--nodes", "2")
    pids = list(dev.ready().values())
    assert len(pids) == 2
    os.kill(pids[1], signal.SIGSTOP)  # not even a frozen one
    dev.end(signal.SIGKILL)
    wait_until_gone(pids)


@pytest.mark.end_to_end
def test_a_frozen_daemon_is_ended_too(start: Start) -> None:
    dev = start("--nodes", "1")
    [pid] = dev.ready().values()
    os.kill(pid, signal.SIGSTOP)
    assert dev.end(signal.SIGINT) == 0
    assert not is_running(pid)


@pytest.mark.end_to_end
def test_a_daemon_that_cannot_start_is_shown_with_its_log(start: Start, tmp_path: Path) -> None:
    [daemon] = layout.lay_out(tmp_path, 1)
    host, _, port = daemon.address.rpartition(":")
    with socket.create_server((host, int(port))):
        dev = start("--nodes", "1", "--directory", str(tmp_path))
        dev.until(r"(?s)no_daemon: the daemon of node-1 ended at its start \(exit code 2\).*in use")
        assert dev.process.wait(PATIENCE_SECONDS) == 8


def test_written_configurations_are_right_and_read_again(tmp_path: Path) -> None:
    first = layout.lay_out(tmp_path, 3)
    assert [daemon.id for daemon in first] == ["node-1", "node-2", "node-3"]
    assert len({daemon.address for daemon in first}) == 3
    ephemeral = int(layout.EPHEMERAL_PORTS.read_text().split()[0])
    for daemon in first:
        path = daemon.directory / "nefia.yaml"
        config = load(path, state_dir=None, environ={}, is_root=False)
        assert config.cluster.node_id == daemon.id
        assert config.cluster.advertise_addr == config.cluster.bind_addr == daemon.address
        assert {peer.address for peer in config.cluster.peers} == {d.address for d in first}
        assert 1024 <= int(daemon.address.rpartition(":")[2]) < ephemeral
    again = layout.lay_out(tmp_path, 1)
    assert [daemon.address for daemon in again] == [daemon.address for daemon in first]


def test_a_directory_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "node-1").mkdir()
    (tmp_path / "node-1" / "nefia.yaml").write_text("")
    with pytest.raises(InvalidConfiguration, match="not one that nefia dev wrote"):
        layout.lay_out(tmp_path, 1)


@pytest.mark.parametrize("nodes", [0, 10])
def test_the_number_of_nodes_is_bounded(nodes: int) -> None:
    with pytest.raises(InvalidArgument, match=f"1 to 9, not {nodes}"):
        main(nodes, None)


def test_a_place_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NefiaError, match="cannot be used: Not a directory"):
        main(1, str(tmp_path / "file" / "below"))
