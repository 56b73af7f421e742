"""Python's cyclic collector, kept out of the way of a large state and of a busy loop.

Left to itself it looks at 700 new objects at a time, most of them about to go anyway, which took a
fifth of the time of a busy leader, and at times at all objects there are: 60-87 ms for 300,000
tasks. What a node holds for long is not cyclic, so looking rarely loses nothing.
"""

from __future__ import annotations

import gc
from collections.abc import Callable

import trio

YOUNG_OBJECTS = 20_000
"""Collected when so many more were made than went; under a millisecond."""
MIDDLE_COLLECTIONS = 10
NO_FULL_COLLECTIONS = 1_000_000

FULL_COLLECTION_SECONDS = 600.0


def configure() -> None:
    """Once a process, when it has imported what it needs: that lasts, and is never looked at."""
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, MIDDLE_COLLECTIONS, NO_FULL_COLLECTIONS)


def settle() -> None:
    """What has just been loaded lasts: it is never looked at again."""
    gc.collect()
    gc.freeze()


async def run(may_pause: Callable[[], bool]) -> None:
    """Now and then look at everything, while `may_pause` says that nobody waits for this node."""
    while True:
        await trio.sleep(FULL_COLLECTION_SECONDS)
        if may_pause():
            settle()
