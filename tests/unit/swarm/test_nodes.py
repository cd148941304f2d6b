"""The signed list of bootstrap nodes: an entry is its node's own word, and a broken one hurts no other."""

from __future__ import annotations

import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.errors import InviteError, MalformedError, P2PTrainError
from p2ptrain.run import SigningKey, digest_of
from p2ptrain.swarm import Invite
from p2ptrain.swarm.nodes import MAX_FILE_BYTES, Listed, NodeEntry, read_nodes, shipped_list
from tests.unit.swarm.people import KEYS

REPOSITORY = Path(__file__).parents[3]
TODAY, NEXT_YEAR = date(2026, 12, 1), date(2027, 12, 1)
ADA, BOB = KEYS[0], KEYS[1]


def address_of(key: SigningKey, port: int = 31337) -> str:
    return f"/ip4/203.0.113.7/tcp/{port}/p2p/{key.peer_id}"


def invite_of(key: SigningKey, port: int = 31337) -> str:
    return str(Invite(None, (address_of(key, port),)))


def entry_of(key: SigningKey = ADA, operator: str = 'Ada "the first" <ada@example.org>') -> NodeEntry:
    return NodeEntry.sign(invite_of(key), operator, NEXT_YEAR, key, TODAY)


def listed(path: Path, *entries: str, today: date = TODAY) -> list[Listed]:
    path.write_text("# a list\n" + "\n".join(entries))
    return read_nodes(path, today)


GOOD = entry_of().to_toml()


def test_what_was_signed_is_read_again(tmp_path: Path) -> None:
    found = listed(tmp_path / "nodes.toml", GOOD, entry_of(BOB, "Bøb").to_toml())
    assert [each.entry for each in found] == [entry_of(), entry_of(BOB, "Bøb")]
    assert found[0].entry is not None
    assert found[0].entry.addresses == (address_of(ADA),)
    assert str(found[1]) == f"entry 2: {BOB.peer_id} by Bøb, until 2027-12-01"


