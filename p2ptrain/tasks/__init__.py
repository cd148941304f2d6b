"""What a run trains: tokenizer and model (transformers), documents and examples (datasets), the batches that each peer
draws, the loss and the held-out evaluation.

A task knows nothing of other peers. The trainer asks it for the loss of the batch with a given index.
"""

from p2ptrain.tasks.local import LocalOptions
from p2ptrain.tasks.opening import open_task
from p2ptrain.tasks.sequences import shard_seed
from p2ptrain.tasks.task import Evaluation, Task

__all__ = ["Evaluation", "LocalOptions", "Task", "open_task", "shard_seed"]
