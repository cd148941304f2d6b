"""The commands of private runs, on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from p2ptrain.cli import invite as invite_command
from p2ptrain.commands import invite as inviting
from p2ptrain.run import SigningKey
from p2ptrain.run.certificate import make_invitation
from p2ptrain.swarm import Invite
from p2ptrain.swarm.invite import Ticket
from tests.unit.cli.conftest import Program
from tests.unit.cli.samples import ADDRESS, INVITE
from tests.unit.swarm.people import KEYS, RUN


def test_keygen_makes_a_key_once_and_prints_its_id(program: Program, tmp_path: Path) -> None:
    path = tmp_path / "keys" / "owner.key"
    ended = program("keygen", str(path))
    assert ended.code == 0
    assert ended.out.strip() == SigningKey.from_file_bytes(path.read_bytes()).peer_id
    assert path.stat().st_mode & 0o777 == 0o400
    before = path.read_bytes()
    again = program("keygen", str(path))
    assert again.code == 4
    assert "a key is never overwritten" in again.errors
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "flags",
    [("--list", "--revoke", "anna"), ("--revoke", "anna", "--renew", "ben"), ("--list", "--renew", "ben")],
    ids=" ".join,
)
def test_invite_does_one_thing_at_a_time(program: Program, tmp_path: Path, flags: tuple[str, ...]) -> None:
    ended = program("invite", str(tmp_path), *flags)
    assert ended.code == 2
    assert "give one of --list, --revoke and --renew" in ended.errors


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What `invite` asks for; it gets a link."""
    heard: list[tuple[Any, ...]] = []

    def make_invite(*arguments: Any) -> Invite:
        heard.append(arguments)
        return Invite.parse(INVITE)

    monkeypatch.setattr(inviting, "make_invite", make_invite)
    return heard


def test_invite_prints_the_link_alone(program: Program, tmp_path: Path, asked: list[tuple[Any, ...]]) -> None:
    given = ("--label", " anna ", "--days", "7", "--peer", "12D3", "--owner-key", str(tmp_path / "k"))
    assert program("invite", str(tmp_path), *given).out == INVITE + "\n"
    assert asked == [(tmp_path, "anna", 7.0, "12D3", tmp_path / "k")]
    assert json.loads(program("invite", str(tmp_path), "--json").out)["invite"] == INVITE
    assert asked[1] == (tmp_path, "", None, None, None)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("--list --label anna", "--label means nothing with --list"),
        ("--list --days 7", "--days means nothing with --list"),
        ("--revoke anna --peer 12D3", "--peer means nothing with --revoke"),
        ("--revoke anna --days 7", "--days means nothing with --revoke"),
        ("--revoke anna --json", "--json means nothing with --revoke"),
        ("--renew anna --label anna", "--label means nothing with --renew"),
        ("--renew anna --qr", "--qr means nothing with --renew"),
        ("--qr --json", "give --qr or --json, not both"),
    ],
)
def test_an_option_of_invite_that_would_do_nothing_is_refused(
    program: Program, tmp_path: Path, flags: str, told: str
) -> None:
    ended = program("invite", str(tmp_path), *flags.split())
    assert ended.code == 2
    assert told in ended.errors


@pytest.mark.parametrize(("flags", "days"), [((), 90.0), (("--days", "7"), 7.0)])
def test_renew_takes_days(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], days: float
) -> None:
    monkeypatch.setattr(inviting, "renew", lambda *given: str(given[1:3]))
    assert program("invite", str(tmp_path), "--renew", "anna", *flags).out == f"('anna', {days})\n"


@pytest.mark.usefixtures("asked")
def test_a_link_can_be_scanned(program: Program, tmp_path: Path) -> None:
    told = program("invite", str(tmp_path), "--qr").out
    link, _, picture = told.partition("\n")
    assert link == INVITE
    rows = picture.splitlines()
    assert len(rows) > 20
    assert set(picture) >= set("█▀▄ ")


@pytest.mark.usefixtures("asked")
def test_a_link_can_be_scanned_from_a_terminal_without_blocks(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(invite_command, "can_show", lambda characters: not set(characters) & set("█▀▄"))
    picture = program("invite", str(tmp_path), "--qr").out.partition("\n")[2]
    assert picture.isascii()
    assert len(picture.splitlines()) > 20
    assert "\x1b[7m" in picture, "it is drawn by reversed colours"


@pytest.mark.parametrize("days", ["0", "-1", "40000", "soon"])
def test_a_membership_lasts_a_number_of_days(program: Program, tmp_path: Path, days: str) -> None:
    assert program("invite", str(tmp_path), "--days", days).code == 2


@pytest.mark.parametrize("command", [("bootstrap",), ("peer", "demo", "--bootstrap")], ids=" ".join)
def test_nothing_outside_of_a_private_run_is_started_in_it(program: Program, command: tuple[str, ...]) -> None:
    link = Invite(RUN, (ADDRESS,), Ticket(*make_invitation(KEYS[0], RUN, "", 2_000_000_000)))
    ended = program(*command, str(link))
    assert ended.code == 6
    assert "an invite into a private run" in ended.errors
