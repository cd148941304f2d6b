"""How to get back to a run is a small file that may be missing, damaged or hostile, and is then nothing worse."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.errors import StorageError
from p2ptrain.state.contact import FILE, REMEMBERED_ADDRESSES, Contact
from tests.unit.state.samples import PEERS, empty, overwrite, truncate

ADDRESSES = tuple(f"/ip4/127.0.0.1/tcp/{port}/p2p/{PEERS[1]}" for port in range(1, 2 * REMEMBERED_ADDRESSES))
SOME = Contact(peer=PEERS[0], identity="/home/me/1.key", port=4001, peers=ADDRESSES[:3])
NOTHING = Contact()


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logging.getLogger("p2ptrain"), "propagate", True)
    return caplog


@given(
    contact=st.builds(
        Contact,
        peer=st.text(),
        identity=st.text(),
        port=st.integers(0, 2**16 - 1),
        peers=st.lists(st.text(), max_size=REMEMBERED_ADDRESSES).map(tuple),
    )
)
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, contact: Contact) -> None:
    folder = tmp_path_factory.mktemp("run")
    contact.write(folder)
    assert Contact.read(folder) == contact
    assert [path.name for path in folder.iterdir()] == [FILE]


def test_where_there_is_no_file_nothing_is_known_and_nothing_said(
    tmp_path: Path, warnings: pytest.LogCaptureFixture
) -> None:
    assert Contact.read(tmp_path) == NOTHING
    assert warnings.text == ""


# Damage ------------------------------------------------------------------------------------------------------------


def mutilated(**changes: Any) -> bytes:
    return json.dumps(SOME.model_dump() | changes).encode()


HOSTILE = {
    "no object": b"[]",
    "null": b"null",
    "binary": bytes(range(256)),
    "another encoding": SOME.model_dump_json().encode("utf-16"),
    "deep": b"[" * 10**5,
    "deep in a field": b'{"peers": ' + b"[" * 10**5,
    "a field more": mutilated(password="x"),
    "a port as text": mutilated(port="4001"),
    "a port beyond all": mutilated(port=2**16),
    "a negative port": mutilated(port=-1),
    "a huge port": b'{"port": 1' + b"0" * 5000 + b"}",
    "half a port": mutilated(port=4001.5),
    "a peer as a number": mutilated(peer=7),
    "an address as a number": mutilated(peers=[7]),
    "addresses as text": mutilated(peers=ADDRESSES[0]),
    "too many addresses": mutilated(peers=ADDRESSES[: REMEMBERED_ADDRESSES + 1]),
    "no path": mutilated(identity=None),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_what_can_not_have_been_written_here_counts_for_nothing_and_is_named(
    tmp_path: Path, warnings: pytest.LogCaptureFixture, content: bytes
) -> None:
    (tmp_path / FILE).write_bytes(content)
    assert Contact.read(tmp_path) == NOTHING
    [record] = warnings.records
    assert str(tmp_path / FILE) in record.getMessage()
    assert len(record.getMessage().splitlines()) == 1
    SOME.write(tmp_path)
    assert Contact.read(tmp_path) == SOME, "and is replaced"


def become_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("harm", [truncate, empty, overwrite, become_a_folder])
def test_a_damaged_file_counts_for_nothing_and_is_named(
    tmp_path: Path, warnings: pytest.LogCaptureFixture, harm: Callable[[Path], None]
) -> None:
    SOME.write(tmp_path)
    harm(tmp_path / FILE)
    assert Contact.read(tmp_path) == NOTHING
    assert str(tmp_path / FILE) in warnings.text


def test_a_folder_that_is_gone_can_not_be_written_to(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"can't write .*contact\.json"):
        SOME.write(tmp_path / "nowhere")


# Meeting others ----------------------------------------------------------------------------------------------------


@given(known=st.lists(st.sampled_from(ADDRESSES), unique=True), met=st.lists(st.sampled_from(ADDRESSES)))
def test_whom_one_met_comes_first_each_once_and_only_so_many_are_kept(known: list[str], met: list[str]) -> None:
    before = SOME.model_copy(update={"peers": tuple(known[:REMEMBERED_ADDRESSES])})
    after = before.met(iter(met))
    assert len(after.peers) == len(set(after.peers)) <= REMEMBERED_ADDRESSES
    latest = [address for at, address in enumerate(met) if address not in met[:at]]
    older = [address for address in before.peers if address not in met]
    assert list(after.peers) == [*latest, *older][:REMEMBERED_ADDRESSES]
    assert after.model_copy(update={"peers": SOME.peers}) == SOME, "the rest stays"


def test_as_many_as_are_kept_can_be_read_again(tmp_path: Path) -> None:
    full = NOTHING.met(ADDRESSES)
    full.write(tmp_path)
    assert Contact.read(tmp_path) == full
    assert full.peers == ADDRESSES[:REMEMBERED_ADDRESSES]
