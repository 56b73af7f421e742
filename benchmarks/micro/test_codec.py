"""Values to bytes and back: changes, and the messages that carry their entries."""

from __future__ import annotations

import pytest

from benchmarks.micro.samples import BATCHES, Benchmark, batch, entries, push
from nefia.raft.messages import AppendEntries, AppendReply
from nefia.wire import (
    MESSAGES,
    batch_of,
    decode_batch,
    decode_entry,
    encode_change,
    encode_entry,
)

pytestmark = pytest.mark.benchmark(group="codec")

REPLY = AppendReply(sender="b", recipient="a", term=1, round=7, success=True, match_index=1000)


def append_entries(size: int) -> AppendEntries:
    return AppendEntries(
        sender="a",
        recipient="b",
        term=1,
        prev_log_index=999,
        prev_log_term=1,
        entries=tuple(entries(1000, 1, batch(size))),
        commit_index=999,
        round=7,
        cluster_ms=1_000_000,
    )


@pytest.mark.parametrize("size", BATCHES)
def test_write_a_batch_of_changes(benchmark: Benchmark, size: int) -> None:
    changes = [push()] * size
    assert benchmark(lambda: batch_of([encode_change(change) for change in changes])) == batch(size)


@pytest.mark.parametrize("size", BATCHES)
def test_read_a_batch_of_changes(benchmark: Benchmark, size: int) -> None:
    assert benchmark(decode_batch, batch(size)).changes == (push(),) * size


@pytest.mark.parametrize("size", BATCHES)
def test_write_append_entries(benchmark: Benchmark, size: int) -> None:
    message = append_entries(size)
    assert MESSAGES.decode(benchmark(MESSAGES.encode, message)) == message


@pytest.mark.parametrize("size", BATCHES)
def test_read_append_entries(benchmark: Benchmark, size: int) -> None:
    message = append_entries(size)
    assert benchmark(MESSAGES.decode, MESSAGES.encode(message)) == message


def test_write_a_reply(benchmark: Benchmark) -> None:
    assert MESSAGES.decode(benchmark(MESSAGES.encode, REPLY)) == REPLY


def test_read_a_reply(benchmark: Benchmark) -> None:
    assert benchmark(MESSAGES.decode, MESSAGES.encode(REPLY)) == REPLY


def test_an_entry_for_the_disk(benchmark: Benchmark) -> None:
    [entry] = entries(1, 1, batch(64))
    assert benchmark(lambda: decode_entry(encode_entry(entry))) == entry
