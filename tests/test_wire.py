"""Bytes from outside decode to what was meant, or are `Malformed`; and formats never drift.

`python -m tests.test_wire` (from the project's root) writes fixtures/wire/ anew, which only a
deliberate change of a format calls for.
"""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any, get_args

import msgpack
import pytest
from attrs import evolve, frozen
from hypothesis import given, settings
from hypothesis import strategies as st

from nefia import wire
from nefia.raft import messages as m
from nefia.raft.configuration import Configuration, Member, Note
from nefia.raft.entries import Entry, SnapshotMeta
from nefia.state import commands as c
from nefia.state.commands import Batch, Change
from nefia.state.records import Outcome, Record, TaskState
from nefia.wire import MESSAGES, RECORDS, Codec, Malformed, decode_batch
from tests import wire_records

FIXTURES = Path(__file__).parent.parent / "fixtures" / "wire"

TWO_MEMBERS = Configuration(
    (
        Member("node-1", "10.99.0.1:9700", voter=True, instance="00112233aabbccdd", features=1),
        Member("node-2", "[fd00::2]:9700", voter=False, promote=True),
    ),
    Note("added", "node-2", "more room", 1_234_567, 0),
)
ENTRIES = (Entry(8, 3), Entry(9, 3, b'{"n": 1}'), Entry(10, 3, TWO_MEMBERS))
SNAPSHOT = SnapshotMeta(7, 2, TWO_MEMBERS, 5)
LINE: dict[str, Any] = {"sender": "node-1", "recipient": "node-2", "term": 3}
TASK = c.NewTask(b'"a"', "mail", "web-1", -5, 250, "once", 7)

MESSAGE_EXAMPLES: tuple[m.Message, ...] = (
    m.PreVote(**LINE, round=4, last_log_index=9, last_log_term=2),
    m.PreVoteReply(**LINE, round=4, granted=False, removed_by=12),
    m.RequestVote(**LINE, last_log_index=9, last_log_term=2, transfer=True),
    m.VoteReply(**LINE, granted=True, tenure_left_ms=700),
    m.AppendEntries(
        **LINE,
        prev_log_index=7,
        prev_log_term=2,
        entries=ENTRIES,
        commit_index=6,
        round=70_000,
        tenure_ms=1000,
    ),
    m.AppendReply(**LINE, round=2**40, success=False, prev_log_index=7, hint_index=5, hint_term=1),
    m.InstallSnapshot(**LINE, snapshot=SNAPSHOT, round=5),
    m.InstallSnapshotReply(**LINE, match_index=7, round=5),
    m.TimeoutNow(**LINE),
)

COMMAND_EXAMPLES: tuple[c.Command, ...] = (
    c.OpenSession("0011aabb", "web-1", "/", "/srv", "root", "sh", {"env": "prod"}, 60_000, 1),
    c.TouchSession("0011aabb"),
    c.UpdateSession("0011aabb", "/srv", {"env": "prod", "": "é"}),
    c.UpdateSession("0011aabb", None, None),
    c.CloseSession("0011aabb"),
    c.PushTasks((TASK, c.NewTask(b"[1, 2.5]"))),
    c.ClaimTasks("worker-1", "mail", "", 30_000, 2),
    c.ExtendTask("t-1", 2**33, 1000),
    c.AckTask("t-1", 7, b"null"),
    c.FailTask("t-1", 7, "no route", None),
    c.FailTask("t-1", 7, "no route", 500),
    c.CancelTask("t-1"),
    c.RetryTask("t-1"),
    c.AdvanceTime(),
    c.RecordEvent("elected", "node-1", 3, "it timed out", "", 1_790_000_000_000),
    c.SetRetention(3_600_000, 60_000),
    c.BeginRestore("r-1", 1_000, 3, 2**41, 1_001, 0),
    c.RestorePart("r-1", 0, b"\x90", b"\x90"),
    c.EndRestore("r-1", 1, 2**42),
    c.AcquireTenure(7),
    c.ReleaseTenure(7),
    c.Remember("wg0", "key=", "192.0.2.7:51820"),
    c.ApplicationCommand("counter", b"\x00\xff"),
)

