"""What is told of a run to those who look for one: its genesis and its spec, which prove themselves.

The run's id is the genesis' digest, the founder has signed the genesis, and the genesis names the spec. So nobody can
list a run under another name or with another model, and it does not matter which of its peers, or who else, hands the
announcement on. What it says nothing of, how the run does, is in its peers' presence records.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Annotated, ClassVar, Self

from pydantic import Field

from p2ptrain.errors import MalformedError
from p2ptrain.run import Digest, Genesis, Record, RunSpec, digest_of, short

MAX_ANNOUNCED = 16 * 1024
"""Of a spec that is announced. The recipes' have a thousand bytes; a run may have four times as many as this."""

log = logging.getLogger(__name__)


def is_announced(spec: RunSpec) -> bool:
    """Whether a run of this spec is for everybody to find."""
    return not spec.is_private and len(spec.canonical()) <= MAX_ANNOUNCED


class Announcement(Record):
    """A run's entry in the list of runs."""

    kind: ClassVar[str] = "announcement/1"
    max_bytes: ClassVar[int] = MAX_ANNOUNCED + 4096

    genesis: Genesis
    spec: Annotated[bytes, Field(max_length=MAX_ANNOUNCED)]
    """The spec's canonical bytes. Who stores the entry does not read them: they may be a newer version's."""

    @classmethod
    def of(cls, genesis: Genesis, spec: RunSpec) -> Self | None:
        """The announcement of a run; None if it is not announced."""
        canonical = spec.canonical()
        if is_announced(spec):
            return cls(genesis=genesis, spec=canonical)
        if not spec.is_private:
            log.info(
                "the run %s is not announced: its spec has %d bytes, at most %d are",
                short(genesis.digest),
                len(canonical),
                MAX_ANNOUNCED,
            )
        return None

    @property
    def run(self) -> Digest:
        return self.genesis.digest

    def check(self) -> Self:
        """Raises MalformedError unless the founder has signed this run into being with this spec."""
        self.genesis.check_signature()
        if digest_of(self.spec) != self.genesis.spec:
            raise MalformedError("an announcement's spec is not its run's", short(self.run))
        return self


@lru_cache(maxsize=256)
def announced_run(data: bytes) -> Digest:
    """The run that these bytes announce. An entry stays the same however often it is announced: it is checked once.

    Raises:
        MalformedError: they are no announcement, or a forged one.
    """
    return Announcement.decode(data).check().run
