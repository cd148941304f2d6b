"""`--batch-size auto`: find the largest batch that fits into memory and still makes training faster."""

from __future__ import annotations

import time

import torch

from p2ptrain.errors import MemoryLimitError
from p2ptrain.peer.memory import Memory
from p2ptrain.run import RunSpec
from p2ptrain.run.needs import kept_by_method
from p2ptrain.tasks import Task
from p2ptrain.tasks.batch import find_batch_size, is_out_of_memory


class Prober:
    """Tries batches in the way in which the method uses them: with gradients or without.

    The method itself will need memory, too, which it has not taken yet. On a GPU that much is occupied meanwhile; in
    main memory it is subtracted from what is free.
    """

    def __init__(self, task: Task, spec: RunSpec, memory: Memory) -> None:
        self._task, self._memory = task, memory
        self._with_gradients = spec.method.name == "diloco"
        trained = sum(parameter.numel() for parameter in task.model.parameters() if parameter.requires_grad)
        later = kept_by_method(spec, trained, on_gpu=task.device.type == "cuda")
        self._reserve = later.host
        self._ballast = torch.empty(later.device, dtype=torch.uint8, device=task.device)
        self._grown = 0.0
        """Bytes that the largest batch so far took at its peak."""

    def measure(self, size: int) -> float | None:
        """Seconds that a step on `size` rows takes; None if the batch does not fit. See `find_batch_size`.

        In main memory a batch is not even tried if twice the memory of the batch before is not free.
        """
        if self._task.device.type != "cuda" and 2 * self._grown + self._reserve > self._memory.room():
            return None
        self._memory.forget_peak()  # of loading, of the trial of the model, or of the last batch
        before = self._memory.used()
        try:
            self._step(size)  # the first step compiles, and takes memory that is taken only once
            began = time.perf_counter()
            self._step(size)
            seconds = time.perf_counter() - began
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return None
        finally:
            self._task.model.zero_grad(set_to_none=True)
            peak = self._memory.used()
            self._memory.make_room()
        self._grown = max(self._grown, peak - before)
        return seconds

    def _step(self, size: int) -> None:
        rows = self._task.longest(size)
        with torch.set_grad_enabled(self._with_gradients):
            loss = self._task.loss_on(rows)
            if self._with_gradients:
                loss.backward()  # type: ignore[no-untyped-call]
            loss.item()


def choose_batch_size(task: Task, spec: RunSpec, memory: Memory) -> int:
    """Find the batch size, set it in the task, and return it. Raises MemoryLimitError if not even one row fits."""
    found = find_batch_size(Prober(task, spec, memory).measure)
    if not found:
        raise MemoryLimitError(
            "there is not enough memory for a batch of one row",
            f"the peer uses {memory.used() / 1e9:.1f} GB already",
            "raise --max-memory, close other programs, or join a run with a smaller model or shorter sequences",
        )
    task.batch_size = found
    return found
