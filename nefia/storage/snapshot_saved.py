"""A saved snapshot: one file, the metadata and then the data, for an operator to keep (SPEC 3)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from nefia.errors import DataDamaged, NefiaError, NotFound, Permission
from nefia.storage import files
from nefia.storage.raft_db import disk_failed
from nefia.storage.snapshot_files import DATA_FILE, METADATA_FILE, SNAPSHOTS_DIRECTORY
from nefia.storage.snapshot_format import (
    Records,
    SnapshotInfo,
    encode_metadata,
    read_metadata,
    read_records,
)

COPY_BYTES = 1024 * 1024


def newest_in(data_dir: Path) -> Path:
    """The newest snapshot in a node's data directory. Raises NotFound, Permission, NewerFormat."""
    found: list[tuple[tuple[int, int], Path]] = []
    with _told(data_dir):
        for path in (data_dir / SNAPSHOTS_DIRECTORY).glob("[0-9]*-[0-9]*"):
            try:
                found.append((_metadata_of(path)[0].order, path))
            except DataDamaged:
                continue
    if not found:
        raise NotFound(
            f"there is no snapshot in {data_dir}",
            hint="take one with nefia cluster snapshot while the daemon runs",
        )
    return max(found)[1]


def save(source: Path, target: Path) -> SnapshotInfo:
    """Write the snapshot in the directory `source` to the file `target`, and verify it there.

    What was under that name is replaced once the new file is durable and found to be sound. Raises
    DataDamaged, NewerFormat, DiskFailed, Permission.
    """
    unfinished = target.with_name(f".{target.name}.new")
    with _told(source), (source / DATA_FILE).open("rb") as data:
        info, _ = _metadata_of(source)
        try:
            with _told(target):
                _write(unfinished, info, data)
            verify(unfinished)
            with _told(target):
                files.rename(unfinished, target)
                files.sync_directory(target.absolute().parent)
        except BaseException:
            files.remove(unfinished)
            raise
    return info


def _write(path: Path, info: SnapshotInfo, data: BinaryIO) -> None:
    files.remove(path)
    fd = files.open_new(path)
    try:
        files.append(fd, encode_metadata(info))
        while piece := data.read(COPY_BYTES):
            files.append(fd, piece)
        files.sync(fd)
        # What is verified next shall come from the disk.
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def verify(path: Path) -> SnapshotInfo:
    """Read all of a saved file, or of a snapshot's directory. Raises as `save` does."""
    with opened(path) as (info, records):
        for _ in records:
            pass
    return info


@contextmanager
def opened(path: Path) -> Iterator[tuple[SnapshotInfo, Records]]:
    """What `path` describes, and its records, each checked when it comes."""
    with _told(path):
        info, begin = _metadata_of(path)
        with (path / DATA_FILE if path.is_dir() else path).open("rb", COPY_BYTES) as file:
            file.seek(0 if path.is_dir() else begin)
            yield info, read_records(file, info, str(path))


def _metadata_of(path: Path) -> tuple[SnapshotInfo, int]:
    """And where in the file they end."""
    with (path / METADATA_FILE if path.is_dir() else path).open("rb") as file:
        return read_metadata(file, str(path)), file.tell()


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Errors of the file system as errors for people."""
    try:
        yield
    except NefiaError:
        raise
    except FileNotFoundError as error:
        raise NotFound(f"{error.filename}: there is no such file") from error
    except PermissionError as error:
        raise Permission(
            f"{error.filename}: {error.strerror}",
            hint="run it as the user that runs the daemon",
        ) from error
    except OSError as error:
        raise disk_failed(path, error) from error
