"""One node of PySyncObj: a replicated dict with a journal, behind a socket that takes lines.

`NUMBER VALUE` sets a value and is answered with `NUMBER` once it is applied, or `NUMBER ERROR`;
`status` is answered with JSON. The library's own loop runs in the main thread, as its background
thread would run it, and answers leave together after each turn of it.
"""

from __future__ import annotations

import argparse
import json
import socket
import threading
from collections import defaultdict, deque
from collections.abc import Callable
from functools import partial
from pathlib import Path

from pysyncobj import FAIL_REASON, SyncObj, SyncObjConf, replicated

KEYS = 100_000

_replicated: Callable[[Callable[..., None]], Callable[..., None]] = replicated
"""The library has no types."""


class Values(SyncObj):  # type: ignore[misc]
    def __init__(self, own: str, others: list[str], conf: SyncObjConf) -> None:
        super().__init__(own, others, conf)
        self.values: dict[int, bytes] = {}

    @_replicated
    def put(self, key: int, value: bytes) -> None:
        self.values[key] = value


class Node:
    def __init__(self, values: Values, own: str) -> None:
        self._values = values
        self._own = own
        self._answers: deque[tuple[socket.socket, bytes]] = deque()

    def listen(self, port: int) -> None:
        listener = socket.create_server(("127.0.0.1", port))
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=self._read, args=(connection,), daemon=True).start()

    def run(self, period_seconds: float) -> None:
        while True:
            self._values.doTick(period_seconds)
            self._answer()

    def _read(self, connection: socket.socket) -> None:
        for line in connection.makefile("rb"):
            if line == b"status\n":
                self._answers.append((connection, self._status()))
                continue
            number, _, value = line.rstrip(b"\n").partition(b" ")
            done = partial(self._done, connection, number)
            self._values.put(int(number) % KEYS, value, callback=done)

    def _done(self, connection: socket.socket, number: bytes, _: object, reason: int) -> None:
        failed = b"" if reason == FAIL_REASON.SUCCESS else b" %d" % reason
        self._answers.append((connection, number + failed + b"\n"))

    def _status(self) -> bytes:
        found = self._values.getStatus()
        leader = found["leader"]
        status = {
            "is_leader": leader is not None and leader.address == self._own,
            "is_ready": self._values.isReady(),
            "applied": found["last_applied"],
        }
        return json.dumps(status).encode() + b"\n"

    def _answer(self) -> None:
        """All that is due, in one send for each connection."""
        answers: defaultdict[socket.socket, list[bytes]] = defaultdict(list)
        while self._answers:
            connection, line = self._answers.popleft()
            answers[connection].append(line)
        for connection, lines in answers.items():
            try:
                connection.sendall(b"".join(lines))
            except OSError:
                continue  # Its client has left.


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--own", required=True)
    parser.add_argument("--others", required=True)
    parser.add_argument("--port", required=True, type=int)
    parser.add_argument("--directory", required=True, type=Path)
    parser.add_argument("--tick", required=True, type=float)
    parser.add_argument("--append-period", required=True, type=float)
    options = parser.parse_args()
    options.directory.mkdir()
    conf = SyncObjConf(
        autoTick=False,
        autoTickPeriod=options.tick,
        appendEntriesPeriod=options.append_period,
        journalFile=str(options.directory / "journal"),
        fullDumpFile=str(options.directory / "dump"),
    )
    node = Node(Values(options.own, options.others.split(","), conf), options.own)
    threading.Thread(target=node.listen, args=(options.port,), daemon=True).start()
    node.run(options.tick)


if __name__ == "__main__":
    main()