CHANGE_EXAMPLES = tuple(Change(1_234_567, "r-1", command) for command in COMMAND_EXAMPLES)
BATCH_EXAMPLES = (*(Batch((change,)) for change in CHANGE_EXAMPLES), Batch(CHANGE_EXAMPLES[:2]))


def encode_batch(batch: Batch) -> bytes:
    return wire.batch_of([wire.encode_change(change) for change in batch.changes])


def render() -> dict[str, str]:
    """The text of each fixture file: a value on one line, its bytes on the next."""
    encoded: dict[str, list[tuple[object, bytes]]] = {
        "messages.txt": [(value, MESSAGES.encode(value)) for value in MESSAGE_EXAMPLES],
        "batches.txt": [(value, encode_batch(value)) for value in BATCH_EXAMPLES],
        "entries.txt": [(value, wire.encode_entry(value)) for value in ENTRIES],
        "configurations.txt": [(TWO_MEMBERS, wire.encode_configuration(TWO_MEMBERS))],
        "records.txt": [(value, RECORDS.encode(value)) for value in wire_records.RECORDS],
    }
    return {
        name: "".join(f"{value!r}\n  {data.hex(' ')}\n" for value, data in pairs)
        for name, pairs in encoded.items()
    }


def recorded(name: str) -> list[bytes]:
    lines = (FIXTURES / name).read_text(encoding="utf-8").splitlines()
    return [bytes.fromhex(line) for line in lines if line.startswith("  ")]


@pytest.mark.parametrize(
    "name", ["messages.txt", "batches.txt", "entries.txt", "configurations.txt", "records.txt"]
)
def test_encodings_are_as_recorded(name: str) -> None:
    assert render()[name] == (FIXTURES / name).read_text(encoding="utf-8")


def test_recorded_bytes_still_decode() -> None:
    assert tuple(map(MESSAGES.decode, recorded("messages.txt"))) == MESSAGE_EXAMPLES
    assert tuple(map(decode_batch, recorded("batches.txt"))) == BATCH_EXAMPLES
    assert tuple(map(wire.decode_entry, recorded("entries.txt"))) == ENTRIES
    assert wire.decode_configuration(recorded("configurations.txt")[0]) == TWO_MEMBERS
    assert tuple(map(RECORDS.decode, recorded("records.txt"))) == wire_records.RECORDS
    assert tuple(RECORDS.decode_all(list(recorded("records.txt")))) == wire_records.RECORDS


def test_one_that_does_not_decode_spoils_those_beside_it() -> None:
    sound = RECORDS.encode(wire_records.RECORDS[0])
    assert RECORDS.decode_all([]) == []
    for spoilt in (b"", b"\xff", sound[:-1], sound + b"\0"):
        with pytest.raises(Malformed, match=f"^{len(sound + spoilt)} bytes do not decode"):
            RECORDS.decode_all([sound, spoilt])


def test_every_class_has_an_example() -> None:
    assert {type(value) for value in MESSAGE_EXAMPLES} == set(get_args(m.Message))
    assert {type(value) for value in COMMAND_EXAMPLES} == set(get_args(c.Command))
    assert {type(value) for value in wire_records.RECORDS} == set(get_args(Record))
    assert {type(value) for value in wire_records.OUTCOMES} == set(get_args(Outcome))


def test_the_state_of_a_task_decodes_as_what_it_is() -> None:
    task = RECORDS.decode(RECORDS.encode(wire_records.task(1, TaskState.DEAD)))
    assert type(getattr(task, "state", None)) is TaskState
    with pytest.raises(Malformed):
        RECORDS.decode(RECORDS.encode(task).replace(b"\xa4dead", b"\xa4deaf"))


# Round trips.

