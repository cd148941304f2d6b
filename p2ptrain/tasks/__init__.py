"""What is trained on what: tokenizer, model (transformers), documents and examples (datasets), what each peer draws of
them, loss and held-out evaluation.

A task knows no peers; whoever trains asks it for the `index`-th batch's loss.
"""

from p2ptrain.tasks.local import LocalOptions
from p2ptrain.tasks.opening import open_task
from p2ptrain.tasks.sequences import shard_seed
from p2ptrain.tasks.task import Evaluation, Task

__all__ = ["Evaluation", "LocalOptions", "Task", "open_task", "shard_seed"]
