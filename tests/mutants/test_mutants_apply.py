"""The table of mutants still fits the program; whether all are noticed is `nox -s mutants`."""

from __future__ import annotations

from pathlib import Path

import pytest
from attrs import evolve

from tests.mutants.mistakes import MISTAKES, Mutant
from tests.mutants.mutants import MUTANTS
from tests.mutants.run import ROOT, SIMULATOR, NotApplicable, Verdict, judged, planted, row


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_can_be_planted(mutant: Mutant) -> None:
    """In exactly one place, as a program that can still be compiled, judged by tests that exist."""
    compile(planted(mutant), mutant.file, "exec")
    assert mutant.tests
    for test in mutant.tests:
        path, _, name = test.partition("::")
        assert f"def {name}" in (ROOT / path).read_text()


def test_every_mistake_has_a_mutant() -> None:
    assert {mutant.mistake for mutant in MUTANTS} == MISTAKES.keys()
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize("text", ["", "x = 1\nx = 1\n"])
def test_a_mutant_whose_place_has_changed_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "changed.py").write_text(text)
    mutant = evolve(MUTANTS[0], file="changed.py", old="x = 1\n")
    with pytest.raises(NotApplicable, match="not once"):
        planted(mutant, tmp_path)


def test_the_simulator_notices_a_mistake() -> None:
    """Or nothing would ever fail in the simulations that CI runs."""
    lease = next(mutant for mutant in MUTANTS if mutant.name == "the lease survives handing over")
    verdict = judged(lease, seeds=3, seconds=30.0)
    assert verdict.by.startswith(SIMULATOR)
    assert verdict.seeds_without is not None


def test_a_row_says_what_noticed_it_and_when() -> None:
    of_simulator = Verdict("simulator, seed 3: n1 | n2", 2)
    assert row(MUTANTS[0], of_simulator).endswith("| simulator, seed 3: n1 / n2 | 2 |")
    assert row(MUTANTS[0], Verdict("test: tests/x.py::y")).endswith(
        "| `tests/x.py::y` | not asked |"
    )
    assert row(MUTANTS[0], Verdict("", 200)).endswith("| SURVIVED | 200 |")
