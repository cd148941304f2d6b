"""What is trained on what: tokenizer, model (transformers), documents (datasets), each peer's sequences, loss and
held-out evaluation.

A task knows no peers; whoever trains asks it for the `index`-th batch's loss.
"""

from p2ptrain.tasks.causal_lm import CausalLM, LocalOptions
from p2ptrain.tasks.sequences import shard_seed

__all__ = ["CausalLM", "LocalOptions", "shard_seed"]
