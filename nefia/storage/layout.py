"""What stands where in raft.db, and the checksums. Shared with the verifying child: few imports.

Database `meta` holds the format version, the identity, term and vote, the snapshot's place in the
log, and the generation of the journal (`storage.journal`), each under a name. Database `log` holds
the entries, each under its index in 8 bytes, most significant first. A record is a checksum over
its key and body, then the body.
"""

from __future__ import annotations

import os
import struct
from hashlib import blake2b
from pathlib import Path

import lmdb

DATABASE_FILE = "raft.db"
JOURNAL_FILE = "raft.journal"
FORMAT_VERSION = 3
"""Raised when this layout or what `nefia.wire` makes of an entry changes."""
FORMAT_WITHOUT_JOURNAL = 1
KNOWN_FORMATS = (FORMAT_WITHOUT_JOURNAL, FORMAT_VERSION)
"""Builds of a single day wrote format 2, whose journal would be read past what it holds."""

META = b"meta"
LOG = b"log"

FORMAT = b"format"
"""Its record, a sealed decimal number, keeps this form in every future version."""
IDENTITY = b"identity"
HARD_STATE = b"hard_state"
SNAPSHOT = b"snapshot"
GENERATION = b"generation"
"""Sealed as the format is; missing in format 1."""

CHECKSUM_BYTES = 16
MAP_BYTES = 1 << 40
MAX_DATABASES = 4
LMDB_ENGINE = 0  # LMDB 0.9's file format, whichever a later binding prefers for new files

_KEY = struct.Struct(">Q")


class BadChecksum(Exception):
    """A record is not what was written under this key."""


def log_key(index: int) -> bytes:
    return _KEY.pack(index)


def log_index(key: bytes) -> int:
    index: int = _KEY.unpack(key)[0]
    return index


def _checksum(key: bytes, body: bytes) -> bytes:
    return blake2b(key + body, digest_size=CHECKSUM_BYTES).digest()


def seal(key: bytes, body: bytes) -> bytes:
    """The record to store under `key`. The checksum covers the key: a misplaced record is bad."""
    return _checksum(key, body) + body


def unseal(key: bytes, record: bytes) -> bytes:
    """The body of a record. Raises `BadChecksum`."""
    body = record[CHECKSUM_BYTES:]
    if record[:CHECKSUM_BYTES] != _checksum(key, body):
        raise BadChecksum
    return body


def open_environment(path: Path, *, readonly: bool = False) -> lmdb.Environment:
    """Map `path`, created with mode 0600 if it is missing.

    Every commit is synced. LMDB's lock file is not used: `DirectoryLock` keeps other processes
    out, and `RaftDb` keeps its one writer from overtaking its readers.
    """
    return lmdb.open(
        os.fspath(path),
        subdir=False,
        mode=0o600,
        map_size=MAP_BYTES,
        max_dbs=MAX_DATABASES,
        readonly=readonly,
        lock=False,
        lib_version=LMDB_ENGINE,
    )
