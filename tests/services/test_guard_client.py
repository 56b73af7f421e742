"""The daemon's side of the guard, with real guards: found, started, lost, followed by another."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import trio
from attrs import evolve
from structlog.testing import capture_logs

from nefia.clock import NodeClock
from nefia.config.services import CommandConfig, HookConfig, ServiceConfig, WireguardConfig
from nefia.errors import GuardLost, ServiceFailed
from nefia.guard.kernel import boottime
from nefia.guard.protocol import SOCKET_NAME, VERSION, Hello, encode
from nefia.services import guard_client
from nefia.services.guard_client import (
    MAX_READS,
    RETRY_SECONDS,
    UNIT_ONLY,
    GuardClient,
    open_guard,
)
from nefia.services.interface import Guard, Service, Tenure
from tests.guard.guard_driver import guard as guard_process
from tests.guard.guard_driver import hook, lives, pid_in, shell, until

ROOT = Path(__file__).parents[2]
LEASE_SECONDS = 60.0
STOP_BUDGET = 0.5
PATIENCE_SECONDS = 20.0
TENURE = Tenure("node-1", "cluster", 1, "it was elected")


class OnBoottime:
    """A `NodeClock` of the guard's own time, in a test's trio that goes by another."""

    def now(self) -> float:
        return boottime()

    async def sleep_until(self, when: float) -> None:
        await trio.sleep(max(0.0, when - boottime()))

    def deadline_scope(self, when: float) -> trio.CancelScope:
        return trio.CancelScope(deadline=trio.current_time() + when - boottime())

    def move_deadline(self, scope: trio.CancelScope, when: float) -> None:
        scope.deadline = trio.current_time() + when - boottime()


CLOCK: NodeClock = OnBoottime()


async def begin(guard: GuardClient, term: int = 1, *, lease: float = LEASE_SECONDS) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        await guard.ready()
        await guard.begin(term, boottime() + lease, STOP_BUDGET)


async def over(guard: GuardClient) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        await guard.ended()


async def lost(guard: GuardClient) -> GuardLost:
    with trio.fail_after(PATIENCE_SECONDS):
        return await guard.lost()


async def why_none(guard: GuardClient, text: str) -> GuardLost:
    """Why no tenure can begin, once `text` is part of it."""
    while True:
        with pytest.raises(GuardLost) as caught:
            await guard.begin(1, boottime() + LEASE_SECONDS, STOP_BUDGET)
        if text in caught.value.message:
            return caught.value
        await trio.sleep(0.01)


def sleeper(path: Path, *, before: str = "") -> CommandConfig:
    ready = ("test", "-s", str(path))
    return CommandConfig(
        name="app", run=("sh", "-c", f"{before}echo $$ > {path}; exec sleep 1000"), ready=ready
    )


def guard_of(state_dir: Path) -> int:
    """The number of the guard that runs for this directory; its log's writer is no session."""
    for entry in os.listdir("/proc"):
        with suppress(OSError, ValueError):
            pid = int(entry)
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            is_one = b"nefia.guard" in words and os.fsencode(state_dir) in words
            if is_one and os.getsid(pid) == pid:
                return pid
    raise AssertionError("no guard runs")


