"""How long remote hosts are without their hub when the leader changes, in a table.

python -m tests.end_to_end.tunnel_table [--trials 5] [KIND ...]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.end_to_end.cluster import Cluster, Daemon, until
from tests.end_to_end.tunnels import FLOATING, Network, Ping, longest_gap

KINDS = ("kill", "transfer", "stop", "freeze", "freeze all")
"""SIGKILL, a planned transfer, SIGTERM, SIGSTOP for a while: of the daemon, or of its guard too."""
MAX_LOSS_SECONDS = 10.0
"""A remote host begins anew by itself after 15 s; who is back before has been called."""
BEFORE_SECONDS = 0.5
AFTER_SECONDS = 0.5
FROZEN_SECONDS = 2.5


class Tunnelled:
    """Three nodes, each on a hub's host, with an address and a tunnel. A context manager."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.network = stack.enter_context(Network(self._directory))
            daemons = [self._daemon(number) for number in range(3)]
            self.cluster = stack.enter_context(Cluster(daemons)).form()
            self.network.bring_up_remotes()
            until(self._are_all_connected, "all remote hosts reach the hub")
            until(self._are_remembered, "the leader knows where they are")
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def _daemon(self, number: int) -> Daemon:
        host, address = self.network.hubs[number], f"10.231.8.{1 + number}:9700"
        daemon = Daemon(self._directory, f"node-{1 + number}", address, prefix=host.prefix)
        values = json.loads(daemon.config.read_text()) | {"services": self._services()}
        daemon.config.write_text(json.dumps(values))
        return daemon

    def _services(self) -> list[dict[str, Any]]:
        return [
            {
                "name": "floating",
                "kind": "address",
                "address": f"{FLOATING}/24",
                "interface": "eth0",
            },
            {
                "name": "tunnel",
                "kind": "wireguard",
                "config": str(self.network.hub_file),
                "source": FLOATING,
            },
        ]

    def has_one_hub(self) -> bool:
        """Whether nobody but the leader has a tunnel or the floating address."""
        leader = self.cluster.daemons.index(self.cluster.wait_leader())
        shown = [hub.run("ip", "-brief", "address") for hub in self.network.hubs]
        has_either = [n for n, text in enumerate(shown) if "wg0 " in text or FLOATING in text]
        return has_either == [leader]

    def remote_configurations(self) -> list[str]:
        """What is set on the remote hosts. The endpoint may follow; here it need not."""
        return [host.run("wg", "showconf", "wg0") for host in self.network.remotes]

    def _are_all_connected(self) -> bool:
        return all(
            ", 0% packet loss" in host.run("ping", "-nc1", "-W0.5", "10.77.0.1", check=False)
            for host in self.network.remotes
        )

    def _are_remembered(self) -> bool:
        """Whether the leader has seen each remote host where it is, for the first time."""
        status = self.cluster.wait_leader().ask("status") or {"services": []}
        details = [each["detail"] for each in status["services"] if each.get("detail")]
        peers = [peer for detail in details for peer in detail.get("peers", ())]
        return sum(bool(peer["latest_handshake"]) for peer in peers) == len(self.network.remotes)

    def fail_over(self, kind: str) -> list[float]:
        """Have the leader change; the longest silence of each remote host, in seconds."""
        leader = self.cluster.wait_healthy()
        until(self._are_all_connected, "all remote hosts reach the hub")
        pings = [Ping(host) for host in self.network.remotes]
        time.sleep(BEFORE_SECONDS)
        self._depose(kind, leader)
        until(lambda: self.cluster.leader() not in (None, leader), "another leader")
        until(self._are_all_connected, "all remote hosts reach the new hub")
        time.sleep(AFTER_SECONDS)
        losses = [longest_gap(ping.end()) for ping in pings]
        if kind in ("kill", "stop"):
            leader.start()
            leader.wait_ready()
        return losses

    def _depose(self, kind: str, leader: Daemon) -> None:
        match kind:
            case "kill":
                leader.kill()
            case "transfer":
                assert leader.cli("cluster", "transfer-leader").returncode == 0
            case "stop":
                assert leader.stop() == 0
            case "freeze":
                self._freeze([leader.pid])
            case "freeze all":
                self._freeze([leader.pid, *self._guards(leader)])
            case _:
                raise AssertionError(f"what is {kind}?")

    def _guards(self, daemon: Daemon) -> list[int]:
        """The pids of the daemon's guard and of what watches over that."""
        pids = self.network.hubs[self.cluster.daemons.index(daemon)].processes()
        return [pid for pid in pids if b"nefia.guard" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    def _freeze(self, pids: list[int]) -> None:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(FROZEN_SECONDS)
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", metavar="KIND", nargs="*", default=KINDS, help=", ".join(KINDS))
    parser.add_argument("--trials", type=int, default=5)
    options = parser.parse_args()
    print("| leader | remote host | median | worst |", "|---|---|---|---|", sep="\n")
    with tempfile.TemporaryDirectory() as directory, Tunnelled(Path(directory)) as tunnelled:
        for kind in options.kinds:
            trials = [tunnelled.fail_over(kind) for _ in range(options.trials)]
            names = ("1", "2", "3, behind NAT")
            for name, losses in zip(names, zip(*trials, strict=True), strict=True):
                median, worst = statistics.median(losses), max(losses)
                print(f"| {kind} | {name} | {median:.2f} s | {worst:.2f} s |", flush=True)


if __name__ == "__main__":
    main()
