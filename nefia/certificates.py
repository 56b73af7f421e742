"""Certificates of nodes and of the authority that signs them: made, described, judged.

Pure: neither a file nor a clock; the time is a parameter. RFC 5280 for the fields, SPEC 7 for what
a node's certificate has to carry.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TypeVar

from attrs import field, frozen

from nefia.config.kinds import parse_node_id, printable
from nefia.openssl import ExtendedKeyUsageOID, ec, hashes, serialization, x509

T = TypeVar("T")
E = TypeVar("E", bound=x509.ExtensionType)

ID_PREFIX = "nefia://"
"""A URI in the subject's alternative names, with a node id after it."""
BACKDATED = timedelta(hours=1)
"""How long a new certificate has been valid already, since the clocks of nodes differ."""

SERVER, CLIENT, ANY = "serverAuth", "clientAuth", "anyExtendedKeyUsage"
_USAGES = {
    ExtendedKeyUsageOID.SERVER_AUTH: SERVER,
    ExtendedKeyUsageOID.CLIENT_AUTH: CLIENT,
    ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE: ANY,
}


@frozen
class KeyPair:
    """A certificate and its private key, both PEM. The key is not shown."""

    certificate: bytes
    key: bytes = field(repr=False)


@frozen(kw_only=True)
class Description:
    """What a certificate says. `usages` are extended key usages by name, else dotted numbers.

    `usages` is None where the extension is missing. `node_ids` are those that the certificate
    names; empty if it names none. `fingerprint` is the SHA-256 of the certificate. Times are UTC.
    """

    subject: str
    issuer: str
    serial: str
    not_before: datetime
    not_after: datetime
    usages: frozenset[str] | None
    node_ids: frozenset[str]
    may_sign: bool
    is_authority: bool
    fingerprint: str


def untrusted(read: Callable[[], T]) -> T:
    """What `read` makes of a certificate that anyone may have made. Raises ValueError.

    The errors of the library have no root in common, and one that escaped would end the daemon.
    """
    try:
        return read()
    except Exception as error:
        raise ValueError(f"{type(error).__name__}: {printable(str(error))}") from error


def describe(certificate: x509.Certificate) -> Description:
    """Raises any error for a certificate whose fields cannot be understood: see `untrusted`."""
    usages = _extension(certificate, x509.ExtendedKeyUsage)
    names = _extension(certificate, x509.SubjectAlternativeName)
    key_usage = _extension(certificate, x509.KeyUsage)
    constraints = _extension(certificate, x509.BasicConstraints)
    uris = names.get_values_for_type(x509.UniformResourceIdentifier) if names else []
    return Description(
        subject=_shown(certificate.subject),
        issuer=_shown(certificate.issuer),
        serial=f"{certificate.serial_number:x}",
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        usages=None if usages is None else frozenset(map(_usage_name, usages)),
        node_ids=frozenset(
            printable(uri.removeprefix(ID_PREFIX)) for uri in uris if uri.startswith(ID_PREFIX)
        ),
        may_sign=key_usage is None or key_usage.digital_signature,
        is_authority=constraints is not None and constraints.ca,
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
    )


def _extension(certificate: x509.Certificate, kind: type[E]) -> E | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _shown(name: x509.Name) -> str:
    """As in RFC 4514; anyone may have written it, and it goes to terminals and logs."""
    return printable(name.rfc4514_string())


def _usage_name(usage: x509.ObjectIdentifier) -> str:
    return _USAGES.get(usage, usage.dotted_string)


def why_no_node(certificate: Description) -> str | None:
    """Why this may not be the certificate of a node, whoever signed it; None if it may (SPEC 7).

    Every node both dials and is dialled, so either usage alone is not enough; and no usage at all
    is not the same as any usage.
    """
    needed = f"a node's needs {SERVER} and {CLIENT}, or {ANY}"
    if certificate.usages is None:
        return f"has no extended key usage; {needed}"
    if ANY not in certificate.usages and not certificate.usages >= {SERVER, CLIENT}:
        return f"has only the extended key usage {', '.join(sorted(certificate.usages))}; {needed}"
    if not certificate.may_sign:
        return "has a key usage without digitalSignature, so it cannot be used for TLS 1.3"
    return None


def in_pem(pem: bytes) -> tuple[x509.Certificate, ...]:
    """All certificates in a PEM file, in order. Raises ValueError if there are none or bad ones."""
    return untrusted(lambda: tuple(x509.load_pem_x509_certificates(pem)))


# Making them.


def make_authority(name: str, lifetime: timedelta, now: datetime) -> KeyPair:
    """A self-signed authority, for the nodes of one cluster and nothing else below it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name(name)
    builder = (
        _builder(subject, subject, key.public_key(), now, now + lifetime)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage("key_cert_sign", "crl_sign"), critical=True)
    )
    return _pair(builder.sign(key, hashes.SHA256()), key)


def make_node(authority: KeyPair, node_id: str, lifetime: timedelta, now: datetime) -> KeyPair:
    """The certificate of a node, which names its id and ends no later than its authority's.

    Raises ValueError, with a sentence, if `authority` is none, or is not a matching pair.
    """
    parse_node_id(node_id)
    (signer, *_), signing_key = in_pem(authority.certificate), private_key(authority.key)
    if not describe(signer).is_authority:
        raise ValueError("the certificate is not that of an authority (its CA flag is not set)")
    if signer.public_key() != signing_key.public_key():
        raise ValueError("the key is not that of the authority's certificate")
    key = ec.generate_private_key(ec.SECP256R1())
    end = min(now + lifetime, signer.not_valid_after_utc)
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(ID_PREFIX + node_id)])
    issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key())
    builder = (
        _builder(_name(node_id), signer.subject, key.public_key(), now, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage("digital_signature"), critical=True)
        .add_extension(x509.ExtendedKeyUsage([o for o, n in _USAGES.items() if n != ANY]), False)
        .add_extension(names, critical=False)
        .add_extension(issuer_key, critical=False)
    )
    return _pair(builder.sign(signing_key, hashes.SHA256()), key)


def private_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """The unencrypted key that `make_authority` made, or one like it. Raises ValueError."""
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except TypeError as error:
        raise ValueError("the key is protected by a passphrase; nefia can ask nobody") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("the key is no elliptic-curve key, as `nefia cert ca` makes them")
    return key


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: datetime,
    end: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])


_KEY_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


def _key_usage(*usages: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{usage: usage in usages for usage in _KEY_USAGES})


def _pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> KeyPair:
    return KeyPair(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )
