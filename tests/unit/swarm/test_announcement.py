"""An announcement proves itself: whoever hands it on, it is this founder's run with this spec or it is nothing."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.errors import MalformedError
from p2ptrain.run import NO_DIGEST, Genesis, RunSpec, SigningKey, digest_of, spec_from_canonical
from p2ptrain.swarm.announcement import MAX_ANNOUNCED, Announcement, announced_run, is_announced
from tests.unit.run.specs import spec_with
from tests.unit.swarm.people import KEYS

SPEC = spec_with()
OTHER = spec_with({"run.name": "another"})
LARGE = spec_with({"model.config": {"padding": "x" * MAX_ANNOUNCED}})


def genesis_of(spec: RunSpec, founder: SigningKey = KEYS[0], founded: int = 1_800_000_000) -> Genesis:
    return Genesis.found(spec, NO_DIGEST, NO_DIGEST, "tests", founder, founded)


GENESIS = genesis_of(SPEC)
ANNOUNCED = Announcement(genesis=GENESIS, spec=SPEC.canonical())


def test_it_says_which_run_it_is_and_holds_its_spec() -> None:
    announcement = Announcement.of(GENESIS, SPEC)
    assert announcement == ANNOUNCED
    again = Announcement.decode(ANNOUNCED.encoded).check()
    assert again.run == GENESIS.digest == announced_run(ANNOUNCED.encoded)
    assert spec_from_canonical(again.spec) == SPEC


def test_a_spec_that_is_too_long_is_not_announced_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "p2ptrain")
    assert is_announced(SPEC)
    assert not is_announced(LARGE)
    assert Announcement.of(genesis_of(LARGE), LARGE) is None
    assert "is not announced" in caplog.text


def changed(**fields: object) -> Genesis:
    """Another run, with the signature of this one."""
    return Genesis(**{**GENESIS.model_dump(), **fields})


FORGED = {
    "another spec": Announcement(genesis=GENESIS, spec=OTHER.canonical()),
    "a spec with a byte more": Announcement(genesis=GENESIS, spec=SPEC.canonical() + b" "),
    "no spec": Announcement(genesis=GENESIS, spec=b""),
    "another spec in the genesis, too": Announcement(genesis=changed(spec=OTHER.digest), spec=OTHER.canonical()),
    "another founder": Announcement(genesis=changed(author=KEYS[1].peer_id), spec=SPEC.canonical()),
    "another time": Announcement(genesis=changed(founded=1), spec=SPEC.canonical()),
    "no signature": Announcement(genesis=changed(signature=b""), spec=SPEC.canonical()),
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
def test_what_was_changed_is_refused(forged: Announcement) -> None:
    with pytest.raises(MalformedError, match=r"another spec than its run|not signed by its author"):
        announced_run(forged.encoded)


def test_the_spec_of_a_newer_version_is_handed_on_unread() -> None:
    newer = SPEC.canonical().replace(b'"alpha"', b'"aleph"')
    genesis = Genesis(
        author=KEYS[0].peer_id,
        spec=digest_of(newer),
        base=NO_DIGEST,
        held_out=NO_DIGEST,
        nonce=bytes(16),
        software="2",
        founded=0,
        seal=NO_DIGEST,
    ).signed(KEYS[0])
    assert announced_run(Announcement(genesis=genesis, spec=newer).encoded) == genesis.digest


@given(st.one_of(st.binary(max_size=200), st.binary(max_size=40_000)))
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedError):
        announced_run(data)


@given(at=st.integers(0, len(ANNOUNCED.encoded) - 1), bit=st.integers(0, 7))
def test_with_any_bit_flipped_it_is_refused(at: int, bit: int) -> None:
    data = bytearray(ANNOUNCED.encoded)
    data[at] ^= 1 << bit
    with pytest.raises(MalformedError):
        announced_run(bytes(data))
