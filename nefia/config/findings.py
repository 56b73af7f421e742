"""What a check of the whole configuration yields."""

from __future__ import annotations

from attrs import frozen


@frozen
class Finding:
    """`keys` are those it rests on; it is reported at the first."""

    keys: tuple[str, ...]
    sentence: str
