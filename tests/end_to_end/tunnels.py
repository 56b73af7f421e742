"""Three hubs, three remote hosts, one of them behind MASQUERADE: WireGuard as operators have it.

    hub 1..3  10.231.8.1-3, floating 10.231.8.10 ──┐
    remote 1, 2  10.231.8.21-22 ───────────────────┼─ switch
    NAT 10.231.8.30 ── 10.231.9.1 ── remote 3 ─────┘

In the tunnel the hub is 10.77.0.1 and the remote hosts are 10.77.0.11-13. All that the remote hosts
know is the floating address and the hub's public key.
"""

from __future__ import annotations

import re
import signal
import subprocess
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Self

from attrs import frozen

from tests.hosts import TOOLS, Host, Switch, needs

FLOATING = "10.231.8.10"
HUB_IN_TUNNEL = "10.77.0.1"
PORT = 51820
PING_SECONDS = 0.05
MASQUERADE = """
table ip nat {
    chain out { type nat hook postrouting priority srcnat; oifname "outside" masquerade; }
}
"""
needs_wireguard = needs(*TOOLS, "wg", "wg-quick", "wireguard-go")


@frozen
class Pair:
    """WireGuard's keys, base64."""

    private: str
    public: str


def new_pair() -> Pair:
    private = subprocess.run(["wg", "genkey"], capture_output=True, text=True, check=True).stdout
    public = subprocess.run(
        ["wg", "pubkey"], input=private, capture_output=True, text=True, check=True
    ).stdout
    return Pair(private.strip(), public.strip())


def write_tunnel(directory: Path, interface: dict[str, str], *peers: dict[str, str]) -> Path:
    """A file `wg0.conf` that nobody else may read."""
    directory.mkdir(parents=True, exist_ok=True)
    sections = [("[Interface]", interface), *(("[Peer]", peer) for peer in peers)]
    lines = (
        line
        for title, values in sections
        for line in (title, *(f"{key} = {value}" for key, value in values.items()))
    )
    path = directory / "wg0.conf"
    path.touch(mode=0o600)
    path.write_text("\n".join(lines) + "\n")
    return path


class Ping:
    """A host's ping to the hub through the tunnel, from now on until it is asked for the result."""

    def __init__(self, host: Host) -> None:
        self._process = host.start("ping", "-n", "-D", "-i", str(PING_SECONDS), HUB_IN_TUNNEL)

    def end(self) -> list[float]:
        """The wall-clock times at which replies came, in seconds."""
        self._process.send_signal(signal.SIGINT)
        output, _ = self._process.communicate()
        return [float(at) for at in re.findall(r"\n\[([0-9.]+)\] .* icmp_seq=", output)]


def longest_gap(times: list[float]) -> float:
    """Seconds between two replies."""
    return max((after - before for before, after in pairwise(times)), default=0)


class Network:
    """A context manager: nothing of it is left."""

    def __init__(self, directory: Path, hubs: int = 3, *, with_nat: bool = True) -> None:
        self._stack = ExitStack()
        self._directory = directory
        self._hub_keys = new_pair()
        self.remote_keys: list[Pair] = []
        self._hub_count, self._with_nat = hubs, with_nat

    def __enter__(self) -> Self:
        with self._stack:
            self._switch = self._stack.enter_context(Switch())
            self.hubs = [self._host(f"10.231.8.{1 + n}/24") for n in range(self._hub_count)]
            self.remotes = [self._host(f"10.231.8.{21 + n}/24") for n in range(2)]
            if self._with_nat:
                self.remotes.append(self._behind_nat())
            self.remote_keys = [new_pair() for _ in self.remotes]
            self.hub_file = self._write_hub()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _host(self, address: str) -> Host:
        host = self._stack.enter_context(Host())
        self._switch.plug_in(host, address)
        return host

    def _behind_nat(self) -> Host:
        nat, host = (self._stack.enter_context(Host()) for _ in range(2))
        inner = self._stack.enter_context(Switch())
        self._switch.plug_in(nat, "10.231.8.30/24", "outside")
        inner.plug_in(nat, "10.231.9.1/24", "inside")
        inner.plug_in(host, "10.231.9.2/24")
        nat.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        nat.run("nft", MASQUERADE)
        host.run("ip", "route", "add", "default", "via", "10.231.9.1")
        return host

    def _write_hub(self) -> Path:
        peers = (
            {"PublicKey": keys.public, "AllowedIPs": f"10.77.0.{11 + number}/32"}
            for number, keys in enumerate(self.remote_keys)
        )
        interface = {
            "PrivateKey": self._hub_keys.private,
            "ListenPort": str(PORT),
            "Address": f"{HUB_IN_TUNNEL}/24",
        }
        return write_tunnel(self._directory / "hub", interface, *peers)

    def bring_up_remotes(self, endpoint: str = FLOATING) -> None:
        for number, (host, keys) in enumerate(zip(self.remotes, self.remote_keys, strict=True)):
            path = write_tunnel(
                self._directory / f"remote-{number}",
                {"PrivateKey": keys.private, "Address": f"10.77.0.{11 + number}/24"},
                {
                    "PublicKey": self._hub_keys.public,
                    "AllowedIPs": "10.77.0.0/24",
                    "Endpoint": f"{endpoint}:{PORT}",
                    "PersistentKeepalive": "25",
                },
            )
            host.run("wg-quick", "up", str(path))

    def endpoints(self, hub: int) -> dict[str, str]:
        """By public key, as the hub knows them."""
        lines = self.hubs[hub].run("wg", "show", "wg0", "endpoints").splitlines()
        known = dict(line.split("\t") for line in lines)
        return {key: endpoint for key, endpoint in known.items() if endpoint != "(none)"}
