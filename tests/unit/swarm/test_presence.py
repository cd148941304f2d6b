"""Who counts as alive follows from heartbeats and the local monotonic clock alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.errors import MalformedError
from p2ptrain.run import digest_of
from p2ptrain.swarm import GONE_AFTER, HEARTBEAT_SECONDS, MAX_GOSSIP_BYTES, Presence
from p2ptrain.swarm.presence import MAX_NEWS_BYTES, STALLED_AFTER, Heartbeat, PeerTable
from tests.unit.swarm.people import KEYS, presence_of

ALICE, BOB = KEYS[0].peer_id, KEYS[1].peer_id


def table_with(*presences: Presence, at: float = 100.0) -> PeerTable:
    table = PeerTable(at)
    for presence in presences:
        table.hear(presence, at)
    return table


def test_a_peer_is_alive_until_it_has_been_silent_for_too_long() -> None:
    table = table_with(presence_of())
    assert table.live(100.0 + GONE_AFTER - 0.01).keys() == {ALICE}
    assert table.live(100.0 + GONE_AFTER) == {}


def test_a_lost_heartbeat_or_two_make_nobody_disappear() -> None:
    assert GONE_AFTER >= 3 * HEARTBEAT_SECONDS


def test_a_heartbeat_keeps_a_peer_alive_and_brings_its_news() -> None:
    table = table_with(presence_of(beat=1, height=3))
    table.hear(presence_of(beat=2, height=4), 105.0)
    assert table.live(110.0)[ALICE].height == 4


def test_peers_come_and_go_alone() -> None:
    table = table_with(presence_of(KEYS[0]), presence_of(KEYS[1]))
    table.hear(presence_of(KEYS[1], beat=2), 105.0)
    assert table.live(108.0).keys() == {BOB}


def test_who_says_goodbye_is_gone_at_once() -> None:
    table = table_with(presence_of(beat=1))
    table.hear(presence_of(beat=2, phase="leaving"), 101.0)
    assert table.live(101.0) == {}


def test_a_heartbeat_that_was_overtaken_does_not_revive_who_said_goodbye() -> None:
    table = table_with(presence_of(beat=2, phase="leaving"))
    table.hear(presence_of(beat=1), 101.0)
    assert table.live(101.0) == {}


@pytest.mark.parametrize("beat", [6, 7])
def test_an_old_heartbeat_repeated_keeps_nobody_alive(beat: int) -> None:
    table = table_with(presence_of(beat=7, height=9))
    table.hear(presence_of(beat=beat, height=1), 105.0)
    assert table.live(105.0)[ALICE].height == 9
    assert table.live(100.0 + GONE_AFTER) == {}


def test_a_process_that_was_started_again_is_heard_from_its_first_beat() -> None:
    table = table_with(presence_of(beat=500, session=b"old_life"))
    table.hear(presence_of(beat=1, session=b"new_life", height=0), 101.0)
    assert table.live(101.0)[ALICE].height == 0


def test_somebody_silent_for_very_long_is_forgotten_and_may_start_anew() -> None:
    table = table_with(presence_of(beat=500))
    assert table.live(100.0 + 10 * GONE_AFTER) == {}
    table.hear(presence_of(beat=1), 170.0)
    assert table.live(170.0).keys() == {ALICE}


def test_when_this_process_was_stopped_nobody_else_was_silent() -> None:
    table = table_with(presence_of())
    assert not table.look(101.0)
    assert table.look(141.0)  # 40 s in which it could not hear
    assert table.live(141.0 + GONE_AFTER - 1.5).keys() == {ALICE}
    assert table.live(141.0 + GONE_AFTER) == {}


def test_a_short_pause_is_no_stop() -> None:
    table = table_with(presence_of())
    assert not table.look(100.0 + STALLED_AFTER - 0.01)
    assert not table.look(100.0 + 2 * STALLED_AFTER - 0.1)
    assert table.live(100.0 + GONE_AFTER) == {}


@given(
    beats=st.lists(st.tuples(st.integers(0, 3), st.floats(0, 5), st.sampled_from(["training", "leaving"]))),
    wait=st.floats(0, 20),
)
def test_alive_are_exactly_those_whose_last_word_is_recent_and_no_goodbye(
    beats: list[tuple[int, float, str]], wait: float
) -> None:
    now, last = 0.0, dict[str, tuple[float, str]]()
    table = PeerTable(now)
    for beat, (peer, pause, phase) in enumerate(beats):
        now += pause
        table.hear(presence_of(KEYS[peer], beat=beat, phase=phase), now)
        last[KEYS[peer].peer_id] = now, phase
    now += wait
    expected = {peer for peer, (at, phase) in last.items() if now - at < GONE_AFTER and phase != "leaving"}
    assert table.live(now).keys() == expected


# On the wire ----------------------------------------------------------------------------------------------------------

FULLEST = presence_of(
    addresses=("/" + "a" * 199,) * 8,
    version="v" * 200,
    device="d" * 200,
    snapshots=((2**53 - 1, digest_of(b"")),) * 8,
    loss=1.5,
    eval_loss=1.5,
    beat=2**53 - 1,
    height=2**53 - 1,
    weight=2**53 - 1,
    steps=2**53 - 1,
    tokens=2**53 - 1,
    eval_height=2**53 - 1,
    bytes_sent=2**53 - 1,
    taken_back=2**53 - 1,
    name="\U0001f9a6" * 32,
    max_up=2**53 - 1,
    max_down=2**53 - 1,
)


def test_the_fullest_presence_fits_into_its_bound() -> None:
    assert Presence.decode(FULLEST.encoded).check_signature() == FULLEST


def test_the_fullest_heartbeat_fits_into_gossip() -> None:
    heartbeat = Heartbeat(presence=FULLEST, news=bytes(MAX_NEWS_BYTES))
    assert len(heartbeat.encoded) <= MAX_GOSSIP_BYTES
    assert Heartbeat.decode(heartbeat.encoded) == heartbeat


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("phase", "sleeping"),
        ("reachability", "moon"),
        ("session", bytes(7)),
        ("addresses", ("/a",) * 9),
        ("name", "n" * 33),
        ("name", "\x1b[2J"),
        ("device", "a\nb"),
        ("version", "\u202e"),
        ("max_up", -1),
        ("snapshots", ((1, bytes(32)),) * 9),
        ("loss", float("nan")),
        ("tokens_per_second", float("inf")),
        ("beat", -1),
    ],
)
def test_a_presence_out_of_bounds_is_refused(field: str, value: object) -> None:
    wrong = Presence.model_construct(**(dict(presence_of()) | {field: value}))
    with pytest.raises(MalformedError, match=f"wrong in '{field}"):
        Presence.decode(wrong.encoded)


def test_news_that_are_too_long_are_refused() -> None:
    wrong = Heartbeat.model_construct(presence=presence_of(), news=bytes(MAX_NEWS_BYTES + 1))
    with pytest.raises(MalformedError, match="wrong in 'news'"):
        Heartbeat.decode(wrong.encoded)
