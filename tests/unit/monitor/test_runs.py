"""The list of runs: what is proven, what peers say, and what a liar can not do to the table."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console

from p2ptrain.monitor.runs import RunSeen, in_order, run_fields, runs_lines, runs_table
from p2ptrain.run import NO_DIGEST, Genesis
from tests.unit.monitor.samples import PEERS, presence
from tests.unit.run.specs import spec_with
from tests.unit.swarm.people import KEYS

NOW = 1_800_000_000.0


def seen(*peers: Any, founded: int = int(NOW) - 3 * 86400, founder: int = 0, **changes: Any) -> RunSeen:
    """A run with these peers; `changes`: of the spec, with __ for dots."""
    spec = spec_with({key.replace("__", "."): value for key, value in changes.items()})
    genesis = Genesis.found(spec, NO_DIGEST, NO_DIGEST, "tests", KEYS[founder], founded)
    return RunSeen(genesis, spec, peers or (presence(PEERS[0]),), ("/ip4/127.0.0.1/tcp/1/p2p/" + PEERS[0],))


def table(*runs: RunSeen) -> str:
    out = io.StringIO()
    Console(file=out, width=200).print(runs_table(runs, NOW))
    return out.getvalue()


THREE = (
    presence(PEERS[0], tokens_per_second=100.0, loss=2.0, height=7),
    presence(PEERS[1], tokens_per_second=50.5, loss=None, height=0, phase="joining"),
    presence(PEERS[2], tokens_per_second=10.0, loss=3.0, height=8),
)


def test_figures_are_those_of_all_peers_together() -> None:
    run = seen(*THREE)
    assert run.tokens_per_second == 160.5
    assert run.loss == 2.5
    assert run.height == 7, "who joins has no height yet"
    assert run.age(NOW) == 3 * 86400


def test_held_out_losses_stand_in_for_training_losses() -> None:
    assert seen(presence(PEERS[0], loss=None, eval_loss=1.5)).loss == 1.5
    assert seen(presence(PEERS[0], loss=None, eval_loss=None)).loss is None
    assert seen(presence(PEERS[0], phase="starting")).height == 0


@pytest.mark.parametrize("founded", [0, int(NOW) + 60])
def test_a_time_that_was_not_told_or_is_to_come_is_no_age(founded: int) -> None:
    assert seen(founded=founded).age(NOW) is None


def test_the_table_and_the_lines_say_the_same() -> None:
    run = seen(*THREE, model__config={"hidden_size": 64}, method__total_steps=4000)
    parts = ["test", run.run.hex()[:8], KEYS[0].peer_id[-6:], "DiLoCo", "new llama", "stdlib-python", "160", "2.500"]
    for shown in (table(run), "\n".join(runs_lines([run], NOW))):
        assert all(part in shown for part in [*parts, "7 of 160", "3 days"])


def test_fields_for_programs_are_complete_and_json() -> None:
    run = seen(*THREE, run__description="for everybody")
    fields = json.loads(json.dumps(run_fields(run, NOW), allow_nan=False))
    assert fields == {
        "name": "test",
        "run": run.run.hex(),
        "founder": KEYS[0].peer_id,
        "description": "for everybody",
        "method": "diloco",
        "model": "new llama",
        "data": "stdlib-python",
        "custom": False,
        "peers": 3,
        "tokens_per_second": 160.5,
        "loss": 2.5,
        "height": 7,
        "last_height": 160,
        "age_seconds": 259200.0,
    }


def test_a_one_byte_run_and_a_custom_one_are_told_as_such() -> None:
    method = {"name": "spsa", "total_records": 500}
    assert "one-byte" in table(seen(method=method))
    assert "of 500" in table(seen(method=method))
    custom = seen(model={"architecture": "custom"}, data={"source": "custom"}, method={"name": "spsa"})
    assert "its own program's" in table(custom)
    assert run_fields(custom, NOW)["custom"] is True
    assert run_fields(custom, NOW)["last_height"] is None


def test_runs_are_in_the_order_of_their_peers_then_of_names_and_ids() -> None:
    small, large, b, a = seen(), seen(*THREE), seen(run__name="b"), seen(run__name="a")
    assert in_order([small, b, a, large]) == [large, a, b, small]
    twins = [seen() for _ in range(5)]
    assert in_order(twins) == in_order(twins[::-1]) == sorted(twins, key=lambda run: run.run)


def test_what_strangers_write_does_nothing_to_a_terminal() -> None:
    """Neither escapes nor markup nor lengths: the table stays a table."""
    evil = "\x1b[2J\u202e[red]" + "x" * 250
    run = seen(
        *(presence(peer, tokens_per_second=1e308, loss=-1e308, height=2**53 - 1) for peer in PEERS),
        model={"pretrained": evil},
        data={"source": "dataset", "dataset": "a\nb\t" + evil},
    )
    shown = table(run)
    assert not set(shown) & {"\x1b", "\u202e", "\t"}
    assert "[red]" in shown
    assert max(map(len, shown.splitlines())) <= 200
    (line,) = runs_lines([run], NOW)
    assert line.isprintable()
    assert len(line) < 400
    assert run_fields(run, NOW)["tokens_per_second"] is None
