"""One value that one task waits for and another brings."""

from __future__ import annotations

from typing import Generic, TypeVar

import outcome
import trio

T = TypeVar("T")


class Promise(Generic[T]):
    """Kept or broken once; what comes later is ignored, as nobody waits for it any more."""

    def __init__(self) -> None:
        self._event = trio.Event()
        self._result: outcome.Outcome[T] | None = None

    @property
    def settled(self) -> bool:
        return self._result is not None

    def settle(self, result: T | Exception) -> None:
        if isinstance(result, Exception):
            self.fail(result)
        else:
            self.keep(result)

    def keep(self, value: T) -> None:
        self._settle(outcome.Value(value))

    def fail(self, error: Exception) -> None:
        self._settle(outcome.Error(error))

    def _settle(self, result: outcome.Outcome[T]) -> None:
        if self._result is None:
            self._result = result
            self._event.set()

    async def wait(self) -> T:
        """The value; raises the error that it was broken with."""
        await self._event.wait()
        assert self._result is not None
        return self._result.unwrap()
