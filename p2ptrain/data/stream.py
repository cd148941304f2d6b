"""Deal the rows of a stream out, so that every peer reads them in an order of its own.

A stream can't be shuffled as a whole: nobody knows its length, and a row in the middle of a file can't be reached
without reading the rows before it. Therefore each source (a file, or a part of one) is cut into *hands*: for each row,
a random number from the peer's seed says which hand it is in. A peer reads the hands of all sources in a random order.
In one epoch it comes to each row once, and two peers have read the same rows as often as if each had drawn its rows at
random.
"""

from __future__ import annotations

import errno
import logging
import lzma
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from p2ptrain.data.cells import Cells, Columns, Fault
from p2ptrain.data.chance import generator
from p2ptrain.data.rows import BrokenOff, Rows, unreadable
from p2ptrain.data.source import Source
from p2ptrain.data.tally import Tally
from p2ptrain.errors import DataError
from p2ptrain.units import counted

HANDS, REMOTE_HANDS = 64, 16
"""A stream has at least so many hands. To read one of n hands of a source, all of its rows are passed by; if that means
fetching them from another machine, there are fewer hands."""
CHUNK = 4096
"""Random numbers are made for so many rows at a time."""
TRANSIENT = frozenset(
    {
        errno.EAGAIN,
        errno.ECONNABORTED,
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.EHOSTUNREACH,
        errno.EINTR,
        errno.EIO,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.EPIPE,
        errno.ESTALE,
        errno.ETIMEDOUT,
    }
)
"""Errors of the system that may be over a little later, e.g. of a network disk."""

log = logging.getLogger(__name__)


def _empty() -> DataError:
    return DataError("the dataset is empty", "the stream has no rows", "check name, subset and split")


class SourceSilent(Exception):
    """A source does not answer now. The stream stays where it is, and may be asked again later."""


def hands_of(sources: Sequence[Source]) -> int:
    """Into how many hands each source is cut."""
    wanted = REMOTE_HANDS if any(source.is_remote for source in sources) else HANDS
    return math.ceil(wanted / len(sources))


def order_of(seed: int, epoch: int, sources: int, hands: int) -> NDArray[np.int64]:
    """The order in which a peer reads (source, hand): (sources × hands, 2)."""
    order = generator(seed, 0, 0, epoch + 1).permutation(sources * hands)
    return np.stack(np.divmod(order, hands), axis=1)


@dataclass(frozen=True, slots=True)
class Place:
    """How far a stream was read."""

    epoch: int = 0
    turn: int = 0
    """Index in the order of this epoch's hands."""
    row: int = 0
    """Number of the last row that was read of that source."""
    used: int = 0
    """Rows of this epoch that could be used so far."""


