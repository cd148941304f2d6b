"""An invite survives copying; whatever else is pasted is refused with a reason and a way out."""

from __future__ import annotations

import base64

import msgpack
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.errors import InviteError
from p2ptrain.run import Digest
from p2ptrain.run.certificate import make_invitation
from p2ptrain.run.keys import peer_id_to_bytes
from p2ptrain.swarm import Invite
from p2ptrain.swarm.invite import MAX_ADDRESSES, MAX_LINK, SCHEME, Ticket, _packed
from tests.unit.swarm.people import KEYS, RUN

PEER = peer_id_to_bytes(KEYS[0].peer_id)
INVITE = Invite(RUN, (f"/ip4/192.0.2.1/tcp/31337/p2p/{KEYS[0].peer_id}",))


def link_of(payload: bytes, version: str = "1") -> str:
    """A link with a right checksum around anything."""
    return f"{SCHEME}{version}.{base64.urlsafe_b64encode(payload + blake3(payload).digest()[:4]).decode().rstrip('=')}"


ports = st.integers(0, 65535)
places = st.one_of(
    st.builds("/ip4/{}/tcp/{}".format, st.ip_addresses(v=4), ports),
    st.builds("/ip6/{}/udp/{}/quic-v1".format, st.ip_addresses(v=6), ports),
    st.builds("/dns/{}/tcp/{}".format, st.from_regex(r"[a-z]{1,20}\.example", fullmatch=True), ports),
    st.builds("/ip4/{}/tcp/{}/p2p/{}/p2p-circuit".format, st.ip_addresses(v=4), ports, st.just(KEYS[3].peer_id)),
)
addresses = st.lists(
    st.builds("{}/p2p/{}".format, places, st.sampled_from([key.peer_id for key in KEYS])),
    min_size=1,
    max_size=MAX_ADDRESSES,
).map(tuple)


def ticket(run: Digest = RUN, label: str = "anna", expires: int = 2_000_000_000, peer: str = "") -> Ticket:
    return Ticket(*make_invitation(KEYS[1], run, label, expires, peer))


public_invites = st.builds(Invite, run=st.none() | st.binary(min_size=32, max_size=32).map(Digest), addresses=addresses)
private_invites = st.builds(
    Invite,
    run=st.just(RUN),
    addresses=addresses,
    ticket=st.builds(
        ticket,
        label=st.from_regex(r"[a-zé ]{0,32}", fullmatch=True),
        expires=st.integers(0, 253_402_300_799),
        peer=st.sampled_from(["", KEYS[2].peer_id]),
    ),
)
invites = public_invites | private_invites


@given(invites)
def test_an_invite_survives_its_link(invite: Invite) -> None:
    again = Invite.parse(str(invite))
    assert (again.run, again.ticket) == (invite.run, invite.ticket)
    assert sorted(again.addresses) == sorted(invite.addresses)  # one peer's addresses come together
    assert str(again) == str(invite)


@given(invites)
def test_a_link_can_be_pasted_anywhere(invite: Invite) -> None:
    link = str(invite)
    assert len(link) <= MAX_LINK
    assert link.isascii()
    assert not set(link) & set(" \t\n\"'\\&?#<>|;$`=+")


def test_the_first_address_stays_the_first() -> None:
    addresses = tuple(f"/ip4/192.0.2.{n}/tcp/1/p2p/{key.peer_id}" for n, key in enumerate(KEYS))
    assert Invite.parse(str(Invite(RUN, addresses))).addresses == addresses


def test_more_addresses_than_fit_are_left_out() -> None:
    many = tuple(f"/ip4/192.0.2.{n}/tcp/1/p2p/{KEYS[0].peer_id}" for n in range(MAX_ADDRESSES + 5))
    assert Invite.parse(str(Invite(RUN, many))).addresses == many[:MAX_ADDRESSES]


def test_space_around_a_link_is_forgiven() -> None:
    assert Invite.parse(f"  {INVITE}\n") == INVITE


@given(data=st.data())
def test_a_link_with_a_character_changed_is_refused_or_means_the_same(data: st.DataObject) -> None:
    link = str(INVITE)
    at = data.draw(st.integers(0, len(link) - 1))
    damaged = link[:at] + data.draw(st.characters(codec="ascii")) + link[at + 1 :]
    try:
        assert Invite.parse(damaged) == INVITE
    except InviteError:
        assert damaged != link


@given(st.integers(0, len(str(INVITE)) - 1))
def test_a_truncated_link_is_refused(length: int) -> None:
    with pytest.raises(InviteError):
        Invite.parse(str(INVITE)[:length])


PRIVATE = Invite(RUN, INVITE.addresses, ticket())

