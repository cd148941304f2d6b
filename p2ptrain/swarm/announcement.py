"""The announcement of a run, for people who look for one: its genesis and its spec.

An announcement proves itself. The run's id is the digest of the genesis, the founder has signed the genesis, and the
genesis names the spec. So nobody can list a run under another name or with another model, and anybody may pass the
announcement on. How far the run is, is not part of it: the peers' presence records say that.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Annotated, ClassVar, Self

from pydantic import Field

from p2ptrain.errors import MalformedError
from p2ptrain.run import Digest, Genesis, Record, RunSpec, digest_of, short

MAX_ANNOUNCED = 16 * 1024
"""Bytes of the largest spec that is announced. The recipes' specs have about 1,000; a run's spec may be four times as
large as this limit, but then the run is not listed."""

log = logging.getLogger(__name__)


def is_announced(spec: RunSpec) -> bool:
    """Whether a run with this spec is listed: it is public, and its spec is small enough."""
    return not spec.is_private and len(spec.canonical()) <= MAX_ANNOUNCED


class Announcement(Record):
    """A run's entry in the list of runs."""

    kind: ClassVar[str] = "announcement/1"
    max_bytes: ClassVar[int] = MAX_ANNOUNCED + 4096

    genesis: Genesis
    spec: Annotated[bytes, Field(max_length=MAX_ANNOUNCED)]
    """The canonical bytes of the spec. Nodes that store the entry do not read them, so a newer version may have written
    them."""

    @classmethod
    def of(cls, genesis: Genesis, spec: RunSpec) -> Self | None:
        """The announcement of a run; None if the run is not listed."""
        if is_announced(spec):
            return cls(genesis=genesis, spec=spec.canonical())
        if not spec.is_private:
            log.info("the run %s is not announced: its spec has over %d bytes", short(genesis.digest), MAX_ANNOUNCED)
        return None

    @property
    def run(self) -> Digest:
        return self.genesis.digest

    def check(self) -> Self:
        """Returns itself; raises MalformedError unless the founder has signed this run with this spec."""
        self.genesis.check_signature()
        if digest_of(self.spec) != self.genesis.spec:
            raise MalformedError("an announcement has another spec than its run", short(self.run))
        return self


@lru_cache(maxsize=256)
def announced_run(data: bytes) -> Digest:
    """The run that these bytes announce. The result is kept, because the same entry comes again and again. Raises
    MalformedError if the bytes are no announcement, or a forged one."""
    return Announcement.decode(data).check().run
