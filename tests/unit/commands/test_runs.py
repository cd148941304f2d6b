"""Which runs there are, and the one that is meant by a name: what `runs` and `join NAME` make of what a swarm lists."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from p2ptrain.commands import runs
from p2ptrain.commands.runs import find_invite, find_run, is_name, show_runs, swarms_to_look_in
from p2ptrain.errors import InviteError, NetworkError, P2PTrainError, SpecError
from p2ptrain.monitor import events
from p2ptrain.run import NO_DIGEST, Digest, Genesis, PeerId, digest_of
from p2ptrain.swarm import Invite, Presence
from p2ptrain.swarm.announcement import Announcement
from p2ptrain.swarm.nodes import NodeEntry
from tests.unit.cli.samples import BAD_INVITES
from tests.unit.run.specs import spec_with
from tests.unit.swarm.people import KEYS, presence_of

HERE, THERE, NOWHERE = (f"/ip4/127.0.0.1/tcp/{port}/p2p/{KEYS[3].peer_id}" for port in (1, 2, 3))


@dataclass
class FakeSwarm:
    """A swarm whose directory says this."""

    announced: list[Announcement] = field(default_factory=list)
    present: dict[Digest, list[Presence]] = field(default_factory=dict)

    @property
    def directory(self) -> FakeSwarm:
        return self

    async def runs(self) -> list[Announcement]:
        return self.announced

    async def peers(self, run: Digest) -> dict[PeerId, Presence]:
        return {PeerId(seen.author): seen for seen in self.present.get(run, [])}

    def run(self, work: Any) -> Any:
        import asyncio

        return asyncio.run(work)

    def add(self, peers: int = 1, founder: int = 0, **changes: Any) -> Announcement:
        spec = spec_with({key.replace("__", "."): value for key, value in changes.items()})
        genesis = Genesis.found(spec, NO_DIGEST, NO_DIGEST, "tests", KEYS[founder])
        announcement = Announcement(genesis=genesis, spec=spec.canonical())
        self.announced.append(announcement)
        self.present[announcement.run] = [presence_of(key, run=announcement.run) for key in KEYS[:peers]]
        return announcement


@pytest.fixture
def swarm(monkeypatch: pytest.MonkeyPatch) -> FakeSwarm:
    return swarm_at(monkeypatch, {(HERE,): FakeSwarm()})[(HERE,)]


Known = dict[tuple[str, ...], FakeSwarm]


def swarm_at(monkeypatch: pytest.MonkeyPatch, known: Known) -> Known:
    @contextlib.contextmanager
    def passing(invite: Invite) -> Iterator[FakeSwarm]:
        if invite.addresses not in known:
            raise NetworkError(
                "nobody answers at the swarm's addresses", "connection refused", "ask for a newer invite"
            )
        yield known[invite.addresses]

    monkeypatch.setattr(runs, "passing", passing)
    return known


def say_nothing(text: str) -> None:
    raise AssertionError(text)


def look(name: str) -> runs.RunSeen:
    return find_run(name, [(HERE,)], say_nothing)


def refusal(name: str) -> P2PTrainError:
    with pytest.raises(P2PTrainError) as error:
        look(name)
    assert error.value.next_step
    return error.value


# Finding -------------------------------------------------------------------------------------------------------------


def test_a_run_is_found_by_its_name_or_the_beginning_of_its_id(swarm: FakeSwarm) -> None:
    swarm.add(run__name="another")
    meant = swarm.add(run__name="meant", peers=2)
    for name in ("meant", meant.run.hex()[:8], meant.run.hex()):
        found = look(name)
        assert (found.run, len(found.peers), found.addresses) == (meant.run, 2, (HERE,))


def test_a_few_letters_are_no_id(swarm: FakeSwarm) -> None:
    run = swarm.add(run__name="meant")
    assert look(run.run.hex()[:6]).run == run.run
    assert "no run called" in refusal(run.run.hex()[:5]).what


def test_what_is_not_there_is_told_with_what_is(swarm: FakeSwarm) -> None:
    error = refusal("meant")
    assert isinstance(error, NetworkError)
    assert error.what == "found no run called 'meant'"
    assert "no run there has peers" in error.why
    other = swarm.add(run__name="another")
    assert f"another {other.run.hex()[:8]} founded by {KEYS[0].peer_id[-6:]}" in refusal("meant").why


def test_a_run_without_a_peer_is_over(swarm: FakeSwarm) -> None:
    swarm.add(run__name="meant", peers=0)
    swarm.add(run__name="another")
    assert "none of its peers is online" in refusal("meant").why


def test_of_two_runs_with_one_name_each_is_told_with_its_id_and_founder(swarm: FakeSwarm) -> None:
    first, second = swarm.add(run__name="meant"), swarm.add(run__name="meant", founder=1)
    swarm.add(run__name="meant", peers=0)
    error = refusal("meant")
    assert isinstance(error, InviteError)
    for run in (first, second):
        assert f"{run.run.hex()} meant" in error.why
        assert run.genesis.author[-6:] in error.why
    assert look(second.run.hex()[:12]).run == second.run


def test_a_spec_that_can_not_be_read_is_passed_over(swarm: FakeSwarm) -> None:
    newer = spec_with().canonical().replace(b'"alpha"', b'"aleph"')
    genesis = Genesis(
        author=KEYS[0].peer_id,
        spec=digest_of(newer),
        base=NO_DIGEST,
        held_out=NO_DIGEST,
        nonce=bytes(16),
        software="2",
        founded=0,
        seal=NO_DIGEST,
    ).signed(KEYS[0])
    swarm.announced.append(Announcement(genesis=genesis, spec=newer))
    meant = swarm.add(run__name="meant")
    assert look("meant").run == meant.run
    assert "no run" not in str(look("meant"))


def test_a_crowd_of_runs_does_not_hide_the_one_that_is_meant(
    swarm: FakeSwarm, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runs, "MAX_LOOKED_AT", 5)
    for _ in range(20):
        swarm.add(run__name="spam")
    meant = swarm.add(run__name="meant")
    assert look("meant").run == meant.run
    show_runs([(HERE,)], json_lines=True)
    told = capsys.readouterr()
    assert len(told.out.splitlines()) == 5
    assert told.err == "warning: 16 more runs are announced than were looked at\n"


def test_one_run_in_two_swarms_is_one_and_a_swarm_that_is_gone_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = FakeSwarm(), FakeSwarm()
    swarm_at(monkeypatch, {(HERE,): one, (THERE,): other})
    meant = one.add(run__name="meant")
    other.announced.append(meant)
    other.present[meant.run] = [presence_of(key, run=meant.run) for key in KEYS[:3]]
    told: list[str] = []
    found = find_run("meant", [(NOWHERE,), (HERE,), (THERE,)], told.append)
    assert (found.run, len(found.peers), found.addresses) == (meant.run, 3, (HERE,))
    assert told == ["nobody answers at the swarm's addresses: connection refused"]
    with pytest.raises(NetworkError, match="nobody answers"):
        find_run("meant", [(NOWHERE,)], told.append)


@pytest.mark.parametrize("text", ["quickstart", "a", "7b", "0" * 64, "my-run-2"])
def test_names_and_ids_are_told_from_links(text: str) -> None:
    assert is_name(text)


@pytest.mark.parametrize(
    "text", ["", "-a", "A", "a b", "a.toml", "./a", "0" * 65, "ä", *(x for x, _ in BAD_INVITES.values())]
)
def test_nothing_else_is_a_name(text: str) -> None:
    assert not is_name(text)


# Showing -------------------------------------------------------------------------------------------------------------


def test_runs_are_shown_with_those_that_have_peers_alone(swarm: FakeSwarm, capsys: pytest.CaptureFixture[str]) -> None:
    show_runs([(HERE,)], json_lines=False)
    assert capsys.readouterr().out == "no runs\n"
    small, large = swarm.add(run__name="small"), swarm.add(run__name="large", peers=3)
    swarm.add(run__name="over", peers=0)
    show_runs([(HERE,)], json_lines=False)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["large", f"id={large.run.hex()[:8]}"],
        ["small", f"id={small.run.hex()[:8]}"],
    ]
    show_runs([(HERE,)], json_lines=True)
    fields = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(each["name"], each["run"], each["peers"]) for each in fields] == [
        ("large", large.run.hex(), 3),
        ("small", small.run.hex(), 1),
    ]


# Where to look -------------------------------------------------------------------------------------------------------


def invite_to(address: str) -> str:
    return str(Invite(None, (address,)))


def entry() -> str:
    today = datetime.now(UTC).date()
    return NodeEntry.sign(invite_to(HERE), "Ada", today + timedelta(30), KEYS[3], today).to_toml()


def test_invites_are_looked_behind_each_on_its_own(tmp_path: Path) -> None:
    run = str(Invite(digest_of(b"a run"), (THERE,)))
    assert swarms_to_look_in([invite_to(HERE), run], tmp_path / "not there", say_nothing) == [(HERE,), (THERE,)]
    with pytest.raises(InviteError):
        swarms_to_look_in(["p2ptrain://1."], None, say_nothing)


def test_without_an_invite_the_listed_nodes_are_asked_and_broken_entries_told(tmp_path: Path) -> None:
    path = tmp_path / "nodes.toml"
    path.write_text(entry() + entry().replace("Ada", "Eve"))
    told: list[str] = []
    assert swarms_to_look_in([], path, told.append) == [(HERE,)]
    (warning,) = told
    assert warning.startswith(f"{path}: entry 2: a bootstrap-node/1 record is not signed by its author")
    assert warning.endswith("(skipped)")


@pytest.mark.parametrize("text", ["", "# empty\n", entry().replace("Ada", "Eve")])
def test_without_any_node_it_says_so_and_what_to_do(text: str, tmp_path: Path) -> None:
    path = tmp_path / "nodes.toml"
    path.write_text(text)
    with pytest.raises(NetworkError, match="no bootstrap node is known") as error:
        swarms_to_look_in([], path, lambda text: None)
    assert "p2ptrain peer RUN" in error.value.next_step
    assert "--bootstrap INVITE" in error.value.next_step
    assert str(path) in error.value.why


# Joining -------------------------------------------------------------------------------------------------------------


class Told:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[events.Event] = []

    def emit(self, event: events.Event) -> None:
        self.events.append(event)

    def watch(self, me: str, peers: Any) -> None: ...

    def close(self) -> None: ...


def join(name: str) -> tuple[Invite, Told]:
    told = Told()
    return find_invite(name, [invite_to(HERE)], None, told), told


def test_who_joins_by_name_gets_an_invite_and_is_told_whose_run_it_is(swarm: FakeSwarm) -> None:
    meant = swarm.add(run__name="meant")
    invite, told = join("meant")
    assert invite == Invite(meant.run, (HERE,))
    (event,) = told.events
    assert isinstance(event, events.Preparing)
    assert event.text == f"found meant {meant.run.hex()[:8]} founded by {KEYS[0].peer_id[-6:]}"


def test_a_run_that_needs_its_authors_program_is_not_joined(swarm: FakeSwarm) -> None:
    run = swarm.add(run__name="own", model={"architecture": "custom"}, data={"source": "custom"})
    with pytest.raises(SpecError, match="can't be joined with this command") as error:
        join("own")
    link = error.value.next_step.split()[-1]
    assert Invite.parse(link) == Invite(run.run, (HERE,))
