"""Server processes of a peer: started together, killed together, with a log each."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

HOST = "127.0.0.1"


class Servers:
    """A context manager: leaves no process behind."""

    def __init__(self, directory: Path, commands: Sequence[Sequence[str]]) -> None:
        self._directory = directory
        self._commands = commands
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def pids(self) -> Sequence[int]:
        return [process.pid for process in self._processes]

    def __enter__(self) -> Self:
        for number, command in enumerate(self._commands):
            with (self._directory / f"{number}.log").open("wb") as log:
                self._processes.append(
                    subprocess.Popen(
                        command,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        start_new_session=True,
                    )
                )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self._processes:
            # With the children that it may have: PySyncObj writes its dumps in one.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if error is not None:
            for log in sorted(self._directory.glob("*.log")):
                print(f"=== {log}\n{log.read_text(errors='replace')[-2000:]}")
