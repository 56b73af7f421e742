"""The epoch: the high part of every term and of every task token (SPEC 9).

Within an epoch terms and tokens count up by one. What goes back behind acknowledged changes, that
is `cluster recover` and `snapshot restore`, cannot know how far the nodes and workers that it
leaves behind have counted, so it begins the next epoch: every later term and token is then larger
than any that may have been given out before, and `NEFIA_TERM` goes on growing.

How the two begin one, `first = first_of_next_epoch(every term and token it can see)`:

* recover writes one entry, the new configuration, with the term `first` and makes that the node's
  term; `Machine.configure` raises the tokens when it applies the entry.
* restore goes through the log: its last command raises the tokens to `first`
  (`commands.EndRestore`), and whoever leads then has itself elected for the term `first`
  (`Raft.begin_epoch`).

A counter that runs over its part merely begins the next epoch by itself: the order stays right.
"""

from __future__ import annotations

EPOCH_SHIFT = 40
"""2^40 elections or claims an epoch, 35 years of 1000 claims a second; and 2^13 epochs below 2^53,
up to where JSON numbers are exact everywhere."""


def epoch_of(number: int) -> int:
    """The epoch of a term or a token."""
    return number >> EPOCH_SHIFT


def first_of_epoch(number: int) -> int:
    """The smallest number of the epoch of `number`."""
    return epoch_of(number) << EPOCH_SHIFT


def first_of_next_epoch(*numbers: int) -> int:
    """The smallest number of the epoch after that of the largest of `numbers`."""
    return (epoch_of(max(numbers)) + 1) << EPOCH_SHIFT
