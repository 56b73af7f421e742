"""Where log lines go: key=value on a terminal or in a file, JSON in a journal.

Imported before structlog, this has it do without rich, which draws tracebacks that nobody here asks
for and takes longer to import than all the rest of structlog.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def _without(module: str) -> Iterator[None]:
    """Whoever would like to have `module`, and can do without it, does without it."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]  # as importlib's reference says
    try:
        yield
    finally:
        del sys.modules[module]


with _without("rich"):
    import structlog


def configure(environ: dict[str, str] | os._Environ[str]) -> None:
    """One line an event, on standard error. systemd sets JOURNAL_STREAM (systemd.exec(5))."""
    renderer: structlog.typing.Processor
    if "JOURNAL_STREAM" in environ:
        renderer = structlog.processors.JSONRenderer()
    else:
        order = ["timestamp", "level", "event"]
        renderer = structlog.processors.LogfmtRenderer(key_order=order, bool_as_flag=False)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger("info"),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
