"""What all microbenchmarks work on: pushes of one task of 256 bytes each, and their entries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from nefia.raft.entries import Entry
from nefia.state.commands import Change, NewTask, PushTasks
from nefia.wire import batch_of, encode_change

T = TypeVar("T")

PAYLOAD = b'"' + b"x" * 254 + b'"'
BATCHES = (1, 64, 256)
"""How many changes arrive together."""


class Benchmark(Protocol):
    """What is used of pytest-benchmark's fixture."""

    def __call__(self, function: Callable[..., T], *args: Any) -> T: ...

    def pedantic(
        self,
        target: Callable[..., T],
        *,
        setup: Callable[[], tuple[tuple[Any, ...], dict[str, Any]]],
        rounds: int,
    ) -> T:
        """Time `target(*args, **kwargs)` of what `setup` gives, once a round."""
        ...


def push(time_ms: int = 1_000_000) -> Change:
    return Change(time_ms, "", PushTasks((NewTask(PAYLOAD),)))


def batch(size: int) -> bytes:
    """The payload of an entry that holds so many pushes."""
    return batch_of([encode_change(push())] * size)


def entries(first: int, count: int, payload: bytes = PAYLOAD) -> list[Entry]:
    return [Entry(index, 1, payload) for index in range(first, first + count)]
