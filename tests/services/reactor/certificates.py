"""A certificate for a Reactor: beacons check the name or address that they dial."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

from attrs import frozen

from nefia.certificates import KeyPair
from nefia.openssl import ec, hashes, serialization, x509
from tests.certificates import HOUR, signer, write


@frozen
class ReactorFiles:
    cert: Path
    key: Path
    ca: Path

    @property
    def context(self) -> ssl.SSLContext:
        """A beacon's."""
        return ssl.create_default_context(cafile=self.ca)


def certified(directory: Path, address: str = "127.0.0.1") -> ReactorFiles:
    now, authority = datetime.now(UTC), signer("authority")
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, address)]))
        .issuer_name(authority.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - HOUR)
        .not_valid_after(now + HOUR)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))]), critical=False
        )
        .sign(authority.key, hashes.SHA256())
    )
    form = serialization.PrivateFormat.PKCS8
    pem = serialization.Encoding.PEM
    key_pem = key.private_bytes(pem, form, serialization.NoEncryption())
    files = write(directory, KeyPair(certificate.public_bytes(pem), key_pem))
    return ReactorFiles(files.cert, files.key, files.ca)
