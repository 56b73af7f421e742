"""Durations and sizes: what people write, what is refused and why, and the way there and back."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nefia.units import (
    MAX_DURATION_NANOSECONDS,
    MAX_QUANTITY_CHARACTERS,
    MAX_SIZE_BYTES,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
)

EXACT_NANOSECONDS = 2**51
"""26 days: as far as a float of seconds tells nanoseconds apart, with a bit to spare."""

DURATIONS = {
    "0": 0.0,
    "0s": 0.0,
    "500ms": 0.5,
    "1m30s": 90.0,
    "1h": 3600.0,
    "1h2m3s4ms5us6ns": 3723.004005006,
    "1.5h": 5400.0,
    ".5s": 0.5,
    "1.s": 1.0,
    "2\N{MICRO SIGN}s": 0.000002,
    "2\N{GREEK SMALL LETTER MU}s": 0.000002,
    "1ns": 1e-9,
    "0.1s": 0.1,
    "0.4ns": 0.0,
    "30s1m": 90.0,
    "0005s": 5.0,
}

WRONG_DURATIONS = {
    "": "is empty",
    "-1s": "is negative",
    "5": "has a number without a unit",
    "1m30": "has a number without a unit",
    "00": "has a number without a unit",
    "1d": 'has the unknown unit "d"',
    "1S": 'has the unknown unit "S"',
    "1 s": 'has the unknown unit " s"',
    "1s ": 'has the unknown unit "s "',
    "1e3s": 'has the unknown unit "e"',
    "s": "cannot be read",
    ".s": "cannot be read",
    "+1s": "cannot be read",
    "\N{ARABIC-INDIC DIGIT THREE}s": "cannot be read",
    "1..5s": "has a number without a unit",
    "300000000h": "is longer than 292 years",
    "1" * MAX_QUANTITY_CHARACTERS + "s": "is too long",
}

SHOWN_DURATIONS = {
    0.0: "0s",
    1e-9: "1ns",
    0.00025: "250us",
    0.0015: "1.5ms",
    0.5: "500ms",
    1.0: "1s",
    1.05: "1.05s",
    60.0: "1m",
    90.0: "1m30s",
    3600.0: "1h",
    3600.5: "1h0.5s",
    5400.0: "1h30m",
    172800.0: "48h",
    0.9999999999: "1s",
}

SIZES = {
    "0": 0,
    "0B": 0,
    "512B": 512,
    "64MiB": 64 * 2**20,
    "1.5GiB": 3 * 2**29,
    "1TiB": 2**40,
    "3kB": 3000,
    "2MB": 2_000_000,
    "1GB": 10**9,
    "1TB": 10**12,
}

WRONG_SIZES = {
    "": "is empty",
    "64": "has a number without a unit",
    "-1B": "is negative",
    "1M": 'has the unknown unit "M"',
    "1mib": 'has the unknown unit "mib"',
    "MiB": "cannot be read",
    "9000000TiB": "is more than",
}

SHOWN_SIZES = {
    0: "0B",
    1023: "1023B",
    1024: "1KiB",
    1536: "1.5KiB",
    2**20 - 1: "1MiB",
    64 * 2**20: "64MiB",
    2**40: "1TiB",
    5000 * 2**40: "5000TiB",
}


@pytest.mark.parametrize(("text", "seconds"), DURATIONS.items())
def test_durations_are_read_as_go_reads_them(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(("text", "why"), WRONG_DURATIONS.items())
def test_a_wrong_duration_is_refused_with_its_reason(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)) as caught:
        parse_duration(text)
    assert "; write " in str(caught.value) or "; use " in str(caught.value)


@pytest.mark.parametrize(("seconds", "text"), SHOWN_DURATIONS.items())
def test_durations_are_shown_without_empty_parts(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(0, EXACT_NANOSECONDS))
def test_a_duration_survives_the_way_there_and_back(nanoseconds: int) -> None:
    seconds = nanoseconds / 10**9
    assert parse_duration(format_duration(seconds)) == seconds


@given(st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from(["h", "m", "s", "ms", "us"]))))
def test_a_duration_is_the_sum_of_its_parts(parts: list[tuple[int, str]]) -> None:
    parts = parts[:4]
    text = "".join(f"{count}{unit}" for count, unit in parts) or "0"
    total = sum(count * round(parse_duration(f"1{unit}") * 10**9) for count, unit in parts)
    assert total <= MAX_DURATION_NANOSECONDS
    assert parse_duration(text) == total / 10**9


@given(st.text(alphabet="0123456789.hmsun- ", max_size=12))
def test_any_text_is_a_duration_or_a_value_error(text: str) -> None:
    try:
        assert parse_duration(text) >= 0
    except ValueError as error:
        assert text[:16] in str(error)  # noqa: PT017 (most texts are wrong, not all)


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
def test_only_a_program_error_shows_an_impossible_duration(seconds: float) -> None:
    with pytest.raises(AssertionError):
        format_duration(seconds)


@pytest.mark.parametrize(("text", "size_bytes"), SIZES.items())
def test_sizes_are_read(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(("text", "why"), WRONG_SIZES.items())
def test_a_wrong_size_is_refused_with_its_reason(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        parse_size(text)


@pytest.mark.parametrize(("size_bytes", "text"), SHOWN_SIZES.items())
def test_sizes_are_shown_to_a_tenth(size_bytes: int, text: str) -> None:
    assert format_size(size_bytes) == text


@given(st.integers(0, MAX_SIZE_BYTES // 2))
def test_a_shown_size_is_within_a_twentieth_of_its_unit(size_bytes: int) -> None:
    text = format_size(size_bytes)
    unit = parse_size("1" + text.lstrip("0123456789."))
    assert abs(parse_size(text) - size_bytes) <= unit / 20 + 1
