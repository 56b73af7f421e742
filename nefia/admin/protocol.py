"""Requests and answers of the admin API as values: lines in, lines out, no I/O (SPEC 4).

A line becomes a `Request`, whose parameters are checked and converted, or a `Refusal`, which has
the error to answer with. Nothing that a client can send makes `parse_request` raise.
"""

from __future__ import annotations

import json
from math import isfinite
from typing import Any, Literal, NoReturn, TypeAlias

from attrs import frozen

from nefia.admin import MAX_LINE_BYTES
from nefia.admin.table import ACTIONS
from nefia.admin.values import MAX_NESTING, json_bytes, nearest, nesting, shown
from nefia.errors import InvalidArgument, NefiaError, TooLarge, UnknownAction

MAX_SEQ_CHARACTERS = 256

Seq: TypeAlias = int | float | str | None
"""What the client chose to tell its answers apart; None if it chose nothing."""


@frozen
class Request:
    """`params` are the action's own, by `Parameter.key`; `raw` is the object as it came.

    `request_id` is empty, `forward` False and `consistency` "linearizable" unless given.
    """

    action: str
    seq: Seq
    params: dict[str, Any]
    request_id: str
    forward: bool
    consistency: Literal["linearizable", "local"]
    raw: dict[str, Any]


@frozen
class Refusal:
    """A line that is no request. `seq` is None if it could not be read."""

    seq: Seq
    error: NefiaError


def parse_request(line: bytes | None) -> Request | Refusal:
    """`line` is without its newline, or None if it was longer than `MAX_LINE_BYTES`.

    Errors in a refusal: InvalidArgument, UnknownAction, TooLarge.
    """
    seq: Seq = None
    try:
        raw = _object_of(line)
        seq = _seq_of(raw)
        return _request_of(raw, seq)
    except NefiaError as error:
        return Refusal(seq, error)


def encode_answer(seq: Seq, result: dict[str, Any]) -> bytes:
    """The line of an answer. One that would pass `MAX_LINE_BYTES` becomes a TooLarge error."""
    return _line(seq, {"seq": seq, "ok": True, "result": result})


def encode_error(seq: Seq, error: NefiaError) -> bytes:
    return _line(seq, {"seq": seq, "ok": False, "error": error.to_json()})


def _line(seq: Seq, answer: dict[str, Any]) -> bytes:
    line = json_bytes(answer) + b"\n"
    if len(line) > MAX_LINE_BYTES:
        error = TooLarge(
            f"the answer has {len(line)} bytes, more than the {MAX_LINE_BYTES} of a line",
            changed="unknown",
        )
        return encode_error(seq, error)
    return line


def _refuse_constant(constant: str) -> NoReturn:
    raise InvalidArgument(f"the line is not JSON: {constant} is not a JSON number")


_decoder = json.JSONDecoder(parse_constant=_refuse_constant)


def _object_of(line: bytes | None) -> dict[str, Any]:
    if line is None or len(line) > MAX_LINE_BYTES:
        raise TooLarge(f"the line is longer than {MAX_LINE_BYTES} bytes; it was dropped")
    try:
        raw = _decoder.decode(line.decode())
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
    # Counting brackets costs next to nothing and clears all but a few lines of suspicion.
    if line.count(b"{") + line.count(b"[") > MAX_NESTING and nesting(raw) > MAX_NESTING:
        raise _too_deep()
    if not isinstance(raw, dict):
        raise InvalidArgument(f"a request is a JSON object, not {shown(raw)}")
    return raw


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


def _request_of(raw: dict[str, Any], seq: Seq) -> Request:
    name = raw.get("action")
    if not isinstance(name, str):
        raise InvalidArgument('a request needs an "action", a string')
    action = ACTIONS.get(name)
    if action is None:
        raise UnknownAction(f"there is no action {shown(name)}", hint=nearest(name, ACTIONS))
    params = action.shape.check(raw, ignored=_NOT_PARAMETERS)
    if action.rule is not None:
        action.rule(raw)
    return Request(
        action=name,
        seq=seq,
        params=params,
        request_id=params.pop("request_id", ""),
        forward=params.pop("forward", False),
        consistency=params.pop("consistency", "linearizable"),
        raw=raw,
    )


_NOT_PARAMETERS = frozenset({"action", "seq"})
