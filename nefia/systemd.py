"""What the daemon tells a service manager, if one listens: sd_notify(3) and its watchdog."""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

import trio

PULSES_PER_WATCHDOG = 3
"""How often the daemon proves that it goes on within the time that it is given."""


class ServiceManager:
    """Without `$NOTIFY_SOCKET`, nobody listens and nothing is sent."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        """A path, or the name of an abstract socket after an `@`."""
        self._watchdog_seconds = _watchdog_seconds(environ) if self._address else None

    def tell(self, *assignments: str) -> None:
        """Send `READY=1` or the like. Never waits: what the manager cannot take is lost."""
        if not self._address.startswith(("/", "@")):
            return
        address = self._address.replace("@", "\0", 1)
        # A manager that cannot be told will find out by itself.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto("\n".join(assignments).encode(), socket.MSG_DONTWAIT, address)

    async def feed_watchdog(self, pulse: Callable[[], Awaitable[None]]) -> None:
        """As long as `pulse` returns in time, keep the manager from ending this process.

        Not a timer that runs beside what it should watch: without a pulse nothing is sent.
        """
        if self._watchdog_seconds is None:
            return
        period_seconds = self._watchdog_seconds / PULSES_PER_WATCHDOG
        while True:
            with trio.move_on_after(period_seconds) as patience:
                await pulse()
                self.tell("WATCHDOG=1")
            if not patience.cancelled_caught:
                await trio.sleep(period_seconds)


def _watchdog_seconds(environ: Mapping[str, str]) -> float | None:
    """sd_watchdog_enabled(3): None if there is none, or it is meant for another process."""
    microseconds = environ.get("WATCHDOG_USEC", "")
    if not microseconds.isdecimal() or int(microseconds) == 0:
        return None
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(microseconds) / 1e6
