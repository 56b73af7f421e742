"""A data directory for this process alone, and the look through its raft.db by a child process.

`nefia daemon` makes a claim before it imports most of itself, so that the child reads while the
parent imports. So imports are few here: neither trio nor attrs.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import nefia
from nefia import errors
from nefia.storage import files, layout
from nefia.storage.locking import DirectoryLock

KILL_SECONDS = 1.0
"""How long the end of a killed child is waited for; one in a dead disk is left behind."""


class Claim:
    """`check` is of the raft.db in the directory, None if there is none yet."""

    def __init__(self, data_dir: Path) -> None:
        """Creates the directory if there is none. Raises `DataInUse`, OSError."""
        if not data_dir.is_dir():
            _make_directory(data_dir)
        path = data_dir / layout.DATABASE_FILE
        self._lock = DirectoryLock(data_dir)
        try:
            self.check = Check(path) if path.exists() else None
        except BaseException:
            self._lock.release()
            raise

    def release(self) -> None:
        """The directory is anyone's again."""
        if self.check is not None:
            self.check.end()
        self._lock.release()


class Check:
    """The child process that runs `nefia.storage.verify`, from its start to its answer."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-m", "nefia.storage.verify", os.fspath(path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": _import_path()},
        )

    def fileno(self) -> int:
        """Readable once the child answers, or is dead."""
        assert self._child.stdout is not None
        return self._child.stdout.fileno()

    def hear(self) -> None:
        """Wait for its answer; raises it unless the file is sound."""
        stdout, stderr = self._child.communicate()
        if self._child.returncode != 0:
            ended = _how_it_ended(self._child.returncode, stderr)
            raise errors.DataDamaged(f"{self._path} is damaged: the process that checks it {ended}")
        if answer := json.loads(stdout):
            raise errors.NefiaError.from_json(answer)

    def end(self) -> None:
        """Its answer is no longer wanted, or has been heard."""
        self._child.kill()
        with suppress(subprocess.TimeoutExpired):
            self._child.wait(KILL_SECONDS)
        for pipe in (self._child.stdout, self._child.stderr):
            if pipe is not None:
                pipe.close()


def _make_directory(path: Path) -> None:
    """With an entry in its parent that is durable."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=0o700)
    files.sync_directory(path.parent)


def _import_path() -> str:
    """The child imports what this process would, and never from its working directory (-P)."""
    package = Path(nefia.__file__).parent.parent
    return os.pathsep.join([os.fspath(package), *filter(None, sys.path)])


def _how_it_ended(returncode: int, stderr: bytes) -> str:
    if returncode < 0:
        return f"was killed by {signal.Signals(-returncode).name}"
    last_line = stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
    return f"failed: {last_line}"
