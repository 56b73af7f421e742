"""pyOpenSSL in the shape in which `trio.SSLStream` wants the standard library's `ssl`.

Why not `ssl` itself: it refuses a certificate whose only extended usage is anyExtendedKeyUsage,
takes one with none at all, and gives no say in the matter (SPEC 7). trio brings two memory buffers
and asks for handshakes, reads and writes between them; nothing here waits or knows of a socket.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from attrs import define

from nefia.certificates import Description, describe, untrusted, why_no_node
from nefia.openssl import SSL, crypto, x509

T = TypeVar("T")
P = ParamSpec("P")

RECORD_BYTES = 16 * 1024
"""What one TLS record holds at most (RFC 8446, 5.1), and one call of OpenSSL reads or writes."""
DRAIN_BYTES = RECORD_BYTES + 256
"""Room for one record with its header and tag."""
FIRST_BYTES = (21, 22)
"""What a TLS connection begins with: an alert or a handshake (RFC 8446, B.1)."""

_CODES = SSL.X509VerificationCodes
_UNKNOWN = "is not signed by an authority in tls_ca_file, directly or through what it presents"
_WHY_UNTRUSTED = {
    _CODES.ERR_CERT_HAS_EXPIRED: "has expired",
    _CODES.ERR_CERT_NOT_YET_VALID: "is not valid yet; are the clocks of both machines right?",
    _CODES.ERR_DEPTH_ZERO_SELF_SIGNED_CERT: "is self-signed",
    _CODES.ERR_SELF_SIGNED_CERT_IN_CHAIN: _UNKNOWN,
    _CODES.ERR_UNABLE_TO_GET_ISSUER_CERT: _UNKNOWN,
    _CODES.ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY: _UNKNOWN,
    _CODES.ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE: _UNKNOWN,
    _CODES.ERR_CERT_SIGNATURE_FAILURE: "has a signature that its authority did not make",
    _CODES.ERR_INVALID_CA: "is signed by a certificate that may not sign others",
}
_CLOSED = "closed by the other side"
_WHY_FAILED = {
    "peer did not return a certificate": "it presents no certificate",
    "unsupported protocol": "it speaks no TLS 1.3",
    "wrong version number": "it does not speak TLS",
    "tlsv1 alert protocol version": "it speaks no TLS 1.3",
}
"""By OpenSSL's reason. Alerts, by which the other side says what it dislikes, are not listed."""


@define
class Verdict:
    """On the other side's certificate: what it says once it is accepted, else why it is not.

    `chain` is what the other side has presented, its own certificate first, once the handshake is
    done.
    """

    certificate: Description | None = None
    refusal: str = ""
    chain: tuple[x509.Certificate, ...] = ()


def judge(
    connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, _ok: int
) -> bool:
    """The verify callback of each context: called for each certificate and each error of the path.

    OpenSSL's rule on the purpose of the node's own certificate (error 26 at depth 0) gives way to
    ours, which is stricter where SPEC 7 is; all others stand.
    """
    verdict: Verdict = connection.get_app_data()
    try:
        described = untrusted(lambda: describe(certificate.to_cryptography()))
    except ValueError as unreadable:
        verdict.refusal = f"its certificate cannot be understood ({unreadable})"
        return False
    verdict.refusal = _refusal(described, error, depth)
    accepted = not verdict.refusal
    if depth == 0:
        verdict.certificate = described if accepted else None
    return accepted


def _refusal(certificate: Description, error: int, depth: int) -> str:
    """Empty for one that is accepted. At depth 0 it is the other side's, beyond that are others."""
    if error != _CODES.OK and (depth, error) != (0, _CODES.ERR_INVALID_PURPOSE):
        why = _WHY_UNTRUSTED.get(error, f"is refused by OpenSSL (verification error {error})")
        whose = "its certificate" if depth == 0 else "its certificate's authority"
        return f"{whose} {certificate.subject} {why}"
    if depth == 0 and (why_not := why_no_node(certificate)):
        return f"its certificate {certificate.subject} {why_not}"
    return ""


