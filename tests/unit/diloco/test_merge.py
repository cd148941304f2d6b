"""How new global weights enter the training weights."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.diloco.merge import MergeRule, merge

NUMBERS = st.floats(-1e3, 1e3, width=32)
TRIPLES = st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=20)


def columns(triples: list[tuple[float, float, float]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    local, theta, reference = torch.tensor(triples).unbind(1)
    return local, theta, reference


@given(TRIPLES, st.floats(0, 1))
def test_blend_lies_between_the_training_and_the_global_weights(triples: list, alpha: float) -> None:
    local, theta, _ = columns(triples)
    merged = merge("blend", local, theta, alpha, None)
    torch.testing.assert_close(merged, alpha * local + (1 - alpha) * theta)
    slack = 1e-3
    assert (merged >= torch.minimum(local, theta) - slack).all()
    assert (merged <= torch.maximum(local, theta) + slack).all()


@given(TRIPLES)
def test_blend_with_alpha_1_ignores_the_others_and_with_0_itself(triples: list) -> None:
    local, theta, _ = columns(triples)
    assert torch.equal(merge("blend", local, theta, 1.0, None), local)
    assert torch.equal(merge("blend", local, theta, 0.0, None), theta)


@given(TRIPLES)
def test_carry_keeps_what_was_learnt_since_the_reference(triples: list) -> None:
    local, theta, reference = columns(triples)
    merged = merge("carry", local, theta, 0.5, reference)
    torch.testing.assert_close(merged - theta, local - reference, atol=1e-3, rtol=1e-5)
    assert torch.equal(merge("carry", local, theta, 0.5, local), theta), "nothing was learnt meanwhile"


@given(TRIPLES)
def test_overwrite_takes_the_global_weights(triples: list) -> None:
    local, theta, reference = columns(triples)
    assert torch.equal(merge("overwrite", local, theta, 0.5, reference), theta)


def test_no_rule_changes_what_it_is_given() -> None:
    rules: tuple[MergeRule, ...] = ("blend", "carry", "overwrite")
    for rule in rules:
        local, theta, reference = torch.ones(3), torch.full((3,), 2.0), torch.zeros(3)
        merge(rule, local, theta, 0.5, reference)
        assert (local.tolist(), theta.tolist(), reference.tolist()) == ([1] * 3, [2] * 3, [0] * 3)
