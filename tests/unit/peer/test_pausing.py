"""When a peer pauses and when it goes on: hours, and probes that do not make it flap."""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.data.stream import SourceSilent
from p2ptrain.errors import DataError
from p2ptrain.peer.hours import Hours
from p2ptrain.peer.pausing import (
    BUSY_SECONDS,
    FIRST_WAIT,
    LONGEST_WAIT,
    NEVER,
    PROBE_SECONDS,
    QUIET_SECONDS,
    Pause,
    Pauses,
    Silence,
)


class Machine:
    """Clocks and another user, both of whom the test moves."""

    def __init__(self, hours: str = "") -> None:
        self.seconds, self.time, self.use, self.probed = 1000.0, datetime(2026, 11, 21, 23), "", 0
        self.pauses = Pauses(
            Hours.parse(hours) if hours else None, {"gpu-busy": self.probe}, lambda: self.time, lambda: self.seconds
        )

    def probe(self) -> str:
        self.probed += 1
        return self.use

    def pass_by(self, seconds: float) -> list[Pause | None]:
        """Ask at every half second of them."""
        said = []
        for _ in range(int(2 * seconds)):
            self.seconds += 0.5
            said.append(self.pauses.now())
        return said


def test_who_asks_for_nothing_never_pauses() -> None:
    assert NEVER.now() is None


def test_outside_its_hours_a_peer_pauses_and_says_until_when() -> None:
    machine = Machine("22-07")
    assert machine.pauses.now() is None
    machine.time = datetime(2026, 11, 22, 7, 0, 1)
    assert machine.pauses.now() == Pause("outside its hours", datetime(2026, 11, 22, 22))
    machine.time = datetime(2026, 11, 22, 22)
    assert machine.pauses.now() is None


def test_a_peer_makes_way_for_work_that_lasts_and_goes_on_when_it_has_ended() -> None:
    machine = Machine()
    machine.use = "others use the GPU (80%)"
    assert machine.pass_by(BUSY_SECONDS + 2 * PROBE_SECONDS)[-1] == Pause("others use the GPU (80%)")
    machine.use = ""
    assert None not in machine.pass_by(QUIET_SECONDS - 1)
    assert machine.pass_by(1 + 2 * PROBE_SECONDS)[-1] is None


def test_work_that_comes_and_goes_keeps_a_peer_paused() -> None:
    machine = Machine()
    machine.use = "others use the GPU (80%)"
    machine.pass_by(BUSY_SECONDS + 2 * PROBE_SECONDS)
    for _ in range(5):
        machine.use = ""
        assert None not in machine.pass_by(QUIET_SECONDS / 2)
        machine.use = "others use the GPU (20%)"
        assert None not in machine.pass_by(2 * PROBE_SECONDS)


def test_a_blink_is_no_work() -> None:
    machine = Machine()
    for _ in range(5):
        machine.use = "others use the GPU (80%)"
        assert set(machine.pass_by(BUSY_SECONDS - PROBE_SECONDS)) == {None}
        machine.use = ""
        assert set(machine.pass_by(2 * PROBE_SECONDS)) == {None}


def test_probes_are_asked_every_other_second_however_short_the_steps_are() -> None:
    machine = Machine()
    machine.pass_by(60)
    assert machine.probed <= 60 / PROBE_SECONDS + 1


@given(uses=st.lists(st.tuples(st.booleans(), st.floats(0.5, 90.0)), min_size=1, max_size=30))
def test_a_pause_and_what_follows_it_last(uses: list[tuple[bool, float]]) -> None:
    """Whatever the other user does, it takes the one time to pause and the other to go on."""
    machine, turns = Machine(), []
    paused = False
    for busy, seconds in uses:
        machine.use = "others use the GPU (80%)" if busy else ""
        began = machine.seconds
        for place, pause in enumerate(machine.pass_by(seconds), 1):
            if (pause is not None) != paused:
                paused = not paused
                turns.append((began + place / 2, paused))
    for (before, _), (after, now_paused) in pairwise(turns):
        assert after - before >= (BUSY_SECONDS if now_paused else QUIET_SECONDS)


# Data that do not come -----------------------------------------------------------------------------------------------


class Hub:
    """A source of data and a clock, both of which the test moves."""

    def __init__(self) -> None:
        self.seconds, self.error, self.asked = 1000.0, Exception(), list[float]()
        self.is_silent, self.silence = True, Silence(self.prepare, lambda: self.seconds)

    def prepare(self) -> None:
        self.asked.append(self.seconds)
        if self.is_silent:
            raise self.error


def test_data_that_come_do_not_pause_a_peer() -> None:
    hub = Hub()
    hub.is_silent = False
    assert [hub.silence.now() for _ in range(3)] == [None] * 3
    assert len(hub.asked) == 3


def test_a_silent_source_is_asked_less_and_less_often_and_the_peer_says_why_it_waits() -> None:
    hub = Hub()
    hub.error = SourceSilent("can't read a.jsonl, after row 7: timed out")
    while hub.seconds < 1400:
        assert hub.silence.now() == Pause("the data do not come (can't read a.jsonl, after row 7: timed out)")
        hub.seconds += 0.25
    waits = [after - before for before, after in pairwise(hub.asked)]
    assert waits[:7] == [FIRST_WAIT, 2, 4, 8, 16, 32, LONGEST_WAIT]
    assert set(waits[6:]) == {LONGEST_WAIT}
    hub.is_silent = False
    hub.seconds += LONGEST_WAIT
    assert hub.silence.now() is None
    hub.is_silent = True
    assert hub.silence.now() is not None
    hub.seconds += FIRST_WAIT
    asked = len(hub.asked)
    assert hub.silence.now() is not None
    assert len(hub.asked) == asked + 1, "after an answer, the waits begin anew"


def test_data_that_are_gone_are_not_waited_for() -> None:
    hub = Hub()
    hub.error = DataError("can't read a.jsonl, after row 7")
    with pytest.raises(DataError, match=r"a\.jsonl"):
        hub.silence.now()
