"""Invites, good and bad; and the commands that take one."""

from __future__ import annotations

from p2ptrain.run import digest_of
from p2ptrain.swarm import Invite
from tests.unit.swarm.people import KEYS

ADDRESS = f"/ip4/127.0.0.1/tcp/9/p2p/{KEYS[0].peer_id}"
INVITE = str(Invite(digest_of(b"a run"), (ADDRESS,)))
BOOTSTRAP = str(Invite(None, (ADDRESS,)))

BAD_INVITES = {
    "another link": ("https://example.org", "this is not an invite"),
    "nothing after the scheme": ("p2ptrain://", "the invite is damaged"),
    "nothing after the version": ("p2ptrain://1.", "the invite is damaged"),
    "cut off": (INVITE[:-3], "the invite is damaged"),
    "one letter changed": (INVITE[:40] + ("A" if INVITE[40] != "A" else "B") + INVITE[41:], "the invite is damaged"),
    "a newer version": (INVITE.replace("//1.", "//9."), "the invite is of version '9'"),
    "no number": (INVITE.replace("//1.", "//²."), "the invite is of version '²'"),
}
"""A link and what is said of it."""
