"""Keys, the peer ids that contain them, and signatures that are checked against a name alone."""

from __future__ import annotations

import string

import base58
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hivemind.p2p import PeerID
from hivemind.proto import crypto_pb2
from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.run import PeerId, SigningKey, short_peer
from p2ptrain.run.keys import SIGNATURE_BYTES, check_peer_id, is_signed_by, peer_id_from_bytes, peer_id_to_bytes

# The Ed25519 keys in the libp2p peer-id specification's test vectors.
SPEC_PRIVATE = bytes.fromhex(
    "080112407e0830617c4a7de83925dfb2694556b12936c477a0e1feb2e148ec9da60fee7d"
    "1ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e"
)
SPEC_PUBLIC = bytes.fromhex("080112201ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e")

ALICE, BOB = SigningKey.from_file_bytes(SPEC_PRIVATE), SigningKey.generate()


@st.composite
def keys(draw: st.DrawFn) -> SigningKey:
    return SigningKey(Ed25519PrivateKey.from_private_bytes(draw(st.binary(min_size=32, max_size=32))))


# Key files -----------------------------------------------------------------------------------------------------------


@given(keys())
def test_a_key_survives_its_file(key: SigningKey) -> None:
    again = SigningKey.from_file_bytes(key.to_file_bytes())
    assert again.peer_id == key.peer_id
    assert again.sign(b"message") == key.sign(b"message")


def test_the_file_is_libp2ps_own_format() -> None:
    assert ALICE.to_file_bytes() == SPEC_PRIVATE
    parsed = crypto_pb2.PrivateKey.FromString(BOB.to_file_bytes())
    assert parsed.key_type == crypto_pb2.Ed25519
    assert len(parsed.data) == 64


@pytest.mark.parametrize("length", [0, 1, 4, 36, len(SPEC_PRIVATE) - 1])
def test_a_truncated_key_file_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="not a libp2p Ed25519 private key"):
        SigningKey.from_file_bytes(SPEC_PRIVATE[:length])


@given(at=st.integers(0, len(SPEC_PRIVATE) - 1), bit=st.integers(0, 7))
def test_a_key_file_with_any_bit_flipped_is_refused(at: int, bit: int) -> None:
    damaged = bytearray(SPEC_PRIVATE)
    damaged[at] ^= 1 << bit
    with pytest.raises(ValueError, match=r"not a libp2p Ed25519 private key|do not belong together"):
        SigningKey.from_file_bytes(bytes(damaged))


def test_halves_of_two_keys_are_refused() -> None:
    with pytest.raises(ValueError, match="do not belong together"):
        SigningKey.from_file_bytes(SPEC_PRIVATE[:36] + BOB.to_file_bytes()[36:])


def test_two_generated_keys_differ() -> None:
    assert SigningKey.generate().peer_id != SigningKey.generate().peer_id


# Peer ids ------------------------------------------------------------------------------------------------------------


def test_a_peer_id_is_the_identity_multihash_of_the_libp2p_public_key() -> None:
    identity_multihash = b"\x00" + bytes([len(SPEC_PUBLIC)]) + SPEC_PUBLIC
    assert ALICE.peer_id == base58.b58encode(identity_multihash).decode()


@given(keys())
def test_hivemind_reads_and_writes_the_same_peer_ids(key: SigningKey) -> None:
    theirs = PeerID.from_base58(key.peer_id)
    assert theirs.to_bytes() == peer_id_to_bytes(key.peer_id)
    assert theirs.to_base58() == key.peer_id
    assert peer_id_from_bytes(theirs.to_bytes()) == key.peer_id


@given(keys())
def test_every_key_has_a_peer_id_that_is_accepted(key: SigningKey) -> None:
    assert len(key.peer_id) == 52
    assert check_peer_id(key.peer_id) == key.peer_id


JUNK_IDS = {
    "nothing": "",
    "a word": "alice",
    "an RSA peer's": "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
    "a secp256k1 peer's": "16Uiu2HAmLhLvBoYaoZfaMUKuibM6ac163GwKY74c5kiSLg5KvLpY",
    "truncated": ALICE.peer_id[:-1],
    "too long": ALICE.peer_id + "1",
    "space before": " " + ALICE.peer_id[:-1],
    "space after": ALICE.peer_id[:-1] + " ",
    "not of the alphabet": ALICE.peer_id[:-1] + "0",
    "not ASCII": ALICE.peer_id[:-1] + "é",
    "another prefix": base58.b58encode(bytes.fromhex("002408021220") + bytes(32)).decode(),
}


@pytest.mark.parametrize("text", JUNK_IDS.values(), ids=JUNK_IDS)
def test_what_is_no_ed25519_peer_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        check_peer_id(text)


@given(st.one_of(st.text(), st.text(string.ascii_letters + string.digits, min_size=44, max_size=44)))
def test_random_text_is_refused_or_is_the_one_spelling_of_a_key(text: str) -> None:
    for candidate in (text, "12D3KooW" + text):
        try:
            peer = check_peer_id(candidate)
        except ValueError:
            continue
        assert peer_id_from_bytes(peer_id_to_bytes(peer)) == candidate


@given(st.one_of(st.binary(), st.binary(min_size=38, max_size=38)))
def test_random_bytes_are_no_peer_id(raw: bytes) -> None:
    with pytest.raises(ValueError):
        peer_id_from_bytes(raw)


def test_people_see_the_end_of_a_peer_id_where_they_differ() -> None:
    assert ALICE.peer_id.endswith(short_peer(ALICE.peer_id))
    assert len(short_peer(ALICE.peer_id)) == 6
    assert short_peer(ALICE.peer_id) != short_peer(BOB.peer_id)


# Signatures ----------------------------------------------------------------------------------------------------------


@given(key=keys(), message=st.binary(max_size=300))
def test_a_signature_is_checked_against_the_peer_id_alone(key: SigningKey, message: bytes) -> None:
    signature = key.sign(message)
    assert len(signature) == SIGNATURE_BYTES
    assert is_signed_by(key.peer_id, signature, message)
    assert not is_signed_by(BOB.peer_id, signature, message)
    assert not is_signed_by(key.peer_id, signature, message + b"\0")


def test_signing_the_same_again_gives_the_same_signature() -> None:
    assert ALICE.sign(b"message") == ALICE.sign(b"message") != ALICE.sign(b"massage")


@given(at=st.integers(0, SIGNATURE_BYTES - 1), bit=st.integers(0, 7))
def test_a_signature_with_any_bit_flipped_is_refused(at: int, bit: int) -> None:
    forged = bytearray(ALICE.sign(b"message"))
    forged[at] ^= 1 << bit
    assert not is_signed_by(ALICE.peer_id, bytes(forged), b"message")


@pytest.mark.parametrize("length", [0, 1, 63, 65, 128])
def test_a_signature_of_another_length_is_refused(length: int) -> None:
    signature = (ALICE.sign(b"message") * 2)[:length]
    assert not is_signed_by(ALICE.peer_id, signature, b"message")


def test_nobody_signs_under_a_name_that_is_no_peer_id() -> None:
    assert not is_signed_by(PeerId("alice"), ALICE.sign(b"message"), b"message")
