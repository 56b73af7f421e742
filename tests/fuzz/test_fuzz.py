"""A short share of the fuzzing in every run; `nox -s fuzz` has the long sessions.

hypothesis drives the same mutations here, so that what it finds comes out as small as it can be.
"""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.mutation import mutated
from tests.fuzz.run import attack, input_of
from tests.fuzz.targets import TARGETS, Target

EXAMPLES = 150
INPUTS = 1500


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_hypothesis_finds_nothing(target: Target) -> None:
    seeds = target.seeds()
    random_bytes = st.randoms(use_true_random=False).map(lambda random: mutated(seeds, random))

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(random_bytes)
    def attempt(data: bytes) -> None:
        target.run(data)

    attempt()


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_share_of_the_long_session(target: Target) -> None:
    count = INPUTS * target.weight // 20
    assert attack(target, seed=0, first=0, count=count) == ""


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_what_is_right_is_among_the_inputs(target: Target) -> None:
    """Else they would all be refused at the first byte, and prove nothing of the rest."""
    inputs = {input_of(target, 0, number) for number in range(400)}
    assert any(seed in inputs for seed in target.seeds())
    for seed in target.seeds():
        target.run(seed)


def test_a_failure_is_told_with_the_command_that_repeats_it() -> None:
    def run(data: bytes) -> None:
        if b"\xff" in data:
            raise KeyError("a mistake")

    target = Target("planted", lambda: (b"abc",), run, 1)
    report = attack(target, seed=4, first=0, count=1000)
    assert "KeyError: 'a mistake'" in report
    number = int(report.split("--first ")[1].split()[0])
    with pytest.raises(KeyError):
        run(input_of(target, 4, number))


def test_mutations_depend_on_their_seed_alone() -> None:
    seeds = (b"one", b"two")
    assert mutated(seeds, Random(3)) == mutated(seeds, Random(3))
