"""A real guard with real processes: whatever they do, they end when they have to (SPEC 9)."""

from __future__ import annotations

import math
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nefia.config.services import HookConfig, WireguardConfig
from nefia.guard.children import EXIT_TOO_LATE, MAX_OUTPUT_BYTES, Children
from nefia.guard.effects import Spawn
from nefia.guard.kernel import boottime
from nefia.guard.kinds import to_section
from nefia.guard.protocol import (
    SOCKET_NAME,
    Answered,
    Ask,
    Configure,
    Ending,
    Failed,
    Hello,
    LeaseHeld,
    Over,
)
from tests.guard import guard_driver
from tests.guard.guard_driver import GuardProcess, guard, hook, lives, pid_in, shell, until

DETACH = """
import os, sys
if os.fork():
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
environment = {} if sys.argv[2] == "unmarked" else dict(os.environ)
script = f"echo $$ > {sys.argv[1]}; exec sleep 1000"
os.closerange(3, 100)
os.execve("/bin/sh", ["sh", "-c", script], environment)
"""
"""Becomes a daemon of its own, as in days of old, and writes its number."""


@pytest.fixture
def running(tmp_path: Path) -> Iterator[GuardProcess]:
    """A guard in a long tenure."""
    with guard(tmp_path) as process:
        assert process.begin() == ""
        yield process


def detaching(path: Path, how: str = "marked", *, name: str = "app") -> str:
    program = path.parent / "detach.py"
    program.write_text(DETACH)
    return f"{sys.executable} -S {program} {path} {how}; echo $$ > {path}.main; exec sleep 1000"


@pytest.mark.parametrize("how", ["marked", "unmarked"])
def test_who_detaches_ends_with_the_tenure(running: GuardProcess, tmp_path: Path, how: str) -> None:
    assert running.start(shell(detaching(tmp_path / "pid", how))) == ""
    pid = pid_in(tmp_path / "pid")
    assert lives(pid)
    running.end()
    assert not lives(pid)


def test_who_detaches_ends_with_its_service_and_other_services_stay(
    running: GuardProcess, tmp_path: Path
) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    assert running.start(shell(detaching(one), name="one")) == ""
    assert running.start(shell(detaching(other), name="other")) == ""
    ours = [pid_in(one), pid_in(tmp_path / "one.main")]
    theirs = [pid_in(other), pid_in(tmp_path / "other.main")]
    assert running.stop("one") == ""
    assert not any(lives(pid) for pid in ours)
    assert all(lives(pid) for pid in theirs)


def test_what_outlives_its_main_process_fails_with_it(
    running: GuardProcess, tmp_path: Path
) -> None:
    script = f"sh -c 'echo $$ > {tmp_path}/pid; exec sleep 1000' & sleep 0.2; exit 3"
    running.begin_start(shell(script))
    failed = running.receive(Failed)
    assert (failed.name, failed.detail) == ("app", "exit code 3")
    assert running.stop("app") == ""
    assert not lives(pid_in(tmp_path / "pid"))


def test_who_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    with guard(tmp_path) as process:
        assert process.begin(lease=0.3) == ""
        script = f"trap '' TERM; echo $$ > {tmp_path}/pid; while :; do sleep 0.01; done"
        assert process.start(shell(script)) == ""
        pid = pid_in(tmp_path / "pid")
        ending = process.receive(Ending)
        assert ending.reason == "the lease has ended"
        process.receive(Over)
        assert not lives(pid)


def test_a_frozen_daemon_renews_nothing(running: GuardProcess, tmp_path: Path) -> None:
    """Nothing is heard of it, while its connection stays."""
    running.end()
    assert running.begin(2, lease=0.3) == ""
    assert running.start(shell(f"echo $$ > {tmp_path}/pid; exec sleep 1000")) == ""
    pid = pid_in(tmp_path / "pid")
    running.renew(0.5)
    held = running.receive(LeaseHeld)
    until(lambda: not lives(pid), "the end of the service")
    assert boottime() >= held.lease_end
    running.receive(Over)