int64 = st.integers(-(2**63), 2**64 - 1)
positive = st.integers(1, 2**63)
members = st.builds(
    Member,
    st.text(max_size=9),
    st.text(max_size=9),
    st.booleans(),
    st.booleans(),
    st.text(max_size=9),
    int64,
)
notes = st.builds(Note, st.text(), st.text(), st.text(), int64, int64)
configurations = st.builds(
    Configuration, st.lists(members, max_size=4, unique_by=lambda member: member.id), notes
)
entries = st.builds(Entry, positive, positive, st.none() | st.binary() | configurations)
tasks = st.builds(c.NewTask, st.binary(), st.text(), st.text(), int64, int64, st.text(), int64)
some_commands = st.one_of(
    st.builds(c.PushTasks, st.lists(tasks, max_size=4).map(tuple)),
    st.builds(c.FailTask, st.text(), int64, st.text(), st.none() | int64),
    st.builds(
        c.UpdateSession,
        st.text(),
        st.none() | st.text(),
        st.none() | st.dictionaries(st.text(), st.text()),
    ),
)


@given(entries)
def test_an_entry_survives(entry: Entry) -> None:
    assert wire.decode_entry(wire.encode_entry(entry)) == entry


some_changes = st.builds(Change, int64, st.text(), some_commands)


@given(st.lists(some_changes, max_size=3).map(tuple))
def test_a_batch_survives(changes: tuple[Change, ...]) -> None:
    batch = Batch(changes)
    assert decode_batch(encode_batch(batch)) == batch


@frozen
class Inner:
    weight: float
    note: str | None = None


@frozen(kw_only=True)
class Greeting:
    version: int
    parts: tuple[Inner, ...]
    labels: dict[str, str]
    secret: bytes
    final: bool = False


@frozen
class Farewell:
    pass


GREETINGS: Codec[Greeting | Farewell] = Codec({7: Greeting, 8: Farewell})
GREETING = Greeting(
    version=3, parts=(Inner(1.5), Inner(-0.0, "n")), labels={"a": "b"}, secret=b"\x00", final=True
)


def test_other_packages_make_codecs_of_their_own() -> None:
    assert GREETINGS.decode(GREETINGS.encode(GREETING)) == GREETING
    assert GREETINGS.decode(GREETINGS.encode(Farewell())) == Farewell()
    assert GREETINGS.encode(Farewell()) == bytes([8, 0x90])


def test_an_integer_in_a_float_field_is_sent_as_a_float() -> None:
    greeting = evolve(GREETING, parts=(Inner(2),))
    decoded = GREETINGS.decode(GREETINGS.encode(greeting))
    assert isinstance(decoded, Greeting)
    assert type(decoded.parts[0].weight) is float


# What is refused.

GOOD: list[Any] = [3, [[1.5, None]], {"a": "b"}, b"s", False]


def greeting_bytes(position: int, value: object) -> bytes:
    fields = list(GOOD)
    fields[position] = value
    packed: bytes = msgpack.packb(fields)
    return b"\x07" + packed


def test_the_unspoilt_greeting_decodes() -> None:
    assert isinstance(GREETINGS.decode(greeting_bytes(0, 4)), Greeting)


@pytest.mark.parametrize(
    ("position", "value"),
    [
        (0, 3.7),
        (0, 3.0),
        (0, True),
        (0, "3"),
        (0, None),
        (1, [[1, None]]),
        (1, [[float("nan"), None]]),
        (1, [[float("inf"), None]]),
        (1, [[1.5, 3]]),
        (1, [[1.5, b"bytes"]]),
        (1, [[1.5, None, None]]),
        (1, [[]]),
        (1, {}),
        (1, "ab"),
        (1, None),
        (2, {"a": 1}),
        (2, {b"a": "b"}),
        (2, [["a", "b"]]),
        (3, "text"),
        (3, [115]),
        (4, "false"),
        (4, 0),
        (4, msgpack.Timestamp(1)),
        (4, msgpack.ExtType(5, b"")),
    ],
)
def test_nothing_is_converted(position: int, value: object) -> None:
    with pytest.raises(Malformed):
        GREETINGS.decode(greeting_bytes(position, value))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"\x07",
        b"\x09\x90",
        b"\x08\x91\x00",
        b"\x08\x90\x00",
        b"\x08\xc1",
        b"\x08\x80",
        b"\x08\xdd\xff\xff\xff\xff",
        b"\x08\xdf\xff\xff\xff\xff",
        b"\x08\xc6\xff\xff\xff\xff",
        b"\x07" + b"\x91" * 100_000,
        b"\x07" + b"\x81" * 100_000,
        b"\x07\x95\x03\x90\x81\xa1a\xa1\xff\xc4\x00\xc2",
    ],
    ids=lambda data: data[:8].hex(),
)
def test_garbage_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed) as caught:
        GREETINGS.decode(data)
    assert len(str(caught.value)) < wire.MAX_REASON_CHARACTERS + 100


