"""The guard's descendants: begun, found however they detached, and ended.

The guard is child subreaper: what outlives its parent becomes the guard's own child, so all that
its services ever begin stays below it. Which service a process belongs to shows by its parent, by
its session, or by what it was found to be before; for an orphan that was never seen, by a variable
in its environment.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from attrs import define, field, frozen

from nefia.guard.effects import Spawn
from nefia.guard.kernel import boottime, die_with

MARK = "NEFIA_SERVICE_RUN"
"""In the environment of every command: `<guard>/<run>`, `<guard>` as of `guard_mark`."""
MAX_KILL_PASSES = 8
"""Who forks faster than it is killed is met again at the next census."""
MAX_OUTPUT_BYTES = 4096
"""What is kept of a command's last output."""
MAX_READ_BYTES = 64 * 1024
MAX_SESSIONS = 1024
"""Remembered before it is looked which of them still have a process."""
EXIT_TOO_LATE = 75
EXIT_NOT_RUN = 127

_PROC = Path("/proc")
_PF_EXITING = 0x4  # linux/sched.h
_RESET_SIGNALS = (signal.SIGPIPE, signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGCHLD)


@frozen
class _Process:
    """As /proc/PID/stat has it. `started` tells two processes of one number apart.

    `has_ended`: only its parent has not noticed yet. `hangs`: it waits where no signal reaches it.
    `exits`: it runs nothing of its own any more, but may still hold what it had open.
    """

    pid: int
    parent: int
    session: int
    started: int
    has_ended: bool
    hangs: bool
    exits: bool


@define(eq=False)
class Child:
    """A command. `output` and `execed` are pipes: what it prints, and one that ends when its
    program runs. `tail` is the last of what it has printed."""

    pid: int
    spawn: Spawn
    output: int
    execed: int
    tail: bytearray = field(factory=bytearray)

    def read_output(self) -> bytes | None:
        """What is there now; None if nothing is, empty at its end."""
        data = _read(self.output, MAX_READ_BYTES)
        self.tail += data or b""
        del self.tail[:-MAX_OUTPUT_BYTES]
        return data

    def has_executed(self) -> bool | None:
        """Whether its program runs; None while that is open."""
        data = _read(self.execed, 1)
        return None if data is None else not data

    def account(self, code: int) -> str:
        """How it has ended, in a clause. `code` as `os.waitstatus_to_exitcode` has it."""
        how = f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
        said = self.tail.decode(errors="replace").strip()
        return f"{how}: {said}" if said else how


