"""A genesis pins everything that a run starts from, and is its founder's word."""

from __future__ import annotations

import msgpack
import pytest

from p2ptrain.errors import MalformedError
from p2ptrain.run import NO_DIGEST, PROTOCOL, Genesis, SigningKey, digest_of
from tests.unit.run.specs import spec_with

FOUNDER = SigningKey.generate()
BASE, HELD_OUT = digest_of(b"base"), digest_of(b"held out")
SPEC = spec_with()


def found() -> Genesis:
    return Genesis.found(SPEC, BASE, HELD_OUT, "p2ptrain test", FOUNDER)


def test_a_genesis_is_signed_by_its_founder_and_survives_the_wire() -> None:
    genesis = found()
    again = Genesis.decode(genesis.encoded).check_signature()
    assert again == genesis
    assert again.digest == genesis.digest == digest_of(genesis.encoded)
    assert again.author == FOUNDER.peer_id


def test_a_genesis_pins_spec_base_and_held_out_text() -> None:
    genesis = found()
    assert (genesis.spec, genesis.base, genesis.held_out) == (SPEC.digest, BASE, HELD_OUT)


def test_one_spec_founded_twice_makes_two_runs() -> None:
    assert found().digest != found().digest


def test_a_founder_may_say_when_and_how_the_gossip_begins() -> None:
    told = Genesis.found(SPEC, BASE, HELD_OUT, "p2ptrain test", FOUNDER, founded=1_800_000_000, seal=BASE)
    again = Genesis.decode(told.encoded).check_signature()
    assert (again.founded, again.seal) == (1_800_000_000, BASE)
    assert (found().founded, found().seal) == (0, NO_DIGEST)


@pytest.mark.parametrize("field", ["founded", "seal"])
def test_a_genesis_without_one_of_its_fields_is_refused(field: str) -> None:
    """Also where it would say nothing."""
    fields = found().model_dump(exclude={field})
    with pytest.raises(MalformedError, match=f"wrong in '{field}'"):
        Genesis.decode(msgpack.packb(["genesis/1", fields]))


CHANGES = {
    "spec": HELD_OUT,
    "base": HELD_OUT,
    "held_out": BASE,
    "nonce": bytes(16),
    "software": "other",
    "founded": 1,
    "seal": BASE,
}


@pytest.mark.parametrize("field", CHANGES)
def test_a_genesis_that_was_changed_is_another_run_and_nobodys_word(field: str) -> None:
    genesis = found()
    forged = Genesis(**{**genesis.model_dump(), field: CHANGES[field]})
    assert forged.digest != genesis.digest
    with pytest.raises(MalformedError, match="not signed by its author"):
        forged.check_signature()


@pytest.mark.parametrize(("field", "value"), [("protocol", PROTOCOL + 1), ("nonce", bytes(15)), ("nonce", bytes(17))])
def test_a_genesis_of_another_protocol_or_with_a_wrong_nonce_is_refused(field: str, value: object) -> None:
    fields = found().model_dump() | {field: value}
    with pytest.raises(MalformedError, match=f"wrong in '{field}'"):
        Genesis.decode(Genesis.model_construct(**fields).encoded)
