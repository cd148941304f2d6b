"""A run in a few words, for lists and first lines. What the spec's author wrote is in them as it is: check it before it
gets to a terminal.
"""

from __future__ import annotations

from p2ptrain.run.spec import DatasetData, FilesData, RunSpec


def contents(spec: RunSpec) -> str:
    """What is trained on what."""
    return f"{model_of(spec)} on {data_of(spec)}"


def model_of(spec: RunSpec) -> str:
    """A pretrained model's name, or the architecture that is trained from scratch."""
    if spec.is_custom:
        return "its own program's"
    return spec.model.pretrained or f"new {spec.model.architecture}"


def data_of(spec: RunSpec) -> str:
    """Where the data come from."""
    match spec.data:
        case DatasetData():
            return spec.data.dataset
        case FilesData():
            return ", ".join(spec.data.paths)
    return spec.data.source