class TlsObject:
    """One end of one connection. It is both the "context" that trio is given and what that makes.

    Errors are `ssl.SSLError` with a sentence, which trio turns into BrokenResourceError. One that
    leaves an alert to send comes out at the second call: trio sends what there is after the first.
    """

    def __init__(self, context: SSL.Context) -> None:
        self.verdict = Verdict()
        self.server_side = False
        self._connection = SSL.Connection(context, None)
        self._connection.set_app_data(self.verdict)
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._failure: ssl.SSLError | None = None
        self._begun = False

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        *,
        server_side: bool,
        server_hostname: str | None,
    ) -> TlsObject:
        self._incoming, self._outgoing = incoming, outgoing
        self.server_side = server_side
        if server_side:
            self._connection.set_accept_state()
        else:
            self._connection.set_connect_state()
        return self

    def do_handshake(self) -> None:
        try:
            self._step(self._connection.do_handshake)
        finally:
            self._drain()
        if self.verdict.certificate is None:
            # A resumed session would come without the callback. None can be resumed; were it so:
            self._fail("the other side's certificate has not been verified")
        try:
            self.verdict.chain = untrusted(self._presented)
        except ValueError as error:
            self._fail(f"what it presents cannot be understood ({error})")

    def _presented(self) -> tuple[x509.Certificate, ...]:
        """On the dialling side OpenSSL's chain begins with the certificate, on the other not."""
        own = self._connection.get_peer_certificate(as_cryptography=True)
        chain = self._connection.get_peer_cert_chain(as_cryptography=True) or []
        return () if own is None else (own, *(each for each in chain if each != own))

    def version(self) -> str:
        return self._connection.get_protocol_version_name()

    def read(self, max_bytes: int) -> bytes:
        """What is there, at most; empty if the other side has said that it sends no more."""
        try:
            data = self._step(self._connection.recv, min(max_bytes, RECORD_BYTES))
        except ssl.SSLZeroReturnError:
            return b""
        if len(data) < RECORD_BYTES:
            return data  # as with most messages; should there be more after all, trio asks again
        return data + self._read_on(max_bytes - len(data))

    def _read_on(self, max_bytes: int) -> bytes:
        """More of many full records, in one go. Whatever goes wrong will do so again when asked."""
        chunks: list[bytes] = []
        size, rest = RECORD_BYTES, max_bytes
        while size == RECORD_BYTES and rest > 0:
            try:
                chunks.append(self._connection.recv(min(rest, RECORD_BYTES)))
            except SSL.Error as error:
                if not isinstance(error, SSL.WantReadError | SSL.ZeroReturnError):
                    self._failure = self._explained(error)
                    self._drain()
                break
            size = len(chunks[-1])
            rest -= size
        return b"".join(chunks)

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """All of it: trio does not look at what is returned."""
        for start in range(0, len(data), RECORD_BYTES):
            record = memoryview(data)[start : start + RECORD_BYTES]
            written = self._step(self._connection.send, record)
            assert written == len(record), "a memory buffer takes whole records"
            self._drain()
        return len(data)

    def unwrap(self) -> None:
        done = self._step(self._connection.shutdown)
        self._drain()
        if not done:
            raise ssl.SSLWantReadError

    def _step(self, step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """One call of OpenSSL, after what has come in. Who expects output calls `_drain` then."""
        if self._failure is not None:
            raise self._failure
        self._feed()
        try:
            return step(*args, **kwargs)
        except SSL.WantReadError:
            raise ssl.SSLWantReadError from None
        except SSL.ZeroReturnError:
            raise ssl.SSLZeroReturnError(ssl.SSL_ERROR_ZERO_RETURN, _CLOSED) from None
        except SSL.Error as error:
            self._failure = self._explained(error)
        self._drain()
        raise ssl.SSLWantReadError if self._outgoing.pending else self._failure

    def _feed(self) -> None:
        if data := self._incoming.read():
            if not self._begun and data[0] not in FIRST_BYTES:
                self._fail("it does not speak TLS: what came is plaintext")
            self._begun = True
            self._connection.bio_write(data)
        if self._incoming.eof:
            self._connection.bio_shutdown()

    def _drain(self) -> None:
        size = DRAIN_BYTES
        while size == DRAIN_BYTES:
            try:
                size = self._outgoing.write(self._connection.bio_read(DRAIN_BYTES))
            except SSL.WantReadError:
                return

    def _fail(self, sentence: str) -> None:
        self._failure = _error(sentence)
        raise self._failure

    def _explained(self, error: SSL.Error) -> ssl.SSLError:
        if self.verdict.refusal:
            return _error(self.verdict.refusal)
        if isinstance(error, SSL.SysCallError):
            return ssl.SSLEOFError(ssl.SSL_ERROR_EOF, _CLOSED)
        reasons = [reason for *_, reason in error.args[0]] if error.args else []
        reason = reasons[0] if reasons else "TLS has failed"
        if known := _WHY_FAILED.get(reason):
            return _error(known)
        _, alert, name = reason.partition(" alert ")
        if not alert:
            return _error(f"TLS has failed: {reason}")
        if "certificate" in name or name == "unknown ca":
            return _error(f'it refuses this node\'s certificate (TLS alert "{name}")')
        return _error(f'it has ended the connection with the TLS alert "{name}"')


def _error(sentence: str) -> ssl.SSLError:
    return ssl.SSLError(ssl.SSL_ERROR_SSL, sentence)
