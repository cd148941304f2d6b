"""The task that a run's spec describes."""

from __future__ import annotations

from p2ptrain.run import RunSpec
from p2ptrain.run.task import Chat, Classification, Completion
from p2ptrain.tasks.causal_lm import CausalLM
from p2ptrain.tasks.chat import ChatTuning
from p2ptrain.tasks.classification import TextClassification
from p2ptrain.tasks.completion import PromptCompletion
from p2ptrain.tasks.local import LocalOptions
from p2ptrain.tasks.task import Task


def open_task(spec: RunSpec, options: LocalOptions) -> Task:
    """Open the task: load tokenizer and model, but no data (see `Task.load_data`).

    Raises:
        SpecError: the spec does not fit the model, or the device can't do what the volunteer asks for.
        DataError: model or tokenizer can't be loaded here.
    """
    match spec.task:
        case Completion():
            return PromptCompletion(spec, options)
        case Chat():
            return ChatTuning(spec, options)
        case Classification():
            return TextClassification(spec, options)
    return CausalLM(spec, options)
