"""What else runs on the leader and nowhere else: its services (SPEC 9), as the node sees them."""

from __future__ import annotations

from typing import Any, Protocol

from nefia.errors import NotFound


class LeaderServices(Protocol):
    async def lead(self, term: int) -> None:
        """Run them for as long as this node leads `term`; in the leadership scope.

        Cancelled at the end of the lease, it returns once they have stopped, at the latest when
        the stop budget is over.
        """

    def renewed(self, lease_end: float) -> None:
        """The lease now ends at `lease_end`, on the node's clock."""

    async def stand_down(self, reason: str) -> bool:
        """Stop them in good order, and have that committed, before leadership is handed over.

        For the rest of the term none is started again, nor one that had not begun yet. False, and
        at once, if there are none.
        """

    def status(self) -> list[dict[str, Any]]:
        """Of each service, in order."""

    def restart(self, name: str) -> None:
        """Have it stopped and started again. Raises NotFound and ServiceFailed."""

    async def reload(self, name: str) -> None:
        """Have it take up its files anew. Raises NotFound and ServiceFailed."""


class NoServices:
    """Of a node that has none."""

    async def lead(self, term: int) -> None:
        pass

    def renewed(self, lease_end: float) -> None:
        pass

    async def stand_down(self, reason: str) -> bool:
        return False

    def status(self) -> list[dict[str, Any]]:
        return []

    def restart(self, name: str) -> None:
        raise _none_configured()

    async def reload(self, name: str) -> None:
        raise _none_configured()


def _none_configured() -> NotFound:
    return NotFound("this node has no services", hint="list them under services: in nefia.yaml")