def with_(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


SIGNATURE = GOOD.splitlines()[-1]
BROKEN = {
    "moved to another address": (with_(invite_of(ADA), invite_of(ADA, 31338)), "not signed by its author"),
    "somebody else's node": (with_(invite_of(ADA), invite_of(BOB)), "not signed by its author"),
    "prolonged": (with_("2027-12-01", "2028-11-30"), "not signed by its author"),
    "in another's name": (with_("Ada", "Eve"), "not signed by its author"),
    "another one's signature": (with_(SIGNATURE, entry_of(BOB).to_toml().splitlines()[-1]), "not signed by its author"),
    "no base64": (with_(SIGNATURE, 'signature = "?"'), "not base64"),
    "cut off": (with_(SIGNATURE, SIGNATURE[:-6] + '"'), "not base64"),
    "too long a signature": (with_(SIGNATURE, f'signature = "{"A" * 101}"'), "'signature' is wrong"),
    "no signature": (with_(SIGNATURE, ""), "'signature' is wrong"),
    "another key": (GOOD + "trusted = true\n", "'trusted' is wrong"),
    "a text for a date": (with_("2027-12-01", '"2027-12-01"'), "'until' is wrong"),
    "a time for a date": (with_("2027-12-01", "2027-12-01T00:00:00"), "'until' is wrong"),
    "a damaged invite": (with_(invite_of(ADA), invite_of(ADA)[:-1]), "the invite is damaged"),
    "a run's invite": (with_(invite_of(ADA), str(Invite(digest_of(b"run"), (address_of(ADA),)))), "leads to a run"),
    "two nodes": (with_(invite_of(ADA), str(Invite(None, (address_of(ADA), address_of(BOB))))), "several peers"),
    "behind a relay": (
        with_(invite_of(ADA), str(Invite(None, (f"{address_of(BOB)}/p2p-circuit/p2p/{ADA.peer_id}",)))),
        "through a relay",
    ),
    "no name": (with_(GOOD.splitlines()[2], 'operator = ""'), "'operator' is wrong"),
    "a name that does something to a terminal": (with_("Ada", "\\u001b[2J"), "can't be shown"),
    "a long name": (with_("Ada", "A" * 200), "'operator' is wrong"),
}


@pytest.mark.parametrize(("text", "told"), BROKEN.values(), ids=BROKEN)
def test_a_broken_entry_is_told_and_the_others_hold(text: str, told: str, tmp_path: Path) -> None:
    broken, good = listed(tmp_path / "nodes.toml", text, entry_of(BOB).to_toml())
    assert broken.entry is None
    assert told in broken.problem
    assert str(broken).startswith("entry 1: ")
    assert good.entry == entry_of(BOB)


@pytest.mark.parametrize(
    ("today", "told"),
    [
        (NEXT_YEAR, ""),
        (date(2027, 12, 2), "not valid any more"),
        (date(2025, 11, 29), ""),
        (date(2025, 11, 28), "too long"),
    ],
)
def test_an_entry_has_its_time(today: date, told: str, tmp_path: Path) -> None:
    (found,) = listed(tmp_path / "nodes.toml", GOOD, today=today)
    assert (found.entry is None) == bool(told)
    assert told in found.problem


def test_a_node_is_listed_once(tmp_path: Path) -> None:
    older = NodeEntry.sign(invite_of(ADA, 9), "Ada", date(2027, 1, 1), ADA, TODAY).to_toml()
    first, second = listed(tmp_path / "nodes.toml", GOOD, older)
    assert first.entry is not None
    assert "in the list already" in second.problem


NO_LISTS = {
    "no TOML": "[[node",
    "another section": f"{GOOD}\n[servers]\n",
    "a number": "node = 7\n",
    "one table": GOOD.replace("[[node]]", "[node]"),
    "too many": GOOD * 65,
    "too long": "#" * (MAX_FILE_BYTES + 1),
    "deep": "a = " + "[" * 20_000,
    "a number without end": "a = " + "9" * 10_000,
}


@pytest.mark.parametrize("text", NO_LISTS.values(), ids=NO_LISTS)
def test_what_is_no_list_is_refused_as_a_whole(text: str, tmp_path: Path) -> None:
    with pytest.raises(InviteError, match=r"the list of bootstrap nodes .*nodes\.toml can't be read"):
        listed(tmp_path / "nodes.toml", text)


def test_a_file_that_is_not_there_or_no_text_is_told(tmp_path: Path) -> None:
    with pytest.raises(InviteError, match="No such file"):
        read_nodes(tmp_path / "nodes.toml", TODAY)
    (tmp_path / "nodes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InviteError, match="can't be read"):
        read_nodes(tmp_path / "nodes.toml", TODAY)


rows = st.dictionaries(
    st.sampled_from(["invite", "operator", "until", "signature", "x"]),
    st.sampled_from([f'"{invite_of(ADA)}"', '"p2ptrain://1."', '"text"', '""', "7", "true", "2027-12-01", "[]"]),
)


@given(st.one_of(st.text(), st.lists(rows).map(lambda tables: "".join(map(toml_of, tables)))))
def test_whatever_a_file_says_it_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "random-nodes.toml"
    path.write_text(text, encoding="utf-8", errors="ignore")
    try:
        found = read_nodes(path, TODAY)
    except InviteError:
        return
    assert all(each.entry is None and each.problem for each in found), "nobody has signed any of it"


def toml_of(table: dict[str, str]) -> str:
    return "[[node]]\n" + "".join(f"{key} = {value}\n" for key, value in table.items())


@pytest.mark.parametrize(
    ("invite", "operator", "until", "told"),
    [
        (invite_of(BOB), "Ada", NEXT_YEAR, "another node than the one that has signed"),
        (invite_of(ADA)[:-1], "Ada", NEXT_YEAR, "the invite is damaged"),
        (invite_of(ADA), "", NEXT_YEAR, "'operator' is wrong"),
        (invite_of(ADA), "Ada", TODAY.replace(year=2025), "not valid any more"),
        (invite_of(ADA), "Ada", TODAY.replace(year=2036), "too long"),
    ],
)
def test_what_the_list_would_refuse_is_not_signed(invite: str, operator: str, until: date, told: str) -> None:
    with pytest.raises(P2PTrainError) as refusal:
        NodeEntry.sign(invite, operator, until, ADA, TODAY)
    assert isinstance(refusal.value, InviteError | MalformedError)
    assert told in refusal.value.brief


# The list that comes along, and the script ---------------------------------------------------------------------------


def test_the_shipped_list_names_only_nodes_that_sign_for_themselves() -> None:
    assert shipped_list() == REPOSITORY / "bootstrap" / "nodes.toml"
    assert all(each.entry for each in read_nodes(shipped_list(), date.today()))


def script(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPOSITORY / "bootstrap" / "nodes.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=REPOSITORY)


def test_the_script_signs_and_checks(tmp_path: Path) -> None:
    key, file = tmp_path / "node.key", tmp_path / "nodes.toml"
    key.write_bytes(ADA.to_file_bytes())
    until = str(date.today().replace(day=1, year=date.today().year + 1))
    signed = script("sign", "--identity", str(key), "--invite", invite_of(ADA), "--operator", "Ada", "--until", until)
    assert signed.returncode == 0, signed.stderr
    file.write_text(signed.stdout)
    checked = script("check", str(file))
    assert (checked.returncode, checked.stdout) == (0, f"entry 1: {ADA.peer_id} by Ada, until {until}\n")
    file.write_text(signed.stdout.replace("Ada", "Eve"))
    checked = script("check", str(file))
    assert checked.returncode == 1
    assert checked.stdout.startswith("entry 1: a bootstrap-node/1 record is not signed by its author")
    refused = script("sign", "--identity", str(file), "--invite", invite_of(ADA), "--operator", "Ada", "--until", until)
    assert refused.returncode == 4
    assert refused.stderr.startswith(f"error: {file} can't be used as an identity")
    assert script("check").returncode == 0
