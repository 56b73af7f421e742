"""What is refused before it is proposed."""

from __future__ import annotations

from typing import get_args

import pytest
from msgspec.structs import replace

from nefia.errors import InvalidArgument, NefiaError, TooLarge
from nefia.state import commands, limits
from nefia.state.commands import (
    AckTask,
    AdvanceTime,
    CancelTask,
    ClaimTasks,
    CloseSession,
    Command,
    ExtendTask,
    FailTask,
    NewTask,
    PushTasks,
    RetryTask,
    SetRetention,
    TouchSession,
    UpdateSession,
)
from nefia.state.limits import validate
from nefia.state.requests import _CONTENT
from tests.state.state_driver import NEW_SESSION

CLAIM = ClaimTasks("worker", "default", "", 30_000, 1)
TASK = NewTask(b"1")
ID = NEW_SESSION.id

GOOD: list[Command] = [
    commands.AcquireTenure(1),
    commands.Remember("wg0", "key=", ""),
    commands.ApplicationCommand("counter", b"x" * limits.MAX_APPLICATION_BYTES),
    commands.ApplicationCommand("n" * limits.MAX_MACHINE_NAME_BYTES, b""),
    NEW_SESSION,
    replace(NEW_SESSION, root="", cwd="", user="", shell="", labels={"a b": "multi\nline"}),
    TouchSession(ID[:8]),
    UpdateSession(ID, None, None),
    UpdateSession(ID, "/tmp", {}),
    CloseSession(ID),
    PushTasks((TASK,) * limits.MAX_PUSH_TASKS),
    PushTasks((NewTask(b"x" * limits.MAX_PAYLOAD_BYTES, "q", "h", -1_000_000, 0, "k\u00e9y", 1),)),
    CLAIM,
    replace(CLAIM, queue="", lease_ms=limits.MIN_LEASE_MS, limit=limits.MAX_CLAIM_TASKS),
    ExtendTask("1", 1, limits.MAX_LEASE_MS),
    AckTask("18446744073709551615", 1, b"null"),
    FailTask("1", 1, "", None),
    FailTask("1", 1, "a\nb", 0),
    CancelTask("1"),
    RetryTask("1"),
    AdvanceTime(),
    SetRetention(60_000, 60_000),
]

BAD: list[tuple[type[NefiaError], Command]] = [
    (InvalidArgument, commands.ApplicationCommand("", b"")),
    (TooLarge, commands.ApplicationCommand("n" * (limits.MAX_MACHINE_NAME_BYTES + 1), b"")),
    (TooLarge, commands.ApplicationCommand("counter", b"x" * (limits.MAX_APPLICATION_BYTES + 1))),
    (InvalidArgument, replace(NEW_SESSION, host="")),
    (InvalidArgument, replace(NEW_SESSION, host="a\nb")),
    (InvalidArgument, replace(NEW_SESSION, user="\ud800")),
    (InvalidArgument, replace(NEW_SESSION, cwd="\ud800")),
    (InvalidArgument, replace(NEW_SESSION, shell="/bin/sh\0")),
    (InvalidArgument, replace(NEW_SESSION, ttl_ms=0)),
    (InvalidArgument, replace(NEW_SESSION, idle_timeout_ms=2**62)),
    (InvalidArgument, replace(NEW_SESSION, labels={"": "x"})),
    (TooLarge, replace(NEW_SESSION, host="h" * 256)),
    (TooLarge, replace(NEW_SESSION, root="/" * 4097)),
    (TooLarge, replace(NEW_SESSION, labels={str(n): "" for n in range(65)})),
    (TooLarge, replace(NEW_SESSION, labels={"n" * 129: ""})),
    (TooLarge, replace(NEW_SESSION, labels={"n": "\u00e9" * 513})),
    (InvalidArgument, TouchSession(ID[:7])),
    (InvalidArgument, TouchSession(ID.upper())),
    (InvalidArgument, UpdateSession("x" * 8, None, None)),
    (InvalidArgument, UpdateSession(ID, "\0", None)),
    (InvalidArgument, UpdateSession(ID, None, {"a\tb": ""})),
    (InvalidArgument, CloseSession("")),
    (InvalidArgument, PushTasks(())),
    (TooLarge, PushTasks((TASK,) * (limits.MAX_PUSH_TASKS + 1))),
    (TooLarge, PushTasks((replace(TASK, payload=b"x" * 250_000),) * 5)),
    (TooLarge, PushTasks((replace(TASK, payload=b"x" * (limits.MAX_PAYLOAD_BYTES + 1)),))),
    (TooLarge, PushTasks((replace(TASK, key="k" * 257),))),
    (TooLarge, PushTasks((replace(TASK, queue="q" * 129),))),
    (InvalidArgument, PushTasks((TASK, replace(TASK, payload=b"")))),
    (InvalidArgument, PushTasks((replace(TASK, queue=""),))),
    (InvalidArgument, PushTasks((replace(TASK, priority=1_000_001),))),
    (InvalidArgument, PushTasks((replace(TASK, delay_ms=-1),))),
    (InvalidArgument, PushTasks((replace(TASK, delay_ms=limits.MAX_DELAY_MS + 1),))),
    (InvalidArgument, PushTasks((replace(TASK, max_attempts=0),))),
    (InvalidArgument, replace(CLAIM, worker="")),
    (InvalidArgument, replace(CLAIM, lease_ms=999)),
    (InvalidArgument, replace(CLAIM, lease_ms=limits.MAX_LEASE_MS + 1)),
    (InvalidArgument, replace(CLAIM, limit=0)),
    (InvalidArgument, replace(CLAIM, limit=limits.MAX_CLAIM_TASKS + 1)),
    (InvalidArgument, ExtendTask("1", 0, 1000)),
    (InvalidArgument, ExtendTask("1", 2**63, 1000)),
    (InvalidArgument, ExtendTask("1", 1, 0)),
    (InvalidArgument, AckTask("x", 1, b"1")),
    (InvalidArgument, AckTask("1", 1, b"")),
    (TooLarge, AckTask("1", 1, b"x" * (limits.MAX_RESULT_BYTES + 1))),
    (TooLarge, FailTask("1", 1, "x" * (limits.MAX_ERROR_BYTES + 1), None)),
    (InvalidArgument, FailTask("1", 1, "\udfff", None)),
    (InvalidArgument, FailTask("1", 1, "", -1)),
    (InvalidArgument, CancelTask("01")),
    (InvalidArgument, RetryTask("")),
    (InvalidArgument, SetRetention(59_999, 60_000)),
    (InvalidArgument, SetRetention(60_000, 59_999)),
]


@pytest.mark.parametrize("command", GOOD, ids=lambda command: type(command).__name__)
def test_what_is_right_passes(command: Command) -> None:
    validate(command, "a request")


@pytest.mark.parametrize(("error", "command"), BAD)
def test_what_is_wrong_is_refused(error: type[NefiaError], command: Command) -> None:
    with pytest.raises(error) as caught:
        validate(command)
    assert caught.value.message.endswith(".")
    assert len(caught.value.message) < 200


@pytest.mark.parametrize(("error", "request_id"), [(TooLarge, "r" * 129), (InvalidArgument, "\n")])
def test_request_ids_are_checked(error: type[NefiaError], request_id: str) -> None:
    with pytest.raises(error):
        validate(AdvanceTime(), request_id)


def test_every_command_is_in_every_table() -> None:
    assert set(limits._CHECKS) == set(_CONTENT) == set(get_args(Command))
