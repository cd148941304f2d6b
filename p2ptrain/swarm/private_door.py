"""The door of a private run: it lets members in and nobody else.

A peer introduces itself before it asks for anything. It shows a certificate that leads from an owner's key to its own
peer id; libp2p's handshake has proven that the id is its own. No owner needs to be there for the check. When a member
learns about another member, or about an owner's order, it tells the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from p2ptrain.errors import AccessError, MalformedError, NetworkError
from p2ptrain.run import Digest, Genesis, PeerId, short_peer, spec_from_canonical
from p2ptrain.run.access import REVOKED, STRANGER, Access, Paper, read_paper
from p2ptrain.run.certificate import Certificate, Order
from p2ptrain.swarm.door import Door
from p2ptrain.swarm.introduction import GIVE, INTRODUCE, PAPERS, GivenPaper, Introduction, PapersRequest, Welcome
from p2ptrain.swarm.node import ControlError, Node
from p2ptrain.swarm.papers import Papers
from p2ptrain.swarm.patience import Shared, ask_all
from p2ptrain.swarm.presence import monotonic
from p2ptrain.swarm.rpc import IDLE_TIMEOUT, RateLimit, Refused, Rpc, RpcError

SWEEP_SECONDS = 2.0
HANG_UP_SECONDS = 10.0
"""Seconds after which a connection with a peer that is not let in is closed."""
MOST_PASSING = 64
"""Peers that only look and are remembered at the same time."""
NO_SUCH_RUN = "this peer knows of no such run"

log = logging.getLogger(__name__)


class NotLetIn(RpcError):
    """A member has checked this peer's certificate and does not let this peer in."""


@dataclass(frozen=True, slots=True)
class Pass:
    """What this peer shows to other members. Owners and the founder need no certificate."""

    run: Digest
    certificate: Certificate | None = None
    passing: bool = False
    """Whether this peer only looks or brings an order, and leaves soon."""


