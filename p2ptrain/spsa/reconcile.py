"""Closing gaps: a peer asks another one how far it has each log, and pulls the batches that it lacks.

Three streams answer: `summary` (each log's length and last digest), `batches` (of one log, from an index on) and `cuts`
(all revocations and proofs). A call brings a cut. The receiver judges batches and cuts as if gossip had brought them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from p2ptrain.errors import MalformedError
from p2ptrain.run import Digest, PeerId, Record
from p2ptrain.run.record import Count, DigestField, PeerIdField
from p2ptrain.spsa.messages import Equivocation, LogBatch, Revocation, Session
from p2ptrain.spsa.position import LOG_BYTES, log_from_bytes, log_to_bytes
from p2ptrain.state.logs import Log, Logs
from p2ptrain.state.throttle import UNLIMITED, Throttle
from p2ptrain.swarm import Refused, Rpc

BATCHES_PER_FRAME = 64
BATCHES_PER_CALL = 4096
ENTRIES_PER_FRAME = 1024
MOST_LOGS = 100_000
LAST_WORDS = 8
"""Bytes of a log's last digest in a summary."""
_ENTRY = LOG_BYTES + 8 + LAST_WORDS


@dataclass(frozen=True, slots=True)
class End:
    """How far a peer has a log."""

    length: int
    last: bytes
    """The first bytes of the digest of the log's last batch there."""


class SummaryRequest(Record):
    kind: ClassVar[str] = "spsa-summary/1"
    max_bytes: ClassVar[int] = 128

    run: DigestField


class BatchesRequest(Record):
    """Asks for the batches of a log, from the one that holds record `start` on."""

    kind: ClassVar[str] = "spsa-batches/1"
    max_bytes: ClassVar[int] = 256

    run: DigestField
    author: PeerIdField
    session: Session
    start: Count


class Bundle(Record):
    """Some batches of one log, in order."""

    kind: ClassVar[str] = "spsa-bundle/1"

    batches: Annotated[tuple[Annotated[bytes, Field(max_length=1024)], ...], Field(max_length=BATCHES_PER_FRAME)]


class CutsRequest(Record):
    kind: ClassVar[str] = "spsa-cuts/1"
    max_bytes: ClassVar[int] = 128

    run: DigestField


class GivenCut(Record):
    """Brings a revocation or a proof."""

    kind: ClassVar[str] = "spsa-give-cut/1"

    run: DigestField
    record: Annotated[bytes, Field(max_length=48 * 1024)]


class Taken(Record):
    kind: ClassVar[str] = "spsa-taken/1"
    max_bytes: ClassVar[int] = 512  # holds for a refusal, too, whose text has to fit


async def serve(
    rpc: Rpc,
    run: Digest,
    ends: Callable[[], Mapping[Log, End]],
    logs: Logs,
    cuts: Callable[[], Iterable[bytes]],
    take_cut: Callable[[bytes], None],
    throttle: Throttle = UNLIMITED,
) -> None:
    """Answer the four calls. Logs are sent no faster than `throttle` allows."""

    async def summary(_peer: PeerId, request: SummaryRequest) -> AsyncGenerator[bytes, None]:
        for frame in _frames(ends()) if request.run == run else ():
            yield frame

    async def batches(_peer: PeerId, request: BatchesRequest) -> AsyncGenerator[bytes, None]:
        log, start = Log(request.author, request.session), request.start
        for _ in range(BATCHES_PER_CALL // BATCHES_PER_FRAME if request.run == run else 0):
            rows = logs.batches(log, start, BATCHES_PER_FRAME)
            if not rows:
                return
            bundle = Bundle(batches=tuple(LogBatch.restore(log, row.start, row.record).encoded for row in rows)).encoded
            await throttle.take(len(bundle))
            yield bundle
            start = rows[-1].stop

    async def all_cuts(_peer: PeerId, request: CutsRequest) -> AsyncGenerator[bytes, None]:
        for record in cuts() if request.run == run else ():
            yield record

    async def given(_peer: PeerId, request: GivenCut) -> Taken:
        if request.run != run:
            raise Refused("the cut is for another run")
        take_cut(request.record)  # the caller is told of a MalformedError
        return Taken()

    await rpc.serve(GivenCut.kind, GivenCut, given)
    await rpc.serve_stream(SummaryRequest.kind, SummaryRequest, summary)
    await rpc.serve_stream(BatchesRequest.kind, BatchesRequest, batches)
    await rpc.serve_stream(CutsRequest.kind, CutsRequest, all_cuts)


async def ask_summary(rpc: Rpc, peer: PeerId, run: Digest) -> dict[Log, End]:
    """How far a peer has each log. Raises RpcError or MalformedError if it does not say so."""
    found: dict[Log, End] = {}
    async for frame in rpc.stream(peer, SummaryRequest.kind, SummaryRequest(run=run)):
        found.update(_entries(frame))
        if len(found) > MOST_LOGS:
            raise MalformedError("a summary names too many logs")
    return found


async def ask_batches(rpc: Rpc, peer: PeerId, run: Digest, log: Log, start: int) -> AsyncGenerator[LogBatch, None]:
    """The batches of a peer's log, from the one that holds record `start` on. Raises RpcError or MalformedError."""
    while True:
        request = BatchesRequest(run=run, author=log.author, session=log.session, start=start)
        count = 0
        async for frame in rpc.stream(peer, BatchesRequest.kind, request):
            for data in Bundle.decode(frame).batches:
                batch = LogBatch.decode(data)
                if batch.log != log or batch.stop <= start:
                    raise MalformedError("the peer sent a batch that was not asked for")
                start, count = batch.stop, count + 1
                yield batch
        if count < BATCHES_PER_CALL:
            return


async def ask_cuts(rpc: Rpc, peer: PeerId, run: Digest) -> AsyncGenerator[bytes, None]:
    """All revocations and proofs of a peer, encoded. Raises RpcError."""
    async for frame in rpc.stream(peer, CutsRequest.kind, CutsRequest(run=run)):
        yield frame


async def give_cut(rpc: Rpc, peer: PeerId, cut: Revocation | Equivocation) -> None:
    """Bring a cut to a peer, which passes it on. Raises RpcError if the peer does not take it."""
    await rpc.call(peer, GivenCut.kind, GivenCut(run=cut.run, record=cut.encoded), Taken)


def _frames(ends: Mapping[Log, End]) -> Iterator[bytes]:
    entries = [log_to_bytes(log) + end.length.to_bytes(8, "big") + end.last for log, end in ends.items()]
    for at in range(0, len(entries), ENTRIES_PER_FRAME):
        yield b"".join(entries[at : at + ENTRIES_PER_FRAME])


def _entries(frame: bytes) -> dict[Log, End]:
    if len(frame) % _ENTRY:
        raise MalformedError("a summary has an impossible length", f"{len(frame)} bytes")
    found = {}
    for at in range(0, len(frame), _ENTRY):
        entry = frame[at : at + _ENTRY]
        length = int.from_bytes(entry[LOG_BYTES:-LAST_WORDS], "big")
        if length >= 2**40:
            raise MalformedError("a summary names a log that is longer than possible", f"{length} records")
        found[log_from_bytes(entry)] = End(length, entry[-LAST_WORDS:])
    return found
