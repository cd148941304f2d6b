"""What a run takes of a machine, as far as arithmetic tells; tests/swarm/test_needs.py measures."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from p2ptrain.diloco.codecs import CODECS
from p2ptrain.diloco.snapshots import to_keep
from p2ptrain.run import RunSpec
from p2ptrain.run.needs import PAYLOAD_BYTES, kept_by_method, needs_of
from p2ptrain.spsa.snapshots import KEPT
from tests.unit.run.specs import spec_with

MILLION, BILLION = 10**6, 10**9


def diloco(**changes: Any) -> RunSpec:
    return spec_with({f"method.{name}": value for name, value in changes.items()})


SPSA = RunSpec.custom("bytes", method="spsa")


@pytest.mark.parametrize("spec", [diloco(), diloco(fragments=1), SPSA], ids=["diloco", "one fragment", "spsa"])
def test_a_gpu_takes_its_part_of_what_is_needed(spec: RunSpec) -> None:
    on_cpu, on_gpu = needs_of(spec, BILLION, BILLION, on_gpu=False), needs_of(spec, BILLION, BILLION, on_gpu=True)
    assert on_cpu.device == 0 < on_gpu.device
    assert on_gpu.host < on_cpu.host <= on_gpu.host + on_gpu.device
    assert (on_gpu.disk, on_gpu.fetched) == (on_cpu.disk, on_cpu.fetched)


@pytest.mark.parametrize("on_gpu", [True, False])
def test_a_frozen_model_with_adapters_needs_little_beyond_its_weights(on_gpu: bool) -> None:
    frozen, adapters = needs_of(diloco(), BILLION, 0, on_gpu), needs_of(diloco(), BILLION, MILLION, on_gpu)
    assert 0 < adapters.host + adapters.device - frozen.host - frozen.device < 100 * MILLION
    assert frozen.host + frozen.device == 4 * BILLION + needs_of(diloco(), 0, 0, on_gpu).host
    assert (frozen.disk, frozen.fetched) == (0, 0)


def test_what_the_method_keeps_and_program_and_weights_are_all() -> None:
    for spec in (diloco(), SPSA):
        kept, whole = kept_by_method(spec, MILLION, on_gpu=True), needs_of(spec, MILLION, MILLION, on_gpu=True)
        assert whole.device - kept.device == 4 * MILLION
        assert whole.host - kept.host == needs_of(spec, 0, 0, on_gpu=True).host
        assert (whole.disk, whole.fetched) == (kept.disk, kept.fetched)


def test_smaller_fragments_need_less_and_one_byte_runs_least() -> None:
    whole, quarters = diloco(fragments=1), diloco(fragments=4)
    needs = [needs_of(spec, BILLION, BILLION, on_gpu=False) for spec in (whole, quarters, SPSA)]
    assert [need.host for need in needs] == sorted((need.host for need in needs), reverse=True)
    assert [need.fetched for need in needs] == [8 * BILLION, 8 * BILLION, 4 * BILLION]


@pytest.mark.parametrize("codec", CODECS)
def test_contributions_are_as_large_as_their_codec_makes_them(codec: str) -> None:
    elements = 256 * 1000
    assert PAYLOAD_BYTES.keys() == CODECS.keys()
    assert CODECS[codec].encoded_bytes(elements) == PAYLOAD_BYTES[codec] * elements


@pytest.mark.parametrize(("depth", "every"), [(32, 16), (32, 4), (8, 16), (33, 16), (1, 1)])
def test_the_disk_holds_the_snapshots_that_are_kept_and_the_next_one(depth: int, every: int) -> None:
    """Fewer contributors make less of all the rest: with none, the checkpoints remain."""
    spec = spec_with({"method.snapshot_every": every, "method.fragments": 1, "limits.rollback_depth": depth})
    heights = list(range(100 * every, -1, -every))
    snapshots = len(to_keep(heights, depth, lambda kept: True)) + 1
    need = kept_by_method(spec, MILLION, on_gpu=False, contributors=0)
    assert need.disk == (8 * snapshots + 2 * 20) * MILLION


def test_snapshots_share_the_fragments_that_have_not_changed() -> None:
    def of(every: int) -> int:
        spec = spec_with({"method.snapshot_every": every, "method.fragments": 4, "limits.rollback_depth": 1})
        return kept_by_method(spec, MILLION, on_gpu=False, contributors=0).disk

    assert of(4) - of(1) == 2 * 6 * MILLION, "of two further snapshots"
    assert of(16) == of(4)


def test_contributions_of_every_peer_lie_on_the_disk() -> None:
    need = [kept_by_method(diloco(codec="fp32"), MILLION, on_gpu=False, contributors=count).disk for count in (1, 2, 3)]
    assert need[2] - need[1] == need[1] - need[0] == (32 + 2 * 16) * MILLION


def test_a_one_byte_run_keeps_its_base_the_last_marks_and_the_next_one() -> None:
    assert kept_by_method(SPSA, MILLION, on_gpu=False).disk == 4 * (1 + KEPT + 1) * MILLION


def test_needs_are_known_without_torch() -> None:
    script = "import sys, p2ptrain.run.needs; print('torch' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout == "False\n"
