"""One daemon as a child process, and what is asked of it through its admin socket."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import define

from nefia.admin import SOCKET_NAME
from nefia.admin.client import AdminClient
from nefia.errors import NefiaError, NoDaemon, OutcomeUnknown

LOOK_SECONDS = 0.25
SILENCE_SECONDS = 1.0
"""A daemon that did not answer in LOOK_SECONDS is not asked again for so long."""
LOG_TAIL_LINES = 10

PR_SET_PDEATHSIG = 1  # linux/prctl.h

_libc = ctypes.CDLL(None)


@define(eq=False)
class Daemon:
    """`pidfd` is readable once the process has ended; -1 without a process, `pid` then 0."""

    id: str
    directory: Path
    address: str
    pidfd: int = -1
    _process: subprocess.Popen[bytes] | None = None
    _client: AdminClient | None = None
    _silent_until: float = 0.0

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    @property
    def log(self) -> Path:
        return self.directory / "daemon.log"

    @property
    def command(self) -> list[str]:
        config = self.directory / "nefia.yaml"
        options = ["--config", str(config), "--state-dir", str(self.directory)]
        return [sys.executable, "-m", "nefia", *options]

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self.command, "daemon"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
                preexec_fn=_dying_with(os.getpid()),
            )
        self.pidfd = os.pidfd_open(self.pid)
        self._silent_until = 0.0

    def ended(self) -> int | None:
        """The exit code of a process that has ended, as `Popen.returncode`, once; else None."""
        code = self._process.poll() if self._process else None
        if code is not None:
            self._process = None
            os.close(self.pidfd)
            self.pidfd = -1
            self._hang_up()
        return code

    def signal(self, *numbers: signal.Signals) -> None:
        """To the process and its children. It is there, since only `ended` reaps it."""
        for number in numbers:
            if self._process:
                os.killpg(self.pid, number)

    def ask(self, action: str, timeout: float, **params: Any) -> dict[str, Any]:
        """The result of an admin action. Raises NefiaError."""
        try:
            self._client = self._client or AdminClient(self.directory / SOCKET_NAME)
            return self._client.call(action, timeout=timeout, **params)
        except NoDaemon:
            self._hang_up()
            raise

    def status(self) -> dict[str, Any] | None:
        """None if it does not answer. One that is frozen is asked only now and then."""
        now = time.monotonic()
        if self._process is None or now < self._silent_until:
            return None
        try:
            return self.ask("status", LOOK_SECONDS)
        except OutcomeUnknown:
            self._silent_until = now + SILENCE_SECONDS
        except NefiaError:
            pass  # it is starting, or ending
        return None

    def serves(self) -> bool:
        """Whether it leads in truth: only a leader that has committed an entry of its own term,
        and that a majority has confirmed since, answers a linearizable read."""
        try:
            self.ask("queue_stats", LOOK_SECONDS)
        except NefiaError:
            return False
        return True

    def log_tail(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(lines[-LOG_TAIL_LINES:])

    def _hang_up(self) -> None:
        if self._client:
            self._client.close()
            self._client = None


def _dying_with(parent: int) -> Callable[[], None]:
    def prepare() -> None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)  # the parent died before the kernel knew

    return prepare