def test_a_daemon_that_stops_in_the_middle_of_a_start_starts_nothing_more(tmp_path: Path) -> None:
    with guard(tmp_path) as process:
        assert process.begin(lease=0.4) == ""
        config = hook(f"sleep 0.8; touch {tmp_path}/started", f"touch {tmp_path}/demoted")
        seq = process.begin_start(config)
        answer = process.receive(Answered)
        assert answer.seq == seq
        assert "the lease has ended" in answer.error
        process.receive(Over)
        assert (tmp_path / "demoted").exists()
        time.sleep(0.6)
        assert not (tmp_path / "started").exists()


def test_a_daemon_that_has_gone_takes_its_services_along(tmp_path: Path) -> None:
    with guard(tmp_path) as process:
        assert process.begin() == ""
        assert process.start(shell(detaching(tmp_path / "pid"))) == ""
        pids = [pid_in(tmp_path / "pid"), pid_in(tmp_path / "pid.main")]
        process.connection.close()
        assert process.wait() == 0
        assert not any(lives(pid) for pid in pids)


def test_a_daemon_that_has_gone_before_its_guard_was_there_leaves_none(tmp_path: Path) -> None:
    process = GuardProcess(tmp_path)
    process.connection.close()
    assert process.wait() == 0


def test_a_message_of_no_meaning_is_the_end_of_the_connection(tmp_path: Path) -> None:
    with guard(tmp_path) as process:
        assert process.begin() == ""
        assert process.start(shell(f"echo $$ > {tmp_path}/pid; exec sleep 1000")) == ""
        pid = pid_in(tmp_path / "pid")
        process.connection.send(b'{"is": "renew", "lease_end": "tomorrow"}')
        assert process.wait() == 0
        assert not lives(pid)


def test_the_next_guard_waits_for_the_one_that_still_cleans_up(tmp_path: Path) -> None:
    first = GuardProcess(tmp_path)
    first.welcome()
    assert first.begin() == ""
    slow = f"until [ -e {tmp_path}/go ]; do sleep 0.01; done; touch {tmp_path}/demoted"
    assert first.start(hook("true", slow)) == ""
    first.connection.close()
    second = GuardProcess(tmp_path)
    try:
        until(lambda: "another guard of this dir" in second.log.read_text(), "that it waits")
        (tmp_path / "go").touch()
        second.welcome()
        assert (tmp_path / "demoted").exists()
        assert first.wait() == 0
        assert second.begin(2) == ""
    finally:
        first.kill()
        second.kill()


def test_what_a_killed_guard_leaves_is_gone_before_the_next_one_is_there(tmp_path: Path) -> None:
    first = GuardProcess(tmp_path)
    first.welcome()
    assert first.begin() == ""
    assert first.start(shell(detaching(tmp_path / "pid"))) == ""
    orphan, child = pid_in(tmp_path / "pid"), pid_in(tmp_path / "pid.main")
    first.kill()
    until(lambda: not lives(child), "the end of the killed guard's child")
    assert lives(orphan)
    with guard(tmp_path):
        assert not lives(orphan)


def test_guards_of_other_directories_leave_each_other_alone(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for path in (here, there):
        path.mkdir()
    with guard(here) as one:
        assert one.begin() == ""
        assert one.start(shell(detaching(here / "pid"))) == ""
        pid = pid_in(here / "pid")
        with guard(there) as other:
            assert other.begin() == ""
        assert lives(pid)


def test_told_to_end_it_ends_its_services_first(tmp_path: Path) -> None:
    with guard(tmp_path) as process:
        assert process.begin() == ""
        assert process.start(shell(f"echo $$ > {tmp_path}/pid; exec sleep 1000")) == ""
        pid = pid_in(tmp_path / "pid")
        for number in (signal.SIGHUP, signal.SIGINT):
            process.process.send_signal(number)
        assert process.start(shell("exec sleep 1000", name="another")) == ""
        process.process.terminate()
        assert process.receive(Ending).leaving
        assert process.wait() == 0
        assert not lives(pid)


BREAKING = """
import sys
from nefia.guard import launch
from nefia.guard.process import Guard

def wrong(self, plan):
    raise RuntimeError("nobody has thought of this")

Guard._status = wrong
sys.exit(launch.main(sys.argv[1:]))
"""


def test_what_nobody_has_thought_of_ends_services_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard_driver, "PROGRAM", ("-c", BREAKING))
    with guard(tmp_path) as process:
        assert process.begin() == ""
        assert process.start(shell(detaching(tmp_path / "pid"))) == ""
        pids = [pid_in(tmp_path / "pid"), pid_in(tmp_path / "pid.main")]
        process.send(Ask())
        assert process.wait() == 1
        until(lambda: not any(lives(pid) for pid in pids), "the end of its services")
        assert "nobody has thought of this" in process.log.read_text()


