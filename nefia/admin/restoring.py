"""The steps of `nefia snapshot restore`, as the action `snapshot_restore` takes them."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator
from typing import TypeAlias

import msgspec

from nefia.errors import DataDamaged, InvalidArgument
from nefia.state.commands import BeginRestore, EndRestore, RestorePart
from nefia.state.limits import MAX_NUMBER
from nefia.state.records import Counters, Record, Session, Task

Step: TypeAlias = BeginRestore | RestorePart | EndRestore

PART_BYTES = 64 * 1024
"""Of the records of a part, which takes one record more: some milliseconds to apply."""
MAX_PART_TASKS = 500

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Step).decode


def encode_step(step: Step) -> str:
    return b64encode(_encode(step)).decode()


def restore_step(text: str) -> Step:
    """Raises InvalidArgument."""
    try:
        step: Step = _decode(b64decode(text, validate=True))
    except (msgspec.MsgspecError, ValueError) as error:
        raise InvalidArgument(f'"step" is no step of a restore: {error}') from error
    numbers = [value for value in msgspec.structs.astuple(step) if isinstance(value, int)]
    if not all(0 <= number <= MAX_NUMBER for number in numbers):
        raise InvalidArgument(f'"step" has a number that is not from 0 to {MAX_NUMBER}')
    return step


def steps(restore_id: str, records: Iterable[tuple[str, Record]], term: int) -> Iterator[Step]:
    """What brings the state of a snapshot, which was taken in `term`: its sessions and tasks.

    Its history is that of another time or cluster, and its request ids are of changes that need
    not have happened here; both stay behind. Raises DataDamaged.
    """
    source = iter(records)
    _, counters = next(source, ("", None))
    if not isinstance(counters, Counters):
        raise DataDamaged("the snapshot does not begin with its counters")
    yield BeginRestore(
        restore_id=restore_id,
        time_ms=counters.time_ms,
        last_task=counters.last_task,
        last_token=counters.last_token,
        ready_before_ms=counters.ready_before_ms,
        ready_before_task=counters.ready_before_task,
    )
    number = 0
    for sessions, tasks in _parts(source):
        yield RestorePart(restore_id, number, _encode(sessions), _encode(tasks))
        number += 1
    yield EndRestore(restore_id, number, max(term, counters.last_token))


def _parts(records: Iterable[tuple[str, Record]]) -> Iterator[tuple[list[Session], list[Task]]]:
    sessions: list[Session] = []
    tasks: list[Task] = []
    size_bytes = 0
    for _, record in records:
        match record:
            case Session():
                sessions.append(record)
                size_bytes += record.size_bytes
            case Task():
                tasks.append(record)
                size_bytes += len(record.payload) + len(record.result) + len(record.error)
            case _:
                continue
        if size_bytes >= PART_BYTES or len(tasks) >= MAX_PART_TASKS:
            yield sessions, tasks
            sessions, tasks, size_bytes = [], [], 0
    if sessions or tasks:
        yield sessions, tasks
