"""What a drill has shown: gaps, and whether what nefia promises has held. Pure."""

from __future__ import annotations

import itertools
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from attrs import asdict, frozen

SHOWN_NUMBERS = 5
"""Of changes that are missing or there twice, so many are named."""


@frozen
class Leader:
    node_id: str
    term: int


@frozen
class Acknowledged:
    """A change by its number, and when it was acknowledged, in seconds of one monotonic clock."""

    number: int
    at: float


@frozen
class Gap:
    """Between two acknowledgements that follow each other, in seconds."""

    began: float
    ended: float

    @property
    def seconds(self) -> float:
        return self.ended - self.began


@frozen
class Node:
    """One node at the end: what it has applied, and the numbers of all changes that it holds."""

    applied_index: int
    digest: str
    changes: tuple[int, ...]


@frozen
class Evidence:
    """All that was seen.

    `acted_at` is when the leader was taken away, None if an operator did it by hand. `claims` are
    terms and who said to lead them. `digests` are, by applied index, the nodes by their digests.
    `services` are the names of those that ran before, `services_ran_at` is when the last of them
    ran again, None if that was not seen. `leader_index` is the last index of the leader at the
    end, and `missing` are the voters that it does not hear then.
    """

    kind: str
    before: Leader
    after: Leader | None
    acted_at: float | None
    acknowledged: Sequence[Acknowledged]
    claims: frozenset[tuple[int, str]]
    digests: Mapping[int, Mapping[str, str]]
    nodes: Mapping[str, Node]
    services: tuple[str, ...]
    services_ran_at: float | None
    leader_index: int
    missing: tuple[str, ...]


@frozen
class Finding:
    """`promise` is what should hold, `detail` what it was judged by or what broke it."""

    promise: str
    holds: bool
    detail: str


@frozen
class Report:
    """Times are milliseconds; None where there was nothing to measure."""

    kind: str
    by_hand: bool
    before: Leader
    after: Leader | None
    acknowledged: int
    usual_ms: float | None
    gap_ms: float | None
    services: tuple[str, ...]
    services_gap_ms: float | None
    compared: tuple[str, ...]
    missing: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        return all(finding.holds for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"passed": self.passed}


def judge(seen: Evidence) -> Report:
    gap = longest_gap(seen.acknowledged, seen.acted_at)
    return Report(
        kind=seen.kind,
        by_hand=seen.acted_at is None,
        before=seen.before,
        after=seen.after,
        acknowledged=len(seen.acknowledged),
        usual_ms=_usual_ms(seen.acknowledged),
        gap_ms=_ms(gap.seconds) if gap and seen.after else None,
        services=seen.services,
        services_gap_ms=_services_gap_ms(seen, gap),
        compared=tuple(sorted(seen.nodes)),
        missing=seen.missing,
        findings=tuple(_findings(seen)),
    )


def longest_gap(acknowledged: Sequence[Acknowledged], since: float | None) -> Gap | None:
    """The longest that ended at `since` or later; of all where that is None."""
    times = [each.at for each in acknowledged]
    gaps = (Gap(*pair) for pair in itertools.pairwise(times))
    late = (gap for gap in gaps if since is None or gap.ended >= since)
    return max(late, key=lambda gap: gap.seconds, default=None)


def _usual_ms(acknowledged: Sequence[Acknowledged]) -> float | None:
    pairs = itertools.pairwise(acknowledged)
    between = [later.at - earlier.at for earlier, later in pairs]
    return _ms(statistics.median(between)) if between else None


def _services_gap_ms(seen: Evidence, gap: Gap | None) -> float | None:
    """From the leader's end, or the last change before it, until all services ran again."""
    began = gap.began if seen.acted_at is None and gap else seen.acted_at
    if not seen.services or seen.services_ran_at is None or began is None:
        return None
    return _ms(max(seen.services_ran_at - began, 0.0))


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)


def _findings(seen: Evidence) -> Iterator[Finding]:
    yield _taken_over(seen)
    yield _once(seen)
    yield _one_leader(seen)
    yield _equal(seen)
    if seen.services:
        running = seen.services_ran_at is not None
        detail = ", ".join(seen.services)
        yield Finding("all services run again", running, detail)


def _taken_over(seen: Evidence) -> Finding:
    after = seen.after
    detail = f"{after.node_id} leads in term {after.term}" if after else "none was seen in time"
    return Finding("another leader takes changes", after is not None, detail)


def _once(seen: Evidence) -> Finding:
    """On every node that answers; a change whose acknowledgement was lost may be there too."""
    promise = "every acknowledged change is there once"
    wanted = [each.number for each in seen.acknowledged]
    for node_id, node in sorted(seen.nodes.items()):
        held = Counter(node.changes)
        lost = [number for number in wanted if not held[number]]
        twice = [number for number, times in held.items() if times > 1]
        if lost:
            return Finding(promise, False, f"{node_id} lacks {_some(lost)}")
        if twice:
            return Finding(promise, False, f"{node_id} has more than once: {_some(twice)}")
    if not seen.nodes:
        return Finding(promise, False, "no node could be asked")
    return Finding(promise, True, f"{len(wanted)} on {_listed(seen.nodes)}")


def _one_leader(seen: Evidence) -> Finding:
    by_term: dict[int, set[str]] = {}
    for term, node_id in seen.claims:
        by_term.setdefault(term, set()).add(node_id)
    for term, nodes in sorted(by_term.items()):
        if len(nodes) > 1:
            return Finding("one leader a term", False, f"term {term}: {_listed(nodes)}")
    terms = ", ".join(f"{term}: {_listed(nodes)}" for term, nodes in sorted(by_term.items()))
    return Finding("one leader a term", True, terms)


def _equal(seen: Evidence) -> Finding:
    promise = "all nodes hold the same"
    for index, holders in sorted(seen.digests.items()):
        if len(holders) > 1:
            nodes = ", ".join(f"{node} has {digest}" for digest, node in sorted(holders.items()))
            return Finding(promise, False, f"at index {index} {nodes}")
    behind = [
        f"{node_id} has applied {node.applied_index} of {seen.leader_index}"
        for node_id, node in sorted(seen.nodes.items())
        if node.applied_index < seen.leader_index
    ]
    if behind or not seen.nodes:
        return Finding(promise, False, "; ".join(behind) or "no node could be asked")
    return Finding(promise, True, _listed(seen.nodes))


def _some(numbers: Sequence[int]) -> str:
    named = ", ".join(map(str, sorted(numbers)[:SHOWN_NUMBERS]))
    more = len(numbers) - SHOWN_NUMBERS
    return f"{named} and {more} more" if more > 0 else named


def _listed(nodes: Mapping[str, object] | set[str]) -> str:
    return ", ".join(sorted(nodes))
