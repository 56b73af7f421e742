"""The only door to `cryptography` and pyOpenSSL, which sees to OpenSSL's configuration first.

OpenSSL reads its configuration once, when `cryptography` is first imported, and there is no other
way to turn session tickets off that pyOpenSSL gives access to. A test keeps all other imports of
these packages out of nefia.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CONFIGURATION = Path(__file__).with_name("openssl.cnf")
_VARIABLE = "OPENSSL_CONF"


@contextmanager
def _configured() -> Iterator[None]:
    """Child processes shall not inherit what is meant for this import."""
    before = os.environ.get(_VARIABLE)
    os.environ[_VARIABLE] = str(CONFIGURATION)
    try:
        yield
    finally:
        del os.environ[_VARIABLE]
        if before is not None:
            os.environ[_VARIABLE] = before


with _configured():
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.x509.oid import ExtendedKeyUsageOID
    from OpenSSL import SSL, crypto

__all__ = [
    "SSL",
    "ExtendedKeyUsageOID",
    "crypto",
    "ec",
    "ed25519",
    "hashes",
    "rsa",
    "serialization",
    "x509",
]