def test_of_a_commands_output_the_end_is_in_the_error(running: GuardProcess) -> None:
    error = running.start(hook("yes nefia | head -c 1000000; echo it is wrong >&2; exit 4"))
    assert "exit code 4" in error
    assert error.endswith("it is wrong")
    assert len(error) < MAX_OUTPUT_BYTES + 200


def test_what_cannot_be_run_says_so(running: GuardProcess) -> None:
    error = running.start(HookConfig(name="hook", on_promote=("/nowhere/at/all",)))
    assert "cannot run /nowhere/at/all" in error
    assert "No such file" in error


def test_a_hung_disk_holds_up_nobody_but_who_needs_it(
    running: GuardProcess, tmp_path: Path
) -> None:
    """Whoever opens the tunnel's file waits for ever, as wg-quick does."""
    assert running.start(shell(f"echo $$ > {tmp_path}/pid; exec sleep 1000")) == ""
    pid = pid_in(tmp_path / "pid")
    path = tmp_path / "nefia-none.conf"
    os.mkfifo(path)
    tunnel = WireguardConfig(name="tunnel", config=path)
    running.send(Configure(running.next_seq(), [to_section(tunnel)]))
    running.begin_start(tunnel)
    began = boottime()
    running.end()
    assert not lives(pid)
    assert boottime() - began < tunnel.start_timeout / 2


def test_ready_when_its_command_says_so(running: GuardProcess, tmp_path: Path) -> None:
    ready = ("test", "-e", str(tmp_path / "up"))
    script = f"sleep 0.3; touch {tmp_path}/up; exec sleep 1000"
    assert running.start(shell(script, ready=ready)) == ""
    assert (tmp_path / "up").exists()


def test_a_start_that_takes_too_long_has_failed(running: GuardProcess, tmp_path: Path) -> None:
    config = shell(
        f"echo $$ > {tmp_path}/pid; exec sleep 1000", ready=("false",), start_timeout=0.5
    )
    assert "not ready within 0.5 s" in running.start(config)
    assert running.stop("app") == ""
    assert not lives(pid_in(tmp_path / "pid"))


def test_a_planned_stop_has_its_time(running: GuardProcess, tmp_path: Path) -> None:
    script = f"trap 'sleep 0.5; touch {tmp_path}/orderly; exit' TERM; while :; do sleep 0.01; done"
    assert running.start(shell(script)) == ""
    assert running.stop("app") == ""
    assert (tmp_path / "orderly").exists()


def test_a_planned_stop_has_no_more_than_its_time(running: GuardProcess, tmp_path: Path) -> None:
    script = f"trap '' TERM; echo $$ > {tmp_path}/pid; while :; do sleep 0.01; done"
    assert running.start(shell(script, stop_timeout=0.3)) == ""
    pid = pid_in(tmp_path / "pid")
    assert running.stop("app") == ""
    assert not lives(pid)


def test_commands_learn_where_they_stand(running: GuardProcess, tmp_path: Path) -> None:
    say = 'echo "$NEFIA_ROLE $NEFIA_TERM $NEFIA_REASON" >'
    assert running.start(hook(f"{say} {tmp_path}/up", f"{say} {tmp_path}/down")) == ""
    assert (tmp_path / "up").read_text() == "leader 1 it was elected\n"
    assert running.stop("hook") == ""
    assert (tmp_path / "down").read_text() == "follower 1 planned\n"


def test_a_lease_of_the_past_begins_nothing(tmp_path: Path) -> None:
    with guard(tmp_path) as process:
        assert "its lease ends -" in process.begin(lease=-0.01)
        assert process.start(shell("sleep 1000")) == "there is no lease"


