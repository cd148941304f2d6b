"""Moving master weights: any way to a position gives the same bits as the straight one."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from p2ptrain.errors import LedgerError
from p2ptrain.run import SPSAMethod
from p2ptrain.spsa.master import MasterLayout
from p2ptrain.spsa.replica import Piece, Replica
from p2ptrain.spsa.signs import seed_key, signs
from p2ptrain.spsa.state import MasterManifest, MasterState
from p2ptrain.state.logs import Log
from tests.unit.diloco.samples import PEERS
from tests.unit.spsa.samples import RUN, Author, decode

METHOD = SPSAMethod(name="spsa", lr=1e-3, clip=16.0, warmup_records=10, decay_records=40, lr_floor=0.2)
WEIGHTS = {"a": torch.linspace(-1, 1, 5000), "b": torch.full((3, 3), 0.01), "c": torch.zeros(())}
LAYOUT = MasterLayout.for_weights(WEIGHTS)


class Book:
    """Records of three logs, in batches of several sizes."""

    def __init__(self) -> None:
        self.batches = {}
        for number, sizes in ((0, (5, 1, 9)), (1, (20,)), (2, (2, 2, 2, 2))):
            author = Author(PEERS[number])
            for place, size in enumerate(sizes):
                author.say(*((7 * n + 11 * number) % 255 - 127 for n in range(size)), clock=9 * place)
            self.batches[author.log] = author.batches
        self.lengths = {log: batches[-1].stop for log, batches in self.batches.items()}

    def pieces(self, log: Log, start: int, stop: int) -> Iterable[Piece]:
        if stop > self.lengths[log]:
            raise LedgerError("records are missing")
        for batch in self.batches[log]:
            if batch.stop > start and batch.start < stop:
                yield Piece(batch.start, batch.codes, batch.clock)


BOOK = Book()
positions = st.fixed_dictionaries({log: st.integers(0, length) for log, length in BOOK.lengths.items()})


def base() -> MasterState:
    return MasterState(LAYOUT, {}, LAYOUT.from_weights(WEIGHTS).numpy())


@cache
def straight_to(position: tuple[tuple[Log, int], ...]) -> MasterState:
    replica = Replica(RUN, METHOD, base())
    replica.move(dict(position), BOOK)
    return replica.state()


@settings(max_examples=40)
@given(way=st.lists(positions, max_size=4), end=positions)
def test_every_way_leads_to_the_same_bits(way: list[dict[Log, int]], end: dict[Log, int]) -> None:
    replica = Replica(RUN, METHOD, base())
    for position in (*way, end):
        replica.move(position, BOOK)
    expected = straight_to(tuple(sorted(end.items())))
    assert replica.state().digest == expected.digest
    assert replica.position == {log: count for log, count in end.items() if count}


def test_a_record_moves_every_weight_by_lr_times_its_gradient() -> None:
    log, batches = next(iter(BOOK.batches.items()))
    code, clock = int.from_bytes(batches[0].codes[:1], signed=True), batches[0].clock
    replica = Replica(RUN, METHOD, base())
    replica.move({log: 1}, BOOK)
    moved = LAYOUT.to_weights(torch.from_numpy(replica.state().master.copy()))["a"] - WEIGHTS["a"]
    rate = METHOD.lr * (1 + 64 * clock // 10) / 64
    expected = -rate * decode(code, METHOD.clip) * signs(seed_key(RUN, *log, 0), 0, 2).flatten()[:5000]
    assert torch.allclose(moved, expected, rtol=0, atol=3e-7)


def test_a_record_that_is_missing_leaves_a_position_to_go_on_from() -> None:
    replica = Replica(RUN, METHOD, base())
    logs = sorted(BOOK.lengths)
    with pytest.raises(LedgerError):
        replica.move({**BOOK.lengths, logs[1]: 10**6}, BOOK)
    assert replica.position == {logs[0]: BOOK.lengths[logs[0]]}
    replica.move(BOOK.lengths, BOOK)
    assert replica.state().digest == straight_to(tuple(sorted(BOOK.lengths.items()))).digest


def test_progress_ends_with_all_of_it() -> None:
    told: list[tuple[int, int]] = []
    Replica(RUN, METHOD, base()).move(BOOK.lengths, BOOK, lambda done, in_all: told.append((done, in_all)))
    in_all = sum(BOOK.lengths.values())
    assert told[-1] == (in_all, in_all)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_a_state_comes_back_from_its_manifest_and_parts() -> None:
    state = straight_to(tuple(sorted(BOOK.lengths.items())))
    found = {manifest.digest: part for manifest, part in state.parts}
    manifest = MasterManifest.decode(state.manifest.encoded)
    again = MasterState.assemble(manifest, found.__getitem__)
    assert again.digest == state.digest == manifest.digest
    assert again.position == state.position
    assert again.records == sum(BOOK.lengths.values())


def test_a_working_copy_is_the_weights_and_the_perturbation() -> None:
    replica = Replica(RUN, METHOD, base())
    out = torch.empty(replica.elements)
    replica.weights(out)
    assert torch.allclose(LAYOUT.slots[0].of(out), WEIGHTS["a"], rtol=0, atol=1e-8)
    here = out.clone()
    replica.perturb(17, 0.5, out)
    assert torch.allclose(out - here, 0.5 * signs(17, 0, LAYOUT.tiles).flatten(), atol=1e-6)
