"""The list of runs as people and programs see it: what each run is, and how it does, as its peers say."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from p2ptrain.monitor.table import finite, number
from p2ptrain.run import Digest, Genesis, RunSpec, short, short_peer
from p2ptrain.run.method import SHORT_METHODS
from p2ptrain.run.summary import data_of, model_of
from p2ptrain.swarm import Invite, Presence
from p2ptrain.text import one_line
from p2ptrain.units import age

SHOWN = 40
"""Characters of a model's or dataset's name."""
_WORDS = ("run", "id", "founder", "method", "model", "data")
_FIGURES = ("peers", "tokens/s", "loss", "height", "age")


@dataclass(frozen=True, slots=True)
class RunSeen:
    """A run that was found, and its peers.

    Signatures prove the genesis and the spec. The figures are only what peers say, and anybody can claim to be a peer.
    """

    genesis: Genesis
    spec: RunSpec
    peers: tuple[Presence, ...]
    addresses: tuple[str, ...]
    """Addresses of the swarm in which the run was found."""

    @property
    def run(self) -> Digest:
        return self.genesis.digest

    @property
    def invite(self) -> Invite:
        """The invite with which anybody joins the run."""
        return Invite(self.run, self.addresses)

    def __str__(self) -> str:
        return f"{self.spec.run.name} {short(self.run)} founded by {short_peer(self.genesis.author)}"

    @property
    def tokens_per_second(self) -> float:
        """Sum over all peers."""
        return sum(seen.tokens_per_second for seen in self.peers)

    @property
    def loss(self) -> float | None:
        """Median of the peers' smoothed training losses; of their held-out losses if no peer says a training loss."""
        losses = [seen.loss for seen in self.peers if seen.loss is not None]
        losses = losses or [seen.eval_loss for seen in self.peers if seen.eval_loss is not None]
        return statistics.median(losses) if losses else None

    @property
    def height(self) -> int:
        """Median height of the peers that have a state."""
        heights = [seen.height for seen in self.peers if seen.phase not in ("starting", "joining")]
        return statistics.median_low(heights) if heights else 0

    def age(self, now: float) -> float | None:
        """Seconds since the founding, as the founder claims; None if there is no claim, or it can't be true."""
        founded = self.genesis.founded
        return now - founded if 0 < founded <= now else None


def in_order(runs: Sequence[RunSeen]) -> list[RunSeen]:
    """Sort runs: those with most peers first, then by name and id."""
    return sorted(runs, key=lambda seen: (-len(seen.peers), seen.spec.run.name, seen.run))


def runs_table(runs: Sequence[RunSeen], now: float) -> Table:
    """A table with one row per run; `now` is in seconds since 1970."""
    table = Table(header_style="bold", expand=False)
    for column in _WORDS:
        table.add_column(column, overflow="fold")
    for column in _FIGURES:
        table.add_column(column, justify="right")
    for seen in in_order(runs):
        table.add_row(*map(Text, _cells(seen, now)))  # as Text: rich reads a plain string's brackets as markup
    return table


def _cells(seen: RunSeen, now: float) -> tuple[str, ...]:
    last, since = seen.spec.method.last_height, seen.age(now)
    return (
        seen.spec.run.name,
        short(seen.run),
        short_peer(seen.genesis.author),
        SHORT_METHODS[seen.spec.method.name],
        one_line(model_of(seen.spec), SHOWN),
        one_line(data_of(seen.spec), SHOWN),
        str(len(seen.peers)),
        _figure(seen.tokens_per_second, ",.0f"),
        number(None) if seen.loss is None else _figure(seen.loss, ".3f"),
        f"{seen.height} of {last}" if last else str(seen.height),
        "–" if since is None else age(since),
    )


def runs_lines(runs: Sequence[RunSeen], now: float) -> list[str]:
    """The same as plain lines, for a pipe."""
    lines = []
    for seen in in_order(runs):
        cells = dict(zip((*_WORDS, *_FIGURES), _cells(seen, now), strict=True))
        name = cells.pop("run")
        lines.append(" ".join([name, *(f"{column}={_word(cell)}" for column, cell in cells.items())]))
    return lines


def run_fields(seen: RunSeen, now: float) -> dict[str, Any]:
    """The same as fields of JSON, for programs."""
    return {
        "name": seen.spec.run.name,
        "run": seen.run.hex(),
        "founder": seen.genesis.author,
        "description": seen.spec.run.description,
        "method": seen.spec.method.name,
        "model": model_of(seen.spec),
        "data": data_of(seen.spec),
        "custom": seen.spec.is_custom,
        "peers": len(seen.peers),
        "tokens_per_second": finite(seen.tokens_per_second),
        "loss": finite(seen.loss),
        "height": seen.height,
        "last_height": seen.spec.method.last_height,
        "age_seconds": seen.age(now),
    }


def _figure(value: float, form: str) -> str:
    """A figure in few characters: anybody may claim a number that no run can have."""
    return format(value, form if abs(value) < 1e9 else ".1e")


def _word(text: str) -> str:
    return repr(text) if " " in text else text
