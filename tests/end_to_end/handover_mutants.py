"""What keeps two services from living at once, each taken away in a copy of the package.

python -m tests.end_to_end.handovers --mutants
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from attrs import field, frozen

ROOT = Path(__file__).parents[2]


@frozen
class Mutant:
    """`old` stands exactly once in `file`. `kind`: the hand-over that shows what is missing, with
    `raft` as the settings."""

    file: str
    old: str
    new: str
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


def planted(mutant: Mutant) -> str:
    """The file with the mechanism taken away."""
    text = (ROOT / mutant.file).read_text()
    assert text.count(mutant.old) == 1, f"{mutant.file} has changed: {mutant.old}"
    return text.replace(mutant.old, mutant.new)


@contextmanager
def planted_tree(mutant: Mutant) -> Iterator[Path]:
    """A directory with the changed package, from which `python -m nefia` runs it."""
    with tempfile.TemporaryDirectory(prefix="nefia-mutant-") as name:
        tree = Path(name)
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "nefia", tree / "nefia", ignore=ignored)
        (tree / mutant.file).write_text(planted(mutant))
        yield tree
