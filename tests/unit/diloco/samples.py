"""Contributions and commits as tests need them: valid in form, unsigned."""

from __future__ import annotations

from collections.abc import Iterable

from p2ptrain.diloco.chain import Commit, Contribution
from p2ptrain.diloco.codecs import Vector
from p2ptrain.run import NO_DIGEST, Digest, PeerId, RunSpec, digest_of
from p2ptrain.run.head import Head
from p2ptrain.run.spec import LimitsSection
from tests.unit.diloco.reference import encode
from tests.unit.diloco.swarm_in_memory import KEYS, RUN

PEERS = sorted(key.peer_id for key in KEYS)
KEY_OF = {key.peer_id: key for key in KEYS}


def limited(spec: RunSpec, **limits: float) -> RunSpec:
    """The same spec with other limits."""
    return spec.model_copy(update={"limits": LimitsSection.model_validate(limits)})


def encoded(spec: RunSpec, vector: Vector) -> bytes:
    return encode(spec.method.codec, vector)


def offer(
    author: PeerId,
    height: int,
    data: bytes,
    *,
    base: Digest = NO_DIGEST,
    tokens: int = 100,
    steps: int = 4,
    run: Digest = RUN,
) -> Contribution:
    return Contribution(
        author=author,
        run=run,
        height=height,
        base=base,
        payload=digest_of(data),
        size=len(data),
        tokens=tokens,
        steps=steps,
    )


def commit_on(
    head: Head,
    parts: Iterable[Contribution] = (),
    attempt: int = 0,
    leader: PeerId = PEERS[0],
    run: Digest = RUN,
) -> Commit:
    """A commit that extends `head`."""
    ordered = tuple(sorted(parts, key=lambda part: part.author))
    return Commit(
        author=leader,
        run=run,
        height=head.height + 1,
        parent=head.commit,
        state=head.state,
        attempt=attempt,
        contributions=ordered,
    )