def test_more_than_the_limit_is_not_even_looked_at() -> None:
    with pytest.raises(Malformed, match="more than"):
        GREETINGS.decode(b"\x08\x90" + bytes(wire.MAX_ENCODED_BYTES))


def packed_entry(*fields: object) -> bytes:
    packed: bytes = msgpack.packb(fields)
    return packed


@pytest.mark.parametrize(
    "data",
    [
        packed_entry(0, 1, None),
        packed_entry(1, 0, None),
        packed_entry(True, 1, None),
        packed_entry(1, 1.0, None),
        packed_entry(1, 1, "text"),
        packed_entry(1, 1, 5),
        packed_entry(1, 1, {}),
        packed_entry(1, 1),
        packed_entry(1, 1, [[["a", "b:1", True], ["a", "c:1", True]]]),
        packed_entry(1, 1, None) + b"\x00",
        msgpack.packb("abc"),
    ],
    ids=lambda data: data.hex(),
)
def test_what_is_no_entry_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        wire.decode_entry(data)


def test_entries_with_a_gap_are_malformed() -> None:
    append = MESSAGE_EXAMPLES[4]
    assert isinstance(append, m.AppendEntries)
    gap = evolve(append, entries=(Entry(8, 3), Entry(10, 3)))
    with pytest.raises(Malformed, match="consecutive"):
        MESSAGES.decode(MESSAGES.encode(gap))


def test_an_unknown_command_is_malformed() -> None:
    for command in ([99], [True, "id"], [2], [12, "more"], "ab"):
        with pytest.raises(Malformed):
            decode_batch(b"\x01" + msgpack.packb([[[1, "", command]]]))


def test_bytes_from_before_a_field_was_added_decode() -> None:
    request = MESSAGE_EXAMPLES[2]
    assert isinstance(request, m.RequestVote)
    with_all_fields = MESSAGES.encode(request)
    older = b"\x03" + msgpack.packb(msgpack.unpackb(with_all_fields[1:])[:-1])
    assert MESSAGES.decode(older) == evolve(request, transfer=False)


@pytest.mark.parametrize("text", ["\ud800", "a\udfff"])
def test_a_lone_surrogate_cannot_be_encoded(text: str) -> None:
    with pytest.raises(UnicodeEncodeError):
        wire.encode_change(Change(1, text, c.AdvanceTime()))


# Anything at all decodes to a value or is malformed.


@given(st.binary(max_size=200))
def test_random_bytes(data: bytes) -> None:
    for decode in (MESSAGES.decode, decode_batch, GREETINGS.decode):
        try:
            decode(data)
        except Malformed:
            continue


def damaged(data: bytes, random: Random) -> bytes:
    at = random.randrange(len(data))
    match random.randrange(4):
        case 0:
            return data[:at] + bytes([random.randrange(256)]) + data[at + 1 :]
        case 1:
            return data[:at]
        case 2:
            return data[:at] + random.randbytes(random.randrange(1, 6)) + data[at:]
        case _:
            return data[:at] + data[random.randrange(len(data)) :]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32))
def test_damaged_encodings(seed: int) -> None:
    random = Random(seed)
    for message in MESSAGE_EXAMPLES:
        try:
            decoded = MESSAGES.decode(damaged(MESSAGES.encode(message), random))
        except Malformed:
            continue
        assert MESSAGES.decode(MESSAGES.encode(decoded)) == decoded
    for batch in BATCH_EXAMPLES:
        try:
            decoded_batch = decode_batch(damaged(encode_batch(batch), random))
        except Malformed:
            continue
        assert decode_batch(encode_batch(decoded_batch)) == decoded_batch


if __name__ == "__main__":
    for file_name, text in render().items():
        (FIXTURES / file_name).write_text(text, encoding="utf-8")
