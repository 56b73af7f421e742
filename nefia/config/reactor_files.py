"""The files that a Reactor needs: tokens, and a certificate with its key.

Beacons are no nodes, so the rules of SPEC 7 for certificates are not theirs: here the TLS of the
standard library does.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from nefia.config.services import ReactorConfig
from nefia.errors import InvalidConfiguration, NefiaError, TLSFailed

if TYPE_CHECKING:
    from ssl import SSLContext

MAX_TOKENS = 16
MIN_TOKEN_CHARACTERS = 16
MAX_TOKEN_FILE_BYTES = 16 * 1024
GROUP_WRITES_OTHERS_ANY = 0o027
OTHERS_ANY = 0o077


def read_tokens(path: Path) -> tuple[bytes, ...]:
    """The tokens in the file, one a line. Raises InvalidConfiguration with a sentence about it."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_TOKEN_FILE_BYTES + 1)
            found = os.fstat(file.fileno())
    except OSError as error:
        raise InvalidConfiguration(f"{path} cannot be read: {error.strerror}") from error
    if why := why_not_secret(found):
        raise InvalidConfiguration(f"{path} {why}; chmod 0600 {path}")
    tokens = tuple(content.split())
    if len(content) > MAX_TOKEN_FILE_BYTES or len(tokens) > MAX_TOKENS:
        raise InvalidConfiguration(
            f"{path} has more than {MAX_TOKENS} tokens; is it the right file?"
        )
    if not tokens:
        raise InvalidConfiguration(f"{path} has no token; write one of random characters")
    for token in tokens:
        if len(token) < MIN_TOKEN_CHARACTERS or not token.isascii():
            raise InvalidConfiguration(
                f"{path} has a token that is no {MIN_TOKEN_CHARACTERS} or more ASCII characters; "
                "make one with `openssl rand -hex 32`"
            )
    return tokens


def why_not_secret(found: os.stat_result) -> str | None:
    """Who else may read a file, in a clause; as for keys, a group may read one of root's."""
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid not in (0, os.geteuid()):
        return f"belongs to the user {found.st_uid}, who can read and change it"
    if mode & (GROUP_WRITES_OTHERS_ANY if found.st_uid == 0 else OTHERS_ANY):
        return f"may be read by others (mode {mode:04o})"
    return None


def server_context(config: ReactorConfig) -> SSLContext | None:
    """What beacons are met with, TLS 1.2 or newer; None without `tls_cert_file`.

    Raises TLSFailed, whose detail `key` says which file it is about.
    """
    if config.tls_cert_file is None or config.tls_key_file is None:
        return None
    import ssl

    key_file = config.tls_key_file
    try:
        if why := why_not_secret(key_file.stat()):
            raise TLSFailed(f"{key_file} {why}; chmod 0600 {key_file}", key="tls_key_file")
    except OSError as error:
        raise TLSFailed(
            f"{key_file} cannot be read: {error.strerror}", key="tls_key_file"
        ) from error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # A passphrase would be asked for on a terminal that a daemon does not have.
        context.load_cert_chain(config.tls_cert_file, key_file, password=b"")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
        raise TLSFailed(
            f"{config.tls_cert_file} and {key_file} are not a certificate and its key in PEM "
            f"form: {reason}",
            key="tls_cert_file",
        ) from error
    return context


def mistakes_of(config: ReactorConfig) -> list[tuple[str, str]]:
    """Keys and sentences, of all files that cannot be used."""
    found: list[tuple[str, str]] = []
    try:
        if config.token_file is not None:
            read_tokens(config.token_file)
    except NefiaError as error:
        found.append(("token_file", error.message))
    if (config.tls_cert_file is None) != (config.tls_key_file is None):
        missing = "tls_key_file" if config.tls_key_file is None else "tls_cert_file"
        found.append((missing, "is missing; TLS needs a certificate and its key"))
    try:
        server_context(config)
    except NefiaError as error:
        found.append((str(error.details["key"]), error.message))
    return found
