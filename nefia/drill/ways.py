"""The daemons of a cluster that run on this machine, and asking them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from attrs import define

from nefia.admin import SOCKET_NAME
from nefia.admin.client import AdminClient
from nefia.cli.processes import listeners_at, unix_sockets_of
from nefia.errors import NefiaError

LOOK_SECONDS = 1.0
"""What a daemon may take to answer about itself before anything has happened to it."""


@define
class Way:
    """To one node, through its admin socket. For one thread; `again` makes another.

    `pid` is None where it is not known which process serves there.
    """

    node_id: str
    path: str
    pid: int | None
    _client: AdminClient | None = None

    def ask(self, action: str, timeout: float, **params: Any) -> dict[str, Any]:
        """The result. Raises NefiaError; the next call then connects anew."""
        try:
            self._client = self._client or AdminClient(self.path)
            return self._client.call(action, timeout=timeout, **params)
        except NefiaError:
            self.close()
            raise

    def status(self, timeout: float) -> dict[str, Any] | None:
        """None if it does not answer."""
        try:
            return self.ask("status", timeout)
        except NefiaError:
            return None

    def again(self) -> Way:
        return Way(self.node_id, self.path, self.pid)

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None


def find_ways(own: Way, cluster_id: str, members: Iterable[Mapping[str, Any]]) -> list[Way]:
    """`own`, then those of other members whose daemons run here and may be asked."""
    others = {member["id"]: member["address"] for member in members if not member["local"]}
    ways = [own]
    for node_id, pid in listeners_at(others).items():
        for path in unix_sockets_of(pid):
            way = Way(node_id, path, pid)
            if path.endswith(f"/{SOCKET_NAME}") and _leads_to(way, node_id, cluster_id):
                ways.append(way)
    return ways


def _leads_to(way: Way, node_id: str, cluster_id: str) -> bool:
    status = way.status(LOOK_SECONDS)
    found = status is not None and (status["node_id"], status["cluster_id"])
    return found == (node_id, cluster_id)
