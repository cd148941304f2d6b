"""Sealed gossip: the encryption of what members of a private run say to all others. Any libp2p node could overhear it.

    epoch 8 ‖ nonce 12 ‖ ChaCha20-Poly1305( boot 8 ‖ count 4 ‖ message )          48 bytes more than the message

`epoch` names the key (`run.access`). The run, the topic and the sender's peer id are authenticated as well, so nobody
can send the sealed message of one member as another member's, or to another topic. The numbers `boot` and `count` of
one sender only grow. So a message is not accepted again if somebody repeats it after libp2p has forgotten it. The
caller passes the monotonic time, in seconds.
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
"""Seconds for which messages with the former key are still read, since not everybody knows a new key at once."""
_EPOCH, _NONCE, _BOOT, _COUNT = 8, 12, 8, 4
_WINDOW = 256
"""Gossip takes several ways. A message may arrive after up to this many later messages of its sender."""
_MOST_SENDERS = 8192


class UnknownEpochError(MalformedError):
    """The message is sealed with a key that this peer does not know: one of the two has missed an order."""


@dataclass(slots=True)
class _Heard:
    """The numbers of the messages of one sender that were accepted."""

    boot: int = -1
    newest: int = -1
    lately: set[int] = field(default_factory=set)


class Replays:
    """Accepts each message of a sender once."""

    def __init__(self) -> None:
        self._heard: OrderedDict[PeerId, _Heard] = OrderedDict()

    def is_new(self, sender: PeerId, boot: int, count: int) -> bool:
        """Whether the message with this number is new. If it is so old that its number may be forgotten, it is not."""
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
    """Seals the messages of this process, the peer `me` of a run, and opens those of others."""

    def __init__(self, run: bytes, me: PeerId) -> None:
        self._run, self._me, self._count = run, me, 0
        self.boot = 0
        """A number that is larger at each start of this peer."""
        self._epoch = b""
        self._ciphers: dict[bytes, ChaCha20Poly1305] = {}
        self._ends: dict[bytes, float] = {}
        self._replays = Replays()

    def use(self, epoch: Epoch, now: float) -> None:
        """Seal with this key from now on. Messages with the former key can still be opened for a minute."""
        if epoch.name == self._epoch:
            return
        if self._epoch:
            self._ends[self._epoch] = now + GRACE
        self._ends.pop(epoch.name, None)
        self._epoch, self._ciphers[epoch.name] = epoch.name, ChaCha20Poly1305(epoch.key)

    def seal(self, topic: str, message: bytes) -> bytes | None:
        """The sealed message, for everybody who has the newest key; None before the first `use`."""
        if not self._epoch:
            return None
        nonce = secrets.token_bytes(_NONCE)
        numbers = self.boot.to_bytes(_BOOT, "big") + self._count.to_bytes(_COUNT, "big")
        self._count += 1
        sealed = self._ciphers[self._epoch].encrypt(nonce, numbers + message, self._context(topic, self._me))
        return self._epoch + nonce + sealed

    def open(self, topic: str, sender: PeerId, data: bytes, now: float) -> bytes:
        """The message that `sender` has sealed.

        Raises:
            UnknownEpochError: the key is not known here, or was replaced over a minute ago.
            MalformedError: this sender has not sealed it for this topic, or the message was accepted before.
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
