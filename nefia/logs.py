"""Where log lines go: key=value on a terminal or in a file, JSON in a journal."""

from __future__ import annotations

import os
import sys

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
