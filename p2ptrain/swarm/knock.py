"""Finds out whether a certain peer answers at an IP address and a TCP port.

p2pd can't do this, because it opens no second connection to a peer that it is connected to. So this module speaks the
first lines of libp2p itself: multistream-select, then TLS 1.3. There the other side shows a certificate that its peer's
key has signed (libp2p's TLS spec). That proves who listens there, and the connection is closed.
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
"""The beginning of the DER of SEQUENCE(OCTET STRING key, OCTET STRING signature), for an Ed25519 key in libp2p's
form."""
_SIGNATURE_HEAD = bytes([0x04, SIGNATURE_BYTES])

_UNUSABLE = (UnsupportedAlgorithm, x509.DuplicateExtension, x509.InvalidVersion, x509.UnsupportedGeneralNameType)
"""The errors that x509 raises for bad certificates, besides ValueError."""


async def answers(host: str, port: int, peer: PeerId, timeout: float) -> bool:
    """Whether `peer` proves within `timeout` seconds that it listens there. The reason for a no is not told to
    anybody."""
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
        if await reader.readexactly(len(greeting)) != greeting:  # the other side agrees by sending the same
            return None
        await writer.start_tls(_context())
        certificate: bytes | None = writer.get_extra_info("ssl_object").getpeercert(True)
        return certificate
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            writer.transport.abort()  # the other side gets no certificate of ours and closes anyway


def belongs_to(certificate: bytes, peer: PeerId) -> bool:
    """Whether the peer's key has signed the key of this certificate (DER). Raises ValueError if the certificate can't
    be read."""
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
    """TLS as libp2p uses it: no authority signs the certificate; the peer's own signature is inside it."""
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
