"""Certificates good and bad, made from fixtures/certificates/recipes.toml for each test run."""

from __future__ import annotations

import ssl
import tomllib
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

from attrs import frozen

from nefia.certificates import ID_PREFIX, KeyPair
from nefia.credentials import TlsFiles
from nefia.openssl import ec, hashes, serialization, x509

RECIPES_FILE = Path(__file__).parent.parent / "fixtures/certificates/recipes.toml"
HOUR = timedelta(hours=1)
USAGES = {
    "serverAuth": "1.3.6.1.5.5.7.3.1",
    "clientAuth": "1.3.6.1.5.5.7.3.2",
    "codeSigning": "1.3.6.1.5.5.7.3.3",
    "emailProtection": "1.3.6.1.5.5.7.3.4",
    "anyExtendedKeyUsage": "2.5.29.37.0",
}


@frozen(kw_only=True)
class Recipe:
    """See the file. `ca`: this is an authority itself."""

    usages: tuple[str, ...] | None = None
    signer: str = "authority"
    sends: str = ""
    valid: tuple[int, int] = (-1, 24)
    ids: tuple[str, ...] = ("own",)
    good: bool = False
    ca: bool = False


RECIPES = {name: Recipe(**each) for name, each in tomllib.loads(RECIPES_FILE.read_text()).items()}

SIGNERS = {
    "authority": Recipe(signer="itself", ids=(), valid=(-72, 240), ca=True),
    "other": Recipe(signer="itself", ids=(), valid=(-72, 240), ca=True),
    "intermediate": Recipe(signer="authority", ids=(), valid=(-72, 240), ca=True),
}


@frozen
class Baked:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        form = serialization.PrivateFormat.PKCS8
        return self.key.private_bytes(
            serialization.Encoding.PEM, form, serialization.NoEncryption()
        )


@cache
def signer(name: str) -> Baked:
    """The same for a whole run, so that all that it signs belongs together."""
    return _bake(SIGNERS[name], f"the {name}")


def bake(recipe: str | Recipe, node_id: str) -> KeyPair:
    """A new certificate for `node_id`; with its chain, if it is to be sent."""
    chosen = RECIPES[recipe] if isinstance(recipe, str) else recipe
    baked = _bake(chosen, node_id)
    chain = signer(chosen.sends).pem if chosen.sends else b""
    return KeyPair(baked.pem + chain, baked.key_pem)


def _bake(recipe: Recipe, name: str) -> Baked:
    now = datetime.now(UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    signing = None if recipe.signer == "itself" else signer(recipe.signer)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signing.certificate.subject if signing else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + recipe.valid[0] * HOUR)
        .not_valid_after(now + recipe.valid[1] * HOUR)
        .add_extension(x509.BasicConstraints(recipe.ca, path_length=None), critical=True)
    )
    if recipe.usages is not None:
        usages = [x509.ObjectIdentifier(USAGES[usage]) for usage in recipe.usages]
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    if recipe.ids:
        uris = [ID_PREFIX + (name if each == "own" else each) for each in recipe.ids]
        names = [x509.UniformResourceIdentifier(uri) for uri in uris]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return Baked(builder.sign(signing.key if signing else key, hashes.SHA256()), key)


def spoiled(certificate: bytes) -> bytes:
    """PEM of the same certificate, of a version that there is not; its signature is wrong now."""
    der = bytearray(ssl.PEM_cert_to_DER_cert(certificate.decode()))
    version = der.index(bytes.fromhex("a003020102"))
    der[version + 4] = 66
    return ssl.DER_cert_to_PEM_cert(bytes(der)).encode()


def write(directory: Path, pair: KeyPair, *, ca: bytes | None = None) -> TlsFiles:
    """Files as `nefia.yaml` names them; `ca` is by default the authority of most recipes."""
    directory.mkdir(parents=True, exist_ok=True)
    files = TlsFiles(directory / "cert.pem", directory / "key.pem", directory / "ca.pem")
    files.ca.write_bytes(signer("authority").pem if ca is None else ca)
    files.key.touch(mode=0o600)
    files.key.write_bytes(pair.key)
    files.cert.write_bytes(pair.certificate)
    return files