class Children:
    """`mark` is this guard's, from `guard_mark`."""

    def __init__(self, mark: str) -> None:
        self._mark = mark
        self._pid = os.getpid()
        self.by_pid: dict[int, Child] = {}
        self._known: dict[tuple[int, int], int] = {}
        """The run of each process found so far, by its number and start."""
        self._sessions: dict[int, int] = {}
        """The run of each command begun, by its session, which has its number."""

    def begin(self, spawn: Spawn) -> Child:
        """Fork, and execute unless it is too late. Raises OSError without a process."""
        output_read, output_write = os.pipe()
        exec_read, exec_write = os.pipe()
        environment = {
            **os.environ,
            **spawn.environment,
            MARK: f"{self._mark}/{spawn.run}",
        }
        try:
            pid = os.fork()
            if pid == 0:
                _execute(spawn, environment, self._pid, output_write, exec_write)
        except OSError:
            os.close(output_read)
            os.close(exec_read)
            raise
        finally:
            os.close(output_write)
            os.close(exec_write)
        os.set_blocking(output_read, False)
        os.set_blocking(exec_read, False)
        child = Child(pid, spawn, output_read, exec_read)
        self.by_pid[pid] = child
        self._sessions[pid] = spawn.run
        if len(self._sessions) > MAX_SESSIONS:
            self._attributed()
        return child

    def reap(self) -> Iterator[tuple[Child | None, int]]:
        """Children that have ended, and their codes as `os.waitstatus_to_exitcode` has them."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            yield self.by_pid.pop(pid, None), os.waitstatus_to_exitcode(status)

    def send(self, number: signal.Signals, run: int) -> None:
        """To all processes of a run, once."""
        for process in self._of_run(run):
            _signal(process.pid, number)

    def kill(self, run: int) -> None:
        self._kill_all_of(lambda: self._of_run(run))

    def kill_all(self) -> None:
        # What they belong to does not matter here, and to find it out might take long.
        for pid in list(self.by_pid):
            _signal(pid, signal.SIGKILL)
        self._kill_all_of(lambda: list(self._descendants()))

    def census(self) -> tuple[frozenset[int], bool]:
        """The runs that have a process, and whether there is one of none."""
        if not has_children():
            return frozenset(), False
        runs = self._attributed().values()
        return frozenset(run for run in runs if run is not None), None in runs

    def _kill_all_of(self, find: Callable[[], Collection[_Process]]) -> None:
        killed: set[int] = set()
        for _ in range(MAX_KILL_PASSES):
            new = {process.pid for process in find()} - killed
            if not new:
                return
            for pid in new:
                _signal(pid, signal.SIGKILL)
            killed |= new

    def _of_run(self, run: int) -> list[_Process]:
        return [process for process, of in self._attributed().items() if of == run]

    def _descendants(self) -> Iterator[_Process]:
        """All that live, parents before their children."""
        below: dict[int, list[_Process]] = {}
        for process in _processes():
            below.setdefault(process.parent, []).append(process)
        parents = [self._pid]
        while parents:
            for process in below.get(parents.pop(), ()):
                parents.append(process.pid)
                yield process

    def _attributed(self) -> dict[_Process, int | None]:
        """The run of every descendant that lives."""
        found: dict[_Process, int | None] = {}
        runs: dict[int, int | None] = {}
        for process in self._descendants():
            run = runs.get(process.parent)
            if run is None:
                run = self._run_of(process)
            runs[process.pid] = run
            if not process.has_ended:
                found[process] = run
        self._known = {
            (process.pid, process.started): run for process, run in found.items() if run is not None
        }
        sessions = {process.session for process in found} | self.by_pid.keys()
        self._sessions = {each: run for each, run in self._sessions.items() if each in sessions}
        return found

    def _run_of(self, process: _Process) -> int | None:
        child = self.by_pid.get(process.pid)
        if child is not None:
            return child.spawn.run
        known = self._known.get((process.pid, process.started), self._sessions.get(process.session))
        return self._run_in_environment(process) if known is None else known

    def _run_in_environment(self, process: _Process) -> int | None:
        # To read it waits for the lock of its memory, which a process that hangs may hold.
        guard, _, run = ("" if process.hangs else mark_of(process.pid)).rpartition("/")
        return int(run) if guard == self._mark and run.isdecimal() else None


def guard_mark(state_dir: Path) -> str:
    """Names the state directory, whatever its path is: processes of other guards are theirs."""
    status = state_dir.stat()
    return f"{status.st_dev:x}:{status.st_ino:x}"


def marked(mark: str) -> list[int]:
    """Processes that a guard of this mark has left, wherever they are now."""
    pids = (process.pid for process in _processes() if not process.has_ended)
    own = os.getpid()
    return [pid for pid in pids if pid != own and mark_of(pid).rpartition("/")[0] == mark]


def exiting() -> list[int]:
    """Processes of whoever on their way out: they have lost their environment, and so their mark,
    but not yet their files and locks."""
    return [process.pid for process in _processes() if process.exits and not process.has_ended]


def mark_of(pid: int) -> str:
    """Empty if it has none, or is not ours to read."""
    try:
        environment = (_PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return ""
    prefix = f"{MARK}=".encode()
    for entry in environment.split(b"\0"):
        if entry.startswith(prefix):
            return entry.removeprefix(prefix).decode(errors="replace")
    return ""


def has_children() -> bool:
    """Without any child, a subreaper has no descendants at all."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _processes() -> Iterator[_Process]:
    for name in os.listdir(_PROC):
        if name.isdecimal():
            with suppress(OSError):
                text = (_PROC / name / "stat").read_bytes()
                # The name, in parentheses, may hold anything.
                fields = text[text.rindex(b")") + 2 :].split()
                state, threads = fields[0], int(fields[17])
                yield _Process(
                    pid=int(name),
                    parent=int(fields[1]),
                    session=int(fields[3]),
                    started=int(fields[19]),
                    # A first thread that has ended is a zombie too, while others may go on.
                    has_ended=state in b"ZX" and threads <= 1,
                    hangs=state == b"D",
                    exits=bool(int(fields[6]) & _PF_EXITING),
                )


def _read(fd: int, count: int) -> bytes | None:
    try:
        return os.read(fd, count)
    except BlockingIOError:
        return None


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _execute(
    spawn: Spawn, environment: Mapping[str, str], parent: int, output: int, execed: int
) -> NoReturn:
    """In the child. What cannot be run says so where its output would be."""
    try:
        os.setsid()
        die_with(parent)
        for number in _RESET_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.dup2(os.open(os.devnull, os.O_RDWR), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        if boottime() >= spawn.not_after:
            os.write(execed, b"!")
            os.write(2, b"the lease has ended")
            os._exit(EXIT_TOO_LATE)
        os.execvpe(spawn.argv[0], spawn.argv, environment)
    except (OSError, ValueError) as error:
        os.write(execed, b"!")
        os.write(2, f"cannot run {spawn.argv[0]}: {error}".encode(errors="replace"))
    finally:
        os._exit(EXIT_NOT_RUN)
