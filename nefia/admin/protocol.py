"""Requests and answers of the admin API as values: lines in, lines out, no I/O (SPEC 4).

A line becomes a `Request`, whose parameters are checked and converted, or a `Refusal`, which has
the error to answer with. Nothing that a client can send makes `parse_request` raise.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import reduce
from itertools import zip_longest
from math import isfinite
from operator import or_
from typing import Annotated, Any, ClassVar, Literal, NoReturn, TypeAlias

import msgspec
from attrs import frozen
from msgspec import Meta, Struct

from nefia.admin import MAX_LINE_BYTES
from nefia.admin.decoding import Decoding
from nefia.admin.shapes import COMMON, Action
from nefia.admin.table import ACTIONS
from nefia.admin.values import (
    MAX_NESTING,
    MAX_SHOWN_CHARACTERS,
    append_json,
    brackets,
    json_bytes,
    nearest,
    nesting,
    shown,
)
from nefia.errors import InvalidArgument, NefiaError, TooLarge, UnknownAction

MAX_SEQ_CHARACTERS = 256

Seq: TypeAlias = int | float | str | None
"""What the client chose to tell its answers apart; None if it chose nothing."""


Shown: TypeAlias = dict[str, Any] | Struct
"""An object ready for JSON."""

Result: TypeAlias = Shown | NefiaError
"""What an action comes to, or why there is nothing."""

Reply: TypeAlias = Callable[[Result], None]


class Request(Struct, frozen=True, gc=False):
    """`params` is what the action makes of its own parameters: a command, or attributes by key.

    `request_id` is empty, `forward` False and `consistency` "linearizable" unless given.
    """

    action: str
    seq: Seq
    params: Any
    request_id: str
    forward: bool
    consistency: Literal["linearizable", "local"]
    line: bytes

    @property
    def raw(self) -> dict[str, Any]:
        """The object as it came, for passing it on."""
        return _object_of(self.line)


@frozen
class Refusal:
    """A line that is no request. `seq` is None if it could not be read."""

    seq: Seq
    error: NefiaError


Stream: TypeAlias = AsyncGenerator[list[dict[str, Any]], None]
"""Events as they come, some at a time. It raises NefiaError to end with an error."""

Handler: TypeAlias = Callable[[Request, Reply], Callable[[], Awaitable[None]] | Stream | None]
"""Performs a request and calls the reply once: now, later, or in what it gives back to be run.

