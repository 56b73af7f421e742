"""A small blocking client of the admin API, from the standard library alone.

The command line asks through it and has to answer within 0.3 s, imports included (SPEC 3).
"""

from __future__ import annotations

import json
import math
import os
import socket
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

from nefia.admin import MAX_LINE_BYTES, READING_ACTIONS
from nefia.errors import NefiaError, NoDaemon, OutcomeUnknown, Permission, TooLarge

DEFAULT_TIMEOUT_SECONDS = 30.0
CONNECT_TIMEOUT_SECONDS = 5.0
READ_CHUNK_BYTES = 64 << 10


def connect(path: str) -> socket.socket:
    """A connection to the daemon that serves at `path`. Raises NoDaemon and Permission."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(CONNECT_TIMEOUT_SECONDS)
        connection.connect(path)
    except OSError as error:
        connection.close()
        raise _not_connected(path, error) from None
    return connection


class AdminClient:
    """A connection to the daemon that serves at `path`. Usable as a context manager.

    Raises NoDaemon if nobody serves there and Permission if we may not connect.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._seq = 0
        self._received = bytearray()
        self._socket = connect(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def call(
        self, action: str, /, *, timeout: float = DEFAULT_TIMEOUT_SECONDS, **params: Any
    ) -> dict[str, Any]:
        """The result of one action, within `timeout` seconds.

        Raises what the daemon answered, as `NefiaError.from_json`. Without an answer: for a
        change OutcomeUnknown, with the `request_id` under which it may be repeated if it has one;
        for a reading action NoDaemon, or OutcomeUnknown with `changed=False` at the timeout.
        """
        self._seq += 1
        request = json.dumps({"action": action, "seq": self._seq, **params}).encode()
        if len(request) > MAX_LINE_BYTES:
            raise TooLarge(f"the request has {len(request)} bytes, of at most {MAX_LINE_BYTES}")
        answer = self._exchange(request + b"\n", action, params, timeout)
        if answer.get("ok") is True:
            result: dict[str, Any] = answer["result"]
            return result
        raise NefiaError.from_json(answer.get("error") or {})

    def watch(self, **params: Any) -> Iterator[dict[str, Any]]:
        """The events of the action `watch` as they come, without their `seq`.

        Ends by raising what the daemon ends the stream with, or NoDaemon where it breaks off.
        """
        self._seq += 1
        request = json.dumps({"action": "watch", "seq": self._seq, **params}).encode()
        try:
            self._socket.sendall(request + b"\n")
            while True:
                answer = json.loads(self._line(math.inf))
                seq = answer.pop("seq")
                if "event" in answer and seq == self._seq:
                    yield answer
                elif seq == self._seq:
                    raise NefiaError.from_json(answer.get("error") or {})
        except (OSError, EOFError, ValueError):
            raise self._broken_off() from None

    def _broken_off(self) -> NoDaemon:
        return NoDaemon(f"the daemon at {self.path} broke off the connection", socket=self.path)

    def _exchange(
        self, line: bytes, action: str, params: dict[str, Any], timeout: float
    ) -> dict[str, Any]:
        deadline = time.monotonic() + timeout
        try:
            self._wait_until(deadline)
            self._socket.sendall(line)
            while True:
                answer = json.loads(self._line(deadline))
                if answer.get("seq") == self._seq:
                    return dict(answer)
        except TimeoutError:
            raise _unanswered(action, params, f"no answer within {timeout:g} s") from None
        except (OSError, EOFError, ValueError):
            if action in READING_ACTIONS:
                raise self._broken_off() from None
            raise _unanswered(action, params, "the daemon broke off without an answer") from None

    def _line(self, deadline: float) -> bytes:
        searched = 0
        while (end := self._received.find(b"\n", searched)) < 0:
            searched = len(self._received)
            if searched > MAX_LINE_BYTES:
                raise EOFError
            self._wait_until(deadline)
            chunk = self._socket.recv(READ_CHUNK_BYTES)
            if not chunk:
                raise EOFError
            self._received += chunk
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        return line

    def _wait_until(self, deadline: float) -> None:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError
        self._socket.settimeout(None if remaining == math.inf else remaining)


def _not_connected(path: str, error: OSError) -> NefiaError:
    if isinstance(error, PermissionError):
        return Permission(
            f"you may not use the admin socket {path}",
            hint="run the command as the daemon's user, or set admin_group: in nefia.yaml",
            socket=path,
        )
    reason = error.strerror or str(error)
    return NoDaemon(f"no daemon answers at {path} ({reason})", socket=path)


def _unanswered(action: str, params: dict[str, Any], what: str) -> OutcomeUnknown:
    if action in READING_ACTIONS:
        return OutcomeUnknown(f"{what} to {action}", changed=False)
    details = {"request_id": params["request_id"]} if "request_id" in params else {}
    return OutcomeUnknown(f"{what} to {action}, which may still happen", **details)
