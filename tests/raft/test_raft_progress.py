"""What the leader knows of a follower, and how much it sends ahead."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nefia.raft.configuration import Configuration
from nefia.raft.entries import SnapshotMeta
from nefia.raft.progress import (
    MAX_IN_FLIGHT_BYTES,
    MAX_IN_FLIGHT_MESSAGES,
    Mode,
    Progress,
)


def replicating(match_index: int = 10) -> Progress:
    progress = Progress(next_index=match_index + 1)
    progress.matched(match_index)
    assert progress.mode is Mode.REPLICATE
    return progress


def test_a_probe_is_one_message_at_a_time() -> None:
    progress = Progress(next_index=5)
    assert progress.may_send
    progress.sent(9, 100, 0.0)
    assert not progress.may_send
    assert progress.next_index == 5


def test_a_match_at_the_probed_position_opens_the_pipeline() -> None:
    progress = Progress(next_index=5)
    progress.sent(9, 100, 0.0)
    assert progress.matched(9)
    assert (progress.mode, progress.next_index, progress.match_index) == (Mode.REPLICATE, 10, 9)


def test_a_match_before_the_probed_position_does_not() -> None:
    progress = Progress(next_index=5)
    assert progress.matched(2)
    assert (progress.mode, progress.next_index) == (Mode.PROBE, 5)


def test_in_flight_messages_are_limited() -> None:
    progress = replicating()
    for index in range(11, 11 + MAX_IN_FLIGHT_MESSAGES):
        assert progress.may_send
        progress.sent(index, 1, 0.0)
    assert not progress.may_send
    progress.matched(11)
    assert progress.may_send


def test_in_flight_bytes_are_limited() -> None:
    progress = replicating()
    progress.sent(11, MAX_IN_FLIGHT_BYTES, 0.0)
    assert not progress.may_send
    progress.matched(11)
    assert progress.may_send


def test_a_match_answers_all_messages_up_to_it() -> None:
    progress = replicating()
    for index, at in ((11, 1.0), (12, 2.0), (13, 3.0)):
        progress.sent(index, 1, at)
    progress.matched(12)
    assert progress.unanswered_since() == 3.0
    progress.matched(13)
    assert progress.unanswered_since() is None


def test_a_late_answer_takes_nothing_back() -> None:
    progress = replicating(20)
    assert not progress.matched(15)
    assert (progress.match_index, progress.next_index) == (20, 21)


def test_a_refusal_moves_the_probe_back() -> None:
    progress = Progress(next_index=50)
    progress.sent(55, 1, 0.0)
    assert progress.refused(49, 8)
    assert (progress.next_index, progress.may_send) == (8, True)


def test_a_refusal_of_another_position_is_ignored() -> None:
    progress = Progress(next_index=50)
    progress.sent(55, 1, 0.0)
    assert not progress.refused(30, 8)
    assert (progress.next_index, progress.may_send) == (50, False)


def test_a_refusal_never_moves_the_probe_forward() -> None:
    progress = Progress(next_index=50)
    assert progress.refused(49, 70)
    assert progress.next_index == 49


def test_a_refusal_of_what_was_acknowledged_is_ignored() -> None:
    for progress in (replicating(10), Progress(next_index=11, match_index=10)):
        assert not progress.refused(10, 3)
        assert (progress.match_index, progress.next_index) == (10, 11)


def test_a_refusal_in_the_pipeline_starts_over_above_the_match() -> None:
    progress = replicating(10)
    progress.sent(11, 1, 0.0)
    progress.sent(12, 1, 0.0)
    assert progress.refused(11, 3)
    assert (progress.mode, progress.next_index) == (Mode.PROBE, 11)
    assert progress.unanswered_since() is None


def test_a_snapshot_stops_everything_until_it_is_installed() -> None:
    progress = replicating(10)
    progress.begin_snapshot()
    progress.snapshot = SnapshotMeta(40, 3, Configuration(), 1)
    assert not progress.may_send
    assert not progress.refused(9, 1)
    progress.matched(10)
    assert not progress.may_send
    progress.matched(40)
    assert (progress.mode, progress.next_index, progress.may_send) == (Mode.REPLICATE, 41, True)


def test_a_failed_snapshot_is_tried_again() -> None:
    progress = replicating(10)
    progress.begin_snapshot()
    progress.snapshot_failed()
    assert (progress.mode, progress.next_index, progress.may_send) == (Mode.PROBE, 11, True)


def test_nothing_is_sent_while_entries_are_read() -> None:
    progress = replicating()
    progress.fetching = True
    assert not progress.may_send


OPERATIONS = st.one_of(
    st.tuples(st.just("sent"), st.integers(1, 60)),
    st.tuples(st.just("matched"), st.integers(0, 60)),
    st.tuples(st.just("refused"), st.integers(0, 60), st.integers(1, 60)),
    st.tuples(st.sampled_from(["lost_messages", "begin_snapshot", "snapshot_failed"])),
)


@given(st.lists(OPERATIONS, max_size=40))
def test_match_never_goes_back_and_next_stays_above_it(
    operations: list[tuple[str | int, ...]],
) -> None:
    progress = Progress(next_index=20)
    for name, *numbers in operations:
        before = progress.match_index
        if name != "sent":
            getattr(progress, str(name))(*numbers)
        elif progress.may_send and progress.mode is Mode.REPLICATE:
            progress.sent(progress.next_index + int(numbers[0]), 1, 0.0)
        assert before <= progress.match_index < progress.next_index
