"""A line on the terminal that shows that something is going on."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import TracebackType

from nefia.errors import NefiaError

FRAMES = "|/-\\"
FRAME_SECONDS = 0.2
FRAMES_PER_LOOK = 5
PATIENCE_SECONDS = 5.0
"""For a look that is under way when the work is done."""


class Progress:
    """While entered, and if stderr is a terminal: `| what: detail`, the detail looked up anew.

    `look` may raise NefiaError, which only means that there is nothing to say.
    """

    def __init__(self, what: str, look: Callable[[], str]) -> None:
        self._what = what
        self._look = look
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._show, daemon=True)
        self._shown = sys.stderr.isatty()

    def __enter__(self) -> None:
        if self._shown:
            self._thread.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._done.set()
        if self._shown:
            self._thread.join(PATIENCE_SECONDS)

    def _show(self) -> None:
        detail = ""
        frame = 0
        while not self._done.wait(FRAME_SECONDS):
            if frame % FRAMES_PER_LOOK == 0:
                try:
                    detail = f": {self._look()}"
                except NefiaError:
                    detail = ""
            sys.stderr.write(f"\r\x1b[K{FRAMES[frame % len(FRAMES)]} {self._what}{detail}")
            sys.stderr.flush()
            frame += 1
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()
