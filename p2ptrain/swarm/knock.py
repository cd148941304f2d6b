"""Does this very peer answer at this IP and TCP port?

p2pd can't be asked that: it opens no second connection to a peer that it is connected to. So this speaks the first
lines of libp2p by hand: multistream-select, then TLS 1.3, in which the other side shows a certificate that carries the
signature of its peer's key (libp2p's TLS spec). With that it is proven who listens there, and nothing more is said.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from p2ptrain.run import PeerId
from p2ptrain.run.keys import SIGNATURE_BYTES, is_signed_by, public_bytes_of

_EXTENSION = x509.ObjectIdentifier("1.3.6.1.4.1.53594.1.1")
_SIGNED_KEY_HEAD = bytes.fromhex("3068042408011220")
"""DER of SEQUENCE(OCTET STRING key, OCTET STRING signature), with an Ed25519 key as libp2p encodes it."""
_SIGNATURE_HEAD = bytes([0x04, SIGNATURE_BYTES])

_UNUSABLE = (UnsupportedAlgorithm, x509.DuplicateExtension, x509.InvalidVersion, x509.UnsupportedGeneralNameType)
"""What x509 says of certificates besides ValueError."""


async def answers(host: str, port: int, peer: PeerId, timeout: float) -> bool:
    """Whether `peer` proves within `timeout` seconds that it listens there. Nobody learns why not."""
    try:
        async with asyncio.timeout(timeout):
            certificate = await _certificate(host, port)
        return certificate is not None and belongs_to(certificate, peer)
    except (OSError, EOFError, ValueError, *_UNUSABLE):  # ssl's errors are OSErrors
        return False


async def _certificate(host: str, port: int) -> bytes | None:
    greeting = _line("/multistream/1.0.0") + _line("/tls/1.0.0")
    reader, writer = await asyncio.open_connection(host, port, limit=len(greeting))
    try:
        writer.write(greeting)
        if await reader.readexactly(len(greeting)) != greeting:  # who agrees echoes it
            return None
        await writer.start_tls(_context())
        certificate: bytes | None = writer.get_extra_info("ssl_object").getpeercert(True)
        return certificate
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            writer.transport.abort()  # no goodbye: the other side misses our certificate and hangs up anyway


def belongs_to(certificate: bytes, peer: PeerId) -> bool:
    """Whether the peer's key has signed the certificate's.

    Raises:
        ValueError: it can't be read.
    """
    parsed = x509.load_der_x509_certificate(certificate)
    try:
        value = parsed.extensions.get_extension_for_oid(_EXTENSION).value
    except x509.ExtensionNotFound:
        return False
    data = value.value if isinstance(value, x509.UnrecognizedExtension) else b""
    head = _SIGNED_KEY_HEAD + public_bytes_of(peer) + _SIGNATURE_HEAD
    key = parsed.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return data.startswith(head) and is_signed_by(peer, data[len(head) :], b"libp2p-tls-handshake:" + key)


def _context() -> ssl.SSLContext:
    """TLS as libp2p speaks it: no authority vouches for a certificate, the signature in it does."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["libp2p"])
    return context


def _line(text: str) -> bytes:
    """multistream-select's framing: a length of one byte, the text, a line feed."""
    data = text.encode() + b"\n"
    return bytes([len(data)]) + data
