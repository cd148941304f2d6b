"""Which records stand: the same ones on every peer, whatever order things arrive in."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2ptrain.errors import MalformedError
from p2ptrain.run import Digest
from p2ptrain.spsa.logbook import Logbook, Verdict
from p2ptrain.spsa.messages import FIRST, LogBatch, Revocation
from tests.unit.diloco.samples import KEY_OF, PEERS
from tests.unit.spsa.samples import FOUNDER, RUN, Author, book, codes, log_of


def order(revoked: Author, kept: int | None = None, author: str = FOUNDER, run: Digest = RUN) -> Revocation:
    stays = () if kept is None else ((revoked.log.session, kept),)
    made = Revocation(author=author, run=run, revoked=revoked.log.author, kept=stays)
    return made.signed(KEY_OF[author])


def talk(author: Author, *sizes: int) -> list[LogBatch]:
    return [author.say(*range(1, size + 1), clock=place) for place, size in enumerate(sizes)]


def test_batches_are_taken_in_their_order_only() -> None:
    first, second, third = talk(Author(PEERS[1]), 3, 2, 4)
    found = book()
    assert [found.judge(batch) for batch in (first, second, third)] == [Verdict.NEXT, Verdict.AHEAD, Verdict.AHEAD]
    found.append(first)
    assert [found.judge(batch) for batch in (first, second, third)] == [Verdict.KNOWN, Verdict.NEXT, Verdict.AHEAD]
    assert found.standing() == {first.log: 3}
    assert found.lengths() == {first.log: 3}
    assert found.last_words(first.log, 3) == first.digest


def test_a_forged_batch_is_not_taken() -> None:
    author = Author(PEERS[1])
    (first,) = talk(author, 3)
    found = book(first)
    second = author.say(4)
    assert found.judge(replace(second, codes=codes(5))) is Verdict.PARTED
    assert found.judge(replace(second, log=log_of(PEERS[2]), start=0)) is Verdict.PARTED
    assert found.judge(replace(first, codes=codes(1, 2, 4))) is Verdict.PARTED
    assert found.judge(replace(second, start=1)) is Verdict.PARTED


def test_a_replayed_batch_of_another_run_is_not_taken() -> None:
    (elsewhere,) = talk(Author(PEERS[1], run=Digest(b"x" * 32)), 3)
    assert book().judge(elsewhere) is Verdict.PARTED


def test_a_clock_that_goes_backwards_ends_a_log() -> None:
    author = Author(PEERS[1])
    found = book(author.say(1, clock=5))
    assert found.judge(author.say(2, clock=4)) is Verdict.BACKWARDS


def test_a_contradiction_is_proven_to_others_and_cuts_the_log_where_it_parts() -> None:
    author = Author(PEERS[1])
    said = talk(author, 3, 2, 4)
    other = author.say_again(1, 9, 9)
    found, elsewhere = book(*said), book(said[0], other)
    assert found.judge(other) is Verdict.CONTRADICTS
    proof = found.proof(other, said[1])
    for peer in (found, elsewhere):
        assert peer.convict(proof) == (author.log, 3)
        assert peer.convict(proof) is None
        assert peer.standing() == {author.log: 3}
        assert peer.judge(said[1]) is Verdict.CUT
    assert found.digest() == elsewhere.digest()


def test_the_proof_is_the_same_from_either_side() -> None:
    author = Author(PEERS[1])
    said = talk(author, 3, 2)
    other = author.say_again(1, 9)
    assert book(*said).proof(other, said[1]) == book(said[0], other).proof(said[1], other)


def test_two_versions_of_equal_length_are_told_apart() -> None:
    author = Author(PEERS[1])
    (said,) = talk(author, 2)
    assert book(said).digest() != book(author.say_again(0, 7, 7)).digest()
    assert book(said).standing() == book(author.say_again(0, 7, 7)).standing()


def test_a_revocation_keeps_what_it_names_and_nothing_else() -> None:
    author, later, another = Author(PEERS[1]), Author(PEERS[1], session=1), Author(PEERS[2])
    found = book(*talk(author, 3, 2), *talk(later, 4), *talk(another, 5))
    assert found.revoke(order(author, kept=4))
    assert not found.revoke(order(author, kept=4))
    assert found.standing() == {author.log: 4, another.log: 5}
    assert found.judge(later.say(1)) is Verdict.CUT
    assert found.judge(Author(PEERS[1], session=2).say(1)) is Verdict.CUT
    assert found.is_revoked(PEERS[1])
    assert not found.is_revoked(PEERS[2])


def test_the_lowest_of_several_cuts_holds_in_any_order() -> None:
    author = Author(PEERS[1])
    said = talk(author, 3, 2)
    other = author.say_again(1, 9)
    found, again = book(*said), book(*said)
    proof = found.proof(other, said[1])
    found.convict(proof)
    found.revoke(order(author, kept=4))
    again.revoke(order(author, kept=4))
    again.convict(proof)
    assert found.standing() == again.standing() == {author.log: 3}
    found.revoke(order(author, kept=1))
    assert found.standing() == {author.log: 1}


def test_only_the_founder_of_this_run_revokes() -> None:
    author = Author(PEERS[1])
    found = book(*talk(author, 3))
    for bad in (
        order(author, author=PEERS[2]),
        order(author, run=Digest(b"x" * 32)),
        Revocation(**{**order(author).model_dump(), "kept": ((author.log.session, 2),)}),
    ):
        with pytest.raises(MalformedError):
            found.revoke(bad)
    assert found.standing() == {author.log: 3}


def test_a_log_is_taken_in_up_to_what_a_disk_has_changed() -> None:
    author, another = Author(PEERS[1]), Author(PEERS[2])
    said = talk(author, 3, 2, 4)
    harmed = [said[0], replace(said[1], codes=codes(1, 1)), said[2]]
    found = Logbook(RUN, frozenset({FOUNDER}))
    assert found.restore(harmed) == 3
    assert found.restore(talk(another, 2)) is None
    assert found.standing() == {author.log: 3, another.log: 2}


# Looking -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "place"), [(1, 0), (3, 0), (4, 1), (5, 1), (6, 2), (9, 2), (10, 2), (99, 2)])
def test_the_last_words_are_those_of_the_batch_that_reaches_so_far(length: int, place: int) -> None:
    said = talk(Author(PEERS[1]), 3, 2, 4)
    assert book(*said).last_words(said[0].log, length) == said[place].digest


def test_a_log_that_nobody_has_heard_of_has_no_last_words() -> None:
    found = book(*talk(Author(PEERS[1]), 3))
    assert found.last_words(log_of(PEERS[1]), 0) == found.last_words(log_of(PEERS[2]), 7) == FIRST


def test_what_is_missing_begins_where_a_log_ends_here() -> None:
    said = talk(Author(PEERS[1]), 3, 2, 4)
    found, log = book(*said[:2]), said[0].log
    last = said[2].digest[:8]
    assert found.missing(log, 9, last) == 5
    assert found.missing(log_of(PEERS[2]), 1, last) == 0
    assert found.missing(log, 5, said[1].digest[:8]) is None
    assert found.missing(log, 3, said[0].digest[:8]) is None


def test_another_version_of_equal_length_is_asked_for_from_its_beginning() -> None:
    author = Author(PEERS[1])
    said = talk(author, 3, 2)
    other = author.say_again(1, 7, 7)
    assert book(*said).missing(author.log, 5, other.digest[:8]) == 0
    assert book(said[0], other).missing(author.log, 5, said[1].digest[:8]) == 0
    assert book(*said).missing(author.log, 6, other.digest[:8]) == 5, "the rest shows that it is another one"


def test_nothing_is_missing_beyond_a_cut() -> None:
    author = Author(PEERS[1])
    said = talk(author, 3, 2, 4)
    found = book(*said[:2])
    found.revoke(order(author, kept=4))
    assert found.missing(author.log, 9, said[2].digest[:8]) is None
    assert found.missing(author.log, 4, said[1].digest[:8]) is None
    shorter = book(said[0])
    shorter.revoke(order(author, kept=4))
    assert shorter.missing(author.log, 9, said[2].digest[:8]) == 3
    assert shorter.missing(log_of(PEERS[1], 9), 5, bytes(8)) is None, "no record of a later log counts"


def test_a_position_is_held_when_its_records_are_here_and_allowed_when_none_is_cut() -> None:
    author, another = Author(PEERS[1]), Author(PEERS[2])
    found = book(*talk(author, 3, 2), *talk(another, 4))
    for position, held in (
        ({}, True),
        ({author.log: 5, another.log: 4}, True),
        ({author.log: 4}, True),
        ({author.log: 6}, False),
        ({author.log: 5, log_of(PEERS[3]): 1}, False),
    ):
        assert found.holds(position) is held
        assert found.allows(position), "what is not here may be elsewhere"
    found.revoke(order(author, kept=4))
    assert found.holds({author.log: 5}), "what is cut is here all the same"
    for position, allowed in (
        ({}, True),
        ({author.log: 4, another.log: 4}, True),
        ({author.log: 5}, False),
        ({another.log: 99}, True),
        ({log_of(PEERS[1], 9): 1}, False),
        ({log_of(PEERS[1], 9): 0}, True),
    ):
        assert found.allows(position) is allowed


@settings(max_examples=60)
@given(data=st.data())
def test_peers_that_hear_everything_end_up_with_the_same_whatever_its_order(data: st.DataObject) -> None:
    """Duplicates, gaps that are filled later, contradictions and revocations, in two orders."""
    authors = [Author(PEERS[number], session) for number in (1, 2) for session in (0, 1)]
    batches = [batch for author in authors for batch in talk(author, 2, 1, 3)]
    liar = authors[data.draw(st.integers(0, 3))]
    lie = liar.say_again(data.draw(st.integers(0, 2)), 99)
    words: list[LogBatch | Revocation] = [*batches, lie]
    if data.draw(st.booleans()):
        words.append(order(authors[data.draw(st.integers(0, 3))], kept=data.draw(st.integers(0, 6))))
    one = hear(data.draw(st.permutations(words)), [*batches, lie])
    other = hear(data.draw(st.permutations(words)), [*batches, lie])
    assert one.standing() == other.standing()
    assert one.digest() == other.digest()


def hear(words: list[LogBatch | Revocation], batches: list[LogBatch]) -> Logbook:
    """A peer that hears these, then asks for what it has missed until there is nothing new."""
    found = book()
    stored: dict[tuple[object, int], LogBatch] = {}

    def take(batch: LogBatch) -> None:
        verdict = found.judge(batch)
        if verdict is Verdict.NEXT:
            found.append(batch)
            stored[batch.log, batch.start] = batch
        elif verdict is Verdict.CONTRADICTS:
            found.convict(found.proof(batch, stored[batch.log, batch.start]))

    for word in words:
        if isinstance(word, Revocation):
            found.revoke(word)
        else:
            take(word)
    for _ in range(4):
        for batch in batches:
            take(batch)
    return found
