"""The leader's services are exclusive: measured from outside, on real processes (issue 8).

`nox -s handovers` does the same a hundred times.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.end_to_end.handover_mutants import MUTANTS, Mutant
from tests.end_to_end.handovers import KINDS, HandOver, measure, violation
from tests.end_to_end.namespaces import needs_namespaces
from tests.end_to_end.patched import patched_tree, planted
from tests.end_to_end.test_disk import needs_strace

TRIALS = 2
WITHOUT_WAITING = "no wait for predecessors"
PLAIN = ("kill", "stutter", "sigterm", "transfer")
STUBBORN = ("kill_stubborn", "transfer_stubborn", "guard")
CUT = ("cut", "cut_incoming", "cut_outgoing")


def exclusive(names: Sequence[str]) -> None:
    hand_overs: dict[str, list[HandOver]] = {name: [] for name in names}
    for name, hand_over in measure(names, TRIALS):
        assert hand_over.overlaps == (), name
        hand_overs[name].append(hand_over)
    assert {name: len(each) for name, each in hand_overs.items()} == dict.fromkeys(names, TRIALS)
    assert all(each.gap > 0 for group in hand_overs.values() for each in group)


def test_services_of_two_leaders_never_meet() -> None:
    exclusive(PLAIN)


def test_services_of_a_leader_that_was_frozen_meet_no_others() -> None:
    exclusive(["freeze"])


def test_stubborn_services_of_two_leaders_never_meet() -> None:
    exclusive(STUBBORN)


@needs_strace
def test_a_hung_disk_does_not_let_them_meet() -> None:
    exclusive(["disk"])


@pytest.mark.netns
@needs_namespaces
def test_a_cut_network_does_not_let_them_meet() -> None:
    exclusive(CUT)


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_the_mutants_apply(mutant: Mutant) -> None:
    assert planted(mutant)
    assert mutant.kind in KINDS


def test_a_mutant_is_what_runs() -> None:
    mutant = MUTANTS[WITHOUT_WAITING]
    with patched_tree(mutant) as tree:
        where = [sys.executable, "-c", "import nefia; print(nefia.__file__)"]
        said = subprocess.check_output(where, text=True, cwd=tree)
        assert Path(said).parent == tree / "nefia"


def test_without_the_wait_for_predecessors_they_meet() -> None:
    """The others take longer: `nox -s handovers -- --mutants`."""
    assert violation(MUTANTS[WITHOUT_WAITING])
