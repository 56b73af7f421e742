"""Is this raft.db whole? Run as a child process, `python -m nefia.storage.verify PATH`.

LMDB maps its file and trusts it: a truncated or damaged one kills the reader with SIGBUS or an
abort. So a child looks first, and its death is an answer too (`claim`). It prints one JSON object:
`{}` if the file is sound, else an error as in the admin API. Imports are few, because every start
waits for this.
"""

from __future__ import annotations

import json
import os
import resource
import struct
import sys
from contextlib import suppress
from pathlib import Path

import lmdb
from lmdb.verify import VerifyError
from lmdb.verify import verify as structural_problems

from nefia.errors import DataDamaged, DiskFailed, NefiaError, NewerFormat, Permission
from nefia.storage import layout
from nefia.storage.layout import BadChecksum

# A meta page of LMDB 0.9 (mdb.c, MDB_page and MDB_meta): page size, last page, transaction.
_META_PAGE = struct.Struct("=16x 4x4x 8x8x I44x 48x QQ")


def verify(path: Path) -> None:
    """Read and check every page and every record.

    Raises `DataDamaged`, with `index` where the first bad entry is known; `NewerFormat`; OSError.
    """
    try:
        # Pages first, by file reads: afterwards it is safe to let LMDB map the file.
        if problems := structural_problems(os.fspath(path)):  # type: ignore[no-untyped-call]
            raise DataDamaged(f"{path} is damaged: {problems[0]}")
        _check_meta_pages(path)
        with layout.open_environment(path, readonly=True) as environment:
            meta = environment.open_db(layout.META, create=False)
            log = environment.open_db(layout.LOG, create=False)
            with environment.begin() as transaction:
                _check_format(path, transaction.get(layout.FORMAT, db=meta))
                _check_meta(path, transaction.cursor(meta))
                _check_log(path, transaction.cursor(log), transaction.stat(log)["entries"])
    except (VerifyError, lmdb.Error) as error:
        raise DataDamaged(f"{path} is damaged: {error}") from error


def _check_meta_pages(path: Path) -> None:
    """The file is as long as its newest meta page says, and neither meta page is out of turn."""
    with path.open("rb") as file:
        page_bytes, last_page, transaction = _META_PAGE.unpack(file.read(_META_PAGE.size))
        file.seek(page_bytes)
        _, other_last_page, other_transaction = _META_PAGE.unpack(file.read(_META_PAGE.size))
        found_bytes = file.seek(0, os.SEEK_END)
    if other_transaction > transaction:
        last_page = other_last_page
    needed_bytes = (last_page + 1) * page_bytes
    if found_bytes < needed_bytes:
        raise DataDamaged(f"{path} is too short: {found_bytes} bytes of at least {needed_bytes}")
    # Transactions take turns with the two pages, so their numbers are neighbours. If they are not,
    # the newest transaction may be the one that cannot be seen.
    if abs(transaction - other_transaction) > 1:
        raise DataDamaged(f"{path} is damaged: its meta pages are of transactions far apart")


def _check_format(path: Path, record: bytes | None) -> None:
    if record is None:
        raise DataDamaged(f"{path} is damaged: its format version is missing")
    try:
        version = int(layout.unseal(layout.FORMAT, record))
    except BadChecksum:
        raise DataDamaged(f"{path} is damaged: its format version has a bad checksum") from None
    if version > layout.FORMAT_VERSION:
        raise NewerFormat(
            f"{path} has format {version}, this nefia knows up to {layout.FORMAT_VERSION}",
            hint="Run the newer nefia that wrote it.",
        )
    if version not in layout.KNOWN_FORMATS:
        raise DataDamaged(f"{path} has format {version}, which no released nefia has written")


def _check_meta(path: Path, cursor: lmdb.Cursor[bytes]) -> None:
    for key, record in cursor:
        try:
            layout.unseal(key, record)
        except BadChecksum:
            raise DataDamaged(
                f"{path} is damaged: the record {key.decode('ascii', 'replace')!r}"
                " has a bad checksum"
            ) from None


def _check_log(path: Path, cursor: lmdb.Cursor[bytes], entries: int) -> None:
    """Every entry has its checksum and is found where a search for its index looks for it."""
    if not cursor.first():
        return
    first = layout.log_index(cursor.key())
    for index in range(first, first + entries):
        key = layout.log_key(index)
        record = cursor.get(key)
        if record is None:
            raise DataDamaged(f"{path} is damaged: entry {index} is missing", index=index)
        try:
            layout.unseal(key, record)
        except BadChecksum:
            raise DataDamaged(
                f"{path} is damaged: entry {index} has a bad checksum", index=index
            ) from None


def _forget_cache(path: Path) -> None:
    """Have whoever reads next read the disk: after a failed sync the kernel caches what it lost."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def main(path: str) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core would hold the whole map
    answer = {}
    try:
        _forget_cache(Path(path))
        with suppress(FileNotFoundError):  # there was none in format 1
            _forget_cache(Path(path).with_name(layout.JOURNAL_FILE))
        verify(Path(path))
    except PermissionError as error:
        answer = Permission(f"{path}: {error.strerror}").to_json()
    except OSError as error:
        answer = DiskFailed(f"{path} cannot be read: {error.strerror}", full=False).to_json()
    except NefiaError as error:
        answer = error.to_json()
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
