"""The task that a run's spec describes."""

from __future__ import annotations

from p2ptrain.run import RunSpec
from p2ptrain.run.task import Chat, Classification, Completion
from p2ptrain.tasks.causal_lm import CausalLM
from p2ptrain.tasks.chat import ChatTuning
from p2ptrain.tasks.classification import TextClassification
from p2ptrain.tasks.completion import PromptCompletion
from p2ptrain.tasks.fit import check_fit
from p2ptrain.tasks.local import LocalOptions
from p2ptrain.tasks.task import Task


def open_task(spec: RunSpec, options: LocalOptions, *, trains: bool = True) -> Task:
    """Open the task: load tokenizer and model, but no data (see `Task.load_data`).

    Args:
        trains: check that the model can be trained (see `check_fit`). An export asks for none of this.

    Raises:
        SpecError: the spec does not fit the model, or the device can't do what the volunteer asks for.
        DataError: model or tokenizer can't be loaded here, or the pretrained model does not fit the task.
        MemoryLimitError: the model, or a batch of one row, does not fit into memory.
    """
    task = _open(spec, options)
    if trains:
        check_fit(spec, task, options.model)
    return task


def _open(spec: RunSpec, options: LocalOptions) -> Task:
    match spec.task:
        case Completion():
            return PromptCompletion(spec, options)
        case Chat():
            return ChatTuning(spec, options)
        case Classification():
            return TextClassification(spec, options)
    return CausalLM(spec, options)
