"""What peers gossip stays within its bounds."""

from __future__ import annotations

import pytest

from p2ptrain.diloco.chain import Contribution
from p2ptrain.diloco.news import HoldingNews, News
from p2ptrain.errors import MalformedError
from p2ptrain.run import digest_of
from p2ptrain.swarm.presence import MAX_NEWS_BYTES
from tests.unit.diloco.samples import PEERS, offer

LARGEST = Contribution(
    **{
        **dict(offer(PEERS[0], 2**53 - 1, b"data", base=digest_of(b"base"), tokens=2**53 - 1, steps=2**53 - 1)),
        "size": 2**53 - 1,
        "signature": bytes(64),
    }
)


def test_the_largest_news_fits_a_heartbeat_and_comes_back_the_same() -> None:
    news = News(offers=(LARGEST,) * 32, payloads=(digest_of(b"payload"),) * 256)
    assert len(news.encoded) <= MAX_NEWS_BYTES
    assert News.decode(news.encoded) == news


def test_nobody_can_claim_to_hold_more_than_256_payloads_at_once() -> None:
    claims = HoldingNews.model_construct(payloads=(digest_of(b"payload"),) * 257)
    with pytest.raises(MalformedError, match="payloads"):
        HoldingNews.decode(claims.encoded)
