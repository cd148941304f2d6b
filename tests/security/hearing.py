"""Whether what outsiders say in the run's gossip counts, and whether they can read what is said there."""

from __future__ import annotations

from p2ptrain.run import PROTOCOL, PeerId
from p2ptrain.swarm.node import Gossip
from tests.security.house import House
from tests.security.outsiders import Outsider, is_readable, words_of
from tests.security.shown import a_certificate_that_was_revoked


def is_heard(house: House, them: Outsider) -> bool:
    """Whether anything that they say to all peers, in clear or sealed as well as they can, counts. What does not is
    counted as dropped, each message of it."""
    membership, messages, words = house.owner.membership, house.owner.ears.messages, words_of(them)

    async def hear_all() -> tuple[list[PeerId], int]:
        """Whose words were heard, and how many were dropped; without a pause, so that nobody else's get between."""
        heard, dropped = len(messages), membership.dropped.total()
        for said in words:
            membership._hear(Gossip(them.peer, said))
        return [origin for origin, _ in messages[heard:]], membership.dropped.total() - dropped

    heard, dropped = house.owner.run.swarm.run(hear_all())
    assert heard == [them.peer] * (len(words) - dropped)
    return bool(heard)


async def _hear(house: House, message: Gossip) -> None:
    """As libp2p delivers it, which has checked who said it."""
    house.owner.membership._hear(message)


def heard_again(house: House) -> bool:
    """Whether a message of the member's counts a second time; once it does."""
    owner, member = house.owner, house.member
    topic = f"p2ptrain/{PROTOCOL}/{owner.run.id.hex()}"
    sealed = member.door.seal(topic, b"\x92\xa6mark/1\x80")
    assert sealed is not None
    before = len(owner.ears.messages)
    for _ in range(2):
        owner.run.swarm.run(_hear(house, Gossip(member.peer, sealed)))
    heard = [kind for _, kind in owner.ears.messages[before:]].count("mark/1")
    assert heard >= 1
    return heard > 1


def opens_what_is_said_now(house: House, them: Outsider) -> bool:
    a_certificate_that_was_revoked(house, them)
    sealed = house.owner.door.seal(them.topic, words_of(them)[0])
    assert sealed is not None
    return is_readable(them, house.owner.peer, sealed)