REFUSED = {
    "nothing": ("", "begins with p2ptrain://", "copy the whole link again"),
    "a web page": ("https://example.org/p2ptrain://1.x", "begins with p2ptrain://", "copy the whole link again"),
    "its end alone": (str(INVITE)[20:], "begins with p2ptrain://", "copy the whole link again"),
    "a newer version": (str(INVITE).replace("1.", "3.", 1), "this p2ptrain reads versions 1 and 2", "update p2ptrain"),
    "an older version": (str(INVITE).replace("1.", "0.", 1), "reads versions 1 and 2", "copy the whole link"),
    "a word for a version": (str(INVITE).replace("1.", "one.", 1), "reads versions 1 and 2", "copy the whole link"),
    "a public run's as a private one's": (str(INVITE).replace("1.", "2.", 1), "number of parts", "ask for a new one"),
    "a private run's as a public one's": (str(PRIVATE).replace("2.", "1.", 1), "number of parts", "ask for a new one"),
    "no version": (str(INVITE).replace("1.", "", 1), "checksum", "ask for a new one"),
    "only a version": (f"{SCHEME}1.", "checksum", "ask for a new one"),
    "truncated": (str(INVITE)[:-4], "checksum", "ask for a new one"),
    "its cases lost": (str(INVITE).lower(), "checksum", "ask for a new one"),
    "not base64": (f"{SCHEME}1.äöü", "ASCII", "ask for a new one"),
    "no addresses": (link_of(msgpack.packb([RUN, []])), "no usable address", "ask for a new one"),
    "a peer without addresses": (link_of(msgpack.packb([RUN, [(PEER, [])]])), "no usable address", "ask for a new one"),
    "too many addresses": (
        link_of(msgpack.packb([RUN, [(PEER, ["/ip4/192.0.2.1/tcp/1"] * (MAX_ADDRESSES + 1))]])),
        "no usable address",
        "ask for a new one",
    ),
    "no multiaddr": (link_of(msgpack.packb([RUN, [(PEER, ["localhost"])]])), "no usable address", "ask for a new one"),
    "a number for an address": (link_of(msgpack.packb([RUN, [(PEER, [7])]])), "no usable address", "ask for a new one"),
    "a short run id": (link_of(msgpack.packb([RUN[:31], [(PEER, ["/ip4/1.1.1.1"])]])), "run id", "ask for a new one"),
    "text for a run id": (link_of(msgpack.packb(["x" * 32, [(PEER, ["/a"])]])), "run id", "ask for a new one"),
    "no peer id": (link_of(msgpack.packb([RUN, [(b"x" * 38, ["/a"])]])), "Ed25519 peer id", "ask for a new one"),
    "no payload": (link_of(b""), "", "ask for a new one"),
    "more than a payload": (link_of(msgpack.packb([RUN, []]) + b"\0"), "extra data", "ask for a new one"),
    "another shape": (link_of(msgpack.packb({"run": RUN})), "", "ask for a new one"),
}


@pytest.mark.parametrize(("link", "why", "next_step"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_invite_is_refused_with_a_reason_and_a_way_out(link: str, why: str, next_step: str) -> None:
    with pytest.raises(InviteError, match="invite") as refusal:
        Invite.parse(link)
    assert why in refusal.value.why
    assert next_step in refusal.value.next_step
    assert refusal.value.exit_code == 6


def test_a_link_of_a_megabyte_is_refused_unread() -> None:
    with pytest.raises(InviteError):
        Invite.parse(SCHEME + "1." + "A" * 2**20)


@given(st.one_of(st.text(), st.text().map(lambda text: SCHEME + text), st.text().map(lambda text: f"{SCHEME}1.{text}")))
def test_random_text_is_refused(text: str) -> None:
    with pytest.raises(InviteError):
        Invite.parse(text)


anything = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.text(), st.binary()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


@given(
    st.one_of(st.binary(), anything.map(msgpack.packb), anything.map(lambda peers: msgpack.packb([b"", peers]))),
    st.sampled_from("12"),
)
def test_random_payloads_are_refused_even_with_a_right_checksum(payload: bytes, version: str) -> None:
    with pytest.raises(InviteError):
        Invite.parse(link_of(payload, version))


@given(anything)
def test_a_private_run_s_link_with_a_random_ticket_is_refused(packed: object) -> None:
    with pytest.raises(InviteError):
        Invite.parse(link_of(msgpack.packb([RUN, [(PEER, ["/ip4/192.0.2.1/tcp/1"])], packed]), "2"))


FIELDS = ("owner", "key", "label", "end", "peer", "signature")


@pytest.mark.parametrize("field", range(len(FIELDS)), ids=FIELDS)
def test_a_ticket_that_was_changed_is_no_invite(field: int) -> None:
    assert PRIVATE.ticket is not None
    other = ticket(label="ben", expires=1, peer=KEYS[2].peer_id)
    packed, changed = (list(_packed(each)) for each in (PRIVATE.ticket, other))
    packed[field] = changed[field] if field else bytes(32)
    with pytest.raises(InviteError, match="damaged"):
        Invite.parse(link_of(msgpack.packb([RUN, [(PEER, ["/ip4/192.0.2.1/tcp/1"])], packed]), "2"))


def test_a_ticket_is_for_whom_it_names() -> None:
    bound = ticket(peer=KEYS[2].peer_id)
    assert bound.certificate(KEYS[2].peer_id).check().peer == KEYS[2].peer_id
    with pytest.raises(InviteError, match="for another peer"):
        bound.certificate(KEYS[3].peer_id)


def test_a_link_s_key_is_not_shown_where_a_ticket_is_logged() -> None:
    assert PRIVATE.ticket is not None
    assert repr(PRIVATE.ticket.seed) not in repr(PRIVATE)


@given(anything)
def test_random_addresses_are_refused_or_are_multiaddrs(places: object) -> None:
    try:
        invite = Invite.parse(link_of(msgpack.packb([b"", [(PEER, places)]])))
    except InviteError:
        return
    assert all(address.startswith("/") for address in invite.addresses)
