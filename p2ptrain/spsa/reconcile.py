"""Closing gaps between two peers: each says how long its logs are, and the shorter side pulls what it lacks.

Three calls, all streams: `summary` (the logs and their last words), `batches` (of one log from an index on), `cuts`
(revocations and proofs, few as they are); and one to bring a cut. What arrives is judged like anything else.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from p2ptrain.errors import MalformedError
from p2ptrain.run import Digest, PeerId, Record
from p2ptrain.run.keys import peer_id_from_key, public_bytes_of
from p2ptrain.run.record import Count, DigestField, PeerIdField
from p2ptrain.spsa.messages import SESSION_BYTES, Equivocation, LogBatch, Revocation, Session
from p2ptrain.state.logs import Log, Logs
from p2ptrain.state.throttle import UNLIMITED, Throttle
from p2ptrain.swarm import Refused, Rpc

BATCHES_PER_FRAME = 64
BATCHES_PER_CALL = 4096
ENTRIES_PER_FRAME = 1024
MOST_LOGS = 100_000
LAST_WORDS = 8
_ENTRY = 32 + SESSION_BYTES + 8 + LAST_WORDS


@dataclass(frozen=True, slots=True)
class End:
    """How far a peer has a log, and the beginning of the digest of its last batch there."""

    length: int
    last: bytes


class SummaryRequest(Record):
    kind: ClassVar[str] = "spsa-summary/1"
    max_bytes: ClassVar[int] = 128

    run: DigestField


class BatchesRequest(Record):
    """Batches of a log from the one on that holds record `start`."""

    kind: ClassVar[str] = "spsa-batches/1"
    max_bytes: ClassVar[int] = 256

    run: DigestField
    author: PeerIdField
    session: Session
    start: Count


class Bundle(Record):
    """Some batches of one log, in their order."""

    kind: ClassVar[str] = "spsa-bundle/1"

    batches: Annotated[tuple[Annotated[bytes, Field(max_length=1024)], ...], Field(max_length=BATCHES_PER_FRAME)]


class CutsRequest(Record):
    kind: ClassVar[str] = "spsa-cuts/1"
    max_bytes: ClassVar[int] = 128

    run: DigestField


class GivenCut(Record):
    """A revocation or a proof that somebody brings."""

    kind: ClassVar[str] = "spsa-give-cut/1"

    run: DigestField
    record: Annotated[bytes, Field(max_length=48 * 1024)]


class Taken(Record):
    kind: ClassVar[str] = "spsa-taken/1"
    max_bytes: ClassVar[int] = 512  # of a refusal, too, which has to say why


async def serve(
    rpc: Rpc,
    run: Digest,
    ends: Callable[[], Mapping[Log, End]],
    logs: Logs,
    cuts: Callable[[], Iterable[bytes]],
    take_cut: Callable[[bytes], None],
    throttle: Throttle = UNLIMITED,
) -> None:
    """Answer the four calls; logs, which are long, no faster than `throttle` says."""

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
            raise Refused("another run's")
        take_cut(request.record)  # raises MalformedError, which the caller is told
        return Taken()

    await rpc.serve(GivenCut.kind, GivenCut, given)
    await rpc.serve_stream(SummaryRequest.kind, SummaryRequest, summary)
    await rpc.serve_stream(BatchesRequest.kind, BatchesRequest, batches)
    await rpc.serve_stream(CutsRequest.kind, CutsRequest, all_cuts)


async def ask_summary(rpc: Rpc, peer: PeerId, run: Digest) -> dict[Log, End]:
    """Raises RpcError, MalformedError."""
    found: dict[Log, End] = {}
    async for frame in rpc.stream(peer, SummaryRequest.kind, SummaryRequest(run=run)):
        found.update(_entries(frame))
        if len(found) > MOST_LOGS:
            raise MalformedError("a summary names too many logs")
    return found


async def ask_batches(rpc: Rpc, peer: PeerId, run: Digest, log: Log, start: int) -> AsyncGenerator[LogBatch, None]:
    """What the peer has of a log from the batch on that holds record `start`; raises RpcError, MalformedError."""
    while True:
        request = BatchesRequest(run=run, author=log.author, session=log.session, start=start)
        count = 0
        async for frame in rpc.stream(peer, BatchesRequest.kind, request):
            for data in Bundle.decode(frame).batches:
                batch = LogBatch.decode(data)
                if batch.log != log or batch.stop <= start:
                    raise MalformedError("a batch was not asked for")
                start, count = batch.stop, count + 1
                yield batch
        if count < BATCHES_PER_CALL:
            return


async def ask_cuts(rpc: Rpc, peer: PeerId, run: Digest) -> AsyncGenerator[bytes, None]:
    """Encoded revocations and proofs; raises RpcError."""
    async for frame in rpc.stream(peer, CutsRequest.kind, CutsRequest(run=run)):
        yield frame


async def give_cut(rpc: Rpc, peer: PeerId, cut: Revocation | Equivocation) -> None:
    """Have a peer take it and pass it on; raises RpcError if it does not."""
    await rpc.call(peer, GivenCut.kind, GivenCut(run=cut.run, record=cut.encoded), Taken)


def _frames(ends: Mapping[Log, End]) -> Iterator[bytes]:
    entries = [
        public_bytes_of(log.author) + log.session + end.length.to_bytes(8, "big") + end.last
        for log, end in ends.items()
    ]
    for at in range(0, len(entries), ENTRIES_PER_FRAME):
        yield b"".join(entries[at : at + ENTRIES_PER_FRAME])


def _entries(frame: bytes) -> dict[Log, End]:
    if len(frame) % _ENTRY:
        raise MalformedError("a summary has an impossible length", f"{len(frame)} bytes")
    found = {}
    for at in range(0, len(frame), _ENTRY):
        entry = frame[at : at + _ENTRY]
        log = Log(peer_id_from_key(entry[:32]), entry[32 : 32 + SESSION_BYTES])
        length = int.from_bytes(entry[32 + SESSION_BYTES : -LAST_WORDS], "big")
        if length >= 2**40:
            raise MalformedError("a log is longer than any")
        found[log] = End(length, entry[-LAST_WORDS:])
    return found
