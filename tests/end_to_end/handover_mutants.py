"""What keeps two services from living at once, each taken away in a copy of the package.

python -m tests.end_to_end.handovers --mutants
"""

from __future__ import annotations

from collections.abc import Mapping

from attrs import field, frozen

from tests.end_to_end.patched import Patch


@frozen
class Mutant(Patch):
    """`kind`: the hand-over that shows what is missing, with `raft` as the settings."""

    kind: str
    raft: Mapping[str, str] = field(factory=dict)


LONG_BUDGET = {"heartbeat_timeout": "3s", "election_timeout": "3s"}
"""The service then lives for more than a second after its daemon, whose crash is seen at once."""


MUTANTS = {
    "no wait for predecessors": Mutant(
        "nefia/services/leadership.py",
        "await self._clock.sleep_until(raft.leader.clear_at)",
        "pass",
        "kill_stubborn",
        LONG_BUDGET,
    ),
    "released is taken for granted": Mutant(
        "nefia/services/leadership.py",
        "if machine.tenure_held and raft.leader is not None:",
        "if False:",
        "kill_stubborn",
        LONG_BUDGET,
    ),
    "the guard does not act at the end of the lease": Mutant(
        "nefia/guard/machine.py",
        "if tenure and not tenure.has_ended and now >= tenure.lease_end:",
        "if False:",
        "freeze",
    ),
    "the guard uses no force": Mutant(
        "nefia/guard/children.py",
        "        killed: set[int] = set()\n",
        "        return\n",
        "kill_stubborn",
    ),
    "the next guard does not sweep": Mutant(
        "nefia/guard/launch.py",
        "left = marked(mark)",
        "left: list[int] = []",
        "guard",
    ),
}
