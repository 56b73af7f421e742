"""Majorities."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nefia.raft.quorum import VoteResult, agreed_value, majority, vote_result

VOTERS = st.frozensets(st.sampled_from("abcdefg"), min_size=1)


@pytest.mark.parametrize(("size", "needed"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (7, 4)])
def test_majority(size: int, needed: int) -> None:
    assert majority("abcdefg"[:size]) == needed


@pytest.mark.parametrize("size", range(1, 7))
def test_any_two_majorities_overlap(size: int) -> None:
    voters = "abcdefg"[:size]
    sets = [set(chosen) for chosen in combinations(voters, majority(voters))]
    assert all(one & other for one in sets for other in sets)


@pytest.mark.parametrize("size", range(1, 7))
def test_majorities_overlap_across_a_single_server_change(size: int) -> None:
    """4.1: adding or removing one server keeps any two majorities overlapping."""
    old, new = "abcdefg"[:size], "abcdefg"[: size + 1]
    old_sets = [set(chosen) for chosen in combinations(old, majority(old))]
    new_sets = [set(chosen) for chosen in combinations(new, majority(new))]
    assert all(one & other for one in old_sets for other in new_sets)


@given(VOTERS, st.dictionaries(st.sampled_from("abcdefgxyz"), st.booleans()))
def test_vote_result(voters: frozenset[str], votes: dict[str, bool]) -> None:
    granted = [v for v in voters if votes.get(v) is True]
    open_ = [v for v in voters if v not in votes]
    if len(granted) > len(voters) / 2:
        expected = VoteResult.WON
    elif len(granted) + len(open_) > len(voters) / 2:
        expected = VoteResult.PENDING
    else:
        expected = VoteResult.LOST
    assert vote_result(voters, votes) is expected


def test_nobody_wins_without_voters() -> None:
    assert vote_result(frozenset(), {"a": True}) is VoteResult.LOST
    assert agreed_value(frozenset(), {"a": 7}) == 0


@given(VOTERS, st.dictionaries(st.sampled_from("abcdefgxyz"), st.integers(0, 20)))
def test_agreed_value_is_the_largest_that_a_majority_has(
    voters: frozenset[str], values: dict[str, int]
) -> None:
    agreed = agreed_value(voters, values)

    def reached(value: int) -> int:
        return sum(values.get(voter, 0) >= value for voter in voters)

    assert reached(agreed) >= majority(voters)
    assert reached(agreed + 1) < majority(voters)
