"""One process a data directory: LMDB's own lock keeps no second one out (SPEC 6)."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from nefia import errors

LOCK_FILE = "lock"
MAX_PID_BYTES = 20


class DirectoryLock:
    """The flock on `<directory>/lock`, held from construction to `release` or death."""

    def __init__(self, directory: Path) -> None:
        """Raises `DataInUse` at once if another process, or another store in this one, holds it."""
        path = directory / LOCK_FILE
        self._fd: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._fd, MAX_PID_BYTES, 0).decode("ascii", "replace").strip()
            self.release()
            raise errors.DataInUse(
                f"{directory} is in use by process {holder or 'unknown'}",
                hint="Is another daemon running with this data directory?",
            ) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, b"%d\n" % os.getpid(), 0)

    def release(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
