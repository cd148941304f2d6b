"""What a model sees that it should not, told by small models whose attention is known."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch

from p2ptrain.tasks.leaks import is_loss_of_next_token, look_ahead, padding_changes

TOKENS, WORDS, WIDTH = 16, 20, 8


class Answer(NamedTuple):
    logits: torch.Tensor


class Mixing(torch.nn.Module):
    """One layer in which token t hears token u with the weight mask[t, u]."""

    def __init__(self, mask: torch.Tensor, scale: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = torch.nn.Embedding(WORDS, WIDTH)
        self.head = torch.nn.Linear(WIDTH, WORDS)
        self.register_buffer("mask", mask.float())
        self.scale = scale

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.embed

    def forward(self, input_ids: torch.Tensor, **_: Any) -> Answer:
        hidden = self.embed(input_ids)
        return Answer(self.head(hidden + self.scale * self.mask @ hidden))


class Choosing(Mixing):
    """A choice that no gradient passes through: all tokens add what the largest id in the row says."""

    def forward(self, input_ids: torch.Tensor, **_: Any) -> Answer:
        chosen = torch.nn.functional.one_hot(input_ids.amax(1), WORDS).float()
        return Answer(super().forward(input_ids).logits + chosen[:, None])


def place_of_leak(model: torch.nn.Module) -> int | None:
    generator = torch.Generator().manual_seed(1)
    row, other = (torch.randint(0, WORDS - 1, (TOKENS,), generator=generator) for _ in range(2))
    other[-1] = WORDS - 1
    return look_ahead(model, row, other)[0]


CAUSAL = torch.ones(TOKENS, TOKENS).tril()


def in_blocks(size: int) -> torch.Tensor:
    block = torch.arange(TOKENS) // size
    return block[:, None] >= block[None, :]


def with_prefix(size: int) -> torch.Tensor:
    mask = CAUSAL.clone()
    mask[:size, :size] = 1
    return mask


def test_a_causal_model_does_not_look_ahead() -> None:
    assert place_of_leak(Mixing(CAUSAL)) is None
    assert place_of_leak(Mixing(torch.eye(TOKENS))) is None


@pytest.mark.parametrize(
    "mask",
    [
        pytest.param(torch.ones(TOKENS, TOKENS), id="both ways"),
        pytest.param(torch.ones(TOKENS, TOKENS).tril(1), id="one token ahead"),
        pytest.param(torch.ones(TOKENS, TOKENS).tril(2).triu(-2), id="both ways in a window"),
        pytest.param(with_prefix(2), id="both ways in a prefix of 2 tokens"),
        pytest.param(with_prefix(TOKENS // 2), id="both ways in a half"),
        pytest.param(in_blocks(2), id="both ways in pairs"),
        pytest.param(in_blocks(4), id="both ways in blocks"),
    ],
)
@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_a_model_that_sees_some_later_tokens_is_found_however_small_its_weights_are(
    mask: torch.Tensor, scale: float
) -> None:
    assert place_of_leak(Mixing(mask, scale)) is not None


def test_a_choice_among_all_tokens_is_found_although_it_has_no_gradient() -> None:
    assert place_of_leak(Choosing(CAUSAL)) is not None


def test_frozen_parameters_hide_nothing_and_get_no_gradient() -> None:
    model = Mixing(torch.ones(TOKENS, TOKENS), 1e-6).requires_grad_(False)
    assert place_of_leak(model) is not None
    trained = Mixing(CAUSAL)
    assert place_of_leak(trained) is None
    assert all(parameter.grad is None for parameter in trained.parameters())


def test_a_loss_of_the_row_itself_is_not_that_of_the_next_token() -> None:
    torch.manual_seed(2)
    logits, row = torch.randn(TOKENS, WORDS), torch.randint(0, WORDS, (TOKENS,))
    following = torch.nn.functional.cross_entropy(logits[:-1], row[1:])
    assert is_loss_of_next_token(following, logits, row)
    assert is_loss_of_next_token(following + 0.01, logits, row), "some models add a loss for the balance of experts"
    assert not is_loss_of_next_token(torch.nn.functional.cross_entropy(logits, row), logits, row)


def test_scores_that_move_with_padding_are_told_from_rounding() -> None:
    scores = torch.tensor([0.5, -0.2])
    assert not padding_changes(scores, scores + 1e-5)
    assert padding_changes(scores, scores + 0.1)
