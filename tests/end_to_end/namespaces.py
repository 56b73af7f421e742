"""Network namespaces: hosts of our own on one machine, whose cables can be pulled."""

from __future__ import annotations

import os
import shutil
import subprocess
from types import TracebackType
from typing import Self

import pytest

DROPPING = {
    "incoming": "type filter hook input priority 0; iif eth0 drop;",
    "outgoing": "type filter hook output priority 0; oif eth0 drop;",
}

_MISSING = [tool for tool in ("ip", "nft") if shutil.which(tool) is None]

needs_namespaces = pytest.mark.skipif(
    os.geteuid() != 0 or bool(_MISSING),
    reason=f"needs root and the tools ip and nft (missing: {', '.join(_MISSING) or 'root'})",
)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


class Hosts:
    """`count` hosts on one bridge, 10.231.7.1 and so on. Leaves nothing behind."""

    def __init__(self, count: int) -> None:
        self.tag = f"nf{os.getpid() % 100_000:05d}"
        self.bridge = f"{self.tag}b"
        self.names = [f"{self.tag}-{number}" for number in range(1, count + 1)]
        self.addresses = [f"10.231.7.{number}" for number in range(1, count + 1)]

    def __enter__(self) -> Self:
        _run("ip", "link", "add", self.bridge, "type", "bridge")
        _run("ip", "link", "set", self.bridge, "up")
        for number, name in enumerate(self.names):
            outside = f"{self.tag}v{number}"
            _run("ip", "netns", "add", name)
            _run("ip", "link", "add", outside, "type", "veth", "peer", "eth0", "netns", name)
            _run("ip", "link", "set", outside, "master", self.bridge, "up")
            inside = ("ip", "-n", name)
            _run(*inside, "addr", "add", f"{self.addresses[number]}/24", "dev", "eth0")
            _run(*inside, "link", "set", "eth0", "up")
            _run(*inside, "link", "set", "lo", "up")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
        subprocess.run(["ip", "link", "del", self.bridge], check=False, capture_output=True)

    def prefix(self, number: int) -> tuple[str, ...]:
        """What runs a command on host `number`, counted from 0."""
        return ("ip", "netns", "exec", self.names[number])

    def cut(self, number: int, *directions: str) -> None:
        """From now on everything to and from the host, or one of both, is lost without a trace."""
        chains = [f"chain {name} {{ {DROPPING[name]} }}" for name in directions or DROPPING]
        _run(*self.prefix(number), "nft", "\n".join(["table inet cut {", *chains, "}\n"]))

    def heal(self, number: int) -> None:
        _run(*self.prefix(number), "nft", "delete", "table", "inet", "cut")
