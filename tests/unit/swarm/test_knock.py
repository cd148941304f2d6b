"""A knock proves who listens, and survives whatever does."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Awaitable, Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.run import SigningKey
from p2ptrain.swarm.knock import answers, belongs_to
from tests.unit.swarm.people import KEYS

EXTENSION = x509.ObjectIdentifier("1.3.6.1.4.1.53594.1.1")
PREFIX = b"libp2p-tls-handshake:"
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def certificate(key: SigningKey, signed: bytes | None = None, value: bytes | None = None) -> bytes:
    """As libp2p makes it; `signed` instead of what should be signed, `value` instead of the whole extension."""
    own = ec.generate_private_key(ec.SECP256R1())
    public = own.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    signature = key.sign(PREFIX + public if signed is None else signed)
    whole = bytes.fromhex("30680424") + bytes.fromhex("08011220") + key._public + b"\x04\x40" + signature
    name, day = x509.Name([]), datetime.datetime(2026, 1, 1)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(own.public_key())
        .serial_number(1)
        .not_valid_before(day)
        .not_valid_after(day + datetime.timedelta(days=1))
        .add_extension(x509.UnrecognizedExtension(EXTENSION, whole if value is None else value), critical=False)
        .sign(own, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )


def test_a_certificate_belongs_to_the_peer_that_signed_its_key_and_to_no_other() -> None:
    assert belongs_to(certificate(KEYS[0]), KEYS[0].peer_id)
    assert not belongs_to(certificate(KEYS[0]), KEYS[1].peer_id)


def test_a_signature_for_another_key_proves_nothing() -> None:
    assert not belongs_to(certificate(KEYS[0], signed=PREFIX + b"another key"), KEYS[0].peer_id)


@given(st.binary(max_size=120))
def test_any_bytes_in_the_extension_prove_nothing(value: bytes) -> None:
    assert not belongs_to(certificate(KEYS[0], value=value), KEYS[0].peer_id)


@given(st.binary(max_size=300))
def test_random_bytes_are_no_certificate(data: bytes) -> None:
    with pytest.raises(ValueError, match="pars"):
        belongs_to(data, KEYS[0].peer_id)


# Whoever listens -----------------------------------------------------------------------------------------------------


async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def hang_up(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    pass


async def chatter(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 mail.example.org ESMTP\r\n" * 1000)
    await writer.drain()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Agrees to everything, and then speaks no TLS."""
    while data := await reader.read(100):
        writer.write(data)


async def knock_at(serve: Serve) -> bool:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        return await answers("127.0.0.1", server.sockets[0].getsockname()[1], KEYS[0].peer_id, 0.5)


@pytest.mark.parametrize("serve", [silent, hang_up, chatter, echo])
def test_whoever_speaks_another_language_is_not_the_peer(serve: Serve) -> None:
    assert not asyncio.run(knock_at(serve))


def test_a_closed_port_is_not_the_peer() -> None:
    assert not asyncio.run(answers("127.0.0.1", 9, KEYS[0].peer_id, 5.0))
