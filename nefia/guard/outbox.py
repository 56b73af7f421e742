"""What the machine and its services share: the time of the present input, and what comes of it."""

from __future__ import annotations

import math

from attrs import define, field

from nefia.guard.effects import Effect, Note, Tell
from nefia.guard.protocol import Answered, FromGuard

FIRST_LOOK_SECONDS = 0.005
MAX_LOOK_SECONDS = 0.1
"""How soon the next census follows one that still finds something; it doubles each time."""


@define(eq=False)
class Outbox:
    """`look_at`: when the next census is due. `connected`: whether there is a daemon to tell."""

    now: float
    connected: bool = False
    look_at: float = math.inf
    _look_pause: float = FIRST_LOOK_SECONDS
    _effects: list[Effect] = field(factory=list)

    def take(self) -> list[Effect]:
        effects, self._effects = self._effects, []
        return effects

    def add(self, *effects: Effect) -> None:
        self._effects += effects

    def tell(self, message: FromGuard) -> None:
        if self.connected:
            self.add(Tell(message))

    def answer(self, seq: int | None, error: str = "") -> None:
        """None: nobody has asked, or who has is gone."""
        if seq is not None:
            self.tell(Answered(seq, error))

    def note(self, event: str, **details: object) -> None:
        self.add(Note(event, details))

    def look_soon(self) -> None:
        self.look_at = self.now
        self._look_pause = FIRST_LOOK_SECONDS

    def look_again(self) -> None:
        self.look_at = self.now + self._look_pause
        self._look_pause = min(2 * self._look_pause, MAX_LOOK_SECONDS)
