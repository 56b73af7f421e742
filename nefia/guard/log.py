"""The guard's log: it never waits.

A terminal, a journal or a file on a hung disk may hold up whoever writes. So a process of its own
writes, from a pipe that takes lines as long as it has room; what finds none is counted and lost.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Mapping

MAX_LINE_BYTES = 2048
_READ_BYTES = 64 * 1024
_STDERR = 2


class Log:
    """Lines as the daemon's: key=value, or JSON where systemd says that a journal listens."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._as_json = "JOURNAL_STREAM" in environ
        self._dropped = 0
        self._pipe = _start_writer()

    def info(self, event: str, **details: object) -> None:
        self._write("info", event, details)

    def warning(self, event: str, **details: object) -> None:
        self._write("warning", event, details)

    def _write(self, level: str, event: str, details: Mapping[str, object]) -> None:
        fields: dict[str, object] = {
            "timestamp": _utc_now(),
            "level": level,
            "event": event,
            "process": "guard",
            **details,
        }
        if self._dropped:
            fields["lines_lost_before"] = self._dropped
        line = json.dumps(fields, default=str) if self._as_json else _logfmt(fields)
        try:
            # Up to PIPE_BUF a pipe takes all or nothing.
            os.write(self._pipe, line.encode(errors="replace")[: MAX_LINE_BYTES - 1] + b"\n")
            self._dropped = 0
        except OSError:
            self._dropped += 1


def _utc_now() -> str:
    now = time.time()
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
    return f"{text}.{int(now % 1 * 1_000_000):06d}Z"


def _logfmt(fields: Mapping[str, object]) -> str:
    return " ".join(f"{key}={_quoted(str(value))}" for key, value in fields.items())


def _quoted(text: str) -> str:
    is_plain = text and text.isprintable() and not set(text) & set(' ="')
    return text if is_plain else json.dumps(text)


def _start_writer() -> int:
    """The pipe's end to write to. The writer ends with the last process that holds it."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        # Else it would hold up who waits for the end of a connection.
        os.closerange(_STDERR + 1, read_end)
        os.closerange(read_end + 1, os.sysconf("SC_OPEN_MAX"))
        # Forked twice: it is nobody's child, so that the guard's children are all its services'.
        if os.fork() == 0:
            _write_for_ever(read_end)
        os._exit(0)
    os.waitpid(child, 0)
    os.close(read_end)
    os.set_blocking(write_end, False)
    return write_end


def _write_for_ever(read_end: int) -> None:
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    try:
        while data := os.read(read_end, _READ_BYTES):
            while data:
                data = data[os.write(_STDERR, data) :]
    except OSError:
        pass  # nobody reads what it writes: the guard goes on without a log
    finally:
        sys.stderr = None
        os._exit(0)
