"""A run in a few words, for lists and first lines. The texts contain words of the spec's author: make them printable
before they are shown on a terminal.
"""

from __future__ import annotations

from p2ptrain.run.spec import DatasetData, FilesData, RunSpec


def contents(spec: RunSpec) -> str:
    """The model and the data, e.g. "gpt2 on allenai/c4"."""
    return f"{model_of(spec)} on {data_of(spec)}"


def model_of(spec: RunSpec) -> str:
    """The name of the pretrained model, or the architecture that is trained from scratch."""
    if spec.is_custom:
        return "its own program's"
    return spec.model.pretrained or f"new {spec.model.architecture}"


def data_of(spec: RunSpec) -> str:
    """The name of the data's source."""
    match spec.data:
        case DatasetData():
            return spec.data.dataset
        case FilesData():
            return ", ".join(spec.data.paths)
    return spec.data.source
