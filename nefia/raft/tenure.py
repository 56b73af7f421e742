"""How long the services of earlier leaders may still run, as voters know it (SPEC 9).

A leader may run services for its lease, counted from the sending of a heartbeat that a majority
answered, and then has a stop budget to end them in: its *tenure* after that heartbeat. Whoever
answers a heartbeat keeps, durably, the longest tenure that it was told of. A voter can thus say how
much of it is left since it last heard a leader; any majority that elects a leader has a voter in
common with the majority that answered the heartbeat (paper 5.2), so the latest of what all votes
say is the end of every earlier tenure.

It is a bound and no proof that services run; that nobody needs to wait where a leader has stopped
them in good order is known by the log alone (`released`).
"""

from __future__ import annotations

import math

CLOCK_MARGIN = 0.021
"""Of a tenure, added to it, for clocks of which some are 1 % fast and others 1 % slow.

What the old leader counts slowly, B, takes B / 0.99; the voter counts what has passed of it
quickly, and the new leader the rest: 1.01 * B / 0.99 is below 1.021 * B.
"""


def left_ms(tenure_ms: int, quiet_seconds: float) -> int:
    """What is left of the longest tenure, so long after the last contact with a leader."""
    left_seconds = tenure_ms * (1 + CLOCK_MARGIN) / 1000 - quiet_seconds
    return max(0, math.ceil(left_seconds * 1000))