class PrivateDoor(Door):
    """See `Door`. The caller that makes the `Swarm` makes this, too; it is used on the network thread only.

    Args:
        own: what this peer shows to others; None for a founder, who lets nobody in before `establish`.
        access: what this peer knows about the members; None for a newcomer, who gets it from the first member.
    """

    is_private = True

    def __init__(self, me: PeerId, own: Pass | None, access: Access | None = None) -> None:
        self._me, self._own = me, own
        self._papers: Papers | None = None
        self._node: Node
        self._rpc: Rpc | None = None
        self._met: set[PeerId] = set()
        """The peers to which this peer has introduced itself."""
        self._meeting = Shared()
        self._passing: OrderedDict[PeerId, Certificate] = OrderedDict()
        self._helpers: set[PeerId] = set()
        """Bootstrap nodes outside of the run: they relay and dial back, and learn nothing about the run."""
        self._refused_since: dict[PeerId, float] = {}
        self._each, self._total = RateLimit(1.0, 8), RateLimit(20.0, 100)  # each checks two signatures
        if access is not None:
            self._begin(access)

    def establish(self, access: Access) -> None:
        """The founder has made the run: let members in from now on."""
        self._own = Pass(access.run)
        self._begin(access)

    def _begin(self, access: Access) -> None:
        self._papers = Papers(self._me, access, self._learned)
        if self._rpc is not None:
            self._papers.rpc = self._rpc

    @property
    def has_begun(self) -> bool:
        """Whether this peer knows the run's genesis, and so can tell who is a member."""
        return self._papers is not None

    @property
    def papers(self) -> Papers:
        """What this peer knows about the members; only once `has_begun` is true."""
        assert self._papers is not None
        return self._papers

    @property
    def access(self) -> Access:
        """The run's rules and the papers that are known; only once `has_begun` is true."""
        return self.papers.access

    @property
    def _is_passing(self) -> bool:
        return self._own is not None and self._own.passing

    @property
    def certificate(self) -> Certificate | None:
        """This peer's own certificate, the one that is valid for longest; None for owners and the founder."""
        shown = self._own.certificate if self._own else None
        known = self.access.certificate_of(self._me, time.time()) if self.has_begun else None
        if shown is None or self._is_passing or known is None or self.access.standing(known, time.time()):
            return shown
        return known

    # Who may ask -----------------------------------------------------------------------------------------------------

    def refusal(self, peer: PeerId) -> str:
        if not self.has_begun:
            return STRANGER
        now = time.time()  # not the swarm's time, which others may have changed
        found = self.access.refusal(peer, now)
        if found == STRANGER and peer in self._passing:
            return self.access.standing(self._passing[peer], now)
        return found

    def knows(self, peer: PeerId) -> bool:
        return self.has_begun and self.access.knows(peer)

    def is_out(self, peer: PeerId) -> bool:
        return self.has_begun and self.access.is_out(peer, time.time())

    async def attach(self, node: Node, rpc: Rpc) -> None:
        self._node, self._rpc = node, rpc
        self._met, self._helpers = set(), set()  # left from an earlier attempt at other addresses
        if self.has_begun:
            self.papers.rpc = rpc
        await rpc.serve(INTRODUCE, Introduction, self._introduced, open_to_all=True)
        await rpc.serve_stream(PAPERS, PapersRequest, lambda _peer, request: self.papers.answer(request))
        await rpc.serve(GIVE, GivenPaper, lambda peer, request: self.papers.given(peer, request))

    async def _introduced(self, peer: PeerId, request: Introduction) -> Welcome:
        if not self._each.allows(peer) or (self.refusal(peer) and not self._total.allows("")):
            raise Refused("too many introductions, wait a minute")
        if not self.has_begun or request.run != self.access.run:
            return Welcome(refusal=NO_SUCH_RUN)
        try:
            refusal = self._judge(peer, request.certificate, request.passing, tell=True)
        except MalformedError as error:
            refusal = f"not a valid certificate: {error.brief}"[:200]
        if refusal:
            order = self.access.order_against(peer)
            return Welcome(refusal=refusal, order=order.encoded if order else b"")
        own, yours = self.certificate, self.access.certificate_of(peer, time.time())
        if yours is not None and yours.encoded == request.certificate:
            yours = None
        genesis, spec = (self.access.genesis.encoded, self.access.spec.canonical()) if request.new else (b"", b"")
        return Welcome(
            certificate=own.encoded if own else b"",
            passing=self._is_passing,
            genesis=genesis,
            spec=spec,
            summary=self.summary,
            yours=yours.encoded if yours else b"",
        )

    def _judge(self, peer: PeerId, shown: bytes, passing: bool, tell: bool) -> str:
        """Why a peer is not let in with the certificate that it shows; empty if it is let in, and then remembered.
        Raises MalformedError if it is no certificate, or the certificate of another peer."""
        if shown:
            certificate = Certificate.decode(shown)
            if certificate.peer != peer:
                raise MalformedError("it is another peer's certificate")
            if refusal := self.access.judge(certificate, time.time()):
                return self.refusal(peer) and refusal  # the peer may have a better one that it does not know of
            if passing:
                self._passing[peer] = certificate
                if len(self._passing) > MOST_PASSING:
                    self._passing.popitem(last=False)
            else:
                self.papers.learn(certificate, tell)
        return self.refusal(peer)

    # Whom to ask -----------------------------------------------------------------------------------------------------

    async def enter(self, peers: set[PeerId]) -> set[PeerId]:
        if self._own is None:
            self._helpers |= peers
            return set()
        answers = await ask_all({peer: self.meet(peer) for peer in sorted(peers)}, IDLE_TIMEOUT)
        failures = {peer: answer for peer, answer in answers.items() if answer is not None}
        if self.expelled is not None:
            raise self.expelled
        welcome = peers - failures.keys()
        if not welcome and (failures or not self.has_begun):
            self._explain(list(failures.values()))
        return welcome

    def _explain(self, failures: list[BaseException]) -> None:
        """No peer lets this one in: raise the reason, unless this peer can wait for other members."""
        for failure in failures:
            if not isinstance(failure, RpcError | TimeoutError):
                raise failure
            if isinstance(failure, NotLetIn):
                # A peer that is in the run is shut out only by an owner's order, or by the end of its certificate. The
                # word of one member is not enough.
                if not self.has_begun or self._is_passing or self.refusal(self._me):
                    raise not_let_in(failure.detail)
                member, why = short_peer(failure.peer), failure.detail
                log.warning("%s does not let this peer in, but shows no owner's order as a proof: %s", member, why)
        if not self.has_begun:
            raise NetworkError(
                "no member of the run answers",
                "; ".join(map(str, failures)) or "the invite has no address of a member",
                "check that a peer of the run is running and reachable, or ask for a newer invite",
            )

    async def meet(self, peer: PeerId, again: bool = False) -> None:
        if peer in self._met and not again and not self.refusal(peer):
            return
        await self._meeting.join(peer, lambda: self._introduce(peer))

    async def _introduce(self, peer: PeerId) -> None:
        if self._own is None or self.expelled is not None:
            raise RpcError(peer, INTRODUCE, "refused", "this peer is not in a run")
        assert self._rpc is not None  # `attach` comes before this peer meets others
        own = self.certificate
        request = Introduction(
            run=self._own.run, certificate=own.encoded if own else b"", passing=self._is_passing, new=not self.has_begun
        )
        try:
            answer = await self._rpc.call(peer, INTRODUCE, request, Welcome, of_member=False, tries=3)
        except RpcError as error:
            if error.reason == "unknown method":
                self._helpers.add(peer)
            raise
        try:
            self._take_welcome(peer, answer)
        except MalformedError as error:
            raise RpcError(peer, INTRODUCE, "malformed", error.brief) from None
        self._met.add(peer)
        self.compare(peer, answer.summary)

    def _take_welcome(self, peer: PeerId, answer: Welcome) -> None:
        """Check and keep what a welcome says; raises MalformedError, or RpcError if one of the two is no member."""
        if answer.refusal:
            if answer.order and self.has_begun:
                self.papers.learn(Order.decode(answer.order), tell=False)
            failure = RpcError if answer.refusal == NO_SUCH_RUN else NotLetIn
            raise failure(peer, INTRODUCE, "refused", answer.refusal)
        if not self.has_begun:
            self._take_founding(answer)
        if refusal := self._judge(peer, answer.certificate, answer.passing, tell=False):
            raise RpcError(peer, INTRODUCE, "refused", f"it is not a member itself: {refusal}")
        if answer.yours and not self._is_passing:
            yours = Certificate.decode(answer.yours)
            if yours.peer == self._me:
                self.papers.learn(yours, tell=False)

    def _take_founding(self, answer: Welcome) -> None:
        assert self._own is not None
        genesis = Genesis.decode(answer.genesis).check_signature()
        spec = spec_from_canonical(answer.spec)
        if genesis.digest != self._own.run or genesis.spec != spec.digest:
            raise MalformedError("what the member has sent is not the run that the invite names")
        access = Access(genesis, spec)
        if self._own.certificate is not None and not self._is_passing:
            access.take(self._own.certificate)
        self._begin(access)

    # What is learned and told -----------------------------------------------------------------------------------------

    def _learned(self, paper: Paper) -> None:
        if isinstance(paper, Order):
            for peer in paper.peers:
                log.warning("%s is revoked by the owner %s", short_peer(peer), short_peer(paper.author))
        self._look_at_oneself()

    def _look_at_oneself(self) -> None:
        refusal = self.refusal(self._me)
        if refusal and self._own is not None and not self._is_passing and self.expelled is None:
            self.expelled = not_let_in(refusal)

    kinds = frozenset({Certificate.kind, Order.kind})

    def hear(self, data: bytes) -> None:
        self.papers.learn(read_paper(data), tell=False)

    def seal(self, topic: str, message: bytes) -> bytes | None:
        return self.papers.sealing.seal(topic, message)

    def unseal(self, topic: str, origin: PeerId, data: bytes) -> bytes:
        return self.papers.unseal(topic, origin, data)

    def publish_with(self, publish: Callable[[bytes], Awaitable[None]]) -> None:
        self.papers.publish = publish

    @property
    def summary(self) -> bytes:
        return self.papers.summary

    def compare(self, peer: PeerId, summary: bytes) -> None:
        self.papers.compare(peer, summary)

    def save(self) -> None:
        if self.has_begun:
            self.papers.save()

    # Keeping it shut -------------------------------------------------------------------------------------------------

    async def keep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            if self.has_begun:
                self._look_at_oneself()
                await self._sweep()
                self.papers.save()

    async def _sweep(self) -> None:
        """Close connections with peers that were not let in for a while. Until then such a peer can introduce itself
        and learn why it is refused. It can connect again, but gets no further."""
        with contextlib.suppress(OSError, ControlError, asyncio.IncompleteReadError):
            connected = await self._node.connected()
            helpers = self._helpers | self._node.relays.keys() | self._node.book.relays().keys()
            now = monotonic()
            refused = {peer for peer in connected - helpers if self.refusal(peer)}
            refused |= {peer for peer in connected & helpers if self.is_out(peer)}  # revoked: a helper no more
            self._refused_since = {peer: self._refused_since.get(peer, now) for peer in refused}
            for peer, since in list(self._refused_since.items()):
                if now - since > HANG_UP_SECONDS:
                    self._met.discard(peer)
                    await self._node.disconnect(peer)


def not_let_in(refusal: str) -> AccessError:
    """The error that a peer which is not let in shows to its user."""
    way_back = "ask an owner of the run for a new invite"
    if refusal.startswith(REVOKED):
        way_back = "only an owner can let you in again: under another identity, with a new invite"
    return AccessError("the members of this private run do not let this peer in", refusal, way_back)
