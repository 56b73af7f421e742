"""What a node proves itself with: its certificate, key and authority, read from files and checked.

Whatever would make every handshake fail is found here, before anything depends on it: at the start
of the daemon, by `nefia config check`, and before a changed file replaces what works. Only time is
left out: a certificate that has expired, or a clock that is wrong, can be put right while the
daemon runs, so it is a warning.
"""

from __future__ import annotations

import os
import stat
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import NoReturn, TypeAlias

from attrs import field, frozen

from nefia.certificates import Description, describe, in_pem, untrusted, why_no_node
from nefia.config.schema import ClusterConfig
from nefia.errors import TLSFailed
from nefia.openssl import crypto, ec, ed25519, rsa, serialization, x509

PrivateKey: TypeAlias = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey

MAX_FILE_BYTES = 1024 * 1024
WARNING_TIME = timedelta(days=30)
WARNING_SHARE = 3
"""A certificate is due when less than `WARNING_TIME` or a third of its lifetime is left: the latter
for those that live for hours and are replaced by a program."""

NO_CHECK_TIME = 0x200000
PARTIAL_CHAIN = crypto.X509StoreFlags.PARTIAL_CHAIN
"""X509_V_FLAG_NO_CHECK_TIME and _PARTIAL_CHAIN of OpenSSL, X509_VERIFY_PARAM_set_flags(3). The
second makes an intermediate authority in `tls_ca_file` as good as a root."""


@frozen
class TlsFiles:
    """The paths in the configuration."""

    cert: Path
    key: Path
    ca: Path


def tls_files(cluster: ClusterConfig) -> TlsFiles:
    """Of a configuration that was checked with `tls_enabled`."""
    assert cluster.tls_cert_file is not None, "the configuration was checked"
    assert cluster.tls_key_file is not None
    assert cluster.tls_ca_file is not None
    return TlsFiles(cluster.tls_cert_file, cluster.tls_key_file, cluster.tls_ca_file)


@frozen(kw_only=True)
class Credentials:
    """`chain` is what follows the certificate in its file; `path` the way from it to an authority.

    `path` begins with the node's own certificate.
    """

    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...]
    key: PrivateKey = field(repr=False)
    authorities: tuple[x509.Certificate, ...]
    path: tuple[Description, ...]

    @property
    def expires_at(self) -> datetime:
        return min(each.not_after for each in self.path)

    def warning(self, now: datetime) -> str | None:
        """A sentence if something of these is not valid now, or will not be for much longer."""
        return next((w for each in self.path if (w := _time_warning(each, now))), None)


def _time_warning(certificate: Description, now: datetime) -> str | None:
    name, end = certificate.subject, certificate.not_after
    left, lifetime = end - now, end - certificate.not_before
    when = f"{end:%Y-%m-%d %H:%M} UTC"
    if now < certificate.not_before:
        return f"the certificate {name} is not valid yet; is this machine's clock right?"
    if left <= timedelta():
        return f"the certificate {name} has expired ({when}): no new connection can be made"
    if left < min(WARNING_TIME, lifetime / WARNING_SHARE):
        return f"the certificate {name} expires soon ({when}): replace it"
    return None


def load_credentials(files: TlsFiles, node_id: str = "") -> Credentials:
    """Those of `node_id`; empty: of whoever they name.

    Raises TLSFailed, which names the file; detail `key`, of the configuration, says which.
    """
    ca, cert = _File(files.ca, "tls_ca_file"), _File(files.cert, "tls_cert_file")
    authorities = ca.certificates()
    own, *chain = cert.certificates()
    if why := why_no_node(describe(own)):
        cert.refuse(why)
    if node_id and (ids := describe(own).node_ids) and node_id not in ids:
        cert.refuse(f"is the certificate of {', '.join(sorted(ids))}, and this node is {node_id}")
    key_file = _File(files.key, "tls_key_file")
    key = key_file.private_key()
    if own.public_key() != key.public_key():
        key_file.refuse(f"is not the key of {files.cert}")
    try:
        path = path_to_authority(own, chain, trust_store(authorities))
    except crypto.X509StoreContextError as error:
        cert.refuse(f"is not signed by an authority in {files.ca} ({error})")
    return Credentials(
        certificate=own,
        chain=tuple(chain),
        key=key,
        authorities=authorities,
        path=tuple(describe(each.to_cryptography()) for each in path),
    )


def trust_store(authorities: tuple[x509.Certificate, ...]) -> crypto.X509Store:
    """Certificates of `authorities`, valid now or not."""
    store = crypto.X509Store()
    store.set_flags(NO_CHECK_TIME | PARTIAL_CHAIN)
    for authority in authorities:
        store.add_cert(crypto.X509.from_cryptography(authority))
    return store


def path_to_authority(
    certificate: x509.Certificate, chain: list[x509.Certificate], store: crypto.X509Store
) -> list[crypto.X509]:
    """From `certificate` to an authority in `store`. Raises X509StoreContextError without one."""
    context = crypto.X509StoreContext(
        store,
        crypto.X509.from_cryptography(certificate),
        [crypto.X509.from_cryptography(each) for each in chain],
    )
    return context.get_verified_chain()


@frozen
class _File:
    """`key` is its key in the configuration."""

    path: Path
    key: str

    def refuse(self, why: str) -> NoReturn:
        raise TLSFailed(f"{self.path} {why}", key=self.key)

    def certificates(self) -> tuple[x509.Certificate, ...]:
        content, found = self._read()
        if found.st_mode & stat.S_IWOTH:
            self.refuse(f"may be changed by everybody; chmod o-w {self.path}")
        try:
            certificates = in_pem(content)
            for certificate in certificates:
                untrusted(partial(describe, certificate))
        except ValueError:
            self.refuse("holds no certificate in PEM form that can be understood")
        return certificates

    def private_key(self) -> PrivateKey:
        """If nobody else may read it; as PostgreSQL has it, a group may read a key of root's."""
        content, found = self._read()
        mode = stat.S_IMODE(found.st_mode)
        if found.st_uid not in (0, os.geteuid()):
            self.refuse(f"belongs to the user {found.st_uid}, who can read and change it")
        if mode & (0o027 if found.st_uid == 0 else 0o077):
            self.refuse(f"may be read by others (mode {mode:04o}); chmod 0600 {self.path}")
        try:
            key = serialization.load_pem_private_key(content, password=None)
        except TypeError:
            self.refuse("is protected by a passphrase, which nefia can ask nobody for")
        except ValueError:
            self.refuse("holds no private key in PEM form that can be understood")
        if not isinstance(key, PrivateKey):
            self.refuse("holds a key of a kind that TLS 1.3 does not use; make an EC key")
        return key

    def _read(self) -> tuple[bytes, os.stat_result]:
        try:
            with self.path.open("rb") as file:
                content = file.read(MAX_FILE_BYTES + 1)
                found = os.fstat(file.fileno())
        except OSError as error:
            self.refuse(f"cannot be read: {error.strerror}")
        if len(content) > MAX_FILE_BYTES:
            self.refuse(f"is larger than {MAX_FILE_BYTES} bytes; is it the right file?")
        return content, found
