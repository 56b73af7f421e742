"""The daemons together: started, watched, started again, ended."""

from __future__ import annotations

import select
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from attrs import Factory, define, frozen

from nefia.dev.process import Daemon
from nefia.errors import NefiaError, NoDaemon, NoLeader

INIT_SECONDS = 20.0
START_SECONDS = 30.0
"""How long the first leader may take, and then the others to be added."""
ADMIN_SECONDS = 8.0
"""An add-peer dials the new node first, for up to 5 s."""
WATCH_SECONDS = 0.01
REST_SECONDS = 0.5
TAKEOVER_SECONDS = 10.0
"""How long is watched closely for a new leader."""
RESTART_SECONDS = 1.0
MAX_RESTART_SECONDS = 30.0
STOP_SECONDS = 12.0
"""What daemons get to leave by themselves, more than their own limit; then they are killed."""

Statuses = dict[Daemon, dict[str, Any]]


@frozen
class Leader:
    id: str
    term: int


@define
class _Ended:
    """A daemon that has ended and is not back yet; `failures` counts the times in a row.

    It is back when it has applied `index`, where the others were when it ended.
    """

    restart_at: float
    index: int
    failures: int
    is_restarted: bool = False


@define
class Cluster:
    """`leader` is the last one seen to serve. `is_stopping` is asked at every wait."""

    daemons: Sequence[Daemon]
    _is_stopping: Callable[[], bool]
    leader: Leader | None = None
    _leader_died_at: float | None = None
    _ended: dict[Daemon, _Ended] = Factory(dict)
    _obstacle: str = ""

    # Starting.

    def start(self) -> None:
        """Raises NefiaError, and KeyboardInterrupt when stopping."""
        self._initialize(self.daemons[0])
        for daemon in self.daemons:
            daemon.start()
        self._until(self._has_leader, "no leader was elected")
        self._until(self._is_complete, "not every node could be added")

    def _initialize(self, first: Daemon) -> None:
        command = [*first.command, "cluster", "init", "--if-needed"]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=INIT_SECONDS, process_group=0
            )
        except subprocess.TimeoutExpired:
            raise NoDaemon(f"cluster init did not end within {INIT_SECONDS:g} s") from None
        if done.returncode:
            raise NoDaemon(f"the cluster could not be initialised: {done.stderr.strip()}")

    def _until(self, done: Callable[[], bool], failure: str) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not done():
            self._pause(WATCH_SECONDS)
            for daemon in self.daemons:
                if (code := daemon.ended()) is not None:
                    raise NoDaemon(
                        f"the daemon of {daemon.id} ended at its start ({_cause(code)}):\n"
                        f"{daemon.log_tail()}"
                    )
            if time.monotonic() > deadline:
                raise NoLeader(f"{failure} within {START_SECONDS:g} s; {self._obstacle}")

    def _has_leader(self) -> bool:
        self.leader = self._find_leader(self._look())
        return self.leader is not None

    def _is_complete(self) -> bool:
        """Whether all daemons are voters that answer; if not, does the next thing for it."""
        if not self._has_leader():
            return False
        leader = self.leading()
        try:
            members = {m["id"]: m for m in leader.ask("members", ADMIN_SECONDS)["members"]}
            for daemon in self.daemons:
                if daemon.id not in members:
                    peer = {"id": daemon.id, "addr": daemon.address, "wait": False}
                    leader.ask("add_peer", ADMIN_SECONDS, **peer)
                    return False
        except NefiaError as error:
            self._obstacle = error.message
            return False
        return all(members[d.id]["voter"] and members[d.id]["reachable"] for d in self.daemons)

    def leading(self) -> Daemon:
        assert self.leader is not None
        return next(daemon for daemon in self.daemons if daemon.id == self.leader.id)

    # Watching.

    def supervise(self) -> None:
        """Tell what happens and start again what has ended. Raises KeyboardInterrupt."""
        while True:
            self._pause(WATCH_SECONDS if self._is_unsettled() else REST_SECONDS)
            for daemon in self.daemons:
                if (code := daemon.ended()) is not None:
                    self._mourn(daemon, code)
            for daemon, ended in self._ended.items():
                if not ended.is_restarted and time.monotonic() >= ended.restart_at:
                    daemon.start()
                    ended.is_restarted = True
            statuses = self._look()
            self._follow_leader(statuses)
            self._welcome_back(statuses)

    def _is_unsettled(self) -> bool:
        if self._ended:
            return True
        died_at = self._leader_died_at
        return died_at is not None and time.monotonic() < died_at + TAKEOVER_SECONDS

    def _mourn(self, daemon: Daemon, code: int) -> None:
        now = time.monotonic()
        was_leader = self.leader is not None and daemon.id == self.leader.id
        if was_leader:
            self._leader_died_at = now
        failures = self._ended[daemon].failures + 1 if daemon in self._ended else 0
        pause = min(RESTART_SECONDS * 2**failures, MAX_RESTART_SECONDS)
        index = max((status["applied_index"] for status in self._look().values()), default=0)
        self._ended[daemon] = _Ended(now + pause, index, failures)
        name = f"{daemon.id} (leader)" if was_leader else daemon.id
        log = f", see {daemon.log}" if code >= 0 or failures else ""
        _say(f"{name} died ({_cause(code)}{log}); it is started again in {pause:g} s")

    def _follow_leader(self, statuses: Statuses) -> None:
        found = self._find_leader(statuses)
        if found is None or found == self.leader:
            return
        if self._leader_died_at is not None:
            took = time.monotonic() - self._leader_died_at
            _say(f"{found.id} leads after {took:.3f} s (term {found.term})")
        else:
            _say(f"{found.id} leads now (term {found.term})")
        self.leader = found
        self._leader_died_at = None

    def _welcome_back(self, statuses: Statuses) -> None:
        leader_id = self.leader.id if self.leader else None
        for daemon, status in statuses.items():
            ended = self._ended.get(daemon)
            if (
                ended
                and status["leader_id"] == leader_id
                and status["applied_index"] >= ended.index
            ):
                del self._ended[daemon]
                _say(f"{daemon.id} has rejoined as {status['state']} (pid {daemon.pid})")

    def _look(self) -> Statuses:
        statuses = {daemon: daemon.status() for daemon in self.daemons}
        return {daemon: status for daemon, status in statuses.items() if status is not None}

    def _find_leader(self, statuses: Statuses) -> Leader | None:
        claims = [(s["term"], daemon) for daemon, s in statuses.items() if s["is_leader"]]
        if not claims:
            return None
        term, daemon = max(claims, key=lambda claim: claim[0])
        found = Leader(daemon.id, term)
        return found if found == self.leader or daemon.serves() else None

    def _pause(self, seconds: float) -> None:
        """Until a daemon ends, but at most so long. Raises KeyboardInterrupt."""
        running = [daemon.pidfd for daemon in self.daemons if daemon.pid]
        select.select(running, [], [], seconds)
        if self._is_stopping():
            raise KeyboardInterrupt

    # Ending.

    def stop(self) -> None:
        """End all daemons, frozen ones too, and wait for them."""
        with suppress(OSError):  # whoever read our output may be gone
            _say("stopping")
        for daemon in self.daemons:
            daemon.signal(signal.SIGTERM, signal.SIGCONT)
        deadline = time.monotonic() + STOP_SECONDS
        while running := self._running():
            if time.monotonic() >= deadline:
                for daemon in running:
                    daemon.signal(signal.SIGKILL)
            select.select([daemon.pidfd for daemon in running], [], [], REST_SECONDS)

    def _running(self) -> list[Daemon]:
        return [daemon for daemon in self.daemons if daemon.ended() is None and daemon.pid]


def _say(sentence: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {sentence}", flush=True)


def _cause(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
