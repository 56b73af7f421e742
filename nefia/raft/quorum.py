"""Majorities, as functions of who has what. Voters are counted, never messages."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from collections.abc import Set as AbstractSet
from enum import Enum


def majority(voters: Collection[str]) -> int:
    """How many of `voters` make a majority."""
    return len(voters) // 2 + 1


class VoteResult(Enum):
    PENDING = "pending"
    WON = "won"
    LOST = "lost"


def vote_result(voters: AbstractSet[str], votes: Mapping[str, bool]) -> VoteResult:
    """What `votes` (voter to granted) decide. Votes of others than `voters` do not count."""
    granted = sum(votes.get(voter) is True for voter in voters)
    refused = sum(votes.get(voter) is False for voter in voters)
    if not voters:
        return VoteResult.LOST
    if granted >= majority(voters):
        return VoteResult.WON
    if refused > len(voters) - majority(voters):
        return VoteResult.LOST
    if granted + refused == len(voters):
        return VoteResult.LOST
    return VoteResult.PENDING


def agreed_value(voters: AbstractSet[str], values: Mapping[str, int]) -> int:
    """The largest value that a majority of `voters` has reached; a missing value counts as 0.

    With match indexes it is the index that is stored by a majority (paper 5.3), with acknowledged
    rounds the newest round that a majority has answered (6.4).
    """
    if not voters:
        return 0
    ranked = sorted((values.get(voter, 0) for voter in voters), reverse=True)
    return ranked[majority(voters) - 1]
