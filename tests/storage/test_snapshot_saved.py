"""Saved snapshots of every format version can still be read.

`python -m tests.storage.test_snapshot_saved` (from the project's root) writes the one of the
present version anew; those of older versions stay as they are.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from nefia.state.records import KINDS
from nefia.storage.snapshot_format import (
    SNAPSHOT_FORMAT,
    Encoder,
    Sealer,
    encode_metadata,
    kind_of,
)
from nefia.storage.snapshot_saved import opened, verify
from tests.storage.snapshots_made import described
from tests.wire_records import RECORDS

FIXTURES = Path(__file__).parents[2] / "fixtures" / "snapshots"


def fixture(version: int) -> Path:
    return FIXTURES / f"format-{version}.snapshot"


def record() -> None:
    encoder, sealer = Encoder((kind_of(each), each) for each in RECORDS), Sealer()
    data = sealer.seal(encoder.next_chunk())
    info = sealer.info(described(90), encoder.kinds)
    FIXTURES.mkdir(exist_ok=True)
    fixture(SNAPSHOT_FORMAT).write_bytes(encode_metadata(info) + data)


@pytest.mark.parametrize("version", range(1, SNAPSHOT_FORMAT + 1))
def test_every_format_can_be_read(version: int) -> None:
    info = verify(fixture(version))
    assert info.described == described(90)
    assert {each.kind for each in info.kinds} == set(KINDS)
    with opened(fixture(version)) as (_, records):
        assert tuple(each for _, each in records) == RECORDS


if __name__ == "__main__":
    record()
