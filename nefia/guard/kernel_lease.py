"""A tunnel's lease in the kernel, through nftables (SPEC 9).

A table drops what a UDP port sends and receives, unless the port is in a set. Its element there
has a timeout, the end of the lease: a hub falls silent then even with every process frozen.
"""

from __future__ import annotations

import errno
import time
from contextlib import closing

from nefia.guard.netlink import NETLINK_NETFILTER, Netlink
from nefia.guard.nft import LeaseMessages, removal

NEVER = float("-inf")
MILLISECONDS = 1000


def remove_lease(interface: str) -> None:
    """Take away what an earlier guard has left. Raises OSError."""
    try:
        netlink = Netlink(NETLINK_NETFILTER)
    except OSError:
        return  # a kernel without netfilter has none
    with closing(netlink):
        netlink.request_gone(removal(interface))


class KernelLease:
    """The element of one port. Ends are seconds on CLOCK_BOOTTIME.

    Raises OSError where the kernel has no netfilter. A renewal costs about 10 us.
    """

    def __init__(self, interface: str, port: int, source: str | None) -> None:
        self._netlink = Netlink(NETLINK_NETFILTER)
        self._messages = LeaseMessages(interface, port, source)
        self._end = NEVER
        self._is_wanted = False
        self.is_held = False
        """Whether the last renewal has reached the kernel."""

    def make(self) -> None:
        """Put the table in place of whatever is there of that name, and apply the lease.

        Raises OSError where the kernel has no nftables, or does not allow it.
        """
        self._netlink.request(self._messages.make)
        self._is_wanted = True
        self._apply()

    def remove(self) -> None:
        """Take the table away: what the port sends and receives is nefia's no more."""
        self._is_wanted = self.is_held = False
        self._netlink.request_gone(self._messages.remove)

    def renew(self, end: float) -> None:
        """Let the port speak until `end`. Before `make` it is only remembered."""
        self._end = end
        if self._is_wanted:
            self._apply()

    def silence(self) -> None:
        """End it now. Idempotent."""
        self._send(self._messages.silence)

    def _apply(self) -> None:
        remaining = self._end - time.clock_gettime(time.CLOCK_BOOTTIME)
        milliseconds = int(remaining * MILLISECONDS) if remaining > 0 else 0
        if milliseconds > 0:
            self._send(self._messages.renew(milliseconds))
        if milliseconds == 0 or time.clock_gettime(time.CLOCK_BOOTTIME) >= self._end:
            # The second, if this process was stopped after its first look at the clock.
            self.silence()

    def _send(self, content: bytes | bytearray) -> None:
        try:
            try:
                self._netlink.request(content)
            except OSError as error:
                if error.errno != errno.ENOENT or not self._is_wanted:
                    raise
                # Whoever loads a ruleset of their own begins with `flush ruleset`, mostly.
                self._netlink.request(self._messages.make)
                self._netlink.request(content)
        except OSError:
            self.is_held = False
        else:
            self.is_held = True
