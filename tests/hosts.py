"""Hosts of our own on one machine: a network namespace each, with a /run of its own.

wireguard-go has its socket in /run, so that hosts which all have a wg0 cannot share it. A namespace
lives as long as the process that holds it: nothing has a name, and nothing is left behind.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

TOOLS = ("ip", "nft", "ping", "nsenter", "unshare")
PRIVATE_RUN = "mount -t tmpfs tmpfs /run && ip link set lo up && echo ready && exec sleep infinity"
ADD_SECONDS = 20.0


def needs(*tools: str) -> pytest.MarkDecorator:
    """Skips a test where it cannot run."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if os.geteuid() != 0:
        missing.append("root")
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


needs_hosts = needs(*TOOLS)


class Host:
    """A context manager: everything that runs on it ends with it."""

    def __init__(self) -> None:
        argv = ("unshare", "--net", "--mount", "sh", "-c", PRIVATE_RUN)
        self._holder = subprocess.Popen(argv, stdout=subprocess.PIPE)
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"ready\n"
        self._net = self._net_of(self.pid)
        for family in ("all", "default"):
            # Else IPv6 addresses could not be used for their first second or two.
            self.run("sysctl", "-qw", f"net.ipv6.conf.{family}.accept_dad=0")

    @property
    def pid(self) -> int:
        return self._holder.pid

    @property
    def prefix(self) -> tuple[str, ...]:
        """What runs a command here. It becomes the command, so that its pid is the command's."""
        return ("nsenter", f"--target={self.pid}", "--net", "--mount")

    def run(self, *argv: str, check: bool = True) -> str:
        """Raises CalledProcessError, with what the command said, if it fails."""
        done = subprocess.run(
            (*self.prefix, *argv), capture_output=True, text=True, timeout=ADD_SECONDS, check=False
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(argv)}: {done.stdout}{done.stderr}")
        return done.stdout

    def start(self, *argv: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            (*self.prefix, *argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def processes(self) -> list[int]:
        """The pids of all that runs here, the holder's too."""
        pids = (int(each.name) for each in Path("/proc").iterdir() if each.name.isdecimal())
        return [pid for pid in pids if self._net_of(pid) == self._net]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._holder.wait()
        if self._holder.stdout is not None:
            self._holder.stdout.close()

    @staticmethod
    def _net_of(pid: int) -> str:
        try:
            return os.readlink(f"/proc/{pid}/ns/net")
        except OSError:
            return ""


class Switch(Host):
    """A bridge, on a host of its own, whose ports are the eth0 of others."""

    def __init__(self) -> None:
        super().__init__()
        self._ports = 0
        self.run("ip", "link", "add", "switch", "type", "bridge", "forward_delay", "0")
        self.run("ip", "link", "set", "switch", "up")

    def plug_in(self, host: Host, address: str, interface: str = "eth0") -> None:
        """`address` with its prefix."""
        self._ports += 1
        port = f"port{self._ports}"
        peer = ("peer", "name", interface, "netns", str(host.pid))
        self.run("ip", "link", "add", port, "type", "veth", *peer)
        self.run("ip", "link", "set", port, "master", "switch", "up")
        host.run("ip", "address", "add", address, "dev", interface)
        host.run("ip", "link", "set", interface, "up")
