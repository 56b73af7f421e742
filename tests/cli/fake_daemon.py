"""A daemon of canned answers behind a real socket, which checks requests as the real one does."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from nefia.admin.protocol import Request, encode_answer, encode_error, parse_request
from nefia.errors import NefiaError

Answer = dict[str, Any] | NefiaError | Callable[[Request], Any] | None


class FakeDaemon:
    """`answers` by action: a result, an error, a function that gives either, or None for silence.

    `requests` are those that came, in order.
    """

    def __init__(self, state_dir: Path, **answers: Answer) -> None:
        self.answers = answers
        self.requests: list[Request] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(state_dir / "admin.sock"))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            # A command that is interrupted leaves in the middle of its request.
            with suppress(ConnectionError), connection, connection.makefile("rb") as lines:
                for line in lines:
                    connection.sendall(self._answer(line))

    def _answer(self, line: bytes) -> bytes:
        request = parse_request(line.rstrip(b"\n"))
        if not isinstance(request, Request):
            return encode_error(request.seq, request.error)
        self.requests.append(request)
        answer = self.answers[request.action]
        if callable(answer):
            answer = answer(request)
        if answer is None:
            return b""
        if isinstance(answer, NefiaError):
            return encode_error(request.seq, answer)
        return encode_answer(request.seq, answer)
