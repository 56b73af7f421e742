"""What happens in a simulated world of daemons: counted, hashed and, if wanted, written down.

Everything that nefia takes from outside besides clock, network and disk is replaced here: log,
random ids and the wall clock.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from random import Random
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import structlog
import trio

NODE: ContextVar[str] = ContextVar("NODE", default="-")
"""The node whose process the present task belongs to."""

WALL_EPOCH_MS = 1_800_000_000_000


class Journal:
    """`wall_offsets_ms`: by how much each node's wall clock is wrong."""

    def __init__(self, seed: int, *, transcript: bool) -> None:
        self.counts: Counter[str] = Counter()
        self.transcript: list[str] | None = [] if transcript else None
        self.wall_offsets_ms: dict[str, int] = {}
        self._secrets = Random(f"secrets {seed}")
        self._hash = hashlib.blake2b(digest_size=16)

    def count(self, what: str, by: int = 1) -> None:
        self.counts[what] += by

    def record(self, who: str, what: str) -> None:
        now = trio.current_time()
        self._hash.update(f"{now!r} {who} {what}\n".encode())
        if self.transcript is not None:
            self.transcript.append(f"{now:10.4f} {who:5} {what}")

    @property
    def trace_hash(self) -> str:
        return self._hash.hexdigest()

    @contextmanager
    def in_place(self) -> Iterator[None]:
        before = structlog.get_config()
        structlog.configure(
            processors=[self._log],
            wrapper_class=structlog.make_filtering_bound_logger(0),
            cache_logger_on_first_use=False,
        )
        try:
            with (
                patch("secrets.token_hex", self._token_hex),
                patch("nefia.node.node.time", SimpleNamespace(time_ns=self._wall_ns)),
            ):
                yield
        finally:
            structlog.configure(**before)

    def _log(self, _logger: object, _method: str, event: MutableMapping[str, Any]) -> str:
        said = {name: value for name, value in event.items() if name != "event"}
        words = " ".join(f"{name}={value}" for name, value in said.items())
        self.record(NODE.get(), f"{event['event']} {words}".rstrip())
        raise structlog.DropEvent

    def _token_hex(self, size: int = 32) -> str:
        return self._secrets.randbytes(size).hex()

    def _wall_ns(self) -> int:
        wall_ms = WALL_EPOCH_MS + int(trio.current_time() * 1000)
        return (wall_ms + self.wall_offsets_ms.get(NODE.get(), 0)) * 1_000_000