Or gives back a stream, whose events are the answer.
"""


def parse_request(line: bytes | None) -> Request | Refusal:
    """`line` is without its newline, or None if it was longer than `MAX_LINE_BYTES`.

    Errors in a refusal: InvalidArgument, UnknownAction, TooLarge.
    """
    if line is None or len(line) > MAX_LINE_BYTES:
        error = TooLarge(f"the line is longer than {MAX_LINE_BYTES} bytes; it was dropped")
        return Refusal(None, error)
    for decode in _DECODERS:
        try:
            decoded = decode(line)
            action, make = _MAKERS[type(decoded)]
            params = make(decoded)
        except _NOT_DECODED:
            continue
        return Request(
            action,
            decoded.seq,
            params,
            decoded.request_id,
            decoded.forward,
            decoded.consistency,
            line,
        )
    return parse_carefully(line)


def parse_carefully(line: bytes) -> Request | Refusal:
    """The same in many steps, which take all that is right, and find out what is wrong."""
    seq: Seq = None
    try:
        raw = _object_of(line)
        seq = _seq_of(raw)
        return _request_of(raw, seq, line)
    except NefiaError as error:
        return Refusal(seq, error)


class _Answer(Struct, gc=False):
    seq: Seq
    ok: bool
    result: Shown


def append_answer(lines: bytearray, seq: Seq, result: Shown) -> None:
    """Put the line of an answer behind `lines`.

    One that would pass `MAX_LINE_BYTES` becomes a TooLarge error.
    """
    start = len(lines)
    append_json(lines, _Answer(seq, True, result))
    lines += b"\n"
    size_bytes = len(lines) - start
    if size_bytes > MAX_LINE_BYTES:
        lines[start:] = _too_long(seq, size_bytes)


def encode_answer(seq: Seq, result: Shown) -> bytes:
    """The same, of one answer."""
    lines = bytearray()
    append_answer(lines, seq, result)
    return bytes(lines)


def encode_event(seq: Seq, event: dict[str, Any]) -> bytes:
    """A line of a stream; an event is far from `MAX_LINE_BYTES`."""
    return json_bytes({"seq": seq} | event) + b"\n"


def encode_error(seq: Seq, error: NefiaError) -> bytes:
    line = json_bytes({"seq": seq, "ok": False, "error": error.to_json()}) + b"\n"
    return line if len(line) <= MAX_LINE_BYTES else _too_long(seq, len(line))


def _too_long(seq: Seq, size_bytes: int) -> bytes:
    error = TooLarge(
        f"the answer has {size_bytes} bytes, more than the {MAX_LINE_BYTES} of a line",
        changed="unknown",
    )
    return encode_error(seq, error)


def _refuse_constant(constant: str) -> NoReturn:
    raise InvalidArgument(f"the line is not JSON: {constant} is not a JSON number")


def _finite(digits: str) -> float:
    number = float(digits)
    if not isfinite(number):
        raise InvalidArgument(f"{digits[:MAX_SHOWN_CHARACTERS]} is beyond what a double can hold")
    return number


_decode = msgspec.json.Decoder().decode
_careful_decoder = json.JSONDecoder(parse_float=_finite, parse_constant=_refuse_constant)


def _object_of(line: bytes) -> dict[str, Any]:
    try:
        raw = _decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raw = _decode_carefully(line)
    if brackets(line) > MAX_NESTING and nesting(raw) > MAX_NESTING:
        raise _too_deep()
    if not isinstance(raw, dict):
        raise InvalidArgument(f"a request is a JSON object, not {shown(raw)}")
    return raw


def _decode_carefully(line: bytes) -> Any:
    """The same by Python's own decoder, which says what is wrong, and where.

    It also takes what the fast one does not: lone surrogates and very long integers.
    """
    try:
        return _careful_decoder.decode(line.decode())
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"the line is not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise InvalidArgument(
            f"the line is not JSON: {error.msg} at character {error.pos}"
        ) from None
    except ValueError:
        raise InvalidArgument("the line holds an integer of too many digits") from None
    except RecursionError:
        raise _too_deep() from None


def _too_deep() -> InvalidArgument:
    return InvalidArgument(f"the line has more than {MAX_NESTING} levels of arrays and objects")


def _seq_of(raw: dict[str, Any]) -> Seq:
    seq = raw.get("seq")
    match seq:
        case None:
            return None
        case str() if len(seq) <= MAX_SEQ_CHARACTERS:
            return seq
        case int() if not isinstance(seq, bool):
            return seq
        case float() if isfinite(seq):
            return seq
    raise InvalidArgument(
        f'"seq" must be a number or a string of at most {MAX_SEQ_CHARACTERS} characters'
    )


def _request_of(raw: dict[str, Any], seq: Seq, line: bytes) -> Request:
    name = raw.get("action")
    if not isinstance(name, str):
        raise InvalidArgument('a request needs an "action", a string')
    action = ACTIONS.get(name)
    if action is None:
        raise UnknownAction(f"there is no action {shown(name)}", hint=nearest(name, ACTIONS))
    checked = action.shape.check(raw, ignored=_NOT_PARAMETERS)
    if action.rule is not None:
        action.rule(raw)
    form = next(form for form in action.forms if form.fits(raw))
    return Request(
        action=name,
        seq=seq,
        params=form.of(checked),
        request_id=checked.get("request_id", ""),
        forward=checked.get("forward", False),
        consistency=checked.get("consistency", "linearizable"),
        line=line,
    )


_NOT_PARAMETERS = frozenset({"action", "seq"})


class _Asked(Struct, tag_field="action", kw_only=True, gc=False):
    """What a decoded request has besides its parameters.

    The class variables stand for common parameters that its action does not take.
    """

    seq: int | float | Annotated[str, Meta(max_length=MAX_SEQ_CHARACTERS)] | None = None
    request_id: ClassVar[str] = ""
    forward: ClassVar[bool] = False
    consistency: ClassVar[str] = "linearizable"


def _decodings(action: Action) -> list[Decoding]:
    common = COMMON[action.mode]
    return [Decoding(form, common, _Asked, action.name) for form in action.forms]


_DECODINGS_OF = {action.name: _decodings(action) for action in ACTIONS.values()}
_MAKERS = {each.kind: (name, each.make) for name, some in _DECODINGS_OF.items() for each in some}
_DECODERS = [
    msgspec.json.Decoder(reduce(or_, [each.kind for each in some if each])).decode
    for some in zip_longest(*_DECODINGS_OF.values())
]
"""One for the first forms of all actions, which takes nearly all lines; one for the second."""

_NOT_DECODED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, InvalidArgument)
