"""Sealed gossip: what members of a private run say to all others, which any node of libp2p could overhear.

    epoch 8 ‖ nonce 12 ‖ ChaCha20-Poly1305( boot 8 ‖ count 4 ‖ message )          48 bytes more than the message

`epoch` names the key (`run.access`). Run, topic and the sender's peer id are authenticated with it, so what one member
has sealed can't be said by another, or elsewhere. `boot` and `count` only ever grow with one sender, so a message that
is heard again later, when libp2p has forgotten it, is not taken. Pure: the caller hands in the time.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from p2ptrain.errors import MalformedError
from p2ptrain.run import PeerId
from p2ptrain.run.access import Epoch

OVERHEAD = 48
"""Bytes that a seal adds."""
GRACE = 60.0
"""Seconds for which what was sealed with the key before is still read: not everyone has heard of a new one at once."""
_EPOCH, _NONCE, _BOOT, _COUNT = 8, 12, 8, 4
_WINDOW = 256
"""Gossip takes several ways: a message may arrive after so many later ones of its sender."""
_MOST_SENDERS = 8192


class UnknownEpochError(MalformedError):
    """Sealed with a key that is not known here: one of the two sides has not heard of an order."""


@dataclass(slots=True)
class _Heard:
    """The numbers of a sender's messages that have been taken."""

    boot: int = -1
    newest: int = -1
    lately: set[int] = field(default_factory=set)


class Replays:
    """Lets each message of a sender through once."""

    def __init__(self) -> None:
        self._heard: OrderedDict[PeerId, _Heard] = OrderedDict()

    def is_new(self, sender: PeerId, boot: int, count: int) -> bool:
        """Whether this number was not heard before, and could not have been forgotten meanwhile."""
        heard = self._heard.pop(sender, None) or _Heard()
        self._heard[sender] = heard
        if len(self._heard) > _MOST_SENDERS:
            self._heard.popitem(last=False)
        if boot > heard.boot:
            heard.boot, heard.newest, heard.lately = boot, -1, set()
        if boot < heard.boot or count <= heard.newest - _WINDOW or count in heard.lately:
            return False
        heard.lately.add(count)
        if count > heard.newest:
            heard.newest = count
            heard.lately = {number for number in heard.lately if number > count - _WINDOW}
        return True


class Seal:
    """Seals what this process says, and opens what others say.

    Args:
        run: the run's id.
        me: this peer.
    """

    def __init__(self, run: bytes, me: PeerId) -> None:
        self._run, self._me, self._count = run, me, 0
        self.boot = 0
        """Larger at each start of this peer."""
        self._epoch = b""
        self._ciphers: dict[bytes, ChaCha20Poly1305] = {}
        self._ends: dict[bytes, float] = {}
        self._replays = Replays()

    def use(self, epoch: Epoch, now: float) -> None:
        """From now on seal with this key; what is sealed with those before is read for a minute.

        Args:
            now: monotonic seconds.
        """
        if epoch.name == self._epoch:
            return
        if self._epoch:
            self._ends[self._epoch] = now + GRACE
        self._ends.pop(epoch.name, None)
        self._epoch, self._ciphers[epoch.name] = epoch.name, ChaCha20Poly1305(epoch.key)

    @property
    def is_ready(self) -> bool:
        return bool(self._epoch)

    def seal(self, topic: str, message: bytes) -> bytes:
        """For everyone who has the newest key. `use` has to come first."""
        nonce = secrets.token_bytes(_NONCE)
        numbers = self.boot.to_bytes(_BOOT, "big") + self._count.to_bytes(_COUNT, "big")
        self._count += 1
        sealed = self._ciphers[self._epoch].encrypt(nonce, numbers + message, self._context(topic, self._me))
        return self._epoch + nonce + sealed

    def open(self, topic: str, sender: PeerId, data: bytes, now: float) -> bytes:
        """What `sender` has sealed.

        Raises:
            UnknownEpochError: with a key that is not known here, or was given up over a minute ago.
            MalformedError: nobody has sealed this for this topic as this sender, or it was heard before.
        """
        epoch, nonce, sealed = data[:_EPOCH], data[_EPOCH : _EPOCH + _NONCE], data[_EPOCH + _NONCE :]
        if epoch not in self._ciphers or now > self._ends.get(epoch, now):
            raise UnknownEpochError("a message is sealed with another key", epoch.hex())
        try:
            opened = self._ciphers[epoch].decrypt(nonce, sealed, self._context(topic, sender))
        except (InvalidTag, ValueError):
            raise MalformedError("a message's seal is broken") from None
        boot, count = int.from_bytes(opened[:_BOOT], "big"), int.from_bytes(opened[_BOOT : _BOOT + _COUNT], "big")
        if not self._replays.is_new(sender, boot, count):
            raise MalformedError("a message was heard before")
        return opened[_BOOT + _COUNT :]

    def _context(self, topic: str, sender: PeerId) -> bytes:
        return b"p2ptrain gossip " + self._run + sender.encode() + topic.encode()
