"""What a model sees that it should not: later tokens, or padding.

In language modelling and completion, a later token must not change an earlier logit:

    ∂ logits[t] / ∂ embedding[u] = 0        for all u > t; exactly, because a masked token has the weight 0
    logits(a)[t] = logits(b)[t]             for all t before the first token in which the rows a and b differ

The first line finds a leak however small the weights are. The second one also finds what no gradient passes through,
e.g. a choice of experts, and works without an embedding layer. In a classification, padding must not change a text's
scores.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

LEAK = 1e-4
"""Largest change of an earlier logit, as a share of the largest logit. Rounding changes far less (2e-7 in mixtures of
experts), and an encoder more, even with random weights (2e-4 to 5e-2)."""
GRADIENT_LEAK = 1e-9
"""Largest gradient of later embeddings, as a share of the largest one of earlier embeddings."""
PADDING_LEAK = 1e-2
"""Largest change of a text's scores by padding, as a share of the largest score. Rounding changes 1e-6, approximate
attention up to 3e-3."""


def look_ahead(model: Any, row: torch.Tensor, other: torch.Tensor) -> tuple[int | None, torch.Tensor]:
    """Find out whether later tokens change earlier logits. Takes one pass, forward and backward, on four rows.

    Args:
        model: in evaluation mode.
        row, other: tokens without padding: int64, (tokens), at least 3, on the model's device.

    Returns:
        (place of a token that changes logits before it, or None if the model is causal; the logits of `row`, which are
        detached: float, (tokens, vocabulary)).
    """
    length = len(row)
    # Odd places, because attention may be causal between blocks only; the first and the last one, because it may not be
    # causal in a prefix only, or see one token ahead.
    cuts = (1, length // 2 | 1, length - 1)
    rows = torch.stack([row, *(torch.cat([row[:cut], other[cut:]]) for cut in cuts)])
    with torch.enable_grad(), _embeddings_of(model) as embeddings:
        logits = model(input_ids=rows, use_cache=False).logits
    before = torch.stack([torch.arange(length, device=row.device) < cut for cut in cuts])  # (cuts, tokens)
    noise = torch.randn_like(logits[1:])  # a plain sum of logits may not depend on the hidden state
    target = (logits[1:] * noise * before[..., None]).sum()
    gradients = torch.autograd.grad(target, embeddings, allow_unused=True) if embeddings else ()
    logits = logits.detach()
    for at, cut in enumerate(cuts, 1):
        if (logits[at, :cut] - logits[0, :cut]).abs().max() > LEAK * logits.abs().max():
            return cut, logits[0]
        for gradient in gradients:
            if gradient is None or gradient.shape[:2] != rows.shape:
                continue
            size = gradient[at].abs().amax(-1)
            if size[cut:].max() > GRADIENT_LEAK * size[:cut].max():
                return cut, logits[0]
    return None, logits[0]


def padding_changes(alone: torch.Tensor, padded: torch.Tensor) -> bool:
    """Whether the scores of a text, (labels), differ if it stands in a row that is filled up."""
    return bool((alone - padded).abs().max() > PADDING_LEAK * alone.abs().max())


def is_loss_of_next_token(loss: torch.Tensor, logits: torch.Tensor, row: torch.Tensor) -> bool:
    """Whether a model's own loss on a row is that of the next token. Some models expect labels that are shifted
    already: with the row itself as labels, they would learn to copy.

    Args:
        logits: (tokens, vocabulary).
        row: int64, (tokens).
    """
    following = torch.nn.functional.cross_entropy(logits[:-1].float(), row[1:])
    copied = torch.nn.functional.cross_entropy(logits.float(), row)
    return bool((loss - following).abs() <= (loss - copied).abs())


@contextlib.contextmanager
def _embeddings_of(model: Any) -> Iterator[list[torch.Tensor]]:
    """While the block lasts, keep what the embedding layer puts out, as leaves that gradients reach."""
    kept: list[torch.Tensor] = []

    def keep(module: torch.nn.Module, inputs: Any, output: Any) -> Any:
        if not isinstance(output, torch.Tensor) or not output.is_floating_point():
            return output
        kept.append(output.detach().requires_grad_())
        return kept[-1].clone()  # the model may write into it

    hook = model.get_input_embeddings().register_forward_hook(keep)
    try:
        yield kept
    finally:
        hook.remove()
