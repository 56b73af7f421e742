"""What seeds came to, and the table of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from attrs import define, field

from tests.simulation.history import Operation

FAULT = "fault "
"""Counts of what went wrong on purpose begin so."""

HEADLINES = (
    "elections won",
    "entries committed",
    "membership changes",
    "snapshots installed",
    "linearizability checks",
)
"""Counts that both simulators keep, in the order of the table."""


@define
class Report:
    """What one seed came to. `violation` is empty if all promises held."""

    seed: int
    violation: str = ""
    simulated_seconds: float = 0.0
    cpu_seconds: float = 0.0
    recovery_timeouts: float = 0.0
    counts: Counter[str] = field(factory=Counter)
    trace_hash: str = ""
    transcript: list[str] = field(factory=list)
    history: tuple[Operation, ...] = ()


@define
class Totals:
    """The sums over all seeds of one simulator; nothing of a single seed is kept.

    `compared`, `equal`: short seeds that were run under two hash seeds, and gave one history.
    """

    seeds: int = 0
    violations: int = 0
    simulated_seconds: float = 0.0
    cpu_seconds: float = 0.0
    slowest_recovery_timeouts: float = 0.0
    compared: int = 0
    equal: int = 0
    counts: Counter[str] = field(factory=Counter)

    def add(self, report: Report) -> None:
        self.seeds += 1
        self.violations += bool(report.violation)
        self.simulated_seconds += report.simulated_seconds
        self.cpu_seconds += report.cpu_seconds
        self.slowest_recovery_timeouts = max(
            self.slowest_recovery_timeouts, report.recovery_timeouts
        )
        self.counts += report.counts

    def rows(self) -> dict[str, str]:
        """The table's lines, in order; what was not counted is missing."""
        faults = sorted(name for name in self.counts if name.startswith(FAULT))
        speed = self.simulated_seconds / self.cpu_seconds if self.cpu_seconds else 0.0
        return {
            "seeds": f"{self.seeds:,}",
            "simulated hours (with healing)": f"{self.simulated_seconds / 3600:,.2f}",
            **{name: f"{self.counts[name]:,}" for name in HEADLINES},
            **{f"fault: {name.removeprefix(FAULT)}": f"{self.counts[name]:,}" for name in faults},
            "equal under two hash seeds": f"{self.equal} of {self.compared}"
            if self.compared
            else "-",
            "slowest recovery, election timeouts": f"{self.slowest_recovery_timeouts:.1f}",
            "simulated hours per CPU hour": f"{speed:,.0f}",
            "violations": f"{self.violations:,}",
        }

    def others(self) -> str:
        """What was counted besides."""
        return ", ".join(
            f"{name} {self.counts[name]:,}"
            for name in sorted(self.counts)
            if name not in HEADLINES and not name.startswith(FAULT)
        )


def table(totals: Mapping[str, Totals]) -> str:
    """In Markdown, a column for each simulator."""
    columns = {kind: total.rows() for kind, total in totals.items()}
    names = _merged([list(rows) for rows in columns.values()])
    lines = [f"| | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    for name in names:
        values = (rows.get(name, "-") for rows in columns.values())
        lines.append(f"| {name} | {' | '.join(values)} |")
    return "\n".join(lines)


def _merged(lists: Sequence[Sequence[str]]) -> list[str]:
    """All names once; what only a later list has comes behind its neighbour there."""
    merged: list[str] = []
    for names in lists:
        place = 0
        for name in names:
            if name in merged:
                place = merged.index(name) + 1
            else:
                merged.insert(place, name)
                place += 1
    return merged
