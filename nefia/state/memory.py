"""What services have learned, for their successors on other nodes (SPEC 9)."""

from __future__ import annotations

from collections.abc import Iterable

from nefia.state.commands import Remember
from nefia.state.digest import Table
from nefia.state.limits import MAX_MEMORIES
from nefia.state.records import Memory, Outcome, Refusal, TimeOutcome


class Memories:
    """By service and key, at most `MAX_MEMORIES`."""

    def __init__(self, memories: Iterable[Memory]) -> None:
        self.table: Table[tuple[str, str], Memory] = Table(
            ((each.service, each.key), each) for each in memories
        )

    def remember(self, command: Remember, now: int) -> Outcome:
        place = command.service, command.key
        if not command.value:
            if place in self.table.records:
                self.table.remove(place)
        elif place not in self.table.records and len(self.table.records) >= MAX_MEMORIES:
            return Refusal("overloaded", f"{MAX_MEMORIES} things are remembered already.")
        else:
            self.table.put(place, Memory(*place, command.value, now))
        return TimeOutcome()

    def of(self, service: str) -> dict[str, str]:
        """What is remembered for a service, by key in order."""
        return {key: each.value for (name, key), each in self.in_order() if name == service}

    def in_order(self) -> list[tuple[tuple[str, str], Memory]]:
        return sorted(self.table.records.items())
