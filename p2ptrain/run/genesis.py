"""The genesis record: the first record of a run, which its founder signs.

The run's id is the digest of its genesis. The genesis names the spec, the state at height 0 and the held-out text by
their digests. Its nonce makes two runs of one recipe different.
"""

from __future__ import annotations

import secrets
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field

from p2ptrain.run.digest import NO_DIGEST, Digest
from p2ptrain.run.keys import SigningKey
from p2ptrain.run.record import Count, DigestField, SignedRecord, Text
from p2ptrain.run.spec import PROTOCOL, RunSpec


class Genesis(SignedRecord):
    """The first record of a run. Its author is the founder."""

    kind: ClassVar[str] = "genesis/1"

    protocol: Literal[2] = PROTOCOL
    spec: DigestField
    """Digest of the spec's canonical bytes."""
    base: DigestField
    """Digest of the state at height 0."""
    held_out: DigestField
    """Digest of the founder's held-out text; all zero if the founder's own program brings the data."""
    nonce: Annotated[bytes, Field(min_length=16, max_length=16)]
    software: Text
    founded: Count
    """Seconds since 1970, as the founder claims; 0 if the founder does not say."""
    seal: DigestField
    """In a private run, a commitment to the secret from which the first key of its gossip is made (see `access`). All
    zero in a public run."""

    @classmethod
    def found(
        cls,
        spec: RunSpec,
        base: Digest,
        held_out: Digest,
        software: str,
        founder: SigningKey,
        founded: int = 0,
        seal: Digest = NO_DIGEST,
    ) -> Self:
        """Make and sign the genesis of a new run."""
        return cls(
            author=founder.peer_id,
            spec=spec.digest,
            base=base,
            held_out=held_out,
            nonce=secrets.token_bytes(16),
            software=software,
            founded=founded,
            seal=seal,
        ).signed(founder)
