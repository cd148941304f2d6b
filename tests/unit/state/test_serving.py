"""A peer hands out the chunks of what it holds, as many as may be asked for, and nothing else."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from p2ptrain.errors import MalformedError
from p2ptrain.run import CHUNK_BYTES, Manifest, digest_of
from p2ptrain.run.digest import Buffer, chunk_count
from p2ptrain.state.fetch import CHUNKS_PER_CALL, BlobRequest
from p2ptrain.swarm import Refused
from tests.unit.state.samples import PEERS, bytes_of
from tests.unit.state.wire import Wire, request_for

ME, ALICE, *_ = PEERS
BLOB = bytes_of(32 * CHUNK_BYTES + 5000)
CHUNKS = chunk_count(len(BLOB))
DIGEST = digest_of(BLOB)


def answer_to(request: BlobRequest, *data: Buffer) -> list[bytes]:
    async def scene() -> list[bytes]:
        wire = Wire()
        await wire.add(ALICE, *data)
        return [bytes(frame) async for frame in wire.handlers[ALICE](ME, request)]

    return asyncio.run(asyncio.wait_for(scene(), 10))


def test_an_answer_holds_the_chunks_that_were_asked_for() -> None:
    manifest = Manifest.of(BLOB).to_bytes()
    chunks = [BLOB[at : at + CHUNK_BYTES] for at in range(0, len(BLOB), CHUNK_BYTES)]
    assert answer_to(request_for(DIGEST, 3, 4), BLOB) == chunks[3:7]
    assert answer_to(request_for(DIGEST, 0, 2, manifest=True), BLOB) == [manifest, *chunks[:2]]
    assert answer_to(request_for(DIGEST, CHUNKS - 1, 9), BLOB) == chunks[-1:]
    assert answer_to(request_for(DIGEST, CHUNKS, 9), BLOB) == []
    assert answer_to(request_for(DIGEST, 2**53 - 1, CHUNKS_PER_CALL), BLOB) == []


def test_what_is_not_held_is_refused() -> None:
    with pytest.raises(Refused, match="not here"):
        answer_to(request_for(DIGEST), b"something else")


@pytest.mark.parametrize("changes", [{"count": CHUNKS_PER_CALL + 1}, {"count": -1}, {"first": -1}, {"blob": b"short"}])
def test_a_request_out_of_bounds_is_malformed(changes: dict[str, Any]) -> None:
    beyond = request_for(DIGEST).model_copy(update=changes)
    with pytest.raises(MalformedError):
        BlobRequest.decode(beyond.encoded)
