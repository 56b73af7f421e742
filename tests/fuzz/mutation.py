"""Bytes that are nearly right: what a parser has to see that shall refuse everything else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

MAX_MUTATIONS = 6
MAX_RANDOM_BYTES = 300
MAX_REPEATED = 64
EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x90, 0xDC, 0xDD, 0xDE, 0xDF, 0xC4, 0xC6, 0xC7, 0xCF, 0xD9)
"""Among them what msgpack begins arrays, maps, integers and long strings with."""
NUMBERS = (b"\xcf" + b"\xff" * 8, b"\xd3\x80" + b"\0" * 7, b"\xcf\x7f" + b"\xff" * 7)
"""The largest and the smallest that msgpack has a form for, and the largest with a sign."""
LENGTHS = (b"\xff" * 4, b"\x7f\xff\xff\xff", b"\0" * 4, b"\x80\0\0\0", b"\xff" * 8)

Mutation = Callable[[bytearray, Random, Sequence[bytes]], None]


def _place(data: bytearray, random: Random) -> int:
    return random.randrange(len(data) + 1)


def _flip(data: bytearray, random: Random, seeds: Sequence[bytes]) -> None:
    if data:
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def _edge(data: bytearray, random: Random, seeds: Sequence[bytes]) -> None:
    if data:
        data[random.randrange(len(data))] = random.choice(EDGES)


def _length(data: bytearray, random: Random, seeds: Sequence[bytes]) -> None:
    start, value = _place(data, random), random.choice(LENGTHS)
    data[start : start + len(value)] = value


def _number(data: bytearray, random: Random, seeds: Sequence[bytes]) -> None:
    """In place of what is often a small number, or a type."""
    start = _place(data, random)
    data[start : start + 1] = random.choice(NUMBERS)


def _delete(data: bytearray, random: Random, seeds: Sequence[bytes]) -> None:
    start = _place(data, random)
    del data[start : start + random.randrange(1, 9)]


def _cut(data: bytearray, random: Random, seeds: Sequence[bytes]) -> None:
    del data[_place(data, random) :]


def _insert(data: bytearray, random: Random, seeds: Sequence[bytes]) -> None:
    start = _place(data, random)
    data[start:start] = random.randbytes(random.randrange(1, 9))


def _repeat(data: bytearray, random: Random, seeds: Sequence[bytes]) -> None:
    start = _place(data, random)
    piece = data[start : start + random.randrange(1, 33)]
    data[start:start] = piece * random.randrange(1, MAX_REPEATED)


def _splice(data: bytearray, random: Random, seeds: Sequence[bytes]) -> None:
    other = random.choice(seeds)
    data[_place(data, random) :] = other[random.randrange(len(other) + 1) :]


MUTATIONS: tuple[Mutation, ...] = (
    _flip,
    _edge,
    _length,
    _number,
    _delete,
    _cut,
    _insert,
    _repeat,
    _splice,
)


def mutated(seeds: Sequence[bytes], random: Random) -> bytes:
    """One of `seeds` with a few mutations; now and then, bytes with no sense at all."""
    if random.randrange(16) == 0:
        return random.randbytes(random.randrange(MAX_RANDOM_BYTES))
    data = bytearray(random.choice(seeds))
    for _ in range(random.randrange(MAX_MUTATIONS + 1)):
        random.choice(MUTATIONS)(data, random, seeds)
    return bytes(data)
