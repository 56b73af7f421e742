"""What clients asked and were told, as JSON lines that any checker of histories can read.

Each line is `{"client", "op", "args", "call", "return", "result"}`. `op` and `args` are an action
of the admin API and its parameters. `call` and `return` are seconds on one clock for all clients.
`result` is the action's result, or `{"error": code}` of a refusal that has changed nothing. Where
the outcome is unknown, `return` and `result` are null: the operation may take effect at any time
after its call, or never. A client goes on after that, so that its operations then overlap.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from math import inf
from typing import Any, TypeAlias

from attrs import evolve, field, frozen

Json: TypeAlias = Any
"""What `json.loads` gives."""

FIELDS = ("client", "op", "args", "call", "return", "result")


def _not_before_call(operation: Operation, _: object, returned: float | None) -> None:
    if returned is not None and returned < operation.call:
        raise ValueError(f"it returned at {returned}, before its call at {operation.call}")
    if (returned is None) != (operation.result is None):
        raise ValueError('"return" and "result" must both be null, or neither')


@frozen
class Operation:
    """One call of one client. `returned` and `result` are None if the outcome is unknown."""

    client: str
    op: str
    args: Mapping[str, Json]
    call: float
    result: Json
    returned: float | None = field(validator=_not_before_call)

    @property
    def pending(self) -> bool:
        return self.returned is None

    @property
    def latest(self) -> float:
        """By when it has taken effect, if ever."""
        return inf if self.returned is None else self.returned

    @property
    def refusal(self) -> str | None:
        """The code of the error that it was answered."""
        code: str | None = self.result.get("error") if isinstance(self.result, dict) else None
        return code

    def to_line(self) -> str:
        values = (self.client, self.op, self.args, self.call, self.returned, self.result)
        return json.dumps(dict(zip(FIELDS, values, strict=True)), allow_nan=False)

    @classmethod
    def from_line(cls, line: str) -> Operation:
        """Raises ValueError for anything but what `to_line` writes."""
        fields = json.loads(line)
        if not isinstance(fields, dict) or fields.keys() != set(FIELDS):
            raise ValueError(f"it is not an object of {', '.join(FIELDS)}")
        return cls(
            client=fields["client"],
            op=fields["op"],
            args=fields["args"],
            call=fields["call"],
            result=fields["result"],
            returned=fields["return"],
        )


def canonical(value: Json) -> str:
    """Equal values have equal texts."""
    return json.dumps(value, sort_keys=True)


def repeated_requests(history: Iterable[Operation]) -> frozenset[str]:
    """The request ids that were used more than once: the only ones worth remembering."""
    used = Counter(operation.args.get("request_id", "") for operation in history)
    return frozenset(request for request, times in used.items() if request and times > 1)


def pending_from(operation: Operation) -> Operation:
    """The same call, as long as nobody knows its outcome."""
    return evolve(operation, returned=None, result=None)


def to_lines(history: Iterable[Operation]) -> Iterator[str]:
    """One line an operation, each with its line feed."""
    return (f"{operation.to_line()}\n" for operation in history)


def from_lines(lines: Iterable[str]) -> list[Operation]:
    """The inverse of `to_lines`. Raises ValueError, which names the line."""
    history = []
    for number, line in enumerate(lines, start=1):
        try:
            history.append(Operation.from_line(line))
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
    return history


class Recorder:
    """Writes down the operations of all clients. `now` is their common clock, in seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._operations: list[Operation] = []

    def called(self, client: str, op: str, args: Mapping[str, Json]) -> int:
        """A client calls; the number under which its answer is to be recorded."""
        # By way of JSON: what the caller does with its own objects afterwards is not history.
        args = json.loads(json.dumps(args))
        self._operations.append(Operation(client, op, args, self._now(), None, None))
        return len(self._operations) - 1

    def answered(self, number: int, answer: Mapping[str, Json]) -> None:
        """The answer came: `{"ok": true, "result"}` or `{"ok": false, "error"}`, as on the socket.

        An error that does not say `"changed": false` leaves the outcome unknown.
        """
        if answer["ok"]:
            result = json.loads(json.dumps(answer["result"]))
        elif answer["error"]["changed"] is False:
            result = {"error": answer["error"]["code"]}
        else:
            return
        operation = self._operations[number]
        assert operation.pending, operation
        self._operations[number] = evolve(operation, returned=self._now(), result=result)

    @property
    def history(self) -> tuple[Operation, ...]:
        """In the order of the calls."""
        return tuple(self._operations)
