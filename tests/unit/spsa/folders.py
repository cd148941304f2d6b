"""A run folder of three logs with marks and snapshots, as a peer leaves it, and ways to change it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from p2ptrain.run import NO_DIGEST, Genesis, RunSpec, digest_of
from p2ptrain.spsa.archive import Archive
from p2ptrain.spsa.master import MasterLayout
from p2ptrain.spsa.messages import Mark
from p2ptrain.spsa.position import Position, packed, total
from p2ptrain.spsa.replica import Replica
from p2ptrain.spsa.snapshots import Snapshots
from p2ptrain.spsa.state import MasterState
from p2ptrain.state import Blobs, Limits, RunFolder
from p2ptrain.state.logs import MarkRow
from tests.unit.diloco.samples import KEY_OF, PEERS
from tests.unit.run.specs import spec_with
from tests.unit.spsa.samples import FOUNDER, Author

METHOD = {"name": "spsa", "lr": 1e-3, "clip": 16.0, "warmup_records": 10, "mark_every": 16}
SPEC = spec_with({"method": METHOD})
WEIGHTS = {"a": torch.linspace(-1, 1, 5000), "b": torch.full((3, 3), 0.01)}
SIZES = ((5, 1, 9), (20,), (2, 2, 2, 2))
"""Of the batches of each log."""


class Written:
    """The folder, open; whose logs are in it, and what its states are at a mark and in the end."""

    def __init__(self, home: Path, spec: RunSpec = SPEC, weights: Mapping[str, torch.Tensor] = WEIGHTS) -> None:
        layout = MasterLayout.for_weights(weights)
        self.base = MasterState(layout, {}, layout.from_weights(weights).numpy())
        genesis = Genesis(
            author=FOUNDER,
            spec=spec.digest,
            base=self.base.digest,
            held_out=NO_DIGEST,
            nonce=bytes(16),
            software="tests",
            founded=0,
            seal=NO_DIGEST,
        ).signed(KEY_OF[FOUNDER])
        self.folder = RunFolder.create(home, genesis, spec, FOUNDER)
        self.archive = Archive(self.folder.ledger)
        self.blobs = Blobs()
        self.snapshots = Snapshots(self.folder, self.blobs, Limits(archive=True))
        run = genesis.digest
        self.authors = [Author(PEERS[1], 0, run), Author(PEERS[2], 0, run), Author(PEERS[1], 1, run)]
        for number, (author, sizes) in enumerate(zip(self.authors, SIZES, strict=True)):
            for place, size in enumerate(sizes):
                author.say(*((7 * n + 11 * number) % 255 - 127 for n in range(size)), clock=9 * place)
            self.archive.keep(author.batches)
        self.logs = [author.log for author in self.authors]
        one, two, three = self.logs
        self.all: Position = {one: 15, two: 20, three: 8}
        self.half: Position = {one: 6, two: 11}
        for position in ({}, self.half, self.all):
            self.snapshots.save(self.state_at(position))
        self.add_mark(1, self.half)

    def state_at(self, position: Position) -> MasterState:
        """Straight from the base."""
        replica = Replica(self.folder.run, self.folder.spec.spsa, self.base)
        replica.move(position, self.archive)
        return replica.state()

    def add_mark(self, number: int, position: Position) -> None:
        mark = Mark(author=PEERS[1], run=self.folder.run, number=number, position=digest_of(packed(position)))
        signed = mark.signed(KEY_OF[PEERS[1]])
        self.folder.ledger.logs.add_mark(MarkRow(signed.digest, total(position), signed.encoded))

    def execute(self, command: str, *values: object) -> None:
        """Change the ledger as a disk might."""
        with self.folder.ledger._db.write() as db:
            db.execute(command, values)

    def arrived(self, seconds: int, author: Author) -> None:
        """As if a log had come at that time."""
        query = "SELECT log FROM logs WHERE author = ? AND session = ?"
        self.execute(f"UPDATE batches SET seen = ? WHERE log = ({query})", seconds, *author.log)

    def damage(self, state: MasterState) -> None:
        """Flip a bit of a snapshot's file."""
        path = self.folder.vectors.path(state.parts[0][0].digest)
        content = bytearray(path.read_bytes())
        content[-100] ^= 4
        path.write_bytes(content)

    def close(self) -> None:
        self.folder.close()