def environment_of(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")


async def eventually(condition: Callable[[], object]) -> None:
    deadline = trio.current_time() + PATIENCE_SECONDS
    while not condition():
        assert trio.current_time() < deadline
        await trio.sleep(0.001)


async def test_a_tenure_from_its_beginning_to_its_end(tmp_path: Path) -> None:
    services: list[ServiceConfig] = [
        sleeper(tmp_path / "pid"),
        hook("true", f"touch {tmp_path}/demoted"),
    ]
    async with open_guard(services, tmp_path, CLOCK) as guard:
        acknowledged: list[float] = []
        guard.on_lease = acknowledged.append
        await begin(guard)
        app, one_shot = (guard.service(config) for config in services)
        await app.start(TENURE)
        await one_shot.start(TENURE)
        pid = pid_in(tmp_path / "pid")
        later = boottime() + 2 * LEASE_SECONDS
        guard.renew(later - 1)
        guard.renew(later)
        await eventually(lambda: guard.lease_end == later)
        assert acknowledged[-1] == later
        await app.stop("planned")
        assert not lives(pid)
        assert not (tmp_path / "demoted").exists()
        guard.end("planned")
        await over(guard)
        assert (tmp_path / "demoted").exists()


async def test_one_term_is_one_tenure(tmp_path: Path) -> None:
    async with open_guard([], tmp_path, CLOCK) as guard:
        await begin(guard, 1)
        guard.end("planned")
        with pytest.raises(GuardLost, match="refuses term 1: term 1 has begun since"):
            await begin(guard, 1)
        with pytest.raises(GuardLost, match="its lease ends -"):
            await begin(guard, 2, lease=-0.1)
        await begin(guard, 2)


async def test_the_lease_ends_the_tenure_without_a_word_of_the_daemon(tmp_path: Path) -> None:
    config = sleeper(tmp_path / "pid")
    async with open_guard([config], tmp_path, CLOCK) as guard:
        began = boottime()
        await begin(guard, lease=0.5)
        await guard.service(config).start(TENURE)
        await over(guard)
        assert boottime() >= began + 0.5
        assert not lives(pid_in(tmp_path / "pid"))


async def test_what_fails_says_why(tmp_path: Path) -> None:
    configs: list[ServiceConfig] = [
        shell("echo nothing works >&2; exit 7"),
        HookConfig(name="h", on_promote=("false",)),
    ]
    async with open_guard(configs, tmp_path, CLOCK) as guard:
        await begin(guard)
        app, one_shot = (guard.service(config) for config in configs)
        await app.start(TENURE)  # it runs, for a moment
        with trio.fail_after(PATIENCE_SECONDS):
            error = await app.failed()
        assert error.message == "app has ended by itself: exit code 7: nothing works"
        with pytest.raises(ServiceFailed, match="h did not start: false: exit code 1"):
            await one_shot.start(TENURE)
        with pytest.raises(ServiceFailed, match="h was not reloaded: h does not run"):
            await one_shot.reload()


async def test_a_tunnel_is_started_from_a_file_that_can_be_read(tmp_path: Path) -> None:
    tunnel = WireguardConfig(name="tunnel", config=tmp_path / "nefia-none.conf")
    app = sleeper(tmp_path / "pid")
    async with open_guard([tunnel, app], tmp_path, CLOCK) as guard:
        await begin(guard)
        service = guard.service(tunnel)
        with pytest.raises(ServiceFailed, match=r"tunnel did not start: /.*: .*No such file"):
            await service.start(TENURE)
        os.mkfifo(tunnel.config)  # whoever opens it waits, as for a disk that hangs
        for _ in range(MAX_READS + 1):
            with trio.move_on_after(0.05) as hangs:
                await service.start(TENURE)
            assert hangs.cancelled_caught
        await guard.service(app).start(TENURE)
        pid = pid_in(tmp_path / "pid")
        guard.end("planned")
        await over(guard)
        assert not lives(pid)


async def test_what_somebody_else_removes_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone: list[str] = []
    monkeypatch.setattr(guard_client, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(guard_client, "is_gone", lambda config: config.name in gone)
    config = sleeper(tmp_path / "pid")
    async with open_guard([config], tmp_path, CLOCK) as guard:
        await begin(guard)
        app = guard.service(config)
        await app.start(TENURE)
        with trio.move_on_after(0.1):
            raise AssertionError(await app.failed())
        gone.append("app")
        with trio.fail_after(PATIENCE_SECONDS):
            assert "somebody else has removed" in (await app.failed()).message


async def test_other_settings_wait_for_a_restart(tmp_path: Path) -> None:
    config = sleeper(tmp_path / "pid")
    async with open_guard([config], tmp_path, CLOCK) as guard:
        await begin(guard)
        app = guard.service(config)
        await app.start(TENURE)
        app.take(evolve(config, stop_timeout=7.0))
        with pytest.raises(ServiceFailed, match="settings that it was started with") as caught:
            await app.reload()
        assert caught.value.hint == "run `nefia service restart app`"
        await app.stop("planned")
        await app.start(TENURE)
        await app.reload()


async def test_a_guard_that_is_killed_is_followed_by_one_that_has_cleaned_up(
    tmp_path: Path,
) -> None:
    config = sleeper(
        tmp_path / "pid", before=f"setsid sh -c 'echo $$ > {tmp_path}/orphan; exec sleep 1000' & "
    )
    async with open_guard([config], tmp_path, CLOCK) as guard:
        await begin(guard)
        await guard.service(config).start(TENURE)
        orphan = pid_in(tmp_path / "orphan")
        os.kill(guard_of(tmp_path), signal.SIGKILL)
        assert "the guard has ended" in (await lost(guard)).message
        with pytest.raises(GuardLost):
            await guard.begin(2, boottime() + LEASE_SECONDS, STOP_BUDGET)
        with pytest.raises(ServiceFailed, match="there is no guard"):
            await guard.service(config).start(TENURE)
        await over(guard)
        assert not lives(orphan)
        await begin(guard, 1)


async def test_a_guard_that_stands_still_costs_no_memory_and_gets_the_newest_lease(
    tmp_path: Path,
) -> None:
    async with open_guard([], tmp_path, CLOCK) as guard:
        await begin(guard)
        pid = guard_of(tmp_path)
        os.kill(pid, signal.SIGSTOP)
        try:
            end = guard.lease_end
            for number in range(10_000):
                guard.renew(end + number / 1000)
            await trio.sleep(0.05)
            assert guard.lease_end == end
        finally:
            os.kill(pid, signal.SIGCONT)
        await eventually(lambda: guard.lease_end == end + 9.999)


async def test_a_guard_that_stands_still_beyond_the_end_is_killed(tmp_path: Path) -> None:
    """Whoever is stopped can end nothing, but its end can."""
    config = sleeper(tmp_path / "pid")
    async with open_guard([config], tmp_path, CLOCK) as guard:
        await begin(guard, lease=1.0)
        await guard.service(config).start(TENURE)
        pid, stopped = pid_in(tmp_path / "pid"), guard_of(tmp_path)
        os.kill(stopped, signal.SIGSTOP)
        await lost(guard)
        await eventually(lambda: not lives(pid))
        await over(guard)
        assert guard_of(tmp_path) != stopped


async def test_a_guard_that_ends_its_services_is_left_to_it(tmp_path: Path) -> None:
    config = hook("true", f"sleep 1; touch {tmp_path}/demoted")
    async with open_guard([config], tmp_path, CLOCK) as guard:
        await begin(guard, lease=0.5)
        await guard.service(config).start(TENURE)
        pid = guard_of(tmp_path)
        guard.end("planned")
        await over(guard)
        assert (tmp_path / "demoted").exists()
        assert guard_of(tmp_path) == pid


async def test_to_end_what_the_guard_has_ended_is_no_reason_to_kill_it(tmp_path: Path) -> None:
    async with open_guard([], tmp_path, CLOCK) as guard:
        await begin(guard, lease=0.2)
        pid = guard_of(tmp_path)
        await over(guard)
        guard.end("the lease is over here too")
        await trio.sleep(STOP_BUDGET)
        assert guard_of(tmp_path) == pid
        await begin(guard, 2)


async def test_a_guard_knows_its_node_before_any_tenure(tmp_path: Path) -> None:
    async with open_guard([], tmp_path, CLOCK, {"NEFIA_NODE_ID": "node-1"}) as guard:
        await guard.ready()
        assert b"NEFIA_NODE_ID=node-1" in environment_of(guard_of(tmp_path))


async def test_one_that_listens_is_taken(tmp_path: Path) -> None:
    with guard_process(tmp_path, listens=True) as process:
        process.connection.close()
        async with open_guard([], tmp_path, CLOCK) as guard:
            await begin(guard)
            assert guard_of(tmp_path) == process.process.pid
            process.process.terminate()
            assert "the guard ends" in (await lost(guard)).message


async def test_under_systemd_none_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(UNIT_ONLY, "unit")
    with capture_logs() as logs:
        async with open_guard([], tmp_path, CLOCK) as guard:
            error = await why_none(guard, "no guard listens")
            assert "systemctl" in error.hint
            await trio.sleep(2.5 * RETRY_SECONDS)
    assert [(log["event"], log["hint"]) for log in logs] == [("guard_lost", error.hint)], "once"


async def test_one_of_another_version_is_not_taken(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / SOCKET_NAME))
        listener.listen()
        async with open_guard([], tmp_path, CLOCK) as guard:
            await trio.lowlevel.wait_readable(listener)
            connection, _ = listener.accept()
            with connection:
                connection.send(encode(Hello(VERSION + 1, 1, "")))
                await why_none(guard, "speaks version")


@contextmanager
def stub_daemon(state_dir: Path, script: str, *, lease: float) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "tests.services.stub_daemon"]
    with (state_dir / "log").open("wb") as log:
        daemon = subprocess.Popen(
            [*command, str(state_dir), str(lease), script], cwd=ROOT, stdout=log, stderr=log
        )
    try:
        yield daemon
    finally:
        daemon.kill()
        daemon.wait()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_daemon_that_is_killed_or_stopped_takes_its_services_along(
    tmp_path: Path, number: signal.Signals
) -> None:
    script = f"trap '' TERM; echo $$ > {tmp_path}/pid; while :; do sleep 0.01; done"
    with stub_daemon(tmp_path, script, lease=0.5) as daemon:
        pid = pid_in(tmp_path / "pid")
        guard = guard_of(tmp_path)
        daemon.send_signal(number)
        until(lambda: not lives(pid), "the end of the service")
        if number == signal.SIGKILL:
            until(lambda: not lives(guard), "the end of the guard")


def test_the_types_are_those_of_the_interface(tmp_path: Path) -> None:
    client = GuardClient([], tmp_path, CLOCK, {})
    as_guard: Guard = client
    as_service: Service = client.service(shell("true"))
    assert (as_guard, as_service.config.name) == (client, "app")