class Stream:
    """The rows of some sources. `row` gives them one by one, dealt out to this peer."""

    def __init__(self, sources: Sequence[Source], columns: Columns, seed: int, most_left_out: float) -> None:
        """Raises DataError if there are no sources."""
        if not sources:
            raise _empty()
        self.sources, self.hands = sources, hands_of(sources)
        self._columns = columns
        self.tally = Tally(most_left_out)
        self.place = Place()
        self._open: Rows | None = None
        self._damaged = set[int]()
        """Sources whose end can't be read. Each hand comes to that place."""
        self._order = lru_cache(maxsize=1)(lambda epoch: order_of(seed, epoch, len(sources), self.hands))
        self._hands = lru_cache(maxsize=4)(
            lambda epoch, at, chunk: generator(seed, chunk, at + 1, epoch + 1).integers(0, self.hands, CHUNK).tolist()
        )

    def in_order(self, tally: Tally) -> Iterator[Cells]:
        """All rows from the first one on: the same on every peer.

        Raises:
            DataError: a source can't be read, or too many rows can't be used.
        """
        for source in self.sources:
            try:
                for number, row in source.rows(self._columns, tally):
                    if isinstance(row, Fault):
                        tally.leave_out(row, f"{source.name}, row {number}")
                    else:
                        tally.use(row)
                        yield row
                    tally.check(whole=False)
            except BrokenOff as broken:
                raise unreadable(broken) from None
        tally.check()

    @property
    def bytes(self) -> int | None:
        """About how much text the stream has, if that is known without reading it."""
        sizes = [source.bytes for source in self.sources]
        known = [size for size in sizes if size is not None]
        return sum(known) if len(known) == len(sizes) else None

    def go_to(self, place: Place) -> None:
        """Continue at a place that this stream had reached, also in an earlier process."""
        turns = len(self.sources) * self.hands
        self.place = place if place.turn < turns else replace(place, turn=0, row=0)  # the stream has fewer files now
        self._open = None

    def row(self) -> Cells:
        """This peer's next row. At its end, the stream begins again in another order.

        Raises:
            SourceSilent: the source does not answer; call again later.
            DataError: a source is gone, no row can be used, or too many can't.
        """
        while True:
            if self._open is None:
                self._open = self._begin()
            try:
                found = next(self._open, None)
            except BrokenOff as broken:
                self._open = found = None
                self._after(broken)
            if found is None:
                self._next_hand()
                continue
            number, row = found
            self.place = replace(self.place, row=number)
            if isinstance(row, Fault):
                self._leave_out(row, f"{self.sources[self._turn()[0]].name}, row {number}")
                continue
            self.place = replace(self.place, used=self.place.used + 1)
            self.tally.use(row)
            self.tally.check(whole=False)
            return row

    def _begin(self) -> Rows:
        at, hand = self._turn()
        after, epoch = self.place.row, self.place.epoch

        def take(number: int) -> bool:
            return number > after and self._hands(epoch, at, number // CHUNK)[number % CHUNK] == hand

        return self.sources[at].rows(self._columns, self.tally, take)

    def _turn(self) -> tuple[int, int]:
        """(source, hand) whose turn it is."""
        at, hand = self._order(self.place.epoch)[self.place.turn]
        return int(at), int(hand)

    def _next_hand(self) -> None:
        self._open = None
        place = self.place
        if place.turn + 1 < len(self.sources) * self.hands:
            self.place = replace(place, turn=place.turn + 1, row=0)
            return
        if not place.used:
            raise _empty()
        if place.epoch == 0:
            log.warning("this peer has read the whole stream once (%s rows); it begins again", f"{place.used:,}")
        self.place = Place(place.epoch + 1)

    # Faults ----------------------------------------------------------------------------------------------------------

    def _leave_out(self, fault: Fault, where: str) -> None:
        """Count a row that can't be used; tell the 1st, 10th, 100th, …"""
        self.tally.leave_out(fault, where)
        count = self.tally.left_out[fault]
        if math.log10(count).is_integer():
            log.warning("%s is left out: %s (%s so far)", where, fault.reason, counted(count, "row"))
        self.tally.check(whole=False)

    def _after(self, broken: BrokenOff) -> None:
        """Reading has failed: wait, give up, or leave out the rest of the source."""
        self.place = replace(self.place, row=max(broken.row, self.place.row))
        told, cause = unreadable(broken), broken.cause
        if is_transient(cause, self.sources[self._turn()[0]].is_remote):
            raise SourceSilent(told.brief) from broken
        if not is_damage(cause):
            raise told from None
        at, _ = self._turn()
        if at not in self._damaged:
            self._damaged.add(at)
            fault = Fault(f"damaged from here on: {told.why}", "replace the damaged file")
            self._leave_out(fault, f"{broken.name}, row {self.place.row + 1}")


def is_damage(error: BaseException) -> bool:
    """Whether a file was read, but its bytes are wrong. bz2 and pyarrow say this with an OSError without a number."""
    if isinstance(error, FileNotFoundError | PermissionError) or _status(error) is not None:
        return False
    numbered = isinstance(error, OSError) and error.errno is not None
    return isinstance(error, EOFError | ValueError | OSError | zlib.error | lzma.LZMAError) and not numbered


def _status(error: BaseException) -> int | None:
    """What a server has answered; None if that is not why this error was raised."""
    for cause in (error, error.__cause__, error.__context__):
        if (status := getattr(getattr(cause, "response", None), "status_code", None)) is not None:
            return int(status)
    return None


def is_transient(error: BaseException, is_remote: bool) -> bool:
    """Whether asking again later may help."""
    if (status := _status(error)) is not None:
        return status == 429 or status >= 500
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in TRANSIENT
    if isinstance(error, FileNotFoundError | PermissionError):
        return False
    return isinstance(error, ConnectionError | TimeoutError) or (is_remote and not is_damage(error))
