"""What a peer keeps for each fragment between rounds: the global weights that it merged last, its error feedback, and
the tokens and steps of its contributions until a commit lists them. This module uses no network and no files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from p2ptrain.diloco.schedule import fragment_of
from p2ptrain.diloco.state import GlobalState, HashedVector
from p2ptrain.diloco.view import View
from p2ptrain.run import Digest, PeerId


@dataclass(frozen=True, slots=True)
class Pending:
    """A contribution that no commit has listed yet."""

    height: int
    base: Digest
    payload: Digest
    residual: torch.Tensor | None
    """The fragment's error feedback after a commit lists this contribution: 1-D float32; None if nothing was lost."""
    local: torch.Tensor | None
    """The training weights when this was made, 1-D float32; None unless merge = "carry"."""
    tokens: int
    steps: int
    at_step: int
    """The inner step after which this was made."""


@dataclass(slots=True)
class Lane:
    """What a peer keeps for one fragment."""

    theta: HashedVector
    """The global θ_f that the training weights merged last."""
    residual: torch.Tensor | None = None
    """Error feedback e_f: what the codec lost, 1-D float32 on the training device. The next pseudo-gradient adds it."""
    tokens: int = 0
    """Tokens since the fragment's last contribution that was listed or may still be listed."""
    steps: int = 0

    def give_back(self, pending: Pending) -> None:
        """Count the work of a contribution that was not listed in the next one."""
        self.tokens += pending.tokens
        self.steps += pending.steps


class Lanes:
    """One lane for each fragment, and the pending contributions of this peer, the `author`. The training weights are
    equal to the global `state` at first."""

    def __init__(self, author: PeerId, state: GlobalState) -> None:
        self._author = author
        self._lanes = [Lane(fragment.theta) for fragment in state.fragments]
        self.pending: dict[int, Pending] = {}
        """By height."""

    def __getitem__(self, index: int) -> Lane:
        return self._lanes[index]

    def __iter__(self) -> Iterator[Lane]:
        return iter(self._lanes)

    def _index(self, height: int) -> int:
        return fragment_of(height, len(self._lanes))

    def count(self, tokens: int) -> None:
        """Count one inner step."""
        for lane in self._lanes:
            lane.tokens += tokens
            lane.steps += 1

    def next_height(self, head: int) -> int:
        """The first height above the head for which this peer has no pending contribution."""
        height = head + 1
        while height in self.pending:
            height += 1
        return height

    def contributed(self, pending: Pending) -> None:
        """Note a new contribution. Its lane counts from zero again."""
        self.pending[pending.height] = pending
        lane = self._lanes[self._index(pending.height)]
        lane.tokens = lane.steps = 0

    def settle(self, index: int, view: View) -> Pending | None:
        """Settle a fragment's pending contributions up to the view's head. Returns the one that was listed last."""
        lane, listed = self._lanes[index], None
        for height in sorted(h for h in self.pending if h <= view.newest(index) and self._index(h) == index):
            pending = self.pending.pop(height)
            payload = view.payload_of(height, self._author)
            if payload == pending.payload:
                lane.residual, listed = pending.residual, pending
            elif payload is None:
                lane.give_back(pending)
            else:  # the commit lists one made before a crash or a rollback: what the codec lost there is unknown
                lane.residual = None
        return listed

    def roll_back(self, view: View) -> None:
        """The head has moved to another branch. Give back the pending contributions that can't be listed there, and
        drop the error feedback, which belongs to commits of the old branch."""
        for height, pending in list(self.pending.items()):
            if height > view.head.height and not view.may_list(height, pending.base):
                self.give_back(height)
        for lane in self._lanes:
            lane.residual = None

    def give_back(self, height: int) -> None:
        """Give up the pending contribution for `height`, which can't be listed any more."""
        self._lanes[self._index(height)].give_back(self.pending.pop(height))

    def state_dict(self, step: int) -> dict[str, Any]:
        """Everything; of θ only the digest. `step` is the number of inner steps so far."""
        pending = [replace(part, at_step=part.at_step - step) for part in self.pending.values()]
        return {
            "lanes": [(lane.theta.digest, lane.residual, lane.tokens, lane.steps) for lane in self._lanes],
            "pending": [{name: getattr(part, name) for name in Pending.__slots__} for part in pending],
        }

    def load_state_dict(self, saved: Mapping[str, Any], view: View, step: int, device: torch.device) -> set[int]:
        """Take over what still holds at `view`. Returns the fragments that no commit has changed since `state_dict`.

        An unchanged fragment goes on as it was saved. A changed one starts from the global weights, so the work in its
        saved training weights is lost, and its tokens with it. Its error feedback is kept only if the commit that made
        the present θ_f listed the pending contribution; an older residual may have been sent since. A pending
        contribution that can't be listed any more is given back if its work is still in the weights.
        """
        unchanged: set[int] = set()
        for index, (theta, residual, tokens, steps) in enumerate(saved["lanes"]):
            lane = self._lanes[index]
            if lane.theta.digest == theta:
                lane.residual, lane.tokens, lane.steps = _on(device, residual), tokens, steps
                unchanged.add(index)
        for fields in saved["pending"]:
            on_device = {name: _on(device, fields[name]) for name in ("residual", "local")}
            pending = Pending(**{**fields, **on_device, "at_step": fields["at_step"] + step})
            index = self._index(pending.height)
            newest = view.newest(index)
            if pending.height == newest and view.payload_of(newest, self._author) == pending.payload:
                self._lanes[index].residual = pending.residual
            elif index in unchanged and view.may_list(pending.height, pending.base):
                self.pending[pending.height] = pending
            elif index in unchanged:
                self._lanes[index].give_back(pending)
        return unchanged


def _on(device: torch.device, tensor: torch.Tensor | None) -> torch.Tensor | None:
    return None if tensor is None else tensor.to(device)
