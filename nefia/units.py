"""Durations and sizes as people write them: "1m30s", "64MiB".

Durations are seconds in the program and Go-style text outside (SPEC 1), sizes are bytes. Both are
parsed in whole numbers, of nanoseconds or bytes, so that what is written is what is meant.
"""

from __future__ import annotations

import math
import re

MAX_QUANTITY_CHARACTERS = 64
MAX_DURATION_NANOSECONDS = 2**63 - 1
"""292 years, Go's limit."""
MAX_SIZE_BYTES = 2**63 - 1

_NANOSECONDS = {
    "h": 3_600_000_000_000,
    "m": 60_000_000_000,
    "s": 1_000_000_000,
    "ms": 1_000_000,
    "us": 1_000,
    "\N{MICRO SIGN}s": 1_000,
    "\N{GREEK SMALL LETTER MU}s": 1_000,
    "ns": 1,
}
_BYTES = {
    "B": 1,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
}
_BINARY_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")

_QUANTITY = re.compile(r"(?P<whole>[0-9]*)(?:\.(?P<fraction>[0-9]*))?(?P<unit>[^0-9.]*)")


def parse_duration(text: str) -> float:
    """Seconds, never negative, of Go-style text such as "500ms", "1.5h" or "1m30s".

    Raises ValueError with a sentence that says what is wrong and what would be right.
    """
    total = (
        0 if text == "0" else _sum_of(text, _NANOSECONDS, 'a duration such as "500ms" or "1m30s"')
    )
    if total > MAX_DURATION_NANOSECONDS:
        raise ValueError(f'"{text}" is longer than 292 years; write a shorter duration')
    return total / 10**9


def format_duration(seconds: float) -> str:
    """Text that `parse_duration` takes back, to the nanosecond: "1h30m", "1.5s", "250us"."""
    assert 0 <= seconds < math.inf, seconds
    rest = round(seconds * 10**9)
    if rest < _NANOSECONDS["s"]:
        unit = next((u for u in ("ms", "us") if rest >= _NANOSECONDS[u]), "ns")
        return _decimal(rest, _NANOSECONDS[unit]) + unit if rest else "0s"
    parts = []
    for unit in ("h", "m"):
        count, rest = divmod(rest, _NANOSECONDS[unit])
        parts.append(f"{count}{unit}" if count else "")
    parts.append(_decimal(rest, _NANOSECONDS["s"]) + "s" if rest else "")
    return "".join(parts)


def parse_size(text: str) -> int:
    """Bytes of text such as "64MiB", "1.5GB" or "512B"; binary and decimal units as they say.

    Raises ValueError with a sentence that says what is wrong and what would be right.
    """
    total = 0 if text == "0" else _sum_of(text, _BYTES, 'a size such as "64MiB" or "512B"')
    if total > MAX_SIZE_BYTES:
        raise ValueError(f'"{text}" is more than {MAX_SIZE_BYTES} bytes; write a smaller size')
    return total


def format_size(size_bytes: int) -> str:
    """For people: in the largest binary unit that fits, to a tenth: "64MiB", "1.5GiB"."""
    assert size_bytes >= 0, size_bytes
    amount = float(size_bytes)
    for unit in _BINARY_UNITS[:-1]:
        # What would round up to 1024 belongs to the next unit.
        if round(amount, 1) < 1024:
            return f"{round(amount, 1):g}{unit}"
        amount /= 1024
    return f"{round(amount, 1):.1f}".removesuffix(".0") + _BINARY_UNITS[-1]


def _sum_of(text: str, units: dict[str, int], wanted: str) -> int:
    """The quantities that `text` consists of, added up, in the smallest unit; each rounded down."""
    if len(text) > MAX_QUANTITY_CHARACTERS:
        raise ValueError(f'"{text[:16]}..." is too long; write {wanted}')
    if not text:
        raise ValueError(f'"" is empty; write {wanted}')
    if text.startswith("-"):
        raise ValueError(f'"{text}" is negative; write {wanted}')
    total = 0
    position = 0
    while position < len(text):
        match = _QUANTITY.match(text, position)
        assert match is not None, "every part of the pattern may be empty"
        whole, fraction, unit = match["whole"], match["fraction"] or "", match["unit"]
        if not whole and not fraction:
            raise ValueError(f'"{text}" cannot be read; write {wanted}')
        if not unit:
            raise ValueError(f'"{text}" has a number without a unit; write {wanted}')
        if unit not in units:
            known = ", ".join(filter(str.isascii, units))
            raise ValueError(f'"{text}" has the unknown unit "{unit}"; use {known}')
        scale = units[unit]
        total += int(whole or "0") * scale + int(fraction or "0") * scale // 10 ** len(fraction)
        position = match.end()
    return total


def _decimal(amount: int, scale: int) -> str:
    """`amount / scale` in exact decimals, for a scale that is a power of ten."""
    whole, rest = divmod(amount, scale)
    digits = str(rest).zfill(len(str(scale)) - 1).rstrip("0") if rest else ""
    return f"{whole}.{digits}" if digits else str(whole)