def test_nothing_is_executed_after_its_time(tmp_path: Path) -> None:
    """Whatever happened between the decision and the last moment before the program runs."""
    children = Children("test:test")
    for not_after, code in ((boottime(), EXIT_TOO_LATE), (math.inf, 0)):
        child = children.begin(
            Spawn(
                run=1,
                number=1,
                service="app",
                argv=("touch", str(tmp_path / "ran")),
                environment={},
                not_after=not_after,
            )
        )
        _, status = os.waitpid(child.pid, 0)
        assert os.waitstatus_to_exitcode(status) == code
        assert (tmp_path / "ran").exists() == (code == 0)
        os.close(child.output)
        os.close(child.execed)


class TestOneThatListens:
    def test_it_takes_one_daemon_after_the_other(self, tmp_path: Path) -> None:
        path = tmp_path / SOCKET_NAME
        path.write_text("what a dead guard has left")
        with guard(tmp_path, listens=True) as process:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert process.begin() == ""
            assert process.start(shell(f"echo $$ > {tmp_path}/pid; exec sleep 1000")) == ""
            pid = pid_in(tmp_path / "pid")
            first = process.connection
            process.connect()
            assert process.receive(Hello).refused == "another daemon has this guard"
            process.connection.close()
            first.close()
            process.connect()
            process.welcome()  # which waits for the end of the first daemon's tenure
            assert not lives(pid)
            assert "has begun since" in process.begin(1)
            assert process.begin(2) == ""

    def test_a_daemon_that_comes_while_services_end_is_told_when_they_have(
        self, tmp_path: Path
    ) -> None:
        with guard(tmp_path, listens=True) as process:
            assert process.begin() == ""
            assert process.start(hook("true", f"sleep 0.5; touch {tmp_path}/demoted")) == ""
            process.connection.close()
            process.connect()
            process.welcome()
            assert (tmp_path / "demoted").exists()


def without(monkeypatch: pytest.MonkeyPatch, mechanism: str) -> None:
    """Guards begun from here on lack it."""
    program = (
        "import sys; from nefia.guard import children, launch; "
        f"{mechanism}; sys.exit(launch.main(sys.argv[1:]))"
    )
    monkeypatch.setattr(guard_driver, "PROGRAM", ("-c", program))


class TestTheseTestsNotice:
    """Each mechanism, taken away."""

    def test_that_orphans_become_the_guards(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        without(monkeypatch, "launch.become_subreaper = lambda: None")
        with guard(tmp_path) as process:
            assert process.begin() == ""
            assert process.start(shell(detaching(tmp_path / "pid", "unmarked"))) == ""
            pid = pid_in(tmp_path / "pid")
            process.end()
            assert lives(pid)
            os.kill(pid, signal.SIGKILL)

    def test_that_what_a_killed_guard_leaves_is_looked_for(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        without(monkeypatch, "launch.marked = lambda mark: []")
        first = GuardProcess(tmp_path)
        first.welcome()
        assert first.begin() == ""
        assert first.start(shell(detaching(tmp_path / "pid"))) == ""
        orphan = pid_in(tmp_path / "pid")
        first.kill()
        with guard(tmp_path):
            assert lives(orphan)
        os.kill(orphan, signal.SIGKILL)

    def test_that_children_die_with_a_killed_guard(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        without(monkeypatch, "children.die_with = lambda parent: None")
        process = GuardProcess(tmp_path)
        process.welcome()
        assert process.begin() == ""
        assert process.start(shell(f"echo $$ > {tmp_path}/pid; exec sleep 1000")) == ""
        child = pid_in(tmp_path / "pid")
        process.kill()
        time.sleep(0.2)
        assert lives(child)
        os.kill(child, signal.SIGKILL)

    def test_that_guards_wait_for_each_other(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        without(monkeypatch, "launch.fcntl.flock = lambda *_: None")
        with guard(tmp_path) as first:
            assert first.begin() == ""
            with guard(tmp_path) as second:
                assert second.begin() == ""


def test_its_imports_are_few() -> None:
    program = "import sys, nefia.guard.launch; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    loaded = set(done.stdout.split())
    # One that came later would have to wait for a disk.
    assert loaded >= {"nefia.guard.process", "nefia.guard.wireguard", "nefia.guard.address"}
    assert loaded & {"trio", "structlog", "cattrs", "lmdb", "ruamel.yaml", "OpenSSL"} == set()


def test_without_its_options_it_says_how_it_is_used() -> None:
    command = [sys.executable, "-m", "nefia.guard"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "--state-dir" in done.stderr
    assert "Traceback" not in done.stderr
