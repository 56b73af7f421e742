"""Where certificates and keys are kept: names, modes, and how they are written. No OpenSSL here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from nefia.errors import Conflict, Permission, TLSFailed

CERT = "cluster-cert.pem"
KEY = "cluster-key.pem"
CA = "cluster-ca.pem"
CA_KEY = "cluster-ca-key.pem"
"""The first three are the names in the configuration's example."""

MODES = {CERT: 0o644, KEY: 0o600, CA: 0o644, CA_KEY: 0o600}
MAX_FILE_BYTES = 1024 * 1024


def read_file(path: Path) -> bytes:
    """Raises Permission and TLSFailed."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise Permission(f"{path} cannot be read: {error.strerror}") from None
    if len(content) > MAX_FILE_BYTES:
        raise TLSFailed(f"{path} is larger than {MAX_FILE_BYTES} bytes; is it the right file?")
    return content


def write_files(directory: Path, files: Mapping[str, bytes], *, replace: bool = False) -> None:
    """Each whole or not at all, and with its mode from the first byte on.

    Raises Conflict if one is there and must not be replaced, and Permission.
    """
    there = [directory / name for name in files if (directory / name).exists()]
    if there and not replace:
        raise Conflict(f"{there[0]} is there already", hint="name another directory, or see --help")
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, content in files.items():
            _write(directory / name, content)
    except OSError as error:
        raise Permission(
            f"{directory} cannot be written to: {error.strerror}", changed="unknown"
        ) from None


def _write(path: Path, content: bytes) -> None:
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        os.fchmod(file.fileno(), MODES[path.name])
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.rename(path)
